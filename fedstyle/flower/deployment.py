"""Flower's SuperLink and SuperNodes as processes that end with the block that started them, and the `flwr` command towards a SuperLink.

All of Flower's state lies in the folder of the federation or of the device (`flower/`, logs beside it), telemetry and update checks are
off, and nothing is installed. Processes get SIGTERM, their children too, and after `GRACE` seconds SIGKILL; on Linux they also end when the
process that started them is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstyle.errors import FederationError
from fedstyle.files import write_bytes
from fedstyle.flower.hosting import FEDERATION

GRACE = 10.0
START = 120.0
"""Seconds that a SuperLink may take to listen."""
LINK = "federation"
"""The SuperLink's name in Flower's own configuration."""
_SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_LOG_LEVEL": "INFO",  # into the logs beside Flower's state, whatever this process wants to hear
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",  # each look is a request
    "UV_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
_APP = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedstyle-federation"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedstyle"

[tool.flwr.app.components]
serverapp = "fedstyle_federation.server:app"
clientapp = "fedstyle_federation.client:app"
""",
    "fedstyle_federation/__init__.py": "",
    "fedstyle_federation/server.py": "from fedstyle.app import federation as app\n\n__all__ = ['app']\n",
    "fedstyle_federation/client.py": "from fedstyle.app import device as app\n\n__all__ = ['app']\n",
}


@dataclass(frozen=True)
class Link:
    """A SuperLink that runs: the federation's folder, and the address that devices reach it by."""

    folder: Path
    address: str
    process: subprocess.Popen[bytes]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return int(there.getsockname()[1])


@contextlib.contextmanager
def superlink(folder: Path, host: str = "127.0.0.1", port: int = 0) -> Iterator[Link]:
    """A SuperLink for the federation in `folder`: TLS, authenticated SuperNodes, its state in SQLite, and no code but our own: see `gate`.

    `host` is what it listens on, and port 0 takes a free one. Raises FederationError when it does not come up.
    """
    port, link = port or free_port(), folder / "link"
    near = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  compared, not bound
    if _listens(near, port):
        raise FederationError(f"somebody listens on {near}:{port} already: choose another port, or end what is there")
    files = ("--ssl-ca-certfile", folder / "authority" / "authority.crt", "--ssl-certfile", link / "server.crt")
    command = [*_gate("link"), *files, "--ssl-keyfile", link / "server.key", "--enable-supernode-auth"]
    command += ["--database", link / "state.db", "--disable-runtime-dependency-installation", "--host", host, "--port", port]
    certificate = json.dumps(str(folder / "authority" / "authority.crt"))
    known = f'[superlink]\ndefault = "{LINK}"\n\n[superlink.{LINK}]\naddress = "{near}:{port}"\nroot-certificates = {certificate}\n'
    write_bytes(folder / "flower" / "config.toml", known.encode())
    with _process(command, folder, folder / "link.log", {FEDERATION: str(folder), "PATH": _shims(folder, "server")}) as process:
        late = time.monotonic() + START
        while not _listens(near, port):
            if process.poll() is not None or time.monotonic() > late:
                raise FederationError(
                    f"the SuperLink did not come up: {_last_line(folder / 'link.log')}; all of it is in {folder}/link.log"
                )
            time.sleep(0.1)
        yield Link(folder, f"{near}:{port}", process)


@contextlib.contextmanager
def supernode(home: Path, address: str, authority: Path, key: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A SuperNode for the device in `home`; it runs the installed fedstyle and nothing that a server sends: see `gate`."""
    from fedstyle.flower.device import HOME  # opens photos, and a SuperLink's machine has none

    command = [_tool("flower-supernode"), "--superlink", address, "--root-certificates", authority, "--auth-supernode-private-key", key]
    command += ["--host", "127.0.0.1", "--port", free_port()]
    with _process(command, home, home / "node.log", {HOME: str(home), "PATH": _shims(home, "client")}) as process:
        yield process


def was_admitted(log: Path, before: int) -> bool:
    """Whether a SuperNode was let in by its SuperLink, by what it wrote into its log after the first `before` bytes."""
    return b"SuperNode ID:" in (log.read_bytes()[before:] if log.exists() else b"")


def flwr(folder: Path, *words: object) -> dict[str, Any]:
    """Run Flower's own command against the federation's SuperLink and give its JSON; raises FederationError where it fails."""
    command = [_tool("flwr"), *words, "--format", "json"]
    shown = " ".join(str(word) for word in words[:2])
    if not is_open(folder):
        raise FederationError(f"no SuperLink is open for {folder}: open it, and leave it running")
    try:
        done = subprocess.run(  # noqa: S603
            [str(word) for word in command], env=_environment(folder, {}), cwd=folder, capture_output=True, check=False, timeout=START
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise FederationError(f"flwr {shown} got no answer in {START:.0f} s: is the SuperLink open?") from None
    except ValueError:
        answer = {}
    if done.returncode or not isinstance(answer, dict) or not answer.get("success"):
        said = str(answer.get("error-message") or (done.stderr or done.stdout).decode(errors="replace")).strip().splitlines()
        raise FederationError(f"flwr {shown} failed: {said[-1] if said else 'it says nothing'}")
    return answer


def is_open(folder: Path) -> bool:
    """Whether a SuperLink listens where the last one was opened for this folder."""
    try:
        address = tomllib.loads((folder / "flower" / "config.toml").read_text())["superlink"][LINK]["address"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    host, _, port = str(address).rpartition(":")
    return _listens(host, int(port))


def register(folder: Path, public: Path) -> int:
    """Register a device's public key with the SuperLink; gives Flower's id of its node."""
    return int(flwr(folder, "supernode", "register", public, LINK)["node-id"])


def unregister(folder: Path, node: int) -> None:
    """Let the SuperLink forget a device's key."""
    flwr(folder, "supernode", "unregister", node, LINK)


def start_run(folder: Path) -> int:
    """Hand the SuperLink the app and start a run; gives Flower's id of it."""
    for name, text in _APP.items():
        write_bytes(folder / "app" / name, text.encode())
    return int(flwr(folder, "run", folder / "app", LINK)["run-id"])


def run_status(folder: Path, run: int) -> str:
    """Where a run is: pending, starting, running, finished:completed, finished:failed or finished:stopped."""
    runs = flwr(folder, "list", LINK, "--run-id", run)["runs"]
    return str(runs[0]["status"])


@contextlib.contextmanager
def _process(command: list[Any], folder: Path, log: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, taken down with all of the group when the block ends."""
    words = [str(word) for word in command]
    with open(log, "ab") as file:
        process = subprocess.Popen(  # noqa: S603
            words,
            env=_environment(folder, variables),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  one call of libc, loaded before
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: SIGTERM, and SIGKILL for what is left after GRACE seconds."""
    late = time.monotonic() + GRACE
    _signal(process, signal.SIGTERM)
    while process.poll() is None and time.monotonic() < late:
        time.sleep(0.05)
    _signal(process, signal.SIGKILL)  # also for what a leader that ended leaves behind
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """In the child: get SIGTERM when the parent is gone, PR_SET_PDEATHSIG of prctl(2)."""
    assert _LIBC is not None
    _LIBC.prctl(1, signal.SIGTERM)


def _environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    scripts = sysconfig.get_path("scripts")
    path = f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # Flower starts its parts by name
    kept = {name: value for name, value in os.environ.items() if name != FEDERATION}
    own = {"FLWR_HOME": str(folder / "flower"), "PATH": path, **_SWITCHES, **variables}
    (folder / "flower").mkdir(parents=True, exist_ok=True)
    return kept | own


def _shims(folder: Path, side: str) -> str:
    """A PATH that begins with commands of our own: Flower's executor and the app of this side by `gate`, and the others refuse."""
    refuse = 'echo "refused: somebody asked for $0" >&2\nexit 1'
    known = {"client": ("flwr-clientapp", "nursery"), "server": ("flwr-serverapp", "superexec")}
    lines = {f"flwr-{name}": refuse for name in ("agentapp", "clientapp", "connector", "model", "serverapp", "simulation")}
    app, executor = known[side]
    lines |= {name: f'exec {shlex.join(_gate(part))} "$@"' for name, part in ((app, side), ("flower-superexec", executor))}
    for name, text in lines.items():
        write_bytes(folder / "bin" / name, f"#!/bin/sh\n{text}\n".encode())
        os.chmod(folder / "bin" / name, 0o755)  # noqa: S103  a program, as others are
    return f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _gate(part: str) -> list[str]:
    """The command of a part of Flower by `gate`; -P keeps what lies in the folder from being imported."""
    return [sys.executable, "-P", "-m", "fedstyle.flower.gate", part]


def _tool(name: str) -> str:
    """A program of the installed Flower."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        raise FederationError(f"{path} is missing: a federation needs Flower, pip install 'fedstyle[federation]'")
    return str(path)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def _last_line(log: Path) -> str:
    lines = [text for text in log.read_text(errors="replace").splitlines() if text.strip()] if log.exists() else []
    return lines[-1].strip() if lines else "it says nothing"
