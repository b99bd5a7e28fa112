"""A server that lies to devices: a real Flower server app on a real SuperLink, which sends what a test hands it and keeps the answers.

A SuperLink of fedstyle starts no code but the installed one, so `take_over` puts Flower's own program in the place of ours first: what an
operator can do who does not play by the rules.
"""

import pickle
import shutil
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

from flwr.app import RecordDict

from fedstyle.flower.deployment import LINK, flwr

PATIENCE = 900
_APP = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "hostile"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "stranger"
[tool.flwr.app.components]
serverapp = "hostile.server:app"
clientapp = "hostile.client:app"
[tool.flwr.app.config]
mail = ""
""",
    "hostile/__init__.py": "",
    "hostile/client.py": """\
from pathlib import Path
from flwr.clientapp import ClientApp
Path("/CANARY").write_text("code of a server ran here")
app = ClientApp()
""",
    "hostile/server.py": """\
import os
import pickle
import time
from pathlib import Path
from flwr.app import Message
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    mail = Path(context.run_config["mail"])
    while not list(grid.get_node_ids()):
        time.sleep(0.2)
    (node,) = grid.get_node_ids()
    while True:
        for letter in sorted(mail.glob("*.ask")):
            asked = [Message(content, node, kind) for kind, content in pickle.loads(letter.read_bytes())]
            grid.push_messages(asked)
            order, found = [message.metadata.message_id for message in asked], {}
            while len(found) < len(order):
                for reply in grid.pull_messages([name for name in order if name not in found]):
                    error = reply.error if reply.has_error() else None
                    content = None if error else reply.content
                    found[reply.metadata.reply_to_message_id] = (error and f"{error.code} {error.reason}", content, repr(reply.metadata))
                time.sleep(1.0)  # each look is a request
            letter.unlink()
            (mail / "part").write_bytes(pickle.dumps([found[name] for name in order]))
            os.replace(mail / "part", letter.with_suffix(".told"))
        time.sleep(0.2)
""",
}


@dataclass(frozen=True)
class Reply:
    """What a device's answer held: an error of Flower's own with its text, or a content; `metadata` as text."""

    error: str | None
    content: RecordDict | None
    metadata: str

    @property
    def code(self):
        """The failure's code, where the answer is one and nothing else."""
        if self.content is None or list(self.content) != ["failure"] or list(self.content["failure"]) != ["code"]:
            return None
        return self.content["failure"]["code"]

    def __bytes__(self):
        return pickle.dumps((self.error, self.content, self.metadata))


@dataclass(frozen=True)
class Hostile:
    """The server that lies; `mail` is where it finds what to send, and `canary` what its code would write on a device."""

    mail: Path
    canary: Path

    def ask(self, *asked):
        """Send (kind, content) pairs, all at once, and wait for all answers; gives them in that order."""
        return self.wait(self.send(*asked))

    def send(self, *asked):
        """Send them, and do not wait."""
        letter = self.mail / f"{time.monotonic_ns():020d}.ask"
        letter.with_suffix(".part").write_bytes(pickle.dumps(list(asked)))
        letter.with_suffix(".part").rename(letter)
        return letter

    def wait(self, letter):
        """Wait for the answers."""
        late = time.monotonic() + PATIENCE
        while not letter.with_suffix(".told").exists():
            assert time.monotonic() < late, "no answer came"
            time.sleep(0.1)
        return [Reply(*one) for one in pickle.loads(letter.with_suffix(".told").read_bytes())]


def take_over(federation, place):
    """Start the server that lies on the federation's open SuperLink; its files lie in `place`."""
    hostile = Hostile(place / "mail", place / "canary")
    hostile.mail.mkdir(parents=True)
    for name, text in _APP.items():
        file = place / "app" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("/CANARY", str(hostile.canary)))
    shutil.copyfile(sysconfig.get_path("scripts") + "/flwr-serverapp", federation.folder / "bin" / "flwr-serverapp")
    flwr(federation.folder, "run", place / "app", LINK, "--run-config", f"mail='{hostile.mail}'")
    return hostile
