import multiprocessing
import os
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedstyle import thumbnails as module
from fedstyle.photos import Photos
from fedstyle.picture import UnusableError, read
from fedstyle.thumbnails import Thumbnails


@pytest.fixture(autouse=True)
def quarter_size(monkeypatch):
    """Thumbnails of a quarter of their size, so that the tests are quick."""
    monkeypatch.setattr(module, "SIDE", 96)
    monkeypatch.setattr(module, "SMALL", 10_000)


def photo(path, seed=0, size=(160, 120), **options):
    """A picture whose file is large enough for a thumbnail: waves and noise."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    waves = np.stack([np.sin(x / (9 + seed)), np.cos(y / 7), np.sin((x + y) / 23)], -1) * 90
    noise = np.random.default_rng(seed).integers(0, 25, waves.shape)
    Image.fromarray((waves + 110 + noise).clip(0, 255).astype(np.uint8)).save(path, **options)
    assert path.stat().st_size >= module.SMALL
    return path


@pytest.fixture
def cache(tmp_path):
    return Thumbnails(tmp_path / "home" / "thumbnails")


@pytest.fixture
def decoded(monkeypatch):
    """The names of the photos that were decoded."""
    names = []
    monkeypatch.setattr(module, "read", lambda path, side: names.append(path.name) or read(path, side))
    return names


def kept(cache):
    return sorted(path for path in cache.folder.iterdir() if path.suffix == ".thumb")


def test_a_photo_is_decoded_once_and_looks_the_same_bit_for_bit(tmp_path, cache, decoded):
    path = photo(tmp_path / "a.png")
    cold = cache.open(path, 64)
    assert (cold.mode, cold.size, cold.info) == ("RGB", (128, 96), {})  # 160 x 120, the short side to 96
    for again in (cache, Thumbnails(cache.folder), pickle.loads(pickle.dumps(cache))):
        assert again.open(path, 96).tobytes() == cold.tobytes()
    assert cache.open(path, 96).tobytes() == cold.tobytes()  # one thumbnail for all smaller sides
    assert decoded == ["a.png"]
    assert cache.size() == kept(cache)[0].stat().st_size
    assert cache.open(path, 105).size == (140, 105)  # more pixels are another thumbnail
    assert cache.open(path, 2000).size == (160, 120)  # and never more than there are
    assert len(kept(cache)) == 3


def test_a_thumbnail_is_the_photo_reduced(tmp_path, cache):
    path = photo(tmp_path / "a.png")
    whole = Image.open(path).resize((128, 96), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(cache.open(path, 64), int) - np.asarray(whole, int)).max() <= 1
    turned = Image.Exif()
    turned[0x0112] = 6
    assert cache.open(photo(tmp_path / "b.png", exif=turned), 64).size == (96, 128)


def test_small_files_are_decoded_each_time(tmp_path, cache, decoded):
    path = tmp_path / "a.png"
    Image.new("RGB", (800, 600), "red").save(path)
    assert cache.open(path, 64).size == cache.open(path, 64).size == (800, 600)
    assert decoded == ["a.png", "a.png"]
    assert not cache.folder.exists()


def test_crops_are_the_same_cold_warm_damaged_and_without_a_disk(tmp_path, cache, monkeypatch):
    paths = [photo(tmp_path / f"{k}.png", k) for k in range(3)]

    def crops(thumbnails, size=64, **options):
        return Photos.open(paths, thumbnails=thumbnails).crops(size, 7, seed=3, **options)

    cold = crops(cache)
    assert torch.equal(crops(cache), cold)
    damaged, torn, gone = kept(cache)
    content = bytearray(damaged.read_bytes())
    content[-9] ^= 1
    damaged.write_bytes(content)
    torn.write_bytes(torn.read_bytes()[:500])
    gone.unlink()
    assert torch.equal(crops(cache), cold)
    assert len(kept(cache)) == 3  # made again
    cache.clear()
    assert torch.equal(crops(Thumbnails(cache.folder, limit=0)), cold)
    assert not cache.folder.exists()  # a limit of 0 keeps none
    monkeypatch.setattr(module.tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert torch.equal(crops(cache), cold)
    assert torch.equal(crops(Thumbnails(tmp_path / "0.png" / "no folder")), cold)
    plain = Photos.open(paths).crops(64, 7, seed=3)
    # 120 pixels to 96 and then to 64..96 instead of at once: noise of 25 levels changes by a few.
    assert 0 < (plain.float() - cold.float()).abs().mean() < 4


def test_views_are_cut_from_thumbnails_too(tmp_path, cache, decoded):
    photos = Photos.open([photo(tmp_path / "a.png"), photo(tmp_path / "b.png", 1)], thumbnails=cache)
    first = photos.views(64)
    photos.crops(64, 4, seed=0)
    assert torch.equal(photos.views(64), first)
    assert sorted(decoded) == ["a.png", "b.png"]


def test_a_changed_photo_gets_a_new_thumbnail_even_with_its_old_time_and_size(tmp_path, cache):
    path, other = photo(tmp_path / "a.bmp"), photo(tmp_path / "b.bmp", 5)
    first, times = cache.open(path, 64), path.stat()
    with open(path, "r+b") as file:
        file.write(other.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    second = cache.open(path, 64)
    assert second.tobytes() != first.tobytes()
    assert second.tobytes() == cache.open(other, 96).tobytes()


def test_a_photo_that_changes_while_it_is_read_leaves_no_thumbnail(tmp_path, cache, monkeypatch):
    path, other = photo(tmp_path / "a.png"), photo(tmp_path / "b.png", 5)
    monkeypatch.setattr(module, "read", lambda *given: [read(*given), path.write_bytes(other.read_bytes())][0])
    cache.open(path, 64)
    assert not cache.folder.exists()


def test_the_least_recently_used_go_first_and_the_limit_holds(tmp_path, cache, decoded):
    paths = [photo(tmp_path / f"{k}.png", k) for k in range(4)]
    sizes = []
    for path in paths:
        cache.open(path, 64)
        sizes.append(cache.size() - sum(sizes))
    cache.clear()
    decoded.clear()
    small = Thumbnails(cache.folder, limit=sum(sizes[:3]) + 1000)  # three fit, four do not
    for number in (0, 1, 2, 0, 3):
        small.open(paths[number], 96)
        assert small.size() <= small.limit
    assert decoded == ["0.png", "1.png", "2.png", "3.png"]
    small.open(paths[0], 96)  # it was used after 1, so 1 made room
    small.open(paths[2], 96)
    assert decoded == ["0.png", "1.png", "2.png", "3.png"]
    small.open(paths[1], 96)
    assert decoded[4:] == ["1.png"]


def test_what_a_dead_process_left_is_swept_and_other_files_are_not_touched(tmp_path, cache):
    cache.folder.mkdir(parents=True)
    (cache.folder / "tmp123.part").write_bytes(b"half")
    (cache.folder / "notes.txt").write_text("mine")
    cache.open(photo(tmp_path / "a.png"), 96)
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".thumb", ".txt"]
    assert cache.size() > 1000
    cache.clear()
    assert [path.name for path in cache.folder.iterdir()] == ["notes.txt"]
    (cache.folder / "notes.txt").unlink()
    cache.clear()
    assert not cache.folder.exists()
    cache.clear()
    assert cache.size() == 0


def test_nobody_else_can_look_and_nothing_of_the_original_is_there_but_its_pixels(tmp_path, cache):
    exif = Image.Exif()
    exif[0x010F] = "SECRET CAMERA"
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    path = photo(tmp_path / "grandmother.jpg", quality=98, exif=exif, comment="SECRET COMMENT")
    assert b"SECRET" in path.read_bytes()
    cache.open(path, 64)
    (file,) = kept(cache)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert all(char in "0123456789abcdef" for char in file.stem)
    content = file.read_bytes()
    for word in (b"SECRET", b"grandmother", b"Exif", b"EXIF", os.fsencode(tmp_path.name)):
        assert word not in content


def test_an_unusable_photo_is_the_same_error_and_leaves_nothing(tmp_path, cache):
    path = photo(tmp_path / "a.jpg", quality=98)
    path.write_bytes(path.read_bytes()[:-1])
    for bad, reason in ((path, "damaged"), (tmp_path / "gone", "missing"), (tmp_path, "not a file")):
        with pytest.raises(UnusableError) as caught:
            cache.open(bad, 96)
        assert caught.value.reason == reason
    assert not cache.folder.exists()


def test_many_threads_share_a_cache(tmp_path, cache):
    paths = [photo(tmp_path / f"{k}.png", k) for k in range(3)]
    expected = [cache.open(path, 64).tobytes() for path in paths]
    small = Thumbnails(cache.folder, limit=cache.size() * 2 // 3 + 1000)
    cache.clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: small.open(paths[k % 3], 96).tobytes() == expected[k % 3], range(24)))
    assert all(found)
    assert small.size() <= small.limit


def _use(folder, limit, paths, turns):
    small = Thumbnails(folder, limit)
    for turn in range(turns):
        assert small.open(paths[turn % len(paths)], 96).mode == "RGB"
        assert small.size() <= limit, "over the limit"


def test_two_processes_share_a_cache_and_its_limit(tmp_path, cache):
    paths = [photo(tmp_path / f"{k}.png", k) for k in range(3)]
    expected = [cache.open(path, 64).tobytes() for path in paths]
    limit = cache.size() * 2 // 3 + 1000
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_use, args=(cache.folder, limit, paths[k:] + paths[:k], 8)) for k in range(2)]
    cache.clear()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [Thumbnails(cache.folder, limit).open(path, 96).tobytes() for path in paths] == expected
    assert not list(Path(cache.folder).glob("*.part"))
