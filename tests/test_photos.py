import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedstyle.demo import demo_photos
from fedstyle.errors import FedstyleError, PhotoError
from fedstyle.photos import Photos, divide, examine


def plain(path, colour, size=(100, 80)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def three(tmp_path):
    """Three photos, each of one colour, so that a crop tells where it comes from."""
    return Photos.open([plain(tmp_path / f"{k}.png", colour) for k, colour in enumerate([(250, 0, 0), (0, 250, 0), (0, 0, 250)])])


# ---------------------------------------------------------------------------------------------------------------- opening


def test_a_folder_is_read_with_its_subfolders_in_order(tmp_path):
    for k, name in enumerate(["b.png", "a/z.png", "a.png", "C.PNG", "no-extension"]):
        plain(tmp_path / f"{name}.png", (k, 0, 0)).rename(tmp_path / name)
    photos = Photos.open(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in photos.paths] == ["C.PNG", "a.png", "a/z.png", "b.png", "no-extension"]  # by bytes
    assert len(photos) == 5
    assert photos.skipped == {}
    assert photos == Photos.open(str(tmp_path))


def test_what_lies_beside_photos_is_passed_over_and_bad_photos_are_counted(tmp_path):
    good = plain(tmp_path / "good.jpg", "red")
    for name in [".hidden.jpg", "IMG_1.MOV", "notes.txt", "IMG_1.aae", ".thumbnails/x.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "short.jpg").write_bytes(good.read_bytes()[:-1])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "more.jpg").write_text("hello")
    plain(tmp_path / "tiny.png", "red", (1, 1))
    plain(tmp_path / "strip.png", "red", (1000, 64))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "again").symlink_to(tmp_path)  # a folder within itself: not followed
    photos = Photos.open(tmp_path)
    assert photos.paths == (good,)
    assert photos.skipped == {
        "damaged": 1,
        "empty": 1,
        "missing": 1,
        "not a file": 2,
        "not an image": 2,
        "too narrow": 1,
        "too small": 1,
        "unreadable": 1,
    }


def test_copies_count_once(tmp_path):
    first = plain(tmp_path / "a.png", "red")
    other = plain(tmp_path / "c.png", "blue")
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "sub/a.jpg"):
        (tmp_path / name).write_bytes(first.read_bytes())
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "hard.png").hardlink_to(other)
    for name in ("bad.png", "bad too.png"):
        (tmp_path / name).write_text("hello")
    photos = Photos.open(tmp_path)
    assert photos.paths == (first, other)
    assert photos.skipped == {"duplicate": 4, "not an image": 2}  # b.png, hard.png, link.png and sub/a.jpg
    assert Photos.open([other, first, other, first]).paths == (other, first)
    assert Photos.open([other, first, other, first]).skipped == {"duplicate": 2}


def test_every_candidate_is_examined_and_copies_are_no_fault(tmp_path):
    first = plain(tmp_path / "b.png", "red")
    (tmp_path / "c.png").write_bytes(first.read_bytes())
    (tmp_path / "a.png").touch()
    assert list(examine(tmp_path)) == [(tmp_path / "a.png", "empty"), (first, ""), (tmp_path / "c.png", "")]
    assert list(examine([first, tmp_path / "x.png"])) == [(first, ""), (tmp_path / "x.png", "missing")]


def test_no_usable_photo_is_an_error_that_counts(tmp_path):
    with pytest.raises(PhotoError, match=r"does not exist: check the path$"):
        Photos.open(tmp_path / "nowhere")
    with pytest.raises(PhotoError, match=r"holds no usable photo \(it is empty\): add JPEG"):
        Photos.open(tmp_path)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").write_text("hello")
    (tmp_path / "c.jpg").write_text("hello")
    with pytest.raises(PhotoError, match=r"holds no usable photo \(3 skipped: 1 empty, 2 not an image\): add"):
        Photos.open(tmp_path)
    with pytest.raises(PhotoError, match=r"a\.jpg is not a folder: give the folder"):
        Photos.open(tmp_path / "a.jpg")
    with pytest.raises(PhotoError, match=r"^the list of photos holds no usable photo \(1 skipped: 1 missing\)"):
        Photos.open([tmp_path / "none.jpg"])


def test_a_list_keeps_its_order(tmp_path):
    paths = [plain(tmp_path / "b.png", "red"), plain(tmp_path / "a.png", "blue")]
    assert Photos.open(paths).paths == tuple(paths)
    assert Photos.open(paths).load(1).getpixel((0, 0)) == (0, 0, 255)


def test_a_name_that_is_no_utf8(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))
    plain(tmp_path / "x.png", "red").rename(odd)
    photos = Photos.open(tmp_path)
    assert photos.load(0).size == (100, 80)
    odd.write_text("no longer a photo")
    with pytest.raises(PhotoError) as caught:
        photos.load(0)
    str(caught.value).encode()


def test_photos_travel_to_a_worker(three):
    assert pickle.loads(pickle.dumps(three)) == three
    assert hash(three) == hash(Photos(three.paths))


# ---------------------------------------------------------------------------------------------------------------- digest


def test_the_digest_is_of_content_and_order(tmp_path, three):
    each = [hashlib.sha256(path.read_bytes()).digest() for path in three.paths]
    assert three.digest() == hashlib.sha256(b"".join(each)).hexdigest()
    renamed = [path.rename(tmp_path / f"other-{path.name}") for path in three.paths]
    assert Photos.open(renamed).digest() == hashlib.sha256(b"".join(each)).hexdigest()
    assert Photos.open(renamed[::-1]).digest() != hashlib.sha256(b"".join(each)).hexdigest()
    with pytest.raises(PhotoError, match="does not exist"):
        three.digest()


# ----------------------------------------------------------------------------------------------------------------- crops


def ramp(tmp_path, width=256, height=128):
    """Red grows with x by one a pixel, green with y: a crop shows where it was cut and at what scale."""
    y, x = np.mgrid[0:height, 0:width]
    path = tmp_path / "ramp.png"
    Image.fromarray(np.stack([x * 255 // (width - 1), y * 255 // (width - 1), 0 * x], -1).astype(np.uint8)).save(path)
    return Photos.open([path])


def test_crops_have_the_scale_place_and_flip_of_the_seed(tmp_path):
    crops = ramp(tmp_path).crops(64, 400, seed=3).float()
    assert crops.shape == (400, 3, 64, 64)
    red, green = crops[:, 0, 32], crops[:, 1, :, 32]
    flipped = red[:, 0] > red[:, -1]
    assert 150 < flipped.sum() < 250
    # Source pixels a crop pixel, from the green ramp: the short side of 128 lands on 64..96, so between 128/96 = 1.33 and 128/64 = 2.
    step = (green[:, 62] - green[:, 1]) / 61
    assert 1.30 < step.min() < 1.40
    assert 1.93 < step.max() < 2.03
    left = torch.minimum(red[:, 0], red[:, -1])
    assert left.min() < 5
    assert torch.maximum(red[:, 0], red[:, -1]).max() > 250  # from edge to edge
    assert green[:, 0].min() < 3
    assert green[:, -1].max() > 124


def test_photos_take_turns(three):
    crops = three.crops(16, 7, seed=5)
    colours = crops.amax((2, 3)).argmax(1)
    assert sorted(colours[:3].tolist()) == [0, 1, 2]
    assert (colours == colours[:3].repeat(3)[:7]).all()
    orders = {tuple(three.crops(16, 3, seed).amax((2, 3)).argmax(1).tolist()) for seed in range(30)}
    assert len(orders) == 6


def test_crops_depend_on_the_arguments_only(tmp_path):
    photos = ramp(tmp_path)
    first = photos.crops(32, 5, seed=1)
    torch.manual_seed(7)
    np.random.seed(7)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(first, again) for again in pool.map(lambda _: photos.crops(32, 5, seed=1), range(4)))
    assert not torch.equal(first, photos.crops(32, 5, seed=2))
    assert first.dtype == torch.uint8
    assert photos.crops(32, 0, seed=1).shape == (0, 3, 32, 32)
    assert not first.is_cuda
    assert first.is_contiguous()


def test_each_photo_is_decoded_once_a_call(three, monkeypatch):
    from fedstyle import photos as module

    seen = []
    monkeypatch.setattr(module, "open_image", lambda path, **_: seen.append(path) or Image.open(path).convert("RGB"))
    three.crops(16, 20, seed=0)
    assert sorted(seen) == sorted(three.paths)


def test_crops_may_be_larger_than_the_photo(tmp_path):
    assert Photos.open([plain(tmp_path / "x.png", "red", (64, 64))]).crops(128, 2, 0).shape == (2, 3, 128, 128)


def test_views_are_the_centre_squares(tmp_path):
    views = ramp(tmp_path).views(128)
    assert views.shape == (1, 3, 128, 128)
    # The centre square of 256 x 128 starts at x = 64 and is not resized, so the pixels are the source's.
    assert views[0, 0, 5].tolist() == list(range(64, 192))
    assert views[0, 1, :, 5].tolist() == list(range(128))


def test_a_large_jpeg_gives_the_same_view_as_its_full_decoding(tmp_path):
    y, x = np.mgrid[0:960, 0:1280] / 160
    pixels = np.stack([np.sin(x) * 100 + 128, np.cos(y) * 100 + 128, np.sin(x * y) * 100 + 128], -1).astype(np.uint8)
    path = tmp_path / "x.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    whole = Image.open(path).crop((160, 0, 1120, 960)).resize((120, 120), Image.Resampling.LANCZOS)
    view = Photos.open([path]).views(120)[0].permute(1, 2, 0).numpy()
    assert np.abs(view.astype(int) - np.asarray(whole, int)).mean() < 1.5


# ---------------------------------------------------------------------------------------------------------------- divide


@settings(deadline=None)
@given(st.integers(1, 200), st.data(), st.integers(0, 2**31))
def test_divide_is_a_seeded_partition(count, data, seed):
    clients = data.draw(st.integers(1, count))
    photos = Photos(tuple(Path(f"{k}.jpg") for k in range(count)), {"damaged": 1})
    parts = divide(photos, clients, seed)
    assert sorted(path for part in parts for path in part.paths) == sorted(photos.paths)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert parts == divide(photos, clients, seed)


def test_divide_refuses_fewer_photos_than_clients(three):
    assert [len(part) for part in divide(three, 3, 0)] == [1, 1, 1]
    with pytest.raises(PhotoError, match="3 photos cannot be divided among 4 clients: give each client at least one photo"):
        divide(three, 4, 0)
    different = {divide(three, 3, seed)[0].paths for seed in range(20)}
    assert len(different) == 3


def test_subset_keeps_the_order_asked_for(three):
    assert three.subset([2, 0]).paths == (three.paths[2], three.paths[0])


# ------------------------------------------------------------------------------------------------------------------ demo


def test_the_demo_photos_are_eight_distinct_photographs():
    pytest.importorskip("skimage")
    demo = demo_photos()
    assert list(demo)[:5] == ["cat", "coffee", "motorcycle", "astronaut", "rocket"]
    photos = Photos.open(list(demo.values()))
    assert len(photos) == 8
    assert not photos.skipped
    assert len({path.read_bytes() for path in photos.paths}) == 8


def test_demo_photos_without_the_extra_say_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FedstyleError, match=r"pip install 'fedstyle\[demo\]'"):
        demo_photos()
