"""SuperNodes whose client imports no torch: all are forks of one process that has imported Flower, for the benchmark of federations.

    python benchmarks/light.py FOLDER ADDRESS AUTHORITY NODES      FOLDER/K/key is the key of node K, FOLDER/reply.json what it answers

Each node is what it is elsewhere: Flower's own SuperNode, which looks for messages every three seconds, its SuperExec, which looks every
second for what the SuperNode has, and a process for each message. Only that these are forks, which share what they have imported, and no
fresh interpreters. The client answers an order with an update of zeros in the wire's form, whatever the order says: it checks nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "OMP_NUM_THREADS": "1",
}


def answer(said: dict[str, Any], message: Any) -> Any:
    """The reply to an order: zeros, or that the last base is kept."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

    if message.metadata.message_type != "train":
        return Message(RecordDict({"kept": ConfigRecord({"round": 0})}), reply_to=message)
    zeros = Array("uint8", (said["bytes"],), said["form"], bytes(said["bytes"]))
    return Message(RecordDict({"delta": ArrayRecord({said["layout"]: zeros})}), reply_to=message)


def fork(home: Path, work: Callable[[], None]) -> int:
    """Do `work` in a fork that writes into the node's log."""
    if pid := os.fork():
        return pid
    try:
        with open(home / "node.log", "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.chdir(home)
        os.environ["FLWR_HOME"] = str(home / "flower")
        work()
    finally:
        os._exit(0)


def supernode(words: list[str]) -> None:
    """Flower's SuperNode, which is to start no SuperExec: there is one."""
    from flwr.supernode import start_client_internal as inside
    from flwr.supernode.cli.flower_supernode import flower_supernode

    inside.subprocess = SimpleNamespace(Popen=lambda *_, **__: None)  # type: ignore[assignment]
    sys.argv = words
    flower_supernode()


def superexec(home: Path, port: int) -> None:
    """Flower's SuperExec, which forks for a message."""
    from flwr.supercore.cli.flower_superexec import flower_superexec
    from flwr.supercore.superexec.executor import subprocess_executor as executor
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    def start(words: list[str], **_: Any) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        sys.argv = words
        fork(home, flwr_clientapp)

    executor.subprocess = SimpleNamespace(Popen=start, DEVNULL=None)  # type: ignore[assignment]
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.5)
    sys.argv = ["flower-superexec", "--insecure", "--runtime-api-address", f"127.0.0.1:{port}"]
    flower_superexec()


def main(folder: Path, address: str, authority: Path, nodes: int) -> None:
    """Fork all nodes, and stay until this process is ended, with its group."""
    os.environ.pop("FLWR_LOG_LEVEL", None)
    os.environ |= SWITCHES
    import flwr.supercore.cli.flower_superexec
    import flwr.supernode.cli.flower_supernode
    import flwr.supernode.cli.flwr_clientapp  # noqa: F401

    assert "torch" not in sys.modules
    said = json.loads((folder / "reply.json").read_text())
    inside = sys.modules["flwr.supernode.runtime.run_clientapp"]
    inside.install_from_fab = lambda *_, **__: None  # type: ignore[attr-defined]
    inside.get_load_client_app_fn = lambda **_: lambda *_: lambda message, context: answer(said, message)  # noqa: ARG005  # type: ignore[attr-defined]
    common = ["flower-supernode", "--superlink", address, "--root-certificates", str(authority), "--host", "127.0.0.1"]
    for node in range(nodes):
        home, port = folder / str(node), _free_port()
        words = [*common, "--auth-supernode-private-key", str(home / "key"), "--port", str(port)]
        fork(home, lambda words=words: supernode(words))  # type: ignore[misc]
        fork(home, lambda home=home, port=port: superexec(home, port))  # type: ignore[misc]
    while True:
        time.sleep(60)


def _free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return int(there.getsockname()[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
