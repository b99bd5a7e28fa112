"""Feature networks and the perceptual losses: content loss (Johnson et al. 2016) and Gram style loss (Gatys et al. 2015).

Both losses are relative, so that one set of weights serves every feature network and no user's style dominates an average: the content
loss is ‖F - F0‖² / ‖F0‖² at one tap, the style loss the weighted mean over taps of ‖G - Gs‖² / ‖Gs‖².
"""

from __future__ import annotations

from fedstyle.perceptual.losses import Losses, Objective, gram, total_variation
from fedstyle.perceptual.networks import FeatureNet, TinyNet, calibrate, procedural_images, tiny_network
from fedstyle.perceptual.weights import FEATURES, load_features

__all__ = [
    "FEATURES",
    "FeatureNet",
    "Losses",
    "Objective",
    "TinyNet",
    "calibrate",
    "gram",
    "load_features",
    "procedural_images",
    "tiny_network",
    "total_variation",
]
