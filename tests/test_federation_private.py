"""Real federations over TLS, whose SuperLink keeps a copy of all it is given: secure sums, a killed device, the search for secrets."""

import dataclasses
import json
import os
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from private_things import WORDS, plant, tap, tapped
from test_federation import processes
from test_federation_faults import Running, start, until
from test_flower_secure import shared

from fedstyle import Base, Membership
from fedstyle.config import Config, Data, Export, Loss, Net, Privacy, Server, Training
from fedstyle.federation import Federation
from fedstyle.files import read_lines
from fedstyle.flower import engine, masking
from fedstyle.flower.secure import SIGNED, SUM
from fedstyle.flower.wire import ROUND, pack
from fedstyle.population import plan
from fedstyle.privacy.noise import flatten
from fedstyle.rehearsal import own_config
from fedstyle.simulate import simulate

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")]
CLIP = 1.0


def wishes(planted, clients, **rest):
    server = Server(**{"rounds": 1, "timeout": 900.0, "min_replies": 0.5, "wire": "fp32", **rest.pop("server", {})})
    return Config(
        data=Data(str(planted / "photos"), clients=clients, styles=str(planted / "styles"), holdout=0),
        net=Net(width=4),
        loss=Loss(density=64),
        training=Training(size=32, batch=2, crops=4, iterations=1, device="cpu"),
        method={"name": "fedbn", "steps": 1},
        server=server,
        export=Export(clients=False),
        **rest,
    )


def furnish(config, federation, number, device, address):
    """A home whose path, photos and style image have planted names and contents."""
    home = federation.folder.parent / "homes" / f"{WORDS[0]} {number}"
    (home / "photos").mkdir(parents=True)
    for index, photo in enumerate(device.photos.paths):
        shutil.copyfile(photo, home / "photos" / f"{index} {photo.name}")
    device.style_image(config.training.seed).save(home / f"{WORDS[3]}.png")
    return Membership.create(
        home,
        address=address,
        photos="photos",
        style=f"{WORDS[3]}.png",
        authority=federation.folder / "authority" / "authority.crt",
        operator=federation.folder / "operator.pub",
        config=own_config(config, number, device),
        wire=config.server.wire,
    )


class Run:
    """A federation with planted homes, from its start to its end."""

    def __init__(self, folder, config, secrets, nodes):
        self.config, self.secrets = config, secrets
        self.federation = Federation.found(dataclasses.replace(config, data=Data()), folder / "out", [])  # photos are the devices' matter
        link = nodes.enter_context(self.federation.open())
        self.state = self.federation.folder / "link" / "state.db"
        tap(self.state)
        self.homes = [furnish(config, self.federation, *one, link.address) for one in enumerate(plan(config).devices)]
        for number, home in enumerate(self.homes):
            self.federation.enrol(home.home / "key.pub", f"{number:03d}")
        self.nodes = [start(home, nodes) for home in self.homes]

    def replies(self):
        """How many have come so far."""
        return len(tapped(self.state, "message_res.message_id"))

    def check(self):
        """Nothing planted was ever in the SuperLink's state, nor is it in any file of the operator's."""
        values = tapped(self.state)
        assert sum(map(len, values)) > 100_000
        assert {word for value in values for word in self.secrets.find(value)} == set()
        assert self.secrets.search(self.federation.folder) == {}
        for home in self.homes:
            assert self.secrets.find((home.home / "ledger.jsonl").read_bytes()) == []


def fell_out(message, context):
    """Whether it is the message that a killed device does not answer, in a simulation of what happened."""
    said = message.content.config_records
    return context.node_id == 4 and (said[SUM]["step"] == "masked" if SUM in said else ROUND in said)


def simulated(config, out):
    """The base of a simulation with the same devices, of which the fourth falls out."""
    make = engine.client_app

    def app(*given, **named):
        inner = make(*given, **named)

        def answer(message, context):
            if fell_out(message, context):
                raise RuntimeError("the process dies")
            return inner(message, context)

        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "client_app", app)
        return simulate(config, out).base


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """Four devices and a secure sum; the fourth is killed when all have shared their keys, so that its masks have to be recovered."""
    folder = tmp_path_factory.mktemp("secure")
    secrets = plant(folder / "planted", photos=8, styles=4)
    config = wishes(folder / "planted", 4, privacy=Privacy(clip=CLIP, secure=True))
    with ExitStack() as nodes:
        run = Run(folder, config, secrets, nodes)
        running = Running(run.federation)
        until(lambda: run.replies() >= 4 * len(SIGNED[:2]) or running.error, "keys were never shared")
        os.killpg(run.nodes[3].pid, signal.SIGKILL)
        until(lambda: running.base or running.error, "the run never ended")
        assert not running.error, running.error
    yield run
    assert not processes(folder)


def test_a_killed_device_is_left_out_of_the_sum_and_the_base_is_that_of_the_others(secure, tmp_path):
    (row,) = secure.federation.history()
    assert row["replied"] == 3
    assert row["failures"]["003"] in ("lost", "late")
    base = Base.load(secure.federation.folder / "base")
    inline = simulated(secure.config, tmp_path / "inline")
    plain = simulated(dataclasses.replace(secure.config, privacy=Privacy(clip=CLIP)), tmp_path / "plain")
    # Training in another process may round otherwise, as on any engine; then a number moves by a step of the grid, 2 CLIP / 2^20.
    assert np.abs(flatten(shared(base)) - flatten(shared(inline))).max() < 4 * CLIP / 2**20
    assert np.abs(flatten(shared(base)) - flatten(shared(plain))).max() < 4 * CLIP / 2**20 + 1e-6
    first = Base.load(secure.homes[0].home / "base")
    assert first.sha256 == base.sha256
    assert json.loads((secure.federation.folder / "deliveries.json").read_text())["000"] == "kept"


def test_homes_hold_no_secret_of_a_sum_after_the_run(secure):
    for number, home in enumerate(secure.homes[:3]):
        kept = masking.Kept.load(home.home)
        assert kept == masking.Kept(type(kept.state)("done", kept.state.terms, number))
        kinds = [line["kind"] for line in home.ledger()]
        assert kinds == [*["advert", "shares", "update", "agreement", "unmasking"], "kept"]
    dead = secure.homes[3]
    assert masking.Kept.load(dead.home).state.phase == "shared"
    dead.leave()
    assert not (dead.home / masking.FILE).exists()


def test_nothing_private_is_in_what_the_superlink_of_secure_sums_was_given(secure):
    secure.check()
    values = tapped(secure.state)
    assert sum(b"unmasking" in value for value in values) == 4  # the tap sees messages: one to all three, and their replies


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two devices and one round of plain updates; the second's only photo is broken, and its name and content are planted."""
    folder = tmp_path_factory.mktemp("plain")
    secrets = plant(folder / "planted", photos=4, styles=2)
    config = wishes(folder / "planted", 2)
    with ExitStack() as nodes:
        run = Run(folder, config, secrets, nodes)
        for photo in (run.homes[1].home / "photos").iterdir():
            photo.write_bytes(WORDS[1].encode() * 40)
        run.federation.run()
    yield run
    assert not processes(folder)


def test_nothing_private_is_in_what_a_superlink_was_given_or_logged_nor_in_its_files(plain):
    (row,) = plain.federation.history()
    assert row["failures"] == {"001": "photos"}
    assert any(word in (plain.homes[1].home / "errors.log").read_text() for word in WORDS)  # its owner can read why
    plain.check()
    values, base = tapped(plain.state), Base.load(plain.federation.folder / "base")
    first = max((array.data for array in pack(base.weights, "fp32").values()), key=len)
    assert any(first in value for value in values)  # the tap sees arrays as they are
    lines = read_lines(plain.homes[0].home / "ledger.jsonl")
    assert [line["kind"] for line in lines] == ["update", "kept"]
