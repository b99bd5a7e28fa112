"""Which files may be photos: one walk for training, stylising and examining."""

import os

import pytest
from PIL import Image

from fedstyle.base import Base
from fedstyle.candidates import candidates, examine
from fedstyle.errors import PhotoError
from fedstyle.filter import Filter
from fedstyle.photos import Photos
from fedstyle.stylising import stylize_all


def photo(path):
    Image.new("RGB", (100, 80), "red").save(path)
    return path


def test_a_folder_comes_in_the_order_of_bytes_without_what_lies_beside_photos(tmp_path):
    (tmp_path / "a" / ".thumbnails").mkdir(parents=True)
    (tmp_path / "more").mkdir()
    (tmp_path / "a" / "again").symlink_to(tmp_path)  # a loop
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    odd = os.fsdecode(b"\xff.jpg")
    for name in ("b.png", "a/z.png", "B.HEIC", "a/IMG.MOV", "notes.txt", ".hidden.jpg", "a/.thumbnails/x.jpg", odd):
        (tmp_path / name).touch()
    files, closed = candidates(str(tmp_path))
    assert [str(path.relative_to(tmp_path)) for path in files] == ["B.HEIC", "a/z.png", "b.png", "link.jpg", odd]
    assert closed == []
    assert candidates(["b.png", tmp_path / "a.MOV"])[0][1:] == [tmp_path / "a.MOV"]  # a list is taken as it is


def test_a_folder_that_is_none_is_one_error_for_all(tmp_path):
    base = Base.new("cnnLite", width=4)
    made = Filter(base.arch, base.padding, base.weights)
    photo(tmp_path / "a.png")
    for use in (candidates, Photos.open, lambda place: list(examine(place)), lambda place: stylize_all(made, place)):
        with pytest.raises(PhotoError, match=r"the photo folder .*/nowhere does not exist: check the path$"):
            use(tmp_path / "nowhere")
        with pytest.raises(PhotoError, match=r"a.png is not a folder: give the folder that holds the photos$"):
            use(tmp_path / "a.png")


def test_every_candidate_is_examined_and_copies_are_no_fault(tmp_path):
    first = photo(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(first.read_bytes())
    (tmp_path / "a.png").touch()
    assert list(examine(tmp_path)) == [(tmp_path / "a.png", "empty"), (first, ""), (tmp_path / "c.png", "")]
    assert list(examine([first, tmp_path / "x.png"])) == [(first, ""), (tmp_path / "x.png", "missing")]
