"""Photos stylised as an app does it: their size, their memory, their seams, and what the files that come out of it hold."""

import asyncio
import dataclasses
import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

import fedstyle
from fedstyle import detail, stylising, tiling
from fedstyle import filter as filter_module
from fedstyle.base import Base
from fedstyle.errors import PhotoError, StyleError
from fedstyle.filter import Filter, working_size
from fedstyle.net import WIDTH
from fedstyle.photos import Photos

ROOT = Path(__file__).parents[1]


def smooth(size=(320, 240)):
    """A photo without a single edge, on which any seam is a step."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    ramp = np.stack([60 + x / 3, 200 - y / 2, 90 + (x + y) / 6], -1)
    return Image.fromarray(ramp.clip(0, 255).astype(np.uint8))


def levels(image):
    return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def filter(base):
    return Filter(base.arch, base.padding, base.weights)


# The size kept, and the detail brought back


@pytest.mark.parametrize(
    ("size", "side", "seen"),
    [
        ((4000, 3000), 512, (683, 512)),  # 4000 * 512 / 3000 = 682.7
        ((3000, 4000), 512, (512, 683)),
        ((511, 2000), 512, (511, 2000)),  # nothing is enlarged
        ((4000, 3000), None, (4000, 3000)),
        ((4096, 512), 256, (2048, 256)),
    ],
)
def test_the_size_at_which_the_network_sees_a_photo(size, side, seen):
    assert working_size(size, side) == seen


def test_a_large_photo_is_seen_small_and_comes_back_in_its_size(filter, monkeypatch):
    seen = []
    stylise = Filter.stylise
    monkeypatch.setattr(Filter, "stylise", lambda self, x: seen.append(tuple(x.shape)) or stylise(self, x))
    result = fedstyle.stylize(filter, picture(0, (301, 203)), side=64)
    assert (result.image.size, result.image.mode, result.size) == ((301, 203), "RGB", (95, 64))  # 301 * 64 / 203 = 94.9
    assert seen == [(1, 3, 64, 95)]
    assert result.seconds > 0
    assert (result.source, result.notice) == (None, "")


def test_strips_are_those_of_one_piece(monkeypatch):
    photo, small = picture(3, (331, 257)), picture(3, (331, 257)).resize((97, 75))
    stylised = ImageOps.posterize(small, 3)
    whole = levels(detail.enlarge(photo, small, stylised))
    monkeypatch.setattr(detail, "STRIP", 3000)  # 3000 // 331 = 9 rows
    assert np.abs(levels(detail.enlarge(photo, small, stylised)) - whole).max() <= 1


def test_detail_comes_back_where_the_styled_picture_follows_the_photo_and_nowhere_else():
    """A filter that makes a negative: a = -1 everywhere, so a line too thin for the small photo comes back, dark where it was bright."""
    y, x = np.mgrid[0:240, 0:320]
    grey = np.where((x + y) % 40 < 20, 60, 180) + np.where((x - y) % 24 < 2, 40, 0)
    photo = Image.fromarray(np.stack([grey] * 3, -1).astype(np.uint8))
    small = photo.resize((80, 60), Image.Resampling.LANCZOS)
    restored = levels(detail.enlarge(photo, small, ImageOps.invert(small)))
    blurred = levels(ImageOps.invert(small).resize(photo.size, Image.Resampling.BICUBIC))
    wanted = 255 - levels(photo)
    assert np.abs(restored - wanted).mean() < 0.25 * np.abs(blurred - wanted).mean()
    # A picture that has nothing of the photo gets nothing from it: no ghost, no line.
    flat = Image.new("RGB", small.size, (90, 120, 30))
    assert (levels(detail.enlarge(photo, small, flat)) == (90, 120, 30)).all()
    # And a photo that has only noise to give gives none: its variance of 9 is under NOISE, so a < 9 / 49 of what it could be.
    noisy = Image.fromarray((128 + 3 * np.random.default_rng(0).standard_normal((240, 320, 3))).clip(0, 255).astype(np.uint8))
    small = noisy.resize((80, 60), Image.Resampling.LANCZOS)
    assert levels(detail.enlarge(noisy, small, small)).std() < levels(small).std() + 1


def test_no_halo_and_no_fringe_beside_an_edge():
    """Beside a hard edge of a grey photo the result stays between the two sides, but for the 8 % that bicubic enlarging overshoots."""
    photo = Image.fromarray(np.repeat(np.where(np.arange(320) < 163, 60, 180).astype(np.uint8)[None, :, None], 240, 0).repeat(3, 2))
    small = photo.resize((80, 60), Image.Resampling.BOX)
    result = levels(detail.enlarge(photo, small, small))
    assert result.min() >= 60 - 10
    assert result.max() <= 180 + 10
    assert (result == result[..., :1]).all()
    # The edge is where the photo has it and a pixel wide, where the small one had it four pixels wide.
    assert (result[:, :163] < 110).all()
    assert (result[:, 163:] > 130).all()


# Tiles


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
@pytest.mark.parametrize("arch", ["cnnLite", "cnn"])
@pytest.mark.parametrize("photo", [smooth(), picture(5, (301, 235))], ids=["smooth", "noise"])
@pytest.mark.usefixtures("fp32")
def test_tiles_are_the_picture_in_one_piece_within_a_level(arch, padding, photo, monkeypatch):
    monkeypatch.setattr(tiling, "TILES", (64,))
    made = Filter(arch, padding, Base.new(arch, padding, width=4).weights)
    tiled = levels(tiling.paint(made.net, photo, 10**9))
    assert np.abs(tiled - levels(made(photo, side=None))).max() <= 1  # rounding to bytes; the networks differ by 1e-5


def test_tiles_whose_statistics_are_a_sample_show_no_seam(filter, monkeypatch):
    """With room for the features of 9 of 20 tiles: they are still parts of one picture, that of the network with these statistics."""
    photo, found = smooth(), []
    measure = tiling._measure

    def watched(net, parts, load):
        found.extend([len(parts), measure(net, parts, load)])
        return found[1]

    monkeypatch.setattr(tiling, "TILES", (64,))
    monkeypatch.setattr(tiling, "_measure", watched)
    work, kept = tiling._tile_bytes(filter.net, 64)
    tiled = levels(tiling.paint(filter.net, photo, tiling.FIXED + work + 9 * kept))
    count, frozen = found
    assert count == 9
    monkeypatch.setattr(filter_module, "_room", lambda *_: tiling.FIXED + work + 9 * kept)
    result = fedstyle.stylize(filter, photo, side=None)
    assert levels(result.image).tolist() == tiled.tolist()
    assert result.measured == 9 / 20
    shown = dataclasses.replace(result, size=(1600, 1200))  # a photo as large as such ones are
    assert shown.notice.endswith("against the photo as at 512; colours were reckoned from 45% of it, with more memory from all of it")
    count, frozen = found[:2]
    everything = (0, 0, *photo.size)
    with torch.inference_mode():
        whole = frozen(tiling._pixels(photo, tiling.Tile(everything, everything)))[0].permute(1, 2, 0)
    assert np.abs(tiled - (whole * 255).round().int().numpy()).max() <= 1


def test_naive_tiles_would_show_seams(filter):
    """What the shared statistics are for: each tile on its own differs visibly, so the tests above can fail."""
    photo = smooth()
    naive = np.concatenate([levels(filter(photo.crop((left, 0, left + 64, 240)), side=None)) for left in range(0, 320, 64)], 1)
    assert np.abs(naive - levels(filter(photo, side=None))).max() > 20


def test_full_resolution_says_that_strokes_shrink(filter, monkeypatch):
    monkeypatch.setattr(stylising, "SIDE", 40)
    result = fedstyle.stylize(filter, picture(0, (120, 80)), side=None)
    assert result.size == (120, 80)
    assert result.notice == "stylised at 120x80 pixels: strokes are 2.0 times as small against the photo as at 40"
    assert fedstyle.stylize(filter, picture(0, (120, 80)), side=40).notice == ""


# Memory


def test_what_does_not_fit_is_refused_with_what_would_do(filter, tmp_path):
    photo = picture(0, (1200, 900))
    with pytest.raises(PhotoError, match=r"a photo of 1200x900 pixels cannot be stylised within 10 MB of memory: allow \d+ MB") as refusal:
        filter(photo, side=None, memory=10)
    enough = int(re.search(r"allow (\d+) MB", str(refusal.value))[1])
    assert filter(photo, side=None, memory=enough).size == photo.size
    with pytest.raises(PhotoError, match="allow"):
        filter(photo, side=None, memory=enough - 1)
    photo.save(tmp_path / "a.png")
    with pytest.raises(PhotoError, match=r"a.png has 1200x900 pixels and cannot be opened within 20 MB of memory: allow 22 MB"):
        fedstyle.stylize(filter, tmp_path / "a.png", memory=20)  # 1200 * 900 * 20 = 21.6 MB
    batch = fedstyle.stylize_all(filter, [tmp_path / "a.png"], memory=20)
    assert (list(batch), batch.skipped) == ([], {"no room": 1})


PEAK = """
import sys, torch
torch.set_num_threads(1)
import fedstyle
from fedstyle.base import Base
from PIL import Image

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1000 * 1.024

path, width, side, memory, arch = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
base = Base.new(arch, width=width)
filter = fedstyle.Filter(base.arch, base.padding, base.weights)
fedstyle.stylize(filter, Image.new("RGB", (64, 64)))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
result = fedstyle.stylize(filter, path, side=side, memory=memory)
print(status("VmHWM") - before, result.size[0], result.seconds)
"""


def peak(path, width, side, memory, arch="cnnLite"):
    """MB of 10^6 bytes that stylising a file adds to a process of its own, and the seconds that it takes."""
    command = [sys.executable, "-c", PEAK, str(path), str(width), str(side), str(memory), arch]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    more, _, seconds = map(float, done.stdout.split())
    return more, seconds


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of a process's memory is read from Linux's /proc")
@pytest.mark.parametrize(("side", "memory"), [(512, 100), (None, 100), (None, 200)])
def test_the_limit_of_memory_is_kept(side, memory, tmp_path):
    """A photo of 3 megapixels: in one piece the network would take 160 bytes a pixel, 480 MB."""
    picture(1, (2000, 1500)).save(tmp_path / "a.jpg")
    assert peak(tmp_path / "a.jpg", 4, side, memory)[0] < memory


@pytest.mark.soak
@pytest.mark.parametrize(("side", "arch"), [(512, "cnnLite"), (512, "cnn"), (None, "cnnLite"), (None, "cnn")])
def test_the_default_limit_is_kept_for_48_megapixels(side, arch, tmp_path, capsys):
    picture(1, (8064, 6048)).save(tmp_path / "a.jpg", quality=80)
    more, seconds = peak(tmp_path / "a.jpg", WIDTH[arch], side, 1000, arch)
    with capsys.disabled():
        print(f"\n48 megapixels, {arch}, {'every pixel in tiles' if side is None else 'scaled'}: {seconds:.0f} s, {more:.0f} MB")  # noqa: T201
    assert more < 1000


@pytest.mark.soak
@pytest.mark.parametrize("arch", ["cnnLite", "cnn"])
def test_tiles_of_the_shipped_networks_show_no_seam(arch):
    """A photo of 1.4 megapixels in tiles of 512 and, measured over a sample of smaller ones, against one piece."""
    start = Base.shipped(arch)
    made = Filter(arch, start.padding, start.transform())
    photo = smooth().resize((1344, 1008), Image.Resampling.BICUBIC)
    whole = levels(made(photo, side=None, memory=4000))
    assert np.abs(levels(tiling.paint(made.net, photo, 10**9)) - whole).max() <= 1
    work, kept = tiling._tile_bytes(made.net, 128)
    sampled = levels(tiling.paint(made.net, photo, tiling.FIXED + work + 10 * kept))
    off = (sampled - whole).mean(-1)  # colours may be off, but everywhere alike: the step across a tile's border is that beside it
    for axis in (0, 1):
        steps = np.abs(np.diff(off, axis=axis)).mean(1 - axis)
        assert steps[127::128].mean() < 1.2 * steps.mean() + 0.02


# What an app does


def test_files_come_upright_and_what_is_no_photo_is_one_line(filter, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(7, (98, 71)).save(tmp_path / "a.jpg", exif=exif)
    result = fedstyle.stylize(filter, str(tmp_path / "a.jpg"))
    assert (result.image.size, result.source) == ((71, 98), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:  # an app's own way of opening it
        assert levels(filter(image)).tolist() == levels(result.image).tolist()
    (tmp_path / "b.jpg").write_text("no photo")
    with pytest.raises(PhotoError, match=r"b.jpg is not an image"):
        fedstyle.stylize(filter, tmp_path / "b.jpg")


def test_an_image_that_is_open_already_looks_as_its_file_does(filter, tmp_path):
    """Hidden colours under transparency, 16-bit grey, a palette and a profile: what plain conversion to RGB gets wrong."""
    clear = picture(3, (90, 70)).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((90, 70)))
    wide = Image.fromarray(np.linspace(0, 65535, 90 * 70).reshape(70, 90).astype(np.uint16))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    palette = picture(4, (90, 70)).quantize(16)
    for number, (image, more) in enumerate(
        [(clear, {}), (wide, {}), (palette, {"transparency": 3}), (picture(5, (90, 70)), {"icc_profile": profile})]
    ):
        image.save(path := tmp_path / f"{number}.png", **more)
        with Image.open(path) as opened:
            assert filter(opened).tobytes() == fedstyle.stylize(filter, path).image.tobytes()
            assert fedstyle.Style(opened, density=64).digest() == fedstyle.Style(path, density=64).digest()
    for use in (filter, fedstyle.Style):
        with pytest.raises((PhotoError, StyleError), match=r"image holds F samples, which fedstyle does not read: save it as JPEG or PNG"):
            use(Image.new("F", (90, 70)))


def test_the_event_loop_goes_on_and_photos_wait_for_their_turn(filter, monkeypatch):
    at_work, most = [0], [0]
    stylise = Filter.stylise

    def slow(self, x):
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        time.sleep(0.05)
        at_work[0] -= 1
        assert threading.current_thread() is not threading.main_thread()
        return stylise(self, x)

    monkeypatch.setattr(Filter, "stylise", slow)

    async def live():
        beats = 0
        work = asyncio.gather(*(fedstyle.stylize_async(filter, picture(seed)) for seed in range(3)))
        while not work.done():
            await asyncio.sleep(0.005)
            beats += 1
        return beats, await work

    beats, results = asyncio.run(live())
    assert beats >= 5
    assert most == [1]
    monkeypatch.undo()
    for seed, result in enumerate(results):
        assert result.image.tobytes() == filter(picture(seed)).tobytes()


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / "library"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for place in ("a.png", "b/c.jpg", "d.webp", ".hidden/e.png"):
        picture(len(place), (70, 66)).save(folder / place)
    (folder / "aa.jpg").write_bytes((folder / "b" / "c.jpg").read_bytes()[:400])
    (folder / "notes.txt").write_text("beside")
    (folder / "z.png").write_bytes(b"")
    return folder


def test_a_folder_yields_results_as_they_come_and_counts_what_it_skips(filter, library):
    batch = fedstyle.stylize_all(filter, library)
    assert (len(batch), batch.done) == (5, 0)
    first = next(iter(batch))
    assert (first.source, batch.done) == (library / "a.png", 1)
    assert [(result.source.name, batch.done) for result in batch] == [("c.jpg", 3), ("d.webp", 4)]  # it goes on
    assert batch.done == len(batch)
    assert batch.skipped == {"damaged": 1, "empty": 1}
    assert [re.sub(r".*/library/", "", line)[:9] for line in batch.problems] == ["aa.jpg is", "z.png is "]
    assert list(batch) == []
    same = fedstyle.stylize_all(filter, Photos.open(library))
    assert [result.source.name for result in same] == ["a.png", "c.jpg", "d.webp"]
    with pytest.raises(PhotoError, match="nowhere does not exist: check the path"):
        fedstyle.stylize_all(filter, library / "nowhere")


def test_a_folder_that_cannot_be_listed_is_counted_and_said(filter, library, monkeypatch):
    scan = os.scandir

    def refuses(place):
        if Path(place).name == "b":
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuses)  # root may list every folder
    batch = fedstyle.stylize_all(filter, library)
    assert batch.skipped == {"unreadable": 1}
    assert batch.problems == [f"{library / 'b'} is a folder that cannot be listed: check its permissions"]
    assert [path.name for path in batch.paths] == ["a.png", "aa.jpg", "d.webp", "z.png"]


def test_a_folder_in_an_event_loop(filter, library):
    async def live():
        batch = fedstyle.stylize_all(filter, [library / "a.png", library / "z.png", library / "d.webp"])
        return [result.source.name async for result in batch], batch

    seen, batch = asyncio.run(live())
    assert seen == ["a.png", "d.webp"]
    assert batch.skipped == {"empty": 1}


# Nothing private in what comes out

SECRETS = [b"private words", b"Ada's phone", b"GPSsecret", b"profile of Ada", b"<x:xmpmeta", b"Exif\0\0", b"ICC_PROFILE"]


def tainted(path, kind):
    """A photo with a description, a GPS position, a comment, XMP, an ICC profile and a thumbnail, as far as its format holds them."""
    from PIL import ImageCms

    exif = Image.Exif()
    exif[0x010E], exif[0x010F], exif[0x0112] = "private words", "Ada's phone", 8
    place = exif.get_ifd(0x8825)
    place[1], place[2], place[27] = "N", (48.0, 51.0, 29.0), b"GPSsecret"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + b"profile of Ada"
    more = {"exif": exif, "icc_profile": profile}
    if kind == "JPEG":
        more |= {"comment": b"private words", "xmp": b"<x:xmpmeta private words/>"}
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        more["pnginfo"] = PngInfo()
        more["pnginfo"].add_text("Comment", "private words")
    if kind == "WEBP":
        more["xmp"] = b"<x:xmpmeta private words/>"
    if kind == "TIFF":
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info[0x010E], info[0x8825] = "private words", {1: "N", 27: b"GPSsecret"}
        more = {"tiffinfo": info, "icc_profile": profile, "description": "private words"}
    picture(2, (90, 70)).save(path, kind, **more)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("opened", ["path", "image"])
def test_nothing_of_a_photos_metadata_is_in_the_result(filter, kind, opened, tmp_path):
    tainted(tmp_path / "photo", kind)
    raw = (tmp_path / "photo").read_bytes()
    assert any(secret in raw for secret in SECRETS)
    for side in (512, 64):  # at its size, and brought back to it
        with Image.open(tmp_path / "photo") as image:
            result = fedstyle.stylize(filter, tmp_path / "photo" if opened == "path" else image, side=side).image
        assert result.size == ((90, 70) if kind == "TIFF" else (70, 90))
        assert result.info == {}
        assert not result.getexif()
        for to in ("JPEG", "PNG", "WEBP", "TIFF"):
            result.save(written := io.BytesIO(), to)
            found = [secret for secret in SECRETS if secret in written.getvalue()]
            assert not found, (to, found)


# The page


def test_the_pages_example_runs(filter, tmp_path, monkeypatch, capsys):
    page = (ROOT / "clients" / "STYLISING.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line]) == 10
    filter.save(tmp_path / "my-filter")
    (tmp_path / "Pictures").mkdir()
    picture(0).save(tmp_path / "Pictures" / "a.jpg")
    (tmp_path / "Pictures" / "b.jpg").write_text("no photo")
    picture(1).save(tmp_path / "holiday.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "STYLISING.md", "exec"), {})
    assert "1 of 2" in capsys.readouterr().out
    assert {"holiday-stylised.png", "a.png"} <= {path.name for path in tmp_path.rglob("*.png")}
