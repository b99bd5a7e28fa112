"""The demo's photos: colour photographs that scikit-image carries in its wheel, so that nothing is downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fedstyle.errors import FedstyleError

# What a camera on a street would see comes first. The right half of the motorcycle's stereo pair is left out: it is the same scene.
_FILES = {
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "astronaut": "astronaut.png",
    "rocket": "rocket.jpg",
    "retina": "retina.jpg",
    "tissue": "ihc.png",
    "galaxies": "hubble_deep_field.jpg",
}


def demo_photos() -> dict[str, Path]:
    """Name -> file of eight distinct colour photographs, the five natural scenes first.

    Raises FedstyleError when scikit-image is not installed or carries none of them.
    """
    # The package is located and not imported: that would take a second for files that Pillow opens.
    found = importlib.util.find_spec("skimage")
    folder = Path(found.origin).parent / "data" if found and found.origin else None
    photos = {name: folder / file for name, file in _FILES.items() if (folder / file).is_file()} if folder else {}
    if not photos:
        raise FedstyleError("the demo photos are not installed: run pip install 'fedstyle[demo]', or name a folder of your own photos")
    return photos
