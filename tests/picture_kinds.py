"""The kinds of file that a photo library holds, each made here, and what becomes of each: the rows of KINDS."""

import io
import os
import random
import socket
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

WIDTH, HEIGHT = 96, 80
RED, GREEN, BLUE, GREY = (200, 60, 40), (40, 180, 60), (30, 50, 190), (128, 128, 128)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
PLACES = [(24, 20), (72, 20), (24, 60), (72, 60)]
"""The middles of a picture's quarters."""


@dataclass(frozen=True)
class Good:
    """The colours that the quarters must have, top left, top right, bottom left, bottom right, each within `near`."""

    colours: tuple
    near: int = 0
    size: tuple = (WIDTH, HEIGHT)


QUARTERS = Good((RED, GREEN, BLUE, GREY))
LOSSY = Good(QUARTERS.colours, near=8)


def plain(colour, near=0):
    return Good((colour,) * 4, near)


def quarters(colours=QUARTERS.colours, type=np.uint8):
    """The picture of four colours, upright: (80, 96, channels)."""
    colours = np.array(colours, type).reshape(2, 2, -1)
    return colours.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)


UPRIGHT = Image.fromarray(quarters())


def upto(format):
    """Pillow with the decoder for `format`, or None."""
    if format == "HEIF":
        try:
            import pillow_heif
        except ImportError:
            return None
        pillow_heif.register_heif_opener()
    return format != "AVIF" or features.check("avif") or None


def data(image, format, **options):
    file = io.BytesIO()
    if format in ("JPEG", "MPO"):
        options = {"quality": 95, "subsampling": 0} | options
    image.save(file, format, **options)
    return file.getvalue()


def encoded(image, format, **options):
    """Makes a picture file."""
    return lambda path: path.write_bytes(data(image, format, **options))


def content(what):
    """Makes a file of bytes."""
    return lambda path: path.write_bytes(what() if callable(what) else what)


def changed(change, image, format, **options):
    """Makes a picture file with changed bytes."""
    return lambda path: path.write_bytes(change(data(image, format, **options)))


def of_mode(mode, colour):
    return Image.new(mode, (WIDTH, HEIGHT), colour)


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    made[0x010F] = "a camera"
    return made.tobytes()


# EXIF 2.32, tag 0x0112: what row 0 and column 0 of the file are in the upright picture.
STORED = {
    1: lambda up: up,  # top, left
    2: lambda up: up[:, ::-1],  # top, right
    3: lambda up: up[::-1, ::-1],  # bottom, right
    4: lambda up: up[::-1],  # bottom, left
    5: lambda up: up.swapaxes(0, 1),  # left, top
    6: lambda up: up[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda up: up[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda up: up[::-1].swapaxes(0, 1),  # left, bottom
}


def turned(orientation, format="JPEG", **options):
    stored = np.ascontiguousarray(STORED.get(orientation, STORED[1])(quarters()))
    return encoded(Image.fromarray(stored), format, exif=exif(orientation), **options)


# ------------------------------------------------------------------------------------------------------------------- PNG by hand


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows, depth, colour, *more, size=(WIDTH, HEIGHT)):
    """A PNG of rows as an array of bytes or big-endian 16-bit numbers, without filters."""
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def wide(*channels):
    """Quarters of 16-bit samples, big-endian: each colour times 257."""
    return quarters([[v * 257 for v in colour] for colour in channels], np.uint16).astype(">u2")


# ----------------------------------------------------------------------------------------------------------------- ICC profiles


def profile(tags, kind=b"mntr", space=b"RGB ", pcs=b"XYZ "):
    """An ICC v2 profile (ICC.1:2001-04) with these tags."""
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value
    header = bytearray(128)
    struct.pack_into(">I4sI4s4s4s", header, 0, start + len(body), b"", 0x02100000, kind, space, pcs)
    header[36:40] = b"acsp"
    header[68:80] = fixed(0.9642, 1, 0.8249)
    return bytes(header) + table + body


def fixed(*values):
    return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))


DESCRIPTION = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 3) + b"P3\0" + bytes(78), b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)}


def display_p3():
    """Display P3 with the sRGB curve: its colorants adapted to D50."""
    x = np.linspace(0, 1, 1024)
    curve = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    trc = b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *np.round(curve * 65535).astype(int))
    colorants = {b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189), b"bXYZ": (0.1571, 0.06657, 0.78407)}
    return profile(
        DESCRIPTION | {k: b"XYZ \0\0\0\0" + fixed(*v) for k, v in colorants.items()} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), trc)
    )


def grey_inks():
    """A CMYK profile in which every ink is the same grey of L* = 50: a table (mft1) of 2 points a channel, all of them (128, 128, 128)."""
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + ramp * 4 + bytes([128]) * 3 * 2**4 + ramp * 3
    return profile(DESCRIPTION | {b"A2B0": table}, b"prtr", b"CMYK", b"Lab ")


# sRGB of (200, 60, 40) in Display P3: test_picture.py has the derivation.
P3_RED = (217, 42, 23)
# L* = 128/255*100 = 50.2: Y = ((50.2+16)/116)^3 = .1858, the sRGB curve gives (1.055 * .1858^(1/2.4) - .055) * 255 = 119.
INK_GREY = (119, 119, 119)


# -------------------------------------------------------------------------------------------------------------------- bad things


def tiff(*entries, side=64):
    """A little-endian TIFF of 64 x 64 grey pixels with more tags (tag, type, count, value); its header says `side` x `side`."""
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1, 278: 64, 279: 4096}
    rows = sorted([(tag, 4, 1, value) for tag, value in tags.items()] + [(273, 4, 1, 8 + 2 + 12 * (9 + len(entries)) + 4), *entries])
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows) + bytes(4 + 4096)


def bomb(width, height):
    return png([], 1, 0, size=(width, height))


def webp_bomb(width, height):
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + 18 + 8 + 4) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides + b"VP8L" + bytes(8)


def wider(jpeg):
    """A JPEG whose frame header says 65500 x 65500."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", 65500, 65500) + jpeg[at + 4 :]


def noise(size=4000):
    return random.Random(0).randbytes(size)


def flip(place, bit=0):
    """Flip a bit at a fraction of the file."""

    def change(whole):
        at = int(place * len(whole))
        return whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]

    return change


def cut(keep):
    """Cut a file short: to a fraction, or by -n bytes."""
    return lambda whole: whole[:keep] if keep < 0 else whole[: int(keep * len(whole))]


def link(target):
    return lambda path: path.symlink_to(target(path) if callable(target) else target)


def beside(path):
    """A good file for a link to point at."""
    other = path.with_name(f".{path.name} target")
    other.write_bytes(data(UPRIGHT, "PNG"))
    return other


def bind(path):
    """A socket in the file system; its name there may not be long."""
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def sealed(path):
    path.write_bytes(data(UPRIGHT, "PNG"))
    path.chmod(0)


def ten_bit():
    import pillow_heif

    samples = np.full((HEIGHT, WIDTH, 3), 128 * 257, np.uint16)
    file = io.BytesIO()
    pillow_heif.from_bytes(mode="RGB;16", size=(WIDTH, HEIGHT), data=samples.tobytes()).save(file, quality=95)
    return file.getvalue()


SCENE = Image.fromarray((np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH, 3)) + quarters() * 0.75).astype(np.uint8))
SECOND = of_mode("RGB", (250, 0, 250))
HIDDEN = Image.fromarray(np.dstack([quarters(), quarters([[0], [255], [102], [255]])]))  # transparent red, 40 % blue
ON_WHITE = Good((WHITE, GREEN, (165, 173, 229), GREY))  # .4 * (30, 50, 190) + .6 * 255 = (165, 173, 229)
PALETTE = UPRIGHT.convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
APNG = {"save_all": True, "append_images": [SECOND]}

KINDS = {
    # JPEG
    "jpeg": (encoded(UPRIGHT, "JPEG"), LOSSY),
    "jpeg, progressive": (encoded(UPRIGHT, "JPEG", progressive=True), LOSSY),
    "jpeg, grey": (encoded(of_mode("L", 90), "JPEG"), plain((90, 90, 90), 2)),
    "jpeg, CMYK without a profile": (encoded(of_mode("CMYK", (0, 255, 255, 0)), "JPEG"), plain((255, 0, 0), 3)),
    "jpeg, CMYK with a profile": (encoded(of_mode("CMYK", (0, 255, 255, 0)), "JPEG", icc_profile=grey_inks()), plain(INK_GREY, 3)),
    "jpeg, Display P3": (encoded(of_mode("RGB", RED), "JPEG", icc_profile=display_p3()), plain(P3_RED, 3)),
    "jpeg, corrupt profile": (encoded(UPRIGHT, "JPEG", icc_profile=b"corrupt" * 20), LOSSY),
    "jpeg, profile cut short": (encoded(UPRIGHT, "JPEG", icc_profile=display_p3()[:300]), LOSSY),
    "jpeg, profile of other channels": (encoded(UPRIGHT, "JPEG", icc_profile=grey_inks()), LOSSY),
    "jpeg, corrupt EXIF": (encoded(UPRIGHT, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"), LOSSY),
    **{f"jpeg, orientation {k}": (turned(k), LOSSY) for k in range(1, 9)},
    "jpeg, orientation 0": (turned(0), LOSSY),
    "jpeg, orientation 9": (turned(9), LOSSY),
    "jpeg with a gain map (MPO)": (encoded(UPRIGHT, "MPO", save_all=True, append_images=[of_mode("L", 9)]), LOSSY),
    "jpeg whose gain map is cut off": (changed(cut(0.7), UPRIGHT, "MPO", save_all=True, append_images=[SCENE]), LOSSY),
    "jpeg with a video behind it": (changed(lambda whole: whole + b"\0\0\0\x18ftypmp42" + noise(), UPRIGHT, "JPEG"), LOSSY),
    "jpeg with a long comment": (encoded(UPRIGHT, "JPEG", comment=b"x" * 60_000), LOSSY),
    "jpeg named .png": (encoded(UPRIGHT, "JPEG"), LOSSY),
    "jpeg cut short by a byte": (changed(cut(-1), SCENE, "JPEG"), "damaged"),
    "jpeg, progressive, cut short by a byte": (changed(cut(-1), SCENE, "JPEG", progressive=True), "damaged"),
    "jpeg cut in half": (changed(cut(0.5), SCENE, "JPEG"), "damaged"),
    "jpeg with a flipped bit in its frame header": (changed(lambda w: w.replace(b"\xff\xc0", b"\xff\xc8"), SCENE, "JPEG"), "damaged"),
    "jpeg of 4290 megapixels by its header": (changed(wider, UPRIGHT, "JPEG"), "too large"),
    # PNG
    "png": (encoded(UPRIGHT, "PNG"), QUARTERS),
    "png, grey": (encoded(of_mode("L", 90), "PNG"), plain((90, 90, 90))),
    "png, 1 bit": (encoded(of_mode("1", 1), "PNG"), plain(WHITE)),
    "png, palette": (encoded(PALETTE, "PNG"), Good(QUARTERS.colours, 2)),
    "png, palette with transparency": (encoded(of_mode("P", 0), "PNG", transparency=0), plain(WHITE)),
    "png, grey with a transparent grey": (encoded(of_mode("L", 90), "PNG", transparency=90), plain(WHITE)),
    "png, a transparent colour": (encoded(UPRIGHT, "PNG", transparency=RED), Good((WHITE, GREEN, BLUE, GREY))),
    "png, alpha over hidden colours": (encoded(HIDDEN, "PNG"), ON_WHITE),
    "png, grey and alpha": (encoded(of_mode("LA", (0, 102)), "PNG"), plain((153,) * 3)),
    "png, 16-bit grey": (content(lambda: png(wide([0], [1], [128], [255]), 16, 0)), Good((BLACK, (1,) * 3, (128,) * 3, WHITE))),
    "png, 16-bit RGB": (content(lambda: png(wide(RED, GREEN, BLUE, GREY), 16, 2)), QUARTERS),
    "png, 16-bit grey and alpha": (
        content(lambda: png(wide([0, 255], [9, 0], [90, 255], [255, 255]), 16, 4)),
        Good((BLACK, WHITE, (90,) * 3, WHITE)),
    ),
    "png, 16-bit RGB and alpha": (
        content(lambda: png(wide((*RED, 255), (*GREEN, 0), (*BLUE, 102), (*GREY, 255)), 16, 6)),
        Good((RED, WHITE, (165, 173, 229), GREY)),
    ),
    "png, animated": (encoded(UPRIGHT, "PNG", **APNG), QUARTERS),
    "png, Display P3": (encoded(of_mode("RGB", RED), "PNG", icc_profile=display_p3()), plain(P3_RED, 1)),
    "png, orientation 6": (turned(6, "PNG"), QUARTERS),
    "png cut short": (changed(cut(0.9), SCENE, "PNG"), "damaged"),
    "png with a flipped bit": (changed(flip(0.5), SCENE, "PNG"), "damaged"),
    "png, a text of 80 MB in 80 kB": (
        content(lambda: png(quarters(), 8, 2, chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(80_000_000), 1)))),
        "damaged",
    ),
    "png of 88 megapixels in 100 bytes": (content(bomb(9400, 9400)), "too large"),
    "png of 400 megapixels in 100 bytes": (content(bomb(20_000, 20_000)), "too large"),
    # GIF
    "gif": (encoded(UPRIGHT, "GIF"), Good(QUARTERS.colours, 2)),
    "gif, animated": (encoded(UPRIGHT, "GIF", **APNG), Good(QUARTERS.colours, 2)),
    "gif, transparent": (encoded(of_mode("P", 0), "GIF", transparency=0), plain(WHITE)),
    "gif cut in half": (changed(cut(0.5), SCENE, "GIF"), "damaged"),
    "gif of 4290 megapixels by its header": (content(b"GIF89a" + struct.pack("<HH", 65500, 65500) + bytes(3) + noise()), "too large"),
    # WebP
    "webp": (encoded(UPRIGHT, "WEBP", quality=95), Good(QUARTERS.colours, 12)),
    "webp, lossless": (encoded(UPRIGHT, "WEBP", lossless=True), QUARTERS),
    "webp, alpha over hidden colours": (encoded(HIDDEN, "WEBP", lossless=True, exact=True), ON_WHITE),
    "webp, animated": (encoded(UPRIGHT, "WEBP", lossless=True, **APNG), QUARTERS),
    "webp, orientation 8": (turned(8, "WEBP", lossless=True), QUARTERS),
    "webp, Display P3": (encoded(of_mode("RGB", RED), "WEBP", lossless=True, icc_profile=display_p3()), plain(P3_RED, 1)),
    "webp cut in half": (changed(cut(0.5), SCENE, "WEBP"), "damaged"),
    "webp of 169 megapixels by its header": (content(webp_bomb(13_000, 13_000)), "too large"),
    # TIFF and BMP
    "tiff": (encoded(UPRIGHT, "TIFF"), QUARTERS),
    "tiff by hand": (content(tiff()), Good((BLACK,) * 4, size=(64, 64))),
    "tiff, LZW": (encoded(UPRIGHT, "TIFF", compression="tiff_lzw"), QUARTERS),
    "tiff, 16-bit grey": (encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 128 * 257, np.uint16)), "TIFF"), plain((128,) * 3)),
    "tiff, CMYK without a profile": (encoded(of_mode("CMYK", (0, 0, 0, 255)), "TIFF"), plain(BLACK)),
    "tiff, CMYK with a profile": (encoded(of_mode("CMYK", (0, 0, 0, 255)), "TIFF", icc_profile=grey_inks()), plain(INK_GREY, 3)),
    "tiff, many pages": (encoded(UPRIGHT, "TIFF", **APNG), QUARTERS),
    "tiff, orientation 3": (turned(3, "TIFF"), QUARTERS),
    "tiff, float": (encoded(of_mode("F", 0.5), "TIFF"), "format not supported"),
    "tiff, NaN": (encoded(of_mode("F", float("nan")), "TIFF"), "format not supported"),
    "tiff, 32-bit integers": (encoded(of_mode("I", 70_000), "TIFF"), "format not supported"),
    "tiff, LAB": (encoded(of_mode("LAB", (128, 0, 0)), "TIFF"), "format not supported"),
    "tiff cut in half": (changed(cut(0.5), SCENE, "TIFF", compression="tiff_lzw"), "format not supported"),
    "tiff of 4290 megapixels by its header": (content(tiff(side=65500)), "too large"),
    "bmp": (encoded(UPRIGHT, "BMP"), QUARTERS),
    "bmp cut in half": (changed(cut(0.5), SCENE, "BMP"), "damaged"),
    # HEIC and AVIF
    "heic": (encoded(UPRIGHT, "HEIF", quality=95), Good(QUARTERS.colours, 12)),
    "heic, rotated by irot": (turned(6, "HEIF", quality=95), Good(QUARTERS.colours, 12)),
    "heic, 10 bit": (content(ten_bit), plain((128,) * 3, 4)),
    "heic, alpha": (encoded(HIDDEN, "HEIF", quality=100), Good(ON_WHITE.colours, 16)),
    "heic, a burst": (encoded(UPRIGHT, "HEIF", quality=95, **APNG), Good(QUARTERS.colours, 12)),
    "heic cut in half": (changed(cut(0.5), SCENE, "HEIF"), "damaged"),
    "heic cut short by a byte": (changed(cut(-1), SCENE, "HEIF"), "damaged"),
    "avif": (encoded(UPRIGHT, "AVIF", quality=95, subsampling="4:4:4"), Good(QUARTERS.colours, 12)),
    "avif, alpha": (encoded(HIDDEN, "AVIF", quality=100, subsampling="4:4:4"), Good(ON_WHITE.colours, 16)),
    "avif, orientation 5": (turned(5, "AVIF", quality=95, subsampling="4:4:4"), Good(QUARTERS.colours, 12)),
    "avif cut in half": (changed(cut(0.5), SCENE, "AVIF"), "damaged"),
    # sizes
    "png of 1 pixel": (encoded(Image.new("RGB", (1, 1)), "PNG"), "too small"),
    "png of 10000 x 1": (encoded(Image.new("RGB", (10_000, 1)), "PNG"), "too small"),
    "png, a strip": (encoded(Image.new("RGB", (64, 513)), "PNG"), "too narrow"),
    # what is no photo
    "no bytes": (content(b""), "empty"),
    "text": (content(b"hello, this is no picture at all"), "not an image"),
    "web page": (content(b"<!DOCTYPE html><html><body>404</body></html>"), "not an image"),
    "svg": (content(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not an image"),
    "random bytes": (content(noise()), "not an image"),
    "film named .jpg": (content(b"\0\0\0\x14ftypqt  \0\0\0\0qt  moov" + noise()), "not an image"),
    "ppm": (content(b"P6 80 80 255\n" + bytes(80 * 80 * 3)), "not an image"),
    "icon": (encoded(UPRIGHT.resize((64, 64)), "ICO"), "not an image"),
    "eps named .jpg": (content(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"), "format not supported"),
    "pdf named .jpg": (content(b"%PDF-1.7\n" + noise()), "format not supported"),
    "photoshop": (content(b"8BPS\0\x01" + bytes(6) + noise()), "format not supported"),
    "jpeg xl": (content(b"\0\0\0\x0cJXL \r\n\x87\n" + noise()), "format not supported"),
    "jpeg 2000": (content(b"\0\0\0\x0cjP  \r\n\x87\n" + noise()), "format not supported"),
    "raw, Canon CR2": (content(b"II*\0\x10\0\0\0CR\2\0" + bytes(100)), "format not supported"),
    "raw, Canon CR3": (content(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + noise()), "format not supported"),
    "raw, DNG with its preview first": (content(tiff((50706, 1, 4, 0x00000401))), "format not supported"),
    "raw, NEF with its preview first": (content(tiff((254, 4, 1, 1))), "format not supported"),
    "raw, Fujifilm": (content(b"FUJIFILMCCD-RAW 0201" + noise()), "format not supported"),
    "raw, Panasonic": (content(b"IIU\0\x18\0\0\0" + noise()), "format not supported"),
    "raw, Olympus": (content(b"IIRO\x08\0\0\0" + noise()), "format not supported"),
    # what is no plain file
    "folder": (lambda path: path.mkdir(), "not a file"),
    "pipe": (lambda path: os.mkfifo(path), "not a file"),
    "socket": (bind, "not a file"),
    "link to a device": (link("/dev/zero"), "not a file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "unreadable"),
    "link to nowhere": (link("nowhere"), "missing"),
    "link to a photo": (link(beside), QUARTERS),
    "no file": (lambda path: None, "missing"),
    "file of another user": (sealed, "unreadable"),
    # names
    "name that is no UTF-8 \udcff\udcfe": (encoded(UPRIGHT, "PNG"), QUARTERS),
    "name with a\nline break": (encoded(UPRIGHT, "PNG"), QUARTERS),
    "long name" + "g" * 240: (encoded(UPRIGHT, "PNG"), QUARTERS),
}
"""Name -> what makes it at a path, and what becomes of it: Good colours, or the reason why it is skipped."""


def largest():
    """Name -> maker of the largest pictures that are accepted, one at a time: 49.9 megapixels."""
    width, height = 8000, 6240

    def blank(depth, colour, bytes_a_pixel, *more):
        return lambda: png([np.zeros(width * bytes_a_pixel, np.uint8)] * height, depth, colour, *more, size=(width, height))

    def saved(mode, format, **options):
        return lambda: data(Image.new(mode, (width, height), 9), format, **options)

    managed = chunk(b"iCCP", b"P3\0\0" + zlib.compress(display_p3())), chunk(b"eXIf", exif(6).removeprefix(b"Exif\0\0"))
    return {
        "png, alpha, profile, turned": blank(8, 6, 4, *managed),
        "png, 16-bit RGB and alpha": blank(16, 6, 8),
        "png, 16-bit grey": blank(16, 0, 2),
        "jpeg, progressive": saved("RGB", "JPEG", progressive=True),
        "jpeg, CMYK, turned": saved("CMYK", "JPEG", exif=exif(6), icc_profile=grey_inks()),
        "webp": saved("RGB", "WEBP", method=0),
        "gif": saved("P", "GIF"),
        "tiff, alpha": saved("RGBA", "TIFF", compression="tiff_lzw"),
    }


def needs(name):
    """The decoder that a kind needs and this installation lacks, or ""."""
    format = {"heic": "HEIF", "avif": "AVIF"}.get(name[:4])
    return "" if format is None or upto(format) else format
