"""`flwr run simulation/app`, offline, in a Flower home of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedstyle.app import _paths
from fedstyle.config import Config
from fedstyle.errors import ConfigError

APP = Path(__file__).parents[1] / "simulation" / "app"
RUN = """
[data]
photos = "demo"
clients = 3
holdout = 1
[net]
width = 4
[training]
size = 32
batch = 2
crops = 2
iterations = 2
[method]
steps = 1
[server]
rounds = 2
[export]
clients = false
"""


def test_paths_of_a_run_are_absolute():
    assert _paths({"config": "/a/b.toml", "out": "/c"}) == (Path("/a/b.toml"), Path("/c"))
    for wrong in ({"config": "/a/b.toml"}, {"config": "b.toml", "out": "/c"}, {"config": "", "out": ""}):
        with pytest.raises(ConfigError, match="absolute"):
            _paths(wrong)


def test_the_folder_of_the_app_holds_nothing_but_imports():
    for file in sorted((APP / "fedstyle_app").glob("*.py")):
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith(('"""', "__all__"))]
        assert all(line.startswith("from fedstyle.app import") for line in lines)
    assert {path.suffix for path in APP.rglob("*") if path.is_file() and "__pycache__" not in path.parts} <= {".py", ".toml", ".md"}


@pytest.fixture
def flower(tmp_path):
    """An environment for the `flwr` command that reaches no network and no other Flower; what it leaves running is ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path / "flwr"
    yield os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "UV_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    mark = f"FLWR_HOME={home}\0".encode()
    for number in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
        try:
            if mark in Path(f"/proc/{number}/environ").read_bytes():
                os.kill(number, signal.SIGKILL)
        except OSError:
            continue


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds what Flower leaves running in /proc")
def test_flwr_run_gives_the_base_that_inline_gives(tmp_path, flower):
    from fedstyle.simulate import simulate

    toml, out = tmp_path / "run.toml", tmp_path / "out"
    toml.write_text(RUN)
    size = "num-supernodes=3 client-resources-num-cpus=1"
    command = ["flwr", "run", str(APP), "--federation-config", size, "--run-config", f"config='{toml}' out='{out}'", "--stream"]
    shown = subprocess.run(command, env=flower, capture_output=True, text=True, timeout=500, check=False)
    listed = subprocess.run(["flwr", "list", "--format", "json"], env=flower, capture_output=True, text=True, timeout=60, check=True)
    end = time.monotonic() + 60
    while not (out / "summary.json").exists() and time.monotonic() < end:
        time.sleep(1)
    assert (out / "summary.json").exists(), shown.stdout[-3000:] + shown.stderr[-3000:] + listed.stdout
    assert "finished:completed" in listed.stdout
    inline = simulate(Config.load(toml), tmp_path / "inline")
    assert json.loads((out / "summary.json").read_text())["base_sha256"] == inline.base.sha256
