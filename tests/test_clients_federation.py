"""The commands of a federation and the pages that explain them; whole runs are in test_federation."""

import contextlib
import importlib.util
import json
import re
import shlex
import socket
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedstyle import Federation, Membership
from fedstyle.config import Config
from fedstyle.errors import FederationError
from fedstyle.flower.deployment import _shims
from fedstyle.flower.policy import Policy
from fedstyle.tables import read

FOLDER = Path(__file__).parents[1] / "clients"
CONFIG = """
[net]
width = 4
[training]
size = 32
iterations = 2
[server]
wire = "fp32"
[export]
clients = false
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("federation_script", FOLDER / "federation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(tmp_path, monkeypatch, photo_folder, style_image):
    """A folder with what the commands below name."""
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(CONFIG)
    Path("photos").symlink_to(photo_folder)
    style_image.save("style.png")
    return tmp_path


def test_every_command_of_the_pages_parses(script):
    seen = set()
    for page in ("OPERATORS.md", "JOINING.md", "federation.py"):
        text = (FOLDER / page).read_text().replace("\\\\\n", " ").replace("\\\n", " ")
        for line in re.findall(r"python clients/federation\.py ([^`\n#]*)", text):
            for verb in line.split()[0].split("|"):
                options = script.commands().parse_args([verb, *shlex.split(line)[1:]])
                assert callable(options.run)
                seen.add(verb)
    assert seen == {
        *("rehearse", "found", "open", "enrol", "dismiss", "vouch", "run", "certify"),
        *("create", "join", "pause", "resume", "leave", "forget"),
    }


def test_an_operator_and_a_device_meet_by_files(script, place, capsys):
    assert script.main(shlex.split("found run.toml --folder federation --host example.org")) == 0
    create = "create --home home --photos photos --style style.png --address example.org:8443 --config run.toml"
    files = " --authority federation/authority/authority.crt --operator federation/operator.pub"
    assert script.main(shlex.split(create + files)) == 0
    assert "home/key.pub, and nothing else" in capsys.readouterr().out
    device = Membership("home").settings()
    assert device.own.wire == "fp32"
    assert device.contract().shared == set(json.loads(Path("federation/federation.json").read_text())["shared"])
    assert len(device.client().library) == 3
    assert script.main(shlex.split(create + files)) == 2  # a key is never replaced
    for verb, there in (("pause", True), ("resume", False), ("leave", True)):
        assert script.main([verb, "--home", "home"]) == 0
        assert Path("home/paused").exists() == there
    assert not Path("home/key").exists()
    assert script.main(["forget", "--home", "home"]) == 0
    assert script.main(["join", "--home", "home"]) == 1
    assert "has no key" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_its_exit_code_says_whose_it_is(script, place, capsys):
    for code, line in ((2, "found missing.toml --folder f --host a"), (1, "run --folder nowhere"), (2, "pause --home /proc/none")):
        assert script.main(shlex.split(line)) == code
        assert capsys.readouterr().err.count("\n") == 1, line


def test_a_stop_takes_everything_down(script, place, monkeypatch, capsys):
    def stopped(*_, **__):
        script._stop()

    monkeypatch.setattr(Federation, "run", stopped)
    assert script.main(["run", "--folder", "f"]) == 3
    assert capsys.readouterr().err == "stopped\n"


def test_the_page_for_a_devices_owner_names_every_key_of_the_policy():
    (text,) = re.findall(r"```toml\n(.*?)```", (FOLDER / "JOINING.md").read_text(), re.DOTALL)
    tables = tomllib.loads(text)
    policy = read(Policy, tables["policy"], "policy")
    assert set(tables["policy"]) == set(vars(policy))


def test_the_commands_that_flower_starts_are_our_own_or_refuse(tmp_path):
    for side, mine, executor in (("client", "flwr-clientapp", "nursery"), ("server", "flwr-serverapp", "superexec")):
        path = _shims(tmp_path / side, side)
        assert path.startswith(f"{tmp_path / side / 'bin'}:")
        said = {file.name: file.read_text() for file in (tmp_path / side / "bin").iterdir()}
        assert f"fedstyle.flower.gate {side}" in said.pop(mine)
        assert f"fedstyle.flower.gate {executor}" in said.pop("flower-superexec")
        assert len(said) == 5
        assert all("refused" in text for text in said.values())


def test_a_port_that_is_taken_is_an_error_before_anything_starts(place, script, capsys):
    assert script.main(shlex.split("found run.toml --folder federation --host localhost")) == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert script.main(["open", "--folder", "federation", "--port", str(taken.getsockname()[1])]) == 1
    assert "somebody listens on" in capsys.readouterr().err
    assert not Path("federation/link.log").exists()
    assert script.main(["run", "--folder", "federation"]) == 1
    assert "no SuperLink is open" in capsys.readouterr().err


@pytest.fixture
def member(place):
    """A device's membership, whose home a person had made before."""
    Path("home").mkdir(mode=0o755)
    files = {"photos": place / "photos", "style": place / "style.png"}
    return Membership.create("home", address="example.org:8443", config=Config.load("run.toml"), **files)


def test_a_home_is_its_owners_alone(member):
    assert member.home.stat().st_mode & 0o777 == 0o700
    assert (member.home / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("admitted", [1, 0])
def test_a_supernode_that_ends_is_started_again_unless_it_was_not_let_in(member, monkeypatch, admitted):
    started, said = [], []

    @contextlib.contextmanager
    def supernode(home, address, authority, key):
        started.append(address)
        with open(home / "node.log", "a") as log:
            log.write("SuperNode ID: 7\n" if len(started) <= admitted else "Failed to activate SuperNode\n")
        yield SimpleNamespace(poll=lambda: 1)

    monkeypatch.setattr("fedstyle.flower.deployment.supernode", supernode)
    with pytest.raises(FederationError, match="is this device registered"):
        member.join(watch=said.append)
    assert len(started) == admitted + 1
    assert said == ["the SuperNode ended, and is started again"] * admitted


def test_a_run_that_does_not_begin_is_not_waited_for(place, script, monkeypatch):
    assert script.main(shlex.split("found run.toml --folder federation --host localhost")) == 0
    for name, value in (("start_run", lambda _: 1), ("is_open", lambda _: True), ("run_status", lambda *_: "pending")):
        monkeypatch.setattr(f"fedstyle.flower.deployment.{name}", value)
    for name in ("BEGIN", "LOOK"):
        monkeypatch.setattr(f"fedstyle.federation.{name}", 0.0)
    with pytest.raises(FederationError, match="the run did not begin within 0 s"):
        Federation("federation").run()
