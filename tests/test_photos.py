import dataclasses
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedstyle.client import Client
from fedstyle.demo import demo_photos
from fedstyle.errors import ConfigError, FedstyleError, PhotoError
from fedstyle.photos import Photos
from fedstyle.picture import REASONS, open_image
from fedstyle.style import Style
from fedstyle.thumbnails import Thumbnails
from fedstyle.training import evaluate


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
    assert photos.paths == (good, tmp_path / "short.jpg")  # only decoding shows that one is cut short
    assert photos.skipped == photos.left_out
    assert photos.usable == 2
    checked = photos.checked()
    assert checked.paths == (good,)
    assert (photos.usable, checked.usable) == (1, 1)  # the whole library knows it too now
    assert photos.skipped == checked.skipped == checked.left_out
    assert checked.skipped == {
        "damaged": 1,
        "empty": 1,
        "missing": 1,
        "not a file": 2,
        "not an image": 2,
        "too narrow": 1,
        "too small": 1,
        "unreadable": 1,
    }


def test_only_files_of_one_size_are_read_to_find_copies(tmp_path, monkeypatch):
    from fedstyle import candidates as module

    first = plain(tmp_path / "a.png", "red")
    other = plain(tmp_path / "b.png", "blue")
    with open(other, "ab") as file:
        file.write(b"longer")
    (tmp_path / "hard.png").hardlink_to(other)
    read = []
    monkeypatch.setattr(module, "content_hash", lambda path: read.append(path) or path.read_bytes())
    assert Photos.open(tmp_path).skipped == {"duplicate": 1}
    assert read == []
    (tmp_path / "c.png").write_bytes(first.read_bytes())
    assert Photos.open(tmp_path).skipped == {"duplicate": 2}
    assert read == [first, tmp_path / "c.png"]


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


def test_the_digest_of_what_training_draws_says_all_that_the_crops_depend_on(damaged):
    seen, known = damaged.digest(3, seed=2), damaged.checked() and damaged.digest(3, seed=2)
    assert seen == known  # whatever was decoded before
    assert seen != damaged.digest(3, seed=3) != damaged.digest(4, seed=3)
    assert seen != damaged.subset(range(7)).digest(3, seed=2)  # how many there are sets their order
    drawn = [k for k in np.random.default_rng(2).permutation(8) if k not in (1, 4, 6)]
    plain(damaged.paths[drawn[4]], "red")  # not among the three
    assert Photos.open(damaged.paths).digest(3, seed=2) == seen
    plain(damaged.paths[drawn[2]], "red")
    assert Photos.open(damaged.paths).digest(3, seed=2) != seen
    assert damaged.digest(20, seed=2) == damaged.digest(20, seed=2) != seen


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
    monkeypatch.setattr(module, "read", lambda path, _: seen.append(path) or Image.open(path).convert("RGB"))
    three.crops(16, 20, seed=0)
    assert sorted(seen) == sorted(three.paths)
    three.crops(16, 2, seed=0)
    assert len(seen) == 5  # and no more photos than crops


# --------------------------------------------------------------------------------------------------------------- lazily opened


@pytest.fixture
def damaged(tmp_path):
    """Eight photos, each about one grey; of those at 1, 4 and 6 the end is missing, which only decoding shows."""
    paths = [tmp_path / f"{k}.jpg" for k in range(8)]
    for k, path in enumerate(paths):  # six levels darker on the left than in the middle, as a photo of one colour teaches nothing
        ramp = np.broadcast_to(20 * k + 50 + np.linspace(-6, 6, 100), (80, 100))
        Image.fromarray(ramp.round().astype(np.uint8)).convert("RGB").save(path)
    for k in (1, 4, 6):
        paths[k].write_bytes(paths[k].read_bytes()[:-1])
    return Photos.open(paths)


def greys(crops):
    """Which photo each crop was cut from."""
    return [round((int(crop[0, 5, 5]) - 50) / 20) for crop in crops]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 4, 5, 6, 8, 19])
def test_a_damaged_photo_is_counted_and_the_next_in_the_order_takes_its_turn(damaged, count, seed):
    order = [k for k in np.random.default_rng(seed).permutation(8) if k not in (1, 4, 6)]
    crops = damaged.crops(16, count, seed)
    assert greys(crops) == [order[k % 5] for k in range(count)]
    whole = np.random.default_rng(seed).permutation(8).tolist()
    met = whole[: whole.index(order[count - 1])] if count <= 5 else whole  # what was decoded before the last that was needed
    assert damaged.skipped.get("damaged", 0) == len({1, 4, 6} & set(met))
    damaged.checked()
    assert torch.equal(damaged.crops(16, count, seed), crops)  # what is known of the library changes nothing
    assert damaged.usable == 5
    assert len(damaged) == 8


def test_views_are_of_the_sound_photos_and_the_rest_is_counted(damaged):
    assert greys(damaged.views(16)) == [0, 2, 3, 5, 7]
    assert damaged.skipped == {"damaged": 3}
    assert damaged.left_out == {}
    assert damaged == pickle.loads(pickle.dumps(damaged)) == Photos(damaged.paths)


def test_subsets_share_what_is_known_and_count_their_own(damaged):
    first, second = damaged.subset([0, 1]), damaged.subset([4, 5, 6])
    assert len(second.views(16)) == 1
    assert (first.skipped, second.skipped, damaged.skipped) == ({}, {"damaged": 2}, {"damaged": 2})
    assert damaged.subset([6]).usable == 0


def test_nothing_usable_is_an_error_wherever_it_is_found(damaged, tmp_path):
    bad = damaged.subset([1, 6])
    says = r"the library holds no usable photo \(2 skipped: 2 damaged\): add JPEG"
    for use in (lambda: bad.crops(16, 3, 0), lambda: bad.views(16), bad.checked):
        with pytest.raises(PhotoError, match=says):
            use()
    assert bad.crops(16, 0, 0).shape == (0, 3, 16, 16)
    with pytest.raises(PhotoError, match=r"the list of photos holds no usable photo \(2 skipped: 2 damaged\)"):
        Photos.open(bad.paths)
    with pytest.raises(PhotoError, match="is damaged or cut short"):
        damaged.load(1)


def test_opening_decodes_until_one_photo_is_sound(damaged, monkeypatch):
    from fedstyle import photos as module

    seen, read = [], module.read
    monkeypatch.setattr(module, "read", lambda path, side: seen.append(path.name) or read(path, side))
    Photos.open([damaged.paths[k] for k in (1, 6, 3, 2, 0)])
    assert seen == ["1.jpg", "6.jpg", "3.jpg"]


def test_a_photo_that_goes_away_is_left_out(tmp_path, three):
    three.paths[1].unlink()
    assert three.crops(16, 6, 0).amax((2, 3)).argmax(1).unique().tolist() == [0, 2]
    assert three.skipped == {"missing": 1}


def test_the_owner_is_told_how_many_why_and_what_to_do(tmp_path, damaged):
    for k in range(2):
        (tmp_path / f"text {k}.jpg").write_text("hello")
        (tmp_path / f"copy {k}.jpg").write_bytes(damaged.paths[0].read_bytes())
    photos = Photos.open(tmp_path).checked()
    rows = photos.report()
    assert [(row.reason, row.count) for row in rows] == [("damaged", 3), ("duplicate", 2), ("not an image", 2)]
    assert rows[0].advice == "Each of them is damaged or cut short: copy it again from its source, or choose another picture."
    assert {row.reason: row.count for row in rows} == photos.skipped
    assert str(tmp_path) not in repr(rows)
    assert not Photos.open([damaged.paths[0]]).report()


def test_every_reason_has_advice():
    photos = Photos((), dict.fromkeys([*REASONS, "duplicate"], 1))
    assert [row.reason for row in photos.report()] == sorted([*REASONS, "duplicate"])
    for row in photos.report():
        assert row.advice.startswith("Each of them ")
        assert row.advice.endswith(".")
        assert ": " in row.advice


def test_a_folder_that_cannot_be_listed_is_counted(tmp_path):
    root = Path(tempfile.mkdtemp())  # tmp_path lies in a folder that only its owner may enter
    try:
        root.chmod(0o755)
        plain(root / "a.png", "red").chmod(0o644)
        (root / "closed").mkdir(mode=0)
        root_too = os.geteuid() == 0  # who may list everything, but for the time of this test
        if root_too:
            os.seteuid(65534)
        try:
            photos = Photos.open(root)
        finally:
            if root_too:
                os.seteuid(0)
        assert photos.paths == (root / "a.png",)
        assert photos.skipped == {"unreadable": 1}
    finally:
        (root / "closed").chmod(0o700)
        shutil.rmtree(root)


def test_no_reason_no_count_and_no_name_crosses_to_a_server(damaged, style_image, base, tmp_path, quick):
    update = Client(tmp_path / "home", damaged, Style(style_image, density=64), training=dataclasses.replace(quick, crops=8)).fit(base)
    assert damaged.skipped == {"damaged": 3}
    assert set(vars(update)) == {"delta"}
    assert {type(value) for value in update.delta.values()} == {torch.Tensor}
    assert update.delta.keys() <= base.weights.keys()
    sent = pickle.dumps(update)
    for word in (*REASONS, "duplicate", str(tmp_path), *(path.name for path in damaged.paths)):
        assert word.encode() not in sent
    told = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert told  # and not even its own ledger says which photos there are
    assert not any(path.name.encode() in content for content in told for path in damaged.paths)


def huge(folder, count):
    """Small photos, no two alike, made quickly: one JPEG with a comment of its own each, one in 40 cut short."""
    folder.mkdir()
    file = io.BytesIO()
    Image.new("RGB", (160, 120), "teal").save(file, "JPEG")
    head, rest = file.getvalue()[:2], file.getvalue()[2:]
    for k in range(count):
        text = b"%012d" % k
        whole = head + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + rest
        (folder / f"{k % 100}").mkdir(exist_ok=True)
        (folder / f"{k % 100}" / f"{k}.jpg").write_bytes(whole[:-1] if k % 40 == 7 else whole)
    return folder


def opened(folder):
    """How many photos were opened and decoded, and how many skipped, when 64 crops were cut; then the seconds that each step took."""
    from fedstyle import photos as module

    module.open_image(next(folder.rglob("*.jpg")))  # Pillow's plugins are loaded
    decoded, real, times = [], module.read, [time.perf_counter()]
    module.read = lambda path, side: decoded.append(path) or real(path, side)
    try:
        photos = Photos.open(folder)
        times.append(time.perf_counter())
        photos.crops(64, 64, seed=1)
        times.append(time.perf_counter())
        photos.digest(64, seed=1)
        times.append(time.perf_counter())
    finally:
        module.read = real
    return len(photos), len(decoded), photos.skipped.get("damaged", 0), *np.diff(times).tolist()


def test_a_large_library_is_opened_without_decoding_it(tmp_path):
    found, decoded, damaged, *_ = opened(huge(tmp_path / "library", 500))
    assert found == 500
    assert decoded == 1 + 64 + damaged  # one at opening, those that crops needed, and the damaged ones met on the way


def test_views_come_one_at_a_time_and_none_is_kept(three, monkeypatch, base, style_image, quick):
    from fedstyle import photos as module

    whole = three.views(32)
    assert torch.equal(torch.stack(list(three.each_view(32))), whole)
    alive, most = [], []

    def watched(*arguments):
        made = module_cut(*arguments)
        alive.append(weakref.ref(made))
        most.append(sum(one() is not None for one in alive))
        return made

    module_cut = module.cut
    monkeypatch.setattr(module, "cut", watched)
    many = three.subset([0, 1, 2] * 5)
    client = Client(None, many, Style(style_image, density=64), training=quick)
    losses = client.evaluate(base, many)
    assert len(most) == 15
    assert max(most) <= 2  # the one at hand, and the one before it
    assert losses == evaluate(client.predict(base).net, client.objective(), many.views(quick.size))


def test_a_list_of_files_is_a_library_for_a_client_too(three, style_image, quick):
    listed = Client(None, [str(path) for path in three.paths], Style(style_image, density=64), training=quick)
    assert listed.library == three


def test_a_home_keeps_no_thumbnails_and_thumbnails_have_pixels_of_their_own(tmp_path, style_image, quick):
    """So a device with a home trains on the crops of a simulation with the same photos; a cold and a warm cache are alike."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(noise).save(tmp_path / "photos" / "a.png")  # over thumbnails.SMALL
    at_home, nowhere = (Client(home, tmp_path / "photos", Style(style_image), training=quick) for home in (tmp_path / "home", None))
    plain = nowhere.library.crops(64, 4, 0)
    assert torch.equal(at_home.library.crops(64, 4, 0), plain)
    assert not (tmp_path / "home").exists()
    with_thumbnails = Photos.open(tmp_path / "photos", thumbnails=Thumbnails(tmp_path / "thumbnails"))
    cold = with_thumbnails.crops(64, 4, 0)
    assert list((tmp_path / "thumbnails").iterdir())
    assert torch.equal(with_thumbnails.crops(64, 4, 0), cold)
    assert not torch.equal(cold, plain)
    assert with_thumbnails.digest(4) != nowhere.library.digest(4)  # so a session takes them for other photos


@pytest.mark.soak
def test_a_library_of_twenty_thousand_photos_is_opened_in_seconds_and_little_memory(tmp_path, capsys):
    folder = huge(tmp_path / "library", 20_000)
    script = (
        "import sys, pathlib, picture_child as c, test_photos as t; b = c.peak(); print(*t.opened(pathlib.Path(sys.argv[1])), b, c.peak())"
    )
    place = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    out = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True, env=place).stdout.split()
    found, decoded, damaged = map(int, out[:3])
    first, cut, digest = map(float, out[3:6])
    before, most = map(int, out[6:])
    assert found == 20_000
    assert decoded == 1 + 64 + damaged
    assert most - before < 200e6
    with capsys.disabled():
        print(  # noqa: T201
            f"\n20,000 photos: opened in {first:.1f} s, 64 crops in {cut:.2f} s, digest in {digest:.3f} s, "
            f"{(most - before) / 1e6:.0f} MB more than the {before / 1e6:.0f} MB of the imports"
        )


# ------------------------------------------------------------------------------------------------------------------ processing


def test_scale_fill_is_the_default_and_unknown_words_are_refused(tmp_path):
    photos = ramp(tmp_path)
    assert torch.equal(photos.crops(32, 9, 4), photos.crops(32, 9, 4, processing="scale-fill"))
    assert torch.equal(photos.views(32), photos.views(32, processing="scale-fill"))
    for use in (lambda: photos.crops(32, 1, 0, processing="fill"), lambda: photos.views(32, processing="fill")):
        with pytest.raises(ConfigError, match="processing = 'fill' is unknown: choose scale-fill, scale-fit or centre-crop"):
            use()


def test_scale_fill_gives_the_crops_that_it_always_gave(tmp_path):
    paths = [ramp(tmp_path).paths[0], plain(tmp_path / "b.png", "red"), plain(tmp_path / "c.jpg", "blue", (400, 300))]
    rng = np.random.default_rng(6)  # as fedstyle 0.1.0 cut them, when it decoded every photo at opening
    order, draws, expected = rng.permutation(3), rng.random((8, 4)), []
    for k in range(8):
        photo = open_image(paths[order[k % 3]], side=48)
        edge = min(photo.size) / (1 + draws[k][0] / 2)
        left, top = draws[k][1] * (photo.width - edge), draws[k][2] * (photo.height - edge)
        box = (left, top, min(left + edge, photo.width), min(top + edge, photo.height))
        crop = np.asarray(photo.resize((32, 32), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
        expected.append(crop[:, ::-1] if draws[k][3] < 0.5 else crop)
    assert (Photos.open(paths).crops(32, 8, seed=6).permute(0, 2, 3, 1).numpy() == np.stack(expected)).all()


def test_centre_crops_have_the_scale_of_the_seed_and_the_middle_of_the_photo(tmp_path):
    photos = ramp(tmp_path)
    crops = photos.crops(64, 100, seed=3, processing="centre-crop").float()
    # The middle of 256 x 128 is at red 127.5 and green 63.5 whatever the scale, and mirrored or not.
    assert (crops[:, 0].mean((1, 2)) - 127.5).abs().max() < 1
    assert (crops[:, 1].mean((1, 2)) - 63.5).abs().max() < 1
    fill = photos.crops(64, 100, seed=3).float()
    spread = crops[:, 1, -2, 32] - crops[:, 1, 1, 32]
    assert (spread - (fill[:, 1, -2, 32] - fill[:, 1, 1, 32])).abs().max() < 2  # the same scales
    assert torch.equal(photos.views(64, processing="centre-crop"), photos.views(64))


def test_scale_fit_shows_the_whole_photo_and_its_mirror_image_beside_it(tmp_path):
    photos = ramp(tmp_path)
    view = photos.views(128, processing="scale-fit")[0].float()  # 256 x 128 becomes 128 x 64, with 32 rows above and below
    assert view[0, 64, 0] < 3
    assert view[0, 64, -1] > 252  # from edge to edge
    assert view[1, 32, 5] < 2
    assert view[1, 95, 5] > 125
    assert torch.equal(view[:, 31], view[:, 32])  # mirrored at the photo's edges
    assert torch.equal(view[:, :32], view[:, 32:64].flip(1))
    assert torch.equal(view[:, 96:], view[:, 64:96].flip(1))
    crops = photos.crops(128, 20, seed=0, processing="scale-fit").float()
    assert all(torch.equal(crop, view) or torch.equal(crop, view.flip(2)) for crop in crops)
    assert 0 < sum(torch.equal(crop, view) for crop in crops) < 20


@pytest.mark.parametrize("size", [(64, 512), (512, 64), (65, 64), (64, 64)])
def test_scale_fit_takes_any_shape(tmp_path, size):
    photos = Photos.open([plain(tmp_path / "x.png", (9, 99, 199), size)])
    view = photos.views(33, processing="scale-fit")
    assert view.shape == (1, 3, 33, 33)
    assert (view == torch.tensor([9, 99, 199])[None, :, None, None]).all()


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
