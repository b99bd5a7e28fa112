"""The reference device client, run as an app's background task would be, and what it may import."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from test_walls import imports, top

import fedstyle
from fedstyle import Base, Client, Filter, Style, Training
from fedstyle.export import inspect

ROOT = Path(__file__).parents[1]
DEVICE = ROOT / "clients" / "device.py"
OUTSIDE = sorted([*(ROOT / "clients").rglob("*.py"), *(ROOT / "simulation").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
ITERATIONS = 12


def main(arguments):
    """The client's `main`, in this process."""
    spec = importlib.util.spec_from_file_location("device", DEVICE)
    device = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(device)
    return device.main(arguments)


@pytest.fixture
def wishes(tmp_path, photo_folder, style_image, base):
    """Arguments for a short run with the tiny base; SIGTERM is as it was afterwards."""
    style_image.save(tmp_path / "style.png")
    base.save(tmp_path / "base")
    before = signal.getsignal(signal.SIGTERM)
    yield [
        *("--photos", str(photo_folder), "--style", str(tmp_path / "style.png"), "--home", str(tmp_path / "home")),
        *("--base", str(tmp_path / "base"), "--iterations", str(ITERATIONS), "--slice", "0", "--size", "64"),
    ]
    signal.signal(signal.SIGTERM, before)


def reached(line):
    """The iteration that a line of progress names, or 0."""
    return int(line.split()[0]) if " iterations, loss " in line else 0


def test_a_killed_client_goes_on_and_ends_with_a_proved_export(wishes, tmp_path, photo_folder, capsys):
    home = tmp_path / "home"
    command = [sys.executable, str(DEVICE), *wishes, "--iterations", "1000", "--pause", "0.1"]  # so that it cannot end before the kill
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as killed:
        last = next(line for line in killed.stdout if reached(line) >= 11)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert reached(last) == 11
    assert sorted(path.name for path in home.iterdir()) == ["session"]

    assert main(wishes) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"3 photos; all that is made stays in {home}"
    assert [reached(line) for line in said if reached(line)] == [11, 12]  # from the checkpoint of iteration 10
    assert said[-1].startswith(f"{home / 'filter.mlpackage'} is the filter: ")
    assert sorted(path.name for path in home.iterdir()) == ["filter", "filter.mlpackage", "session"]
    kept = Filter.load(home / "filter")
    unbroken = Client(None, photo_folder, Style(tmp_path / "style.png")).personalize(Base.load(tmp_path / "base"), iterations=ITERATIONS)
    assert kept.sha256 == unbroken.result().sha256
    assert inspect(home / "filter.mlpackage")["inputs"][0]["width"] == 64

    assert main(wishes) == 0  # a last kill may have come at any line: the end can be reached again
    assert not any(reached(line) for line in capsys.readouterr().out.splitlines())
    shutil.rmtree(home / "filter.mlpackage" / "Data")
    assert main(wishes) == 1
    assert "filter.mlpackage is not the filter: " in capsys.readouterr().err


def test_without_a_base_it_starts_from_the_one_that_fedstyle_carries(wishes, shipped, tmp_path, photo_folder):
    place = wishes.index("--base")
    assert main([*wishes[:place], *wishes[place + 2 :]]) == 0
    training = Training(rate=5e-3, norm_rate=4e-2, warmup=0)  # what that base advises
    client = Client(None, photo_folder, Style(tmp_path / "style.png", strength=None), training=training)
    assert Filter.load(tmp_path / "home" / "filter").sha256 == client.personalize(shipped, iterations=ITERATIONS).result().sha256


def test_sigterm_keeps_the_iteration_at_hand(wishes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert main(wishes) == 3
    assert capsys.readouterr().err == "cancelled after iteration 1: run again to go on\n"
    assert (tmp_path / "home" / "session" / "checkpoint-000001.safetensors").exists()


def test_the_page_on_sessions_and_jobs_runs(tmp_path, monkeypatch, photo_folder, style_image, shipped, capsys):
    first, report, second = re.findall(r"^```python\n(.*?)^```$", (ROOT / "clients" / "SDK.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(first.splitlines()) == 10
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(photo_folder)
    Path("photo.jpg").symlink_to(photo_folder / "0.png")
    style_image.save("painting.jpg")
    exec(compile(first.replace('"standard"', "12"), "SDK.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said] == [
        "42%",
        "83%",
        "checkpoint 10: look at session/preview-000010.png",
        "100%",
        "checkpoint 12: look at session/preview-000012.png",
    ]
    Path("words.jpg").write_text("no photo")
    (folder := Path("more")).mkdir()
    for place in (photo_folder / "0.png", "words.jpg"):
        (folder / Path(place).name).write_bytes(Path(place).read_bytes())
    exec(compile(report.replace('"photos"', '"more"'), "SDK.md", "exec"), {})
    assert capsys.readouterr().out == "1 not an image Each of them is not an image: choose a JPEG, PNG, HEIC or WebP file.\n"
    exec(compile(second, "SDK.md", "exec"), {})
    assert Filter.load("early_filter").facts["iterations"] == 10
    assert Filter.load("my_filter").facts["iterations"] == 12
    assert [path.name for path in Path("session").glob("checkpoint-*")] == ["checkpoint-000012.safetensors"]


def test_a_mistake_is_one_line(wishes, tmp_path, capsys):
    wishes[1] = str(tmp_path / "nowhere")
    assert main(wishes) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_client_is_a_page():
    assert len(DEVICE.read_text().splitlines()) < 80


def test_there_is_something_to_look_at():
    assert {"device.py", "sheet.py", "distil.py"} <= {path.name for path in OUTSIDE}


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_uses_fedstyle_imports_public_names_that_exist(path):
    for module, name in imports(path):
        if top(module) != "fedstyle":
            continue
        assert not any(part.startswith("_") for part in [*module.split("."), name or ""]), f"{module}.{name} is private"
        if path.parent == DEVICE.parent:
            assert module in {"fedstyle", "fedstyle.errors", "fedstyle.export"}, f"{module} is not for apps"
            assert name in getattr(import_module(module), "__all__", vars(import_module(module))), f"{name} is not for apps"
        elif module == "fedstyle" and name not in fedstyle.__all__:
            import_module(f"fedstyle.{name}")
        else:
            there = name is None or hasattr(import_module(module), name) or importlib.util.find_spec(f"{module}.{name}")
            assert there, f"{module} has no {name}"
