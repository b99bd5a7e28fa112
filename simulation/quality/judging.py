"""What a filter is judged by: content and style loss under networks that it was not trained against, and SSIM to the photo."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from fedstyle import Style
from fedstyle.config import Loss
from fedstyle.perceptual import FeatureNet, Objective

NAMES = ("content", "style", "total")


@dataclass(frozen=True)
class Panel:
    """One style's judges, and the photos they look at: (N, 3, S, S) in [0, 1]. The last judge decides."""

    objectives: dict[str, Objective]
    contents: dict[str, Tensor]
    photos: Tensor

    @classmethod
    def seat(cls, judges: dict[str, FeatureNet], style: Style, photos: Tensor) -> Panel:
        """The panel of a style, under the default weights of `[loss]`: total = content + 10 x style."""
        loss = Loss()
        objectives = {name: Objective(judge, style.targets(judge), loss.content, loss.style, loss.layers) for name, judge in judges.items()}
        with torch.no_grad():
            contents = {name: torch.cat([one.content_features(photo[None]) for photo in photos]) for name, one in objectives.items()}
        return cls(objectives, contents, photos)

    @torch.no_grad()
    def judge(self, stylised: Tensor) -> tuple[dict[str, dict[str, float]], float]:
        """Each judge's mean losses over stylised photos (N, 3, S, S), one at a time, and the mean SSIM."""
        losses = {}
        for name, objective in self.objectives.items():
            content = self.contents[name]
            each = [objective(image[None], content[index : index + 1]).numbers() for index, image in enumerate(stylised)]
            losses[name] = {key: statistics.fmean(one[key] for one in each) for key in NAMES}
        return losses, statistics.fmean(ssim(photo, image) for photo, image in zip(self.photos, stylised, strict=True))


def ssim(photo: Tensor, image: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of two images (3, H, W) in [0, 1], the mean over channels."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(photo.cpu().numpy(), image.cpu().numpy(), channel_axis=0, data_range=1.0))
