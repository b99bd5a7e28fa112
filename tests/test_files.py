import errno
import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest

from fedstyle import files
from fedstyle.errors import FedstyleError, OutputError, SessionError


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full(monkeypatch):
    """A disk that is full: what is written does not reach it."""

    def fsync(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_file_is_written_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    files.write_bytes(path, b"one")
    files.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert left(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert files.sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path, full):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"no space left to write .*file: free some disk space"):
        files.write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert left(tmp_path) == ["file"]


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(OutputError, match=r"cannot write .*: choose a folder that you may write to"):
            files.write_bytes(path, b"x")
    with pytest.raises(OutputError, match="cannot write"):
        files.append_json(tmp_path / "folder", {})
    with pytest.raises(OutputError, match="cannot write"), files.locked(tmp_path / "file" / "lock", SessionError("taken")):
        pass
    with pytest.raises(OutputError, match="cannot write"), files.staged(tmp_path / "file" / "below"):
        pass
    assert left(tmp_path) == ["file", "folder"]


def test_json_is_indented_and_strict(tmp_path):
    files.write_json(tmp_path / "x.json", {"b": "ü", "a": [1]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "b": "ü",\n  "a": [\n    1\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", float("nan"))
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["a"] == [1]


def test_lines_are_appended_and_a_torn_one_is_left_out_and_dropped(tmp_path):
    path = tmp_path / "a" / "lines"
    assert files.read_lines(path) == []
    files.append_json(path, {"n": 1})
    files.append_json(path, {"n": "ü"})
    with open(path, "ab") as file:
        file.write('{"n": "ü'.encode()[:-1])  # torn within a character
    assert files.read_lines(path) == [{"n": 1}, {"n": "ü"}]
    files.append_json(path, {"n": 3})
    assert files.read_lines(path) == [{"n": 1}, {"n": "ü"}, {"n": 3}]
    path.write_bytes(b'{"torn": ')
    files.append_json(path, {"n": 4})
    assert files.read_lines(path) == [{"n": 4}]


@pytest.mark.parametrize("bad", [b"{nonsense}", b"[1]", b"4", b"\xff", b"[" * 100_000, b'{"n": '])
def test_a_line_that_is_no_object_is_an_error_that_names_it(tmp_path, bad):
    path = tmp_path / "lines"
    path.write_bytes(b'{"n": 1}\n\n' + bad + b'\n{"n": 2}\n')
    with pytest.raises(FedstyleError, match=r"lines is damaged: line 3 is no JSON object; remove that line"):
        files.read_lines(path)
    path.write_bytes(b'{"n": 1}\n' + bad)  # torn: it has no end
    assert files.read_lines(path) == [{"n": 1}]


def test_lines_that_cannot_be_read_are_an_error(tmp_path):
    with pytest.raises(FedstyleError, match=r"cannot read .*: check its permissions"):
        files.read_lines(tmp_path)


def test_a_staged_folder_appears_whole_or_not_at_all(tmp_path):
    with files.staged(tmp_path / "a" / "new") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "new").exists()
    assert left(tmp_path / "a") == ["new"]
    assert (tmp_path / "a" / "new").stat().st_mode & 0o777 == 0o755
    with pytest.raises(ZeroDivisionError), files.staged(tmp_path / "other") as folder:
        (folder / "x").write_text(str(1 / 0))
    assert left(tmp_path) == ["a"]


def test_a_staged_folder_replaces_only_when_told_to(tmp_path):
    target = tmp_path / "it"
    for text in ("old", "new"):
        with files.staged(target, replaces="mark") as folder:
            (folder / "mark").touch()
            (folder / text).touch()
    assert left(target) == ["mark", "new"]
    with pytest.raises(OutputError, match="it exists already: choose another place, or remove it first"), files.staged(target):
        raise AssertionError("the block must not run")
    with pytest.raises(RuntimeError, match="stop"), files.staged(target, replaces="mark"):
        raise RuntimeError("stop")
    assert left(tmp_path) == ["it"]
    assert left(target) == ["mark", "new"]
    with pytest.raises(OutputError, match="it exists already"), files.staged(target, replaces="another mark"):
        raise AssertionError("a folder that is not ours is never replaced")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists already"), files.staged(tmp_path / "dangling"):
        pass


def test_a_full_disk_leaves_the_old_folder(tmp_path, full):
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "mark").touch()
    with pytest.raises(OutputError, match="no space left"), files.staged(tmp_path / "it", replaces="mark") as folder:
        (folder / "new").touch()
    assert left(tmp_path) == ["it"]
    assert left(tmp_path / "it") == ["mark"]


@pytest.mark.parametrize(
    ("fails", "there", "kept"),
    # Renames: 1 the old folder goes aside, 2 the new one takes its place, 3 the old one goes back, which is only tried when 2 failed.
    [({1}, ["it"], "it/mark"), ({2}, ["it"], "it/mark"), ({2, 3}, [], ".it.*.old/it/mark")],
)
def test_a_folder_that_cannot_be_replaced_is_put_back_or_at_least_kept(tmp_path, monkeypatch, fails, there, kept):
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "mark").write_text("old")
    calls, real = [], os.replace

    def replace(source, target):
        calls.append(source)
        if len(calls) in fails:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OutputError, match=r"cannot write .*it: Input/output error"), files.staged(tmp_path / "it", replaces="mark") as new:
        (new / "mark").write_text("new")
    assert [name for name in left(tmp_path) if not name.endswith(".old")] == there
    assert [path.read_text() for path in tmp_path.glob(kept)] == ["old"]
    assert len(left(tmp_path)) == 1


def test_a_lock_keeps_everybody_else_out_until_it_is_given_back(tmp_path):
    path = tmp_path / "a" / "lock"
    with files.locked(path, SessionError("taken")):
        with pytest.raises(SessionError, match="taken"), files.locked(path, SessionError("taken")):
            raise AssertionError("the block must not run")
        found = []
        thread = threading.Thread(target=lambda: found.append(_is_free(path)))
        thread.start()
        thread.join()
        assert found == [False]
    assert _is_free(path)


def test_a_lock_dies_with_its_process(tmp_path):
    path = tmp_path / "lock"
    code = f"import sys; from pathlib import Path; from fedstyle.files import locked\nwith locked(Path({str(path)!r}), SystemExit(3)):\n"
    code += "    print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert not _is_free(path)
        holder.kill()
        holder.wait()
        assert _is_free(path)


def _is_free(path):
    try:
        with files.locked(path, SessionError("taken")):
            return True
    except SessionError:
        return False
