"""A server that lies to devices: a real Flower server app on a real SuperLink, which sends what a test hands it and keeps the answers.
`Sum` is what such a server has of a secure sum.

A SuperLink of fedstyle starts no code but the installed one, so `take_over` puts Flower's own program in the place of ours first: what an
operator can do who does not play by the rules.
"""

import dataclasses
import pickle
import shutil
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ConfigRecord, RecordDict

from fedstyle.flower.credentials import Authority, read_operator_key, verification_key
from fedstyle.flower.deployment import LINK, flwr
from fedstyle.flower.hosting import Roll
from fedstyle.flower.orders import PROOF, prove
from fedstyle.flower.secure import SUM, Plan, Step
from fedstyle.flower.vouching import REGISTER, Register
from fedstyle.flower.wire import Order
from fedstyle.privacy.secagg import client, keys
from fedstyle.privacy.secagg.messages import Advert

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


class Sum:
    """Secure sums of the real device, number 0, and three more whose keys a test holds, as a server with the operator's key asks for them.

    The authority vouches for all four. Rounds begin with 11, so that they come after whatever else the device was asked.
    """

    def __init__(self, federation, home, base, contract, clip):
        self.folder, self.base, self.contract, self.clip = federation.folder, base, contract, clip
        self.name, self.authority = Roll.load(self.folder).name, Authority(self.folder / "authority")
        self.secrets = {one: bytes([one]) * 32 for one in (1, 2, 3)}
        publics = [keys.Identity(secret, {}).public for secret in self.secrets.values()]
        self.register = Register(self.name, 1, (verification_key(home / "key.pub"), *publics)).sign(self.authority)
        self.operator, self.round = read_operator_key(self.folder / "operator"), 10

    def next(self):
        """The terms of a round that the device was not asked for."""
        self.round += 1
        return self.terms(self.register)

    def terms(self, register):
        """The terms that follow from the device's own configuration, under this register."""
        plan = dataclasses.replace(Plan(self.clip), register=register)
        return plan.terms("", self.round, range(4), self.contract.length)

    def twice(self, number, authority=None):
        """A register in which device `number` stands in the place of another, too; our own code makes none."""
        made = dataclasses.replace(self.register, edition=2)
        listed = list(made.keys)
        listed[number + 1] = listed[number]
        object.__setattr__(made, "keys", tuple(listed))
        object.__setattr__(made, "signature", (authority or self.authority).sign(b"fedstyle register 1\0" + made._facts()))
        return made

    def opening(self, terms, register=None, body=None):
        """What begins a round."""
        register, step, order = (
            register or self.register,
            Step("advert", self.round, body or terms.encode()),
            Order(self.base, self.round, 0.0),
        )
        content = self.contract.write_order(order)
        content[SUM] = step.write()[SUM]
        content[REGISTER] = ConfigRecord({"content": register.encode()})
        content[PROOF] = prove("train", order, self.name, self.operator, step)
        return content

    def step(self, name, body):
        """A later step of the round."""
        step = Step(name, self.round, body)
        return RecordDict({**step.write(), PROOF: prove("train", None, self.name, self.operator, step)})

    def identity(self, number):
        """What device `number` of the three signs with."""
        return keys.Identity(self.secrets[number], self.register.by_number)

    def adverts(self, terms):
        """The states of the three, and their adverts."""
        made = {one: client.advertise(terms, one, self.identity(one)) for one in self.secrets}
        return {one: state for one, (state, _) in made.items()}, {one: advert for one, (_, advert) in made.items()}

    def keys_of_its_own(self, terms, number, signer):
        """Keys whose secrets the server has, as device `number`'s, signed with another's secret."""
        mine = Advert(keys.public_key(bytes(range(32))), keys.public_key(bytes(range(1, 33))))
        return mine.encode(terms, number, keys.Identity(signer, {}))
