import io
import os
import random
import struct
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from fedstyle.errors import PhotoError, StyleError
from fedstyle.picture import MAX_BYTES, MAX_PIXELS, REASONS, UnusableError, open_image, read


def scene(width=96, height=80, seed=0):
    """A smooth coloured picture with some noise: no two corners alike."""
    y, x = np.mgrid[0:height, 0:width]
    grey = np.random.default_rng(seed).integers(0, 20, (height, width))
    return Image.fromarray(np.stack([x * 255 // width, y * 235 // height + grey, 200 - x * 100 // width], -1).clip(0, 255).astype(np.uint8))


def saved(path, image, **options):
    image.save(path, **options)
    return path


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def reason(path, side=None):
    with pytest.raises(UnusableError) as caught:
        read(path, side)
    assert caught.value.reason in REASONS
    return caught.value.reason


# ---------------------------------------------------------------------------------------------------------------- colours


# Where the scene's top left and top right corner lie in the file for each EXIF orientation (EXIF 2.32, table of tag 0x0112:
# "row 0 is the visual top / right ..., column 0 the visual left ..."), as (row, column) with 0 = first and 1 = last.
STORED = {
    1: ((0, 0), (0, 1)),
    2: ((0, 1), (0, 0)),
    3: ((1, 1), (1, 0)),
    4: ((1, 0), (1, 1)),
    5: ((0, 0), (1, 0)),
    6: ((1, 0), (0, 0)),
    7: ((1, 1), (0, 1)),
    8: ((0, 1), (1, 1)),
}


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("format", ["png", "jpg", "tif", "webp"])
def test_exif_orientation_puts_the_corners_right(tmp_path, orientation, format):
    turned = orientation in (5, 6, 7, 8)
    height, width = (100, 70) if turned else (70, 100)
    pixels = np.full((height, width, 3), 128, np.uint8)
    (r0, c0), (r1, c1) = STORED.get(orientation, STORED[1])  # 0 and 9 are no orientations: as it lies
    block = [slice(0, 16), slice(-16, None)]
    pixels[block[r0], block[c0]] = (255, 0, 0)
    pixels[block[r1], block[c1]] = (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(saved(tmp_path / f"x.{format}", Image.fromarray(pixels), exif=exif))
    assert image.size == (100, 70)
    for place, colour in [((4, 4), (255, 0, 0)), ((95, 4), (0, 0, 255)), ((4, 65), (128,) * 3), ((95, 65), (128,) * 3)]:
        assert np.abs(np.subtract(image.getpixel(place), colour)).max() <= 6, (place, image.getpixel(place))
    assert not image.info
    assert not dict(image.getexif())


def test_sixteen_bit_grey_is_divided_by_257(tmp_path):
    values = np.zeros((70, 70), np.uint16)
    values[0, :6] = [0, 128, 129, 257, 32768, 65535]  # /257: 0, 0.498, 0.502, 1, 127.5 (just above: 127.502), 255
    for name in ("x.png", "x.tif"):
        image = open_image(saved(tmp_path / name, Image.fromarray(values)))
        assert [image.getpixel((k, 0)) for k in range(6)] == [(v, v, v) for v in (0, 0, 1, 1, 128, 255)]


def test_transparency_lies_on_white(tmp_path):
    pixels = np.zeros((70, 70, 4), np.uint8)
    pixels[..., :3] = (200, 60, 40)
    pixels[:, :20, 3], pixels[:, 20:40, 3], pixels[:, 40:, 3] = 0, 102, 255
    image = open_image(saved(tmp_path / "x.png", Image.fromarray(pixels)))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((30, 0)) == (233, 177, 169)  # 102/255 = 0.4: 0.4 x 200 + 0.6 x 255 = 233; 24 + 153 = 177; 16 + 153 = 169
    assert image.getpixel((69, 0)) == (200, 60, 40)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1", "LA"])
def test_transparency_of_other_modes_lies_on_white(tmp_path, mode):
    image = Image.new(mode, (70, 70), 0 if mode != "LA" else (0, 0))
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1 if mode in "P1" else (255,) * len(mode) if len(mode) > 1 else 255, (35, 0, 70, 70))
    options = {} if mode == "LA" else {"transparency": 0 if mode != "RGB" else (0, 0, 0)}
    opened = open_image(saved(tmp_path / "x.png", image, **options))
    assert opened.getpixel((3, 3)) == (255, 255, 255)
    assert opened.getpixel((60, 3)) == ((255, 0, 0) if mode == "P" else (255, 255, 255))


def display_p3(gamma=None):
    """A minimal ICC v2 profile of Display P3: colorants adapted to D50, the sRGB curve or a plain gamma as 1024 samples."""

    def s15(*values):
        return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))

    def xyz(*values):
        return b"XYZ \0\0\0\0" + s15(*values)

    x = np.linspace(0, 1, 1024)
    curve = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) if gamma is None else x**gamma
    trc = b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *np.round(curve * 65535).astype(int))
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 3) + b"P3\0" + bytes(78),
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        b"rTRC": trc,
        b"gTRC": trc,
        b"bTRC": trc,
    }
    table, data, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value
    header = bytearray(128)
    struct.pack_into(">I4sI4s4s4s", header, 0, start + len(data), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header[36:40] = b"acsp"
    header[68:80] = s15(0.9642, 1, 0.8249)
    return bytes(header) + table + data


# (200, 60, 40) in linear light is (.578, .045, .021) by the sRGB curve and (.586, .041, .017) by gamma 2.2. The P3 -> sRGB matrix with rows
# (1.2249, -.2247, 0), (-.0421, 1.0419, 0), (-.0196, -.0786, 1.0979) gives (.697, .0228, .0084) and (.709, .0184, .0039), and the sRGB curve
# backwards (217, 42, 23) and (219, 37, 13).
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(("gamma", "expected"), [(None, (217, 42, 23)), (2.2, (219, 37, 13))])
def test_display_p3_becomes_srgb(tmp_path, alpha, gamma, expected):
    image = Image.new("RGBA" if alpha else "RGB", (70, 70), (200, 60, 40))
    opened = open_image(saved(tmp_path / "x.png", image, icc_profile=display_p3(gamma)))
    assert np.abs(np.subtract(opened.getpixel((9, 9)), expected)).max() <= 1
    assert "icc_profile" not in opened.info


@pytest.mark.parametrize("profile", [b"corrupt", display_p3()[:300], display_p3().replace(b"RGB ", b"CMYK")])
def test_a_bad_profile_is_ignored(tmp_path, profile):
    opened = open_image(saved(tmp_path / "x.png", Image.new("RGB", (70, 70), (200, 60, 40)), icc_profile=profile))
    assert opened.getpixel((9, 9)) == (200, 60, 40)


@pytest.mark.parametrize(
    ("mode", "colour", "format", "expected"),
    [
        ("L", 90, "JPEG", (90, 90, 90)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0)),
        ("CMYK", (0, 0, 0, 255), "TIFF", (0, 0, 0)),
        ("RGB", (10, 200, 30), "BMP", (10, 200, 30)),
        ("RGB", (10, 200, 30), "GIF", (10, 200, 30)),
        ("RGB", (10, 200, 30), "WEBP", (10, 200, 30)),
        ("RGB", (10, 200, 30), "AVIF", (10, 200, 30)),
        ("RGB", (10, 200, 30), "HEIF", (10, 200, 30)),
    ],
)
def test_every_format_and_mode_by_content(tmp_path, mode, colour, format, expected):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    path = tmp_path / "wrong extension.txt"
    path.write_bytes(encoded(Image.new(mode, (80, 80), colour), format))
    image = open_image(path)
    assert image.mode == "RGB"
    assert type(image) is Image.Image
    assert np.abs(np.subtract(image.getpixel((9, 9)), expected)).max() <= 4


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_taken(tmp_path, format):
    first, second = Image.new("RGB", (70, 70), (250, 0, 0)), Image.new("RGB", (70, 70), (0, 250, 0))
    path = saved(tmp_path / "x", first, format=format, save_all=True, append_images=[second], lossless=True)
    assert np.abs(np.subtract(open_image(path).getpixel((9, 9)), (250, 0, 0))).max() <= 4


def test_side_gives_a_smaller_jpeg_of_the_same_picture(tmp_path):
    path = saved(tmp_path / "x.jpg", scene(1600, 1200), quality=95)
    small = open_image(path, side=200)
    assert small.size == (400, 300)  # 1/4; 1/8 would have a short side of 150
    whole = open_image(path).resize((400, 300), Image.Resampling.BOX)
    assert np.abs(np.asarray(small, int) - np.asarray(whole, int)).mean() < 2
    mpo = tmp_path / "x.mpo"
    scene(800, 640).save(mpo, format="MPO", save_all=True, append_images=[scene(80, 80)])
    assert open_image(mpo, side=100).size == (200, 160)


# --------------------------------------------------------------------------------------------------------------- bad files


def test_the_error_is_one_line_with_the_path_and_the_class_asked_for(tmp_path):
    path = tmp_path / "bad\nname\udcff.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(StyleError) as caught:
        open_image(path, StyleError)
    line = str(caught.value)
    assert line.encode().count(b"\n") == 0  # and it can be encoded
    assert line.endswith(r"bad\nname\udcff.jpg is not an image: choose a JPEG, PNG, HEIC or WebP file")
    with pytest.raises(PhotoError, match="does not exist: check the path"):
        open_image(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"hello, this is no picture at all", "not an image"),
        (random.Random(0).randbytes(4000), "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  moov", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n", "format not supported"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(100), "format not supported"),  # a camera's raw file, a TIFF that Pillow cannot read
        (b"P6 80 80 255\n" + bytes(80 * 80 * 3), "not an image"),  # PPM is not on the list
    ],
    ids=["empty", "text", "random", "svg", "mov", "eps", "raw", "ppm"],
)
def test_what_is_no_picture(tmp_path, content, expected):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert reason(path) == expected


@pytest.mark.parametrize("cut", [1, 2, 100, -30])
@pytest.mark.parametrize("side", [None, 64])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_is_cut_short_is_refused(tmp_path, cut, side, progressive):
    data = encoded(scene(640, 480), "JPEG", progressive=progressive)
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    read(path, side)
    path.write_bytes(data[:-cut])
    assert reason(path, side) == "damaged"


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.95])
def test_a_file_that_is_cut_short_is_refused(tmp_path, format, keep):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encoded(scene(200, 160), format, **({"compression": "tiff_lzw"} if format == "TIFF" else {}))
    path = tmp_path / "x"
    path.write_bytes(data[: int(keep * len(data))])
    assert reason(path) in ("damaged", "not an image", "format not supported")  # the last for a TIFF without its directory


def test_a_heic_that_is_cut_short_is_refused(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    data = encoded(scene(200, 160), "HEIF")
    path = tmp_path / "x.heic"
    path.write_bytes(data[: len(data) // 2])
    assert reason(path) == "damaged"


def test_heic_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("fedstyle.picture._formats", lambda: ("JPEG", "PNG"))
    path = tmp_path / "x.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(PhotoError, match=r"fedstyle\[heif\]"):
        open_image(path)


@pytest.mark.parametrize(("format", "seed"), [(f, s) for f in ("JPEG", "PNG") for s in range(40)])
def test_flipped_bits_give_a_picture_or_one_error_and_no_noise(tmp_path, capfd, format, seed):
    data = bytearray(encoded(scene(120, 90), format))
    rng = random.Random(seed)
    for _ in range(3):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path = tmp_path / "x"
    path.write_bytes(data)
    try:
        image = open_image(path)
    except PhotoError:
        pass
    else:
        assert image.mode == "RGB"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("size", "expected"), [((1, 1), "too small"), ((63, 300), "too small"), ((64, 513), "too narrow")])
def test_sizes_that_are_no_photo(tmp_path, size, expected):
    assert reason(saved(tmp_path / "x.png", Image.new("RGB", size))) == expected


def test_the_smallest_and_narrowest_photo(tmp_path):
    assert open_image(saved(tmp_path / "x.png", Image.new("RGB", (64, 512)))).size == (64, 512)


def bomb(width, height):
    """A 1-bit PNG that says it has this size, in under 100 bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width", [7072, 9400, 20000, 60000])  # Pillow says nothing, warns, and raises at two limits of its own
def test_bombs_are_refused_from_their_header(tmp_path, monkeypatch, width):
    assert width**2 > MAX_PIXELS
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    path = tmp_path / "x.png"
    path.write_bytes(bomb(width, width))
    assert reason(path) == "too large"


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "x.webp"
    path.write_bytes(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
    os.truncate(path, MAX_BYTES + 1)  # sparse: takes no space
    with pytest.raises(PhotoError, match=r"is too large \(400 MB\)"):
        open_image(path)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_float_and_wide_samples_are_refused(tmp_path, mode):
    path = saved(tmp_path / "x.tif", Image.new(mode, (70, 70), 1))
    with pytest.raises(PhotoError, match=r"holds [FI] samples"):
        open_image(path)


def test_what_is_no_regular_file_never_hangs(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert reason(tmp_path / "fifo") == "not a file"
    assert reason(tmp_path / "zero") == "not a file"
    assert reason(tmp_path) == "not a file"
    assert reason(tmp_path / "loop") == "unreadable"
    assert reason(tmp_path / "gone") == "missing"
    assert reason(Path("a\0b")) == "unreadable"
    (tmp_path / "link").symlink_to(saved(tmp_path / "x.png", scene()))
    assert open_image(tmp_path / "link").size == (96, 80)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.png", scene())
    path.chmod(0)
    if os.geteuid() == 0:  # root may read everything

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("fedstyle.picture.os.open", refuse)
    assert reason(path) == "unreadable"


def test_a_disk_that_fails_while_reading(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.png", scene())

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert reason(path) == "unreadable"


# ----------------------------------------------------------------------------------------------------- warnings and threads


def test_corrupt_exif_is_ignored_without_a_warning(tmp_path, recwarn, capfd):
    for name, exif in [("a.jpg", b"Exif\0\0garbage"), ("b.jpg", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"), ("c.jpg", b"Exif\0\0")]:
        assert open_image(saved(tmp_path / name, scene(), exif=exif)).size == (96, 80)
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_many_threads_open_pictures_and_leave_the_warning_filters_alone(tmp_path):
    import warnings

    before = list(warnings.filters)
    good, bad = saved(tmp_path / "x.jpg", scene(), exif=b"Exif\0\0garbage"), tmp_path / "bad.jpg"
    bad.write_bytes(good.read_bytes()[:-1])
    expected = open_image(good).tobytes()
    together = threading.Barrier(8)

    def work(_):
        together.wait(timeout=20)
        for _ in range(20):
            assert open_image(good).tobytes() == expected
            assert reason(bad) == "damaged"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert warnings.filters == before


def test_pillow_heif_is_not_needed(tmp_path, monkeypatch):
    from fedstyle import picture

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    picture._formats.cache_clear()
    try:
        assert open_image(saved(tmp_path / "x.png", scene())).size == (96, 80)
    finally:
        picture._formats.cache_clear()
