"""A week with the photo app: a messy library, filters made and killed, applied, packed, upgraded and thrown away."""

import importlib.util
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

from fedstyle import Base, FilterLibrary, verify

spec = importlib.util.spec_from_file_location("gallery", Path(__file__).parents[1] / "clients" / "gallery.py")
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)


@pytest.fixture
def photos(tmp_path, photo_folder):
    """A library of the person's, with two files that are no photos."""
    shutil.copytree(photo_folder, tmp_path / "photos")
    (tmp_path / "photos" / "notes.jpg").write_text("no photo")
    (tmp_path / "photos" / "empty.png").write_bytes(b"")
    return tmp_path / "photos"


@pytest.fixture
def app(tmp_path, style_image, predictive):
    """Run the app in a fresh home."""
    style_image.save(tmp_path / "style.png")
    predictive.save(tmp_path / "base")
    before = signal.getsignal(signal.SIGTERM)
    yield lambda *words: gallery.main(["--home", str(tmp_path / "home"), *map(str, words)])
    signal.signal(signal.SIGTERM, before)


def made(app, tmp_path, photos, name, *more):
    given = ("--photos", photos, "--style", tmp_path / "style.png", "--base", tmp_path / "base", "--iterations", 4, "--slice", 0)
    return app("make", name, *given, *more)


def own(tmp_path):
    return [entry for entry in FilterLibrary(tmp_path / "home" / "shelf").list() if not entry.predefined]


def test_a_week_with_the_app(app, tmp_path, photos, predictive, capsys):
    assert made(app, tmp_path, photos, "Stripes at sea", "--strength", 4) == 0
    shown = capsys.readouterr().out
    assert "100%" in shown or "75%" in shown
    assert "strength 4" in shown
    assert shown.count("left out: 1 ") == 2  # one that is empty, one that is no image
    (stripes,) = own(tmp_path)
    assert (stripes.name, stripes.base_sha256, stripes.whole) == ("Stripes at sea", predictive.sha256, False)
    assert not list((tmp_path / "home" / "work").iterdir())

    assert made(app, tmp_path, photos, "../evil: name", "--strength", 8) == 0
    _, evil = own(tmp_path)
    photo = photos / "1.png"
    assert app("apply", evil.id, photo, photos / "empty.png", "--out", tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "1.png") as result, Image.open(photo) as original:
        assert result.size == original.size
    assert "is empty" in capsys.readouterr().err

    assert app("rename", evil.id, "Stripes at sea") == 0
    assert app("pack", tmp_path / "Filters.mlpackage", "--target", "ios15", "--size", 64) == 0
    assert all(verify(tmp_path / "Filters.mlpackage", entry.filter).faithful for entry in own(tmp_path))

    Base.new("cnnLite", seed=5, width=4).save(tmp_path / "newer")
    assert app("upgrade", "--photos", photos, "--base", tmp_path / "newer", "--iterations", 2) == 0
    assert capsys.readouterr().out.count("Stripes at sea: ") == 2
    assert app("remove", stripes.id) == 0
    assert [entry.id for entry in own(tmp_path)] == [evil.id]
    assert app("list", "--previews", tmp_path / "previews") == 0
    assert f"{evil.id}  Stripes at sea" in capsys.readouterr().out
    assert (tmp_path / "previews" / f"{evil.id}.png").exists()


def test_a_make_that_was_stopped_goes_on_and_a_late_kill_adds_nothing_twice(app, tmp_path, photos, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "shutil", None)  # the line after the filter was put on the shelf fails, as if a kill came there
        with pytest.raises(AttributeError):
            made(app, tmp_path, photos, "Once", "--strength", 5)
    assert made(app, tmp_path, photos, "Once", "--strength", 5) == 0
    assert [entry.name for entry in own(tmp_path)] == ["Once"]


def test_mistakes_are_one_line_and_exit_code_2(app, tmp_path, photos, capsys):
    assert app("apply", "no-such-id", photos, "--out", tmp_path / "out") == 2
    shutil.rmtree(photos)
    assert made(app, tmp_path, photos, "No photos") == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
