"""The server's half and devices' half of a federation over the network, in this process: homes, orders, refusals, and going on."""

import json
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from conftest import picture
from flwr.app import Context, Message, RecordDict

from fedstyle import Base, Membership
from fedstyle.config import Config, Export, Net, Server, Training
from fedstyle.errors import ConfigError, FederationError, OutputError
from fedstyle.federation import Federation
from fedstyle.files import read_lines
from fedstyle.flower import gate
from fedstyle.flower.device import HOME, KINDS, Device, reply, respond
from fedstyle.flower.hosting import FEDERATION, Hosted, Member, Roll, host
from fedstyle.flower.inline import InlineGrid
from fedstyle.flower.wire import Failure, read_failure

CANARY = "canary"


def config(**server):
    wishes = Server(**{"rounds": 2, "timeout": 30.0, **server})
    training = Training(size=32, batch=2, crops=2, iterations=2, device="cpu")
    return Config(net=Net(width=4), training=training, method={"name": "fedbn", "steps": 1}, server=wishes, export=Export(clients=False))


def furnish(folder, number, federation, **policy):
    """A device's home beside the federation's folder."""
    home = folder / CANARY / f"{number}"
    (home / "photos").mkdir(parents=True)
    picture(number).save(home / "photos" / "0.png")
    picture(50 + number, (64, 64)).save(home / "style.png")
    return Membership.create(
        home,
        address="localhost:1",
        photos="photos",
        style="style.png",
        operator=federation.folder / "operator.pub",
        config=config(),
        policy=policy,
    )


@pytest.fixture
def federation(tmp_path):
    return Federation.found(config(), tmp_path / "federation", ["example.org"])


@contextmanager
def grid(homes, wiretap=lambda content: None):
    """A grid whose nodes 1, 2 ... answer for these homes."""

    def app(message, context):
        if (home := homes[context.node_id - 1]) is None:
            raise SystemError("gone")
        kind = KINDS.get(message.metadata.message_type, message.metadata.message_type)
        content = reply(home.home, kind, message.content, context)
        wiretap(content)
        return Message(content, reply_to=message)

    below = InlineGrid(app, len(homes), 1)
    try:
        yield below
    finally:
        below.close()


def serve(federation, below, count, monkeypatch):
    members = tuple(Member(number, f"device {number}", number + 1) for number in range(count))
    roll = Roll.load(federation.folder)
    Roll(roll.name, roll.shared, roll.wire, members).save(federation.folder)
    monkeypatch.setenv(FEDERATION, str(federation.folder))
    monkeypatch.setattr("fedstyle.flower.hosting.PAUSE", 0.01)
    host(below, {})


def test_a_federation_is_founded_once(federation):
    folder = federation.folder
    assert {path.name for path in folder.iterdir()} == {
        *("authority", "base", "config.toml", "federation.json", "link", "operator", "operator.pub"),
    }
    roll = Roll.load(folder)
    assert roll.members == ()
    assert len(roll.name) == 32
    assert not any(".norm" in name for name in roll.shared)
    with pytest.raises(OutputError, match="not empty"):
        Federation.found(config(), folder, ["example.org"])
    before = (folder / "link" / "server.crt").read_bytes()
    federation.certify(["example.org"])
    assert (folder / "link" / "server.crt").read_bytes() != before


def test_rounds_run_and_every_device_keeps_the_last_base(federation, tmp_path, monkeypatch):
    homes, contents = [furnish(tmp_path, number, federation) for number in range(2)], []
    with grid(homes, contents.append) as below:
        serve(federation, below, 2, monkeypatch)
    assert json.loads((federation.folder / "deliveries.json").read_text()) == {"device 0": "kept", "device 1": "kept"}
    last = Base.load(federation.folder / "base")
    assert [row["round"] for row in federation.history()] == [1, 2]
    for home in homes:
        assert Base.load(home.home / "base").sha256 == last.sha256
        assert Base.load(home.home / "base").record["round"] == 2
        assert [line["kind"] for line in home.ledger()] == ["update", "update", "kept"]
        row = home.finish()
        assert (row["filter"], row["package"], row["photos"]) == ("filter", None, 1)
        assert home.finish()["losses"] == row["losses"]
    for content in contents:  # what crosses has no name, path or number in it but the arrays and a round
        assert set(content) in ({"delta"}, {"kept"})
        assert CANARY not in repr(content)


def test_a_run_that_failed_goes_on_and_gives_the_base_of_an_unbroken_one(tmp_path, monkeypatch):
    bases = []
    for broken in (False, True):
        federation = Federation.found(config(timeout=10.0), tmp_path / f"{broken}" / "federation", ["example.org"])
        homes = [furnish(tmp_path / f"{broken}", number, federation) for number in range(2)]
        if broken:
            calls = []

            def wiretap(content, calls=calls):
                calls.append(content)
                if len(calls) == 4:
                    raise KeyboardInterrupt  # the last reply of round 2 is lost

            with grid(homes, wiretap) as below, pytest.raises(FederationError, match="round 2: only 1 of 2 clients replied"):
                serve(federation, below, 2, monkeypatch)
            assert "round 2" in json.loads((federation.folder / "failure.json").read_text())["error"]
            assert [row["round"] for row in federation.history()] == [1]
        with grid(homes) as below:
            serve(federation, below, 2, monkeypatch)
        assert not (federation.folder / "failure.json").exists()
        assert [row["round"] for row in federation.history()] == [1, 2]
        bases.append(Base.load(federation.folder / "base").sha256)
    assert bases[0] == bases[1]


def test_a_device_that_is_gone_or_refuses_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    federation = Federation.found(config(min_replies=0.25), tmp_path / "federation", ["example.org"])
    homes = [furnish(tmp_path, 0, federation), None, furnish(tmp_path, 2, federation, rounds_a_day=1), furnish(tmp_path, 3, federation)]
    homes[3].pause()
    with grid(homes) as below:
        serve(federation, below, 4, monkeypatch)
    first, second = federation.history()
    assert first["failures"] == {"device 1": "lost", "device 3": "away"}
    assert second["failures"] == {"device 1": "lost", "device 2": "limit", "device 3": "away"}
    codes = ["kept", "lost", "limit", "away"]
    assert list(json.loads((federation.folder / "deliveries.json").read_text()).values()) == codes
    reasons = [line["reason"] for line in read_lines(homes[2].home / "refusals.jsonl")]
    assert reasons == ["more than 1 orders in 24 hours"] * 2


def test_too_few_devices_fail_the_run_by_its_deadline(federation, tmp_path, monkeypatch):
    (federation.folder / "config.toml").write_text(config(timeout=0.2).toml())
    with grid([furnish(tmp_path, 0, federation)]) as below, pytest.raises(FederationError, match="only 1 of 2 devices are there after 0 s"):
        serve(federation, below, 2, monkeypatch)


def test_a_device_needs_its_home_and_says_no_more_than_a_code(federation, tmp_path, monkeypatch):
    home = furnish(tmp_path, 0, federation)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    (home.home / "device.toml").write_text("[device]\ncolour = 1\n[federation]\naddress = 'a:1'")
    assert read_failure(reply(home.home, "train", RecordDict(), context)) is Failure.SETUP
    assert "unknown key device.colour" in (home.home / "errors.log").read_text()
    with grid([home]) as below:  # the environment names no home
        monkeypatch.delenv(HOME, raising=False)
        message = Message(RecordDict(), 1, "train")
        assert read_failure(respond(message, below.contexts[1]).content) is Failure.SETUP
        monkeypatch.setenv(HOME, str(home.home))
        assert read_failure(respond(message, below.contexts[1]).content) is Failure.SETUP


def test_a_full_disk_on_a_device_is_a_code_and_the_device_goes_on_from_what_it_has(federation, tmp_path, monkeypatch):
    home = furnish(tmp_path, 0, federation)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with grid([home]) as below:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # what the device keeps takes more than 100,000 bytes
        try:
            with pytest.raises(FederationError, match=r"disk 1"):
                serve(federation, below, 1, monkeypatch)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no space left to write" in (home.home / "errors.log").read_text()
    assert not (home.home / "private.safetensors").exists()
    with grid([home]) as below:
        serve(federation, below, 1, monkeypatch)
    assert (home.home / "private.safetensors").exists()


def test_a_devices_toml_is_read_strictly(tmp_path, federation):
    home = furnish(tmp_path, 0, federation).home
    toml = (home / "device.toml").read_text()
    assert Device.load(home).config.method == {"name": "fedbn", "steps": 1}
    for wrong, match in (
        (toml + "\n[data]\nclients = 3\n", r"unknown table \[data\]"),
        (toml.replace("localhost:1", "localhost"), "federation.address = 'localhost': give host:port"),
        (toml.replace('wire = "fp16"', 'wire = "int4"'), "device.wire"),
        (toml.replace("[policy]", '[policy]\nneeds = ["warm"]'), "policy.needs"),
        (toml.replace("secure = false", "secure = true"), r"privacy\.clip = 0\.0: secure sums are of clipped updates"),
    ):
        (home / "device.toml").write_text(wrong)
        with pytest.raises(ConfigError, match=match):
            Device.load(home)


def test_the_gate_replaces_names_that_flower_has():
    code = """
import sys
from fedstyle.flower import forking, gate
import flwr.supernode.cli.flwr_clientapp, flwr.superlink.cli.flwr_serverapp, flwr.supercore.cli
client, server = sys.modules["flwr.supernode.runtime.run_clientapp"], sys.modules["flwr.superlink.runtime.run_serverapp"]
for name, place in (("flwr_clientapp", "supernode"), ("flwr_serverapp", "superlink")):
    setattr(sys.modules[f"flwr.{place}.cli.{name}"], name, lambda: print("ran"))
flwr.superlink.cli.flower_superlink = lambda: print("link")
said = []
client.push_task_output = lambda **named: said.append(named)
gate.client(), gate.server(), gate.link()
assert client.install_from_fab(b"a bundle") is server.install_from_fab(b"a bundle") is None
assert client.get_load_client_app_fn(multi_app=True)("id", "1", "hash") is gate._respond
client.push_task_output(sub_status="failed", details="/home/alice"), client.push_task_output(sub_status="completed", details="")
assert said == [{"sub_status": "completed", "details": ""}]
assert server.get_fused_config_from_dir("folder", {}) == {}
assert dict(sys.modules["flwr.supercore.sql_mixin"].SQLITE_PRAGMAS)["busy_timeout"] == "20000"
from types import SimpleNamespace
from flwr.supercore.error import FlowerError
asked = sys.modules["flwr.supercore.dependencies.runtime"].SuperExecAuthDependency("acquire")
for caller in ("127.0.0.1", "192.0.2.7"):
    scope = {"client": (caller, 40000), "server": ("127.0.0.1", 8443)}
    try:
        asked(SimpleNamespace(scope=scope), None)
        print("given to", caller)
    except FlowerError as error:
        print(error)
print(server.get_project_config("folder")["tool"]["flwr"]["app"]["components"]["serverapp"])

import httpx
gate.PAUSE, hitches = 0, [500, 503, 401]
def hitch():
    response = httpx.Response(hitches.pop(0), request=httpx.Request("POST", "https://a"))
    response.raise_for_status()
flwr.supercore.cli.flower_superexec = hitch
forking.Forks.begin = lambda _: print("begun")
try:
    gate.nursery()
except httpx.HTTPStatusError as error:
    print(error.response.status_code, hitches)
executor = sys.modules["flwr.supercore.superexec.executor.subprocess_executor"]
executor.SubprocessExecutor().reconcile()
executor.subprocess.Popen(["true"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = ["ran", "ran", "link", "given to 127.0.0.1", "SuperExec authentication failed for acquire."]
    assert done.stdout.split("\n") == [*told, "fedstyle.app:federation", "begun", "401 []", ""]


def test_an_installation_that_is_broken_is_a_code_and_its_text_stays_at_home(monkeypatch, capsys):
    message = Message(RecordDict(), 1, "train")
    monkeypatch.setitem(sys.modules, "fedstyle.flower.device", None)
    monkeypatch.setattr(signal, "alarm", lambda seconds: None)
    reply = gate._respond(message, None)
    assert read_failure(reply.content) is Failure.SETUP
    assert set(reply.content) == {"failure"}
    assert "cannot be imported" in capsys.readouterr().err


def test_what_a_superlink_runs_cannot_open_a_photo():
    private = ("photos", "picture", "style", "thumbnails", "client", "training", "population", "simulate", "methods", "membership")
    code = f"import sys, fedstyle.app; print([n for n in {private} if f'fedstyle.{{n}}' in sys.modules], 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[] False\n"


def test_only_devices_of_the_roll_are_asked(federation):
    with grid([None, None]) as below:
        roll = Roll("ours", (), "fp16", (Member(0, "a", 2),))
        hosted = Hosted(below, roll, None, None)
        assert list(hosted.get_node_ids()) == [2]
        assert hosted.online() == 1
        hello = Message(RecordDict(), 2, "query")
        names = list(hosted.push_messages([hello]))
        (answer,) = hosted.pull_messages(names)
        assert answer.content.config_records["hello"]["partition"] == 0
    assert torch.get_num_threads() == 1
