"""One picture of a device's owner: a hostile file turned into upright 8-bit sRGB, or an error of one line.

Nothing here trusts a file: its kind, its size and its header are checked before a pixel is decoded, its content decides and never its
extension, and every way in which a decoder can fail becomes one line that says what was found, where, and what to do.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from fedstyle.errors import FedstyleError, PhotoError
from fedstyle.quiet import QUIET

MAX_PIXELS = 50_000_000
"""Pictures of more pixels are refused from their header: 50 MP take 150 MB as RGB."""
MAX_BYTES = 400_000_000
"""Larger files are refused unread; 50 MP of uncompressed 16-bit RGB take 300 MB."""
MIN_SIDE = 64
"""The shortest side that is still a photo, in pixels."""
MAX_ASPECT = 8
"""The longest side that is still a photo, in short sides."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")
"""What is decoded, by Pillow's names; HEIF with the `heif` extra. JPEG includes the multi-picture files of phones."""

_HEIF = "is HEIC: install the extra that reads it (pip install 'fedstyle[heif]'), or save it as JPEG"
_CAMERA = "is a camera's raw file or a damaged TIFF: save it as JPEG or PNG"
_BRANDS: dict[bytes, tuple[str, ...]] = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), ("HEIF",))
_BRANDS |= dict.fromkeys((b"avif", b"avis"), ("AVIF",)) | dict.fromkeys((b"mif1", b"msf1"), ("HEIF", "AVIF"))
"""Brands of ISO base media files -> who decodes them, by Pillow's names."""
_RAW = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb")
_OTHERS = (b"%!PS", b"\xc5\xd0\xd3\xc6", b"8BPS", b"%PDF", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ")
"""How EPS, PSD, PDF, JPEG XL, and JPEG 2000 begin."""
_SUBFILE, _DNG_VERSION = 0x00FE, 0xC612
"""TIFF tags: what kind of page it is (1: a preview of another), and the mark of a digital negative (DNG 1.7)."""
REASONS = {
    "missing": "does not exist: check the path",
    "not a file": "is not a regular file: give the path of a picture",
    "unreadable": "cannot be read: check its permissions and its disk",
    "empty": "is empty (0 bytes): choose another picture",
    "not an image": "is not an image: choose a JPEG, PNG, HEIC or WebP file",
    "format not supported": "is in a format that fedstyle does not read: save it as JPEG or PNG",
    "damaged": "is damaged or cut short: copy it again from its source, or choose another picture",
    "too small": f"is too small: choose a picture whose short side has at least {MIN_SIDE} pixels",
    "too narrow": f"is too narrow: choose a picture at most {MAX_ASPECT} times as long as wide",
    "too large": f"is too large: save it with at most {MAX_PIXELS // 1_000_000} megapixels",
}
"""Why a picture cannot be used -> what a person reads about it. The keys hold no name and no path, so they can be counted."""

# EXIF orientation -> what puts the picture upright (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnusableError(Exception):
    """A picture that cannot be used; `reason` is a key of REASONS and `found` the rest of the sentence after the path."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(reason)
        self.reason, self.found = reason, found or REASONS[reason]


def open_image(path: Path, error: type[FedstyleError] = PhotoError, *, side: int | None = None) -> Image.Image:
    """Open one picture as upright 8-bit sRGB, with nothing of its metadata.

    EXIF orientation is applied, an ICC profile converted to sRGB, transparency laid on white, 16-bit grey scaled, and of several
    frames the first is taken. With `side`, a large JPEG may come at 1/2, 1/4 or 1/8 of its size, its short side no shorter than `side`.
    Raises `error` for anything else than a usable picture.
    """
    try:
        return read(path, side)
    except UnusableError as why:
        raise error(f"{show(path)} {why.found}") from why.__cause__


def show(path: str | os.PathLike[str]) -> str:
    """A path that can be printed on one line: bytes that are no UTF-8 and control characters appear as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(path))


@contextlib.contextmanager
def regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading, or raise UnusableError; pipes and devices are not touched, so that nothing hangs."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UnusableError("not a file")
        # The path may be another file by now: do not wait for it, and look again.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UnusableError("not a file")
            yield file
    except FileNotFoundError as why:
        raise UnusableError("missing") from why
    except (OSError, ValueError) as why:  # ValueError: a zero byte in the path
        raise UnusableError("unreadable") from why


def look(path: Path) -> os.stat_result:
    """Look at a file's size and header, decode nothing, and give its status; raises UnusableError for what is seen to be unusable.

    It is cheap, so it misses what only decoding shows: damage, and the pixels of HEIC, AVIF and WebP, whose decoders read whole files.
    """
    with regular(path) as file:
        status = os.fstat(file.fileno())
        head = _head(file)
        if _whole(head):
            if not _decodable(head):
                raise _unidentified(file)
            return status
        with _explained(file), Image.open(file, formats=_formats()) as image:
            _measure(image)
        return status


def read(path: Path, side: int | None) -> Image.Image:
    """Decode one picture as `open_image` promises, or raise UnusableError."""
    with regular(path) as file:
        _head(file)
        with _explained(file), Image.open(file, formats=_formats()) as image:
            return _decode(image, side)


def _head(file: BufferedReader) -> bytes:
    """The first bytes of a file of usable size; a WebP's pixels are counted here, for its decoder makes room for them at once."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise UnusableError("empty")
    if size > MAX_BYTES:
        raise UnusableError("too large", f"is too large ({size / 1e6:,.0f} MB): choose one of at most {MAX_BYTES // 1_000_000} MB")
    try:
        head = file.read(32)
        file.seek(0)
    except OSError as why:
        raise UnusableError("unreadable") from why
    if head.startswith(b"II*\0") and head[8:10] == b"CR":
        raise UnusableError("format not supported", _CAMERA)
    if head[8:12] == b"WEBP" and len(head) >= 30:
        kind, number = head[12:16], int.from_bytes
        if kind == b"VP8X":
            width, height = number(head[24:27], "little") + 1, number(head[27:30], "little") + 1
        elif kind == b"VP8L":
            sides = number(head[21:25], "little")
            width, height = (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
        else:
            width, height = number(head[26:28], "little") & 0x3FFF, number(head[28:30], "little") & 0x3FFF
        if width * height > MAX_PIXELS:
            raise _too_large(width, height)
    return head


@contextlib.contextmanager
def _explained(file: BufferedReader) -> Iterator[None]:
    """Whatever goes wrong inside becomes UnusableError, without a warning."""
    try:
        with QUIET:
            yield
    except UnusableError:
        raise
    except UnidentifiedImageError as why:
        raise _unidentified(file) from why
    except (Image.DecompressionBombError, MemoryError) as why:
        raise UnusableError("too large") from why
    except Exception as why:  # decoders raise whatever they like: OSError, ValueError, SyntaxError, struct.error, KeyError ...
        unreadable = isinstance(why, OSError) and why.errno is not None
        raise UnusableError("unreadable" if unreadable else "damaged") from why


def _whole(head: bytes) -> bool:
    """Whether opening means reading the whole file."""
    return head[8:12] == b"WEBP" or head[4:8] == b"ftyp"


def _decodable(head: bytes) -> bool:
    kinds = ("WEBP",) if head[8:12] == b"WEBP" else _BRANDS.get(head[8:12], ())
    return any(kind in _formats() for kind in kinds)


def _unidentified(file: BufferedReader) -> UnusableError:
    file.seek(0)
    head = file.read(32)
    if head[8:12] in _BRANDS and head[4:8] == b"ftyp":
        if _decodable(head):
            return UnusableError("damaged")
        return UnusableError("format not supported", _HEIF if "HEIF" in _BRANDS[head[8:12]] else "")
    if head.startswith(_RAW) or head[4:12] == b"ftypcrx ":
        return UnusableError("format not supported", _CAMERA)
    if head.startswith(_OTHERS):
        return UnusableError("format not supported")
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8")) or head[8:12] == b"WEBP":
        return UnusableError("damaged")
    return UnusableError("not an image")


def _too_large(width: int, height: int) -> UnusableError:
    return UnusableError("too large", f"has {width}x{height} pixels and {REASONS['too large']}")


def _measure(image: Image.Image) -> None:
    """Refuse what the header shows to be no photo."""
    width, height = image.size
    short, long = sorted(image.size)
    if image.format == "TIFF":  # what a raw file shows first is a small preview, not the photo
        tags = image.tag_v2  # type: ignore[attr-defined]
        if _DNG_VERSION in tags or tags.get(_SUBFILE, 0) == 1:
            raise UnusableError("format not supported", _CAMERA)
    if short < MIN_SIDE:
        raise UnusableError("too small", f"has {width}x{height} pixels and {REASONS['too small']}")
    if long > MAX_ASPECT * short:
        raise UnusableError("too narrow", f"has {width}x{height} pixels and {REASONS['too narrow']}")
    if width * height > MAX_PIXELS:
        raise _too_large(width, height)


def _decode(image: Image.Image, side: int | None) -> Image.Image:
    _measure(image)
    if side is not None:
        image.draft(None, (side, side))
    image.load()  # before anything else: reading EXIF first would swallow a decoder's error
    return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """A decoded image of any mode as a new one, upright 8-bit sRGB without metadata; raises UnusableError for a mode that is no photo's."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001  broken EXIF says nothing about the pixels
        turn = None
    rgb = _srgb(image)
    if turn is not None:
        rgb = rgb.transpose(turn)
    rgb.info = {}
    return rgb


def _srgb(image: Image.Image) -> Image.Image:
    """An image of any mode as a new 8-bit sRGB one, transparency on white."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        wide, grey = np.asarray(image), np.empty((image.height, image.width), np.uint8)
        for row in range(0, image.height, 256):  # 65535 is white; Pillow's own conversion would saturate at 255
            grey[row : row + 256] = ((wide[row : row + 256].astype(np.int64) + 128) // 257).clip(0, 255)
        image = Image.fromarray(grey)
    if image.mode in ("I", "F", "LAB"):
        raise UnusableError("format not supported", f"holds {image.mode} samples, which fedstyle does not read: save it as JPEG or PNG")
    alpha = None
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = image.getchannel("A")
    if alpha is not None or image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    rgb = _managed(image, profile) if profile else image.convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", rgb.size, "white")
        white.paste(rgb, mask=alpha)
        rgb = white
    return rgb


def _managed(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert through an ICC profile to sRGB; a profile that is corrupt or made for other channels is ignored."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        managed = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), intent, "RGB")
    except Exception:  # noqa: BLE001  ImageCms raises many kinds
        return image.convert("RGB")
    assert managed is not None
    return managed


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this installation decodes."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # or Python would print what Pillow logs about a broken TIFF
    return tuple(name for name in FORMATS if name in Image.OPEN)
