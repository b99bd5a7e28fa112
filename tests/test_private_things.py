"""Nothing private leaves a device: all that crosses, is logged or exported is searched for what was planted in photos and styles."""

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from PIL import Image
from private_things import PLACE, WORDS, plant

from fedstyle.config import Config, Data, Export, Loss, Net, Server, Training
from fedstyle.files import read_lines
from fedstyle.flower import engine
from fedstyle.simulate import simulate


def everything(message: Message) -> bytes:
    """All that a message carries: names, arrays, numbers, texts, its error and its envelope."""
    parts = [repr(sorted(vars(message.metadata).items())).encode()]
    if message.has_error():
        return b"\0".join([*parts, repr((message.error.code, message.error.reason)).encode()])
    for name, record in message.content.items():
        parts.append(name.encode())
        for key, value in record.items():
            parts.append(key.encode())
            parts.append(value.data if hasattr(value, "stype") else repr(value).encode())
    return b"\0".join(parts)


class Tap:
    """Stands between the server and any grid, and keeps what passes, both ways."""

    def __init__(self, grid):
        self.grid, self.down, self.up = grid, [], []

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def push_messages(self, messages):
        messages = list(messages)
        self.down += [everything(message) for message in messages]
        return self.grid.push_messages(messages)

    def pull_messages(self, names):
        messages = list(self.grid.pull_messages(names))
        self.up += [everything(message) for message in messages]
        return messages


@pytest.fixture
def tapped(monkeypatch):
    """The taps of the runs that follow in this process."""
    taps, serve = [], engine.serve

    def listen(grid, *arguments, **named):
        taps.append(Tap(grid))
        return serve(taps[-1], *arguments, **named)

    monkeypatch.setattr(engine, "serve", listen)
    return taps


def wishes(home: Path, **server) -> Config:
    return Config(
        data=Data(str(home / "photos"), clients=2, styles=str(home / "styles"), holdout=0),
        net=Net(width=4),
        loss=Loss(density=64),
        training=Training(size=32, batch=2, crops=4, iterations=1, device="cpu"),
        method={"name": "fedbn", "steps": 1},
        server=Server(rounds=2, **server),
        export=Export(size=64),
    )


def check(secrets, out: Path, tap: Tap) -> None:
    """Everything that left, and every file of the run that is not a client's own or the operator's own notes."""
    assert [secrets.find(blob) for blob in (*tap.down, *tap.up)] == [[]] * (len(tap.down) + len(tap.up))
    assert secrets.search(out / "base") == {}
    assert secrets.find((out / "history.jsonl").read_bytes()) == []
    for home in sorted((out / "clients").iterdir()):  # what a person shares of a filter; the package is named as the style image is
        assert secrets.search(home / "filter") == {}
        for package in home.glob("*.mlpackage"):
            assert secrets.search(package) == {}
        assert secrets.find((home / "ledger.jsonl").read_bytes()) == []


def test_nothing_private_crosses_is_logged_or_exported(tmp_path, tapped, caplog, capfd):
    secrets = plant(tmp_path / "home")
    with caplog.at_level(logging.INFO), caplog.at_level(logging.DEBUG, "flwr"):
        simulate(wishes(tmp_path / "home"), tmp_path / "run")
    check(secrets, tmp_path / "run", tapped[0])
    packages = list((tmp_path / "run").glob("clients/*/*.mlpackage"))
    assert (len(packages), len(tapped[0].up)) == (2, 2 + 2 * 2)
    shown = capfd.readouterr()
    assert [secrets.find(text.encode()) for text in (caplog.text, shown.out, shown.err)] == [[]] * 3


def test_a_failing_device_tells_a_code_and_nothing_else(tmp_path, tapped, monkeypatch, caplog, capfd):
    """Each way to fail in a round has the words of a private path or text in its exception."""
    from fedstyle.client import Client

    secrets = plant(tmp_path / "home")
    errors = [OSError(28, "no space left on device", f"/home/{WORDS[4]}/x"), None, ValueError(WORDS[0]), None, KeyError(WORDS[1]), None]
    fit = Client.fit

    def fails(self, base, **named):
        if error := errors.pop(0):
            raise error
        return fit(self, base, **named)

    monkeypatch.setattr(Client, "fit", fails)
    config = wishes(tmp_path / "home", min_replies=0.5, workers=1)
    config = dataclasses.replace(config, server=dataclasses.replace(config.server, rounds=3), export=Export(clients=False))
    with caplog.at_level(logging.INFO), caplog.at_level(logging.DEBUG, "flwr"):
        simulate(config, tmp_path / "run")
    notes = "".join(path.read_text() for path in (tmp_path / "run").glob("clients/*/errors.log"))
    assert all(word in notes for word in (WORDS[0], WORDS[1], WORDS[4]))  # on the device, where its owner can read them
    tap = tapped[0]
    codes = [blob for blob in tap.up if b"failure" in blob]
    assert len(codes) == 3
    assert [secrets.find(blob) for blob in tap.up] == [[]] * len(tap.up)
    shown = capfd.readouterr()
    assert [secrets.find(text.encode()) for text in (caplog.text, shown.out, shown.err)] == [[]] * 3


RAY = """
import json, pathlib, sys
import test_private_things as here
from fedstyle.flower import engine
from fedstyle.simulate import simulate
home, out = map(pathlib.Path, sys.argv[1:])
taps, serve = [], engine.serve
def listen(grid, *arguments, **named):
    taps.append(here.Tap(grid))
    (out / "clients" / "001" / "private.safetensors").mkdir(parents=True)
    return serve(taps[-1], *arguments, **named)
engine.serve = listen
simulate(here.wishes(home, engine="ray", workers=2, min_replies=0.5), out)
for kind in ("down", "up"):
    (home.parent / kind).write_bytes(b"\\0\\0".join(getattr(taps[0], kind)))
"""


@pytest.mark.soak
def test_nothing_private_crosses_on_ray_and_a_device_that_fails_tells_a_code(tmp_path):
    """The second device cannot read what it keeps, a folder under a planted name."""
    secrets, out = plant(tmp_path / "home"), tmp_path / WORDS[4] / "run"
    command = [sys.executable, "-c", RAY, str(tmp_path / "home"), str(out)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, timeout=900, check=True)
    tap = Tap(None)
    tap.down, tap.up = [(tmp_path / "down").read_bytes()], [(tmp_path / "up").read_bytes()]
    assert len(tap.up[0]) > 1000
    assert [row["failures"] for row in read_lines(out / "history.jsonl")] == [{"001": "base"}] * 2
    assert WORDS[4] in (out / "clients" / "001" / "errors.log").read_text()  # its owner can read why
    check(secrets, out, tap)
    assert secrets.find(done.stdout) == secrets.find(done.stderr) == []


def test_the_search_finds_what_is_planted(tmp_path):
    secrets = plant(tmp_path)
    photo = next((tmp_path / "photos").glob("*.jpg"))
    data = photo.read_bytes()
    assert "bytes of a file or of pixels" in secrets.find(b"x" * 5 + data[700:716] + b"y" * 5)
    assert secrets.find(b"x" * 5 + data[700:715] + b"y" * 5) == []
    assert secrets.find(b"in ANNA-in-rimini's") == [WORDS[0]]
    assert secrets.find(WORDS[1].encode("utf-16-le")) == [WORDS[1]]
    assert str(photo.parent.parent) in secrets.find(f"cannot open {photo}".encode())
    assert secrets.find(np.zeros(4000, np.float32).tobytes() + b"nothing") == []
    assert WORDS[2].encode() in data
    assert WORDS[1].encode() in data
    with Image.open(photo) as image:
        assert image.getexif().get_ifd(0x8825)[2] == PLACE
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.json").write_text(json.dumps({"path": str(photo)}))
    assert list(secrets.search(tmp_path / "kept").values()) == [sorted([str(tmp_path), WORDS[0]])]
