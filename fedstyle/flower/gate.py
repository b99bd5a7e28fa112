"""What runs in place of some of Flower's programs: no code that came over the network, and no end at the first hitch.

A SuperNode gets an app bundle from the SuperLink and would run whatever Python is in it, next to the photos; a SuperLink would run the
bundle of anyone who reaches its port. Here the bundle is left unpacked: a device answers with the installed `device.respond`, also messages
of types that the bundle invents, and a SuperLink runs the installed `fedstyle.app.federation`. A few names of Flower are replaced for that.
They are not of its public packages, so flwr stays pinned.

A SuperLink that starts a run's process itself gives the run to whoever asks first. Here that must be a process of its own machine.

Whatever fails on a device before its own answer is made is answered with a code: Flower would send the error's text, or nothing, and
a SuperNode waits for an answer for ever. A SuperLink's database, which waits 5 seconds for its turn, waits 20, for a busy machine's
sake, and a SuperExec that is told of a failure all the same asks again, where Flower's would end, and its SuperLink never run anything.

What takes long to import is imported when the message is there: Flower waits only so long for the first sign of life.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import time
from typing import Any

PAUSE = 1.0
BUSY = 20_000
"""Milliseconds that a SuperLink's database waits for its turn; its clients wait 30 seconds for an answer, and then ask again."""
LONGEST = 12 * 3600
"""Seconds after which a message that is still worked on is given up, and its process ends: Flower keeps no answer for longer."""
_OURS = {"tool": {"flwr": {"app": {"components": {"serverapp": "fedstyle.app:federation"}}}}}


def _unpack_nothing(*_: Any, **__: Any) -> None:
    """In place of Flower's installation of a bundle."""


def _answer_with_our_own(**_: Any) -> Any:
    """In place of Flower's import of a bundle's ClientApp."""
    return lambda *_: _respond


def _respond(message: Any, context: Any) -> Any:
    """As `device.respond`; where that cannot even be imported, the code of an installation that is broken."""
    from flwr.app import ConfigRecord, Message, RecordDict

    signal.alarm(LONGEST)
    try:
        from fedstyle.flower.device import respond
    except Exception as error:  # noqa: BLE001  Flower would send the error's text, in which there are paths
        print(f"fedstyle cannot be imported: {error}", file=sys.stderr)  # noqa: T201  into the SuperNode's log
        return Message(RecordDict({"failure": ConfigRecord({"code": "setup"})}), reply_to=message)
    return respond(message, context)


def client() -> None:
    """As `flwr-clientapp`."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    push_task_output = sys.modules["flwr.supernode.runtime.run_clientapp"].push_task_output

    def push_what_succeeded(*, sub_status: str, **named: Any) -> None:
        """A task that failed says nothing: without heartbeats Flower answers in its place, and takes the next message."""
        if sub_status == "completed":
            push_task_output(sub_status=sub_status, **named)

    ours = {"install_from_fab": _unpack_nothing, "get_load_client_app_fn": _answer_with_our_own, "push_task_output": push_what_succeeded}
    _replace("flwr.supernode.runtime.run_clientapp", **ours)
    flwr_clientapp()


def server() -> None:
    """As `flwr-serverapp`."""
    from flwr.superlink.cli.flwr_serverapp import flwr_serverapp

    _replace(
        "flwr.superlink.runtime.run_serverapp",
        install_from_fab=_unpack_nothing,
        get_project_config=lambda _: _OURS,
        get_fused_config_from_dir=lambda *_: {},
    )
    flwr_serverapp()


def link() -> None:
    """As `flower-superlink`."""
    from flwr.superlink.cli import flower_superlink

    pragmas = dict(sys.modules["flwr.supercore.sql_mixin"].SQLITE_PRAGMAS) | {"busy_timeout": str(BUSY)}
    _replace("flwr.supercore.sql_mixin", SQLITE_PRAGMAS=tuple(pragmas.items()))
    _replace("flwr.supercore.dependencies.runtime", authenticate_superexec_request=_only_from_here)
    flower_superlink()


def _only_from_here(request: Any, _: Any, method: str) -> None:
    """In place of Flower's check of who is given the next task: processes of this machine alone, which call from the address they call."""
    if request.scope["client"][0] != request.scope["server"][0]:
        sys.modules["flwr.supercore.dependencies.superexec"]._raise_authentication_failed(method)


def nursery() -> None:
    """As `flower-superexec` of a device, which has its messages answered by forks: see `forking`."""
    import subprocess
    from types import SimpleNamespace

    from flwr.supercore.cli import flower_superexec  # noqa: F401  it brings the module below

    from fedstyle.flower.forking import Forks

    forks = Forks([sys.executable, "-P", "-m", "fedstyle.flower.gate", "nurse"])
    forking = sys.platform == "linux"
    if forking:
        forks.begin()

    def start(words: Any, **named: Any) -> None:
        if not (forking and words[0] == "flwr-clientapp" and forks.start(words[1:])):
            subprocess.Popen(words, **named)  # noqa: S603

    executor = "flwr.supercore.superexec.executor.subprocess_executor"
    _replace(executor, subprocess=SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
    sys.modules[executor].SubprocessExecutor.reconcile = lambda _: forks.rest()  # Flower calls it with every look for a message
    superexec()


def nurse() -> None:
    """The process that a device's messages fork."""
    from fedstyle.flower.forking import fork_for_each

    fork_for_each(_prepare, client)


def _prepare() -> None:
    import flwr.supernode.cli.flwr_clientapp  # noqa: F401

    with contextlib.suppress(Exception):  # what does not work is answered with a code: see `_respond`
        import fedstyle.flower.device  # noqa: F401


def superexec() -> None:
    """As `flower-superexec`."""
    from flwr.supercore.cli import flower_superexec
    from httpx import HTTPStatusError

    while True:
        try:
            flower_superexec()
        except HTTPStatusError as error:
            if error.response.status_code < 500:
                raise
        time.sleep(PAUSE)


def _replace(module: str, **names: Any) -> None:
    place = importlib.import_module(module)
    for name, mine in names.items():
        if not hasattr(place, name):
            sys.exit(f"this version of Flower has no {module}.{name}: install the one that fedstyle names")
        setattr(place, name, mine)


if __name__ == "__main__":
    parts = {"client": client, "server": server, "link": link, "superexec": superexec, "nursery": nursery, "nurse": nurse}
    parts[sys.argv.pop(1)]()
