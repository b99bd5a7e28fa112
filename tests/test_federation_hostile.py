"""What a device refuses of a server that lies, over TLS, from a real server app to a real SuperNode; minutes, so in `make soak`.

Each refusal is looked at from both ends: the server got a code and nothing else, and the reason stands in the device's own log.
"""

import contextlib
import dataclasses
import os
import re
import resource
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hostile import PATIENCE, Hostile, Sum, take_over
from private_things import Secrets, plant
from test_federation import processes, tiny
from test_federation_faults import pids, start, until

from fedstyle import Base, Membership
from fedstyle.config import Data
from fedstyle.errors import FederationError
from fedstyle.federation import Federation
from fedstyle.files import read_lines
from fedstyle.flower import masking
from fedstyle.flower.credentials import Authority, make_device_key, read_operator_key
from fedstyle.flower.hosting import Roll
from fedstyle.flower.orders import PROOF, prove
from fedstyle.flower.secure import Step
from fedstyle.flower.wire import Contract, Order, pack
from fedstyle.methods import make_method
from fedstyle.population import plan
from fedstyle.privacy.secagg import client, server
from fedstyle.privacy.secagg.messages import Advert, Adverts
from fedstyle.rehearsal import furnish

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")]
OURS, STRANGER = object(), Ed25519PrivateKey.generate()
POLICY = r"^\[policy\]$"


@dataclass(frozen=True)
class Place:
    """A federation whose server lies, and its one device, with private things planted."""

    federation: Federation
    home: Membership
    hostile: Hostile
    secrets: Secrets
    base: Base
    contract: Contract

    def order(self, kind="train", *, key=OURS, base=None, number=1, proximal=0.0):
        """An order as the operator would sign it, or another key, or nobody (None)."""
        asked = Order(base or self.base, number, proximal)
        content = self.contract.write_order(asked)
        key = read_operator_key(self.federation.folder / "operator") if key is OURS else key
        content[PROOF] = prove(kind, asked, Roll.load(self.federation.folder).name, key)
        return content

    def ask(self, *asked):
        """The answers; nothing private is in any of them."""
        replies = self.hostile.ask(*asked)
        assert not [found for reply in replies if (found := self.secrets.find(bytes(reply)))]
        return replies

    def refused(self, content, code, reason, kind="train"):
        """Send one message, and see it refused for this reason."""
        told = len(read_lines(self.home.home / "refusals.jsonl"))
        (reply,) = self.ask((kind, content))
        assert reply.code == code
        (line,) = read_lines(self.home.home / "refusals.jsonl")[told:]
        assert line["code"] == code
        assert re.search(reason, line["reason"])

    @contextlib.contextmanager
    def says(self, *changes):
        """Within the block the device's TOML has other lines, as its owner would change them."""
        path = self.home.home / "device.toml"
        before = text = path.read_text()
        for pattern, line in changes:
            text, count = re.subn(pattern, f"[policy]\n{line}" if pattern == POLICY else line, text, flags=re.MULTILINE)
            assert count == 1, pattern
        path.write_text(text)
        try:
            yield
        finally:
            path.write_text(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    secrets = plant(folder, photos=2, styles=1)
    config = tiny(folder, clients=1, wire="fp32", rounds=5)
    data = Data(str(folder / "photos"), clients=1, styles=str(folder / "styles"), holdout=0)
    config = dataclasses.replace(config, data=data)
    federation = Federation.found(config, folder / "out", [])
    base = Base.load(federation.folder / "base")
    with ExitStack() as nodes, federation.open() as link:
        home = furnish(config, federation, 0, plan(config).devices[0], link.address)
        with pytest.raises(FederationError, match="is this device registered"):
            home.join(seconds=PATIENCE)  # its key is unknown
        federation.enrol(home.home / "key.pub", "000")
        start(home, nodes)
        contract = Contract.of(base, make_method(config.method).shares, "fp32")
        yield Place(federation, home, take_over(federation, folder / "server"), secrets, base, contract)
    until(lambda: not processes(folder), "processes are left")


def with_base(place, change):
    """A signed order, the base of which was changed afterwards."""
    content = place.order()
    content["base"] = pack(change(dict(place.base.weights)), "fp32")
    return content


def with_bytes(place, change):
    """A signed order, the bytes of whose base were changed afterwards."""
    content = place.order()
    content["base"] = ArrayRecord(
        {name: Array(one.dtype, (len(data := change(one.data)),), one.stype, data) for name, one in content["base"].items()}
    )
    return content


def without_first(weights):
    first = min(weights)
    return {name: value for name, value in weights.items() if name != first}


def with_facts(place, **facts):
    content = place.order()
    content["round"] = ConfigRecord({"round": 1, "proximal": 0.0, **facts})
    return content


def with_record(place, name, record):
    content = place.order()
    content[name] = record
    return content


def other_base(place):
    return dataclasses.replace(place.base, weights={name: value + 1e-3 for name, value in place.base.weights.items()})


def grown(place, count):
    """A base with `count` numbers more than the device's network has."""
    return with_base(place, lambda weights: weights | {"photos": torch.ones(count)})


LIES = {
    "signed by a stranger": ("identity", "not signed by the operator", lambda p: p.order(key=STRANGER)),
    "not signed": ("identity", "not signed by the operator", lambda p: p.order(key=None)),
    "altered after signing": ("identity", "not signed by the operator", lambda p: with_base(p, lambda w: {k: v + 1 for k, v in w.items()})),
    "another round than was signed": ("identity", "not signed by the operator", lambda p: with_facts(p, round=2)),
    "a final order as one to train": ("identity", "not signed by the operator", lambda p: p.order("final")),
    "another first base": ("identity", "round 1 starts from base", lambda p: p.order(base=other_base(p))),
    "a renamed parameter": ("base", "expected tensors", lambda p: with_base(p, lambda w: without_first(w) | {"photos": w[min(w)]})),
    "an added parameter": ("base", "expected tensors", lambda p: grown(p, 1)),
    "a missing parameter": ("base", "expected tensors", lambda p: with_base(p, without_first)),
    "another shape": ("base", "expected tensors", lambda p: with_base(p, lambda w: {k: v.reshape(-1, 1) for k, v in w.items()})),
    "bytes more": ("base", "has not the .* bytes", lambda p: with_bytes(p, lambda data: data + b"photos")),
    "not finite": ("base", "not finite", lambda p: with_bytes(p, lambda data: np.float32("nan").tobytes() + data[4:])),
    "another architecture": (
        *("base", "expected tensors"),
        lambda p: with_base(p, lambda _: Base.new("cnn", width=2).weights),
    ),
    "another hyper-parameter": ("base", "asks for more than", lambda p: with_facts(p, rate=3.0)),
    "no round": ("base", "no usable round", lambda p: with_facts(p, round=0)),
    "a factor that is not a number": ("base", "no usable round", lambda p: with_facts(p, proximal=float("nan"))),
    "a round beyond the last": ("bounds", "round 6; the policy ends with 5", lambda p: p.order(number=6)),
    "a factor out of bounds": ("bounds", "factor 1.5; the policy allows 1.0", lambda p: p.order(proximal=1.5)),
    "an oversized message": ("size", "bytes of arrays", lambda p: grown(p, 1_000_000)),
    "a record more": ("size", "in 4 records", lambda p: with_record(p, "more", ConfigRecord({"a": 1}))),
    "arrays more": ("size", "in 4 records", lambda p: with_record(p, "more", pack({"photos": torch.ones(1)}, "fp32"))),
    "no proof": ("base", "no proof", lambda p: RecordDict({k: v for k, v in p.order().items() if k != PROOF})),
    "nothing": ("base", "no proof", lambda _: RecordDict()),
}
KINDS = ("query", "train.photos", "evaluate.photos", "query.photos")


@pytest.fixture(scope="module")
def told(place):
    """All lies at once: the answers by name, and the lines of the device's log."""
    asked = [("train", make(place)) for _, _, make in LIES.values()]
    asked += [(kind, RecordDict({"give": ConfigRecord({"me": "photos"})})) for kind in KINDS]
    replies = dict(zip([*LIES, *KINDS], place.ask(*asked), strict=True))
    return replies, read_lines(place.home.home / "refusals.jsonl")


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_by_code_and_the_reason_stays_at_home(told, name):
    code, reason, _ = LIES[name]
    assert told[0][name].code == code
    assert any(line["code"] == code and re.search(reason, line["reason"]) for line in told[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_outside_the_allow_list_is_refused(told, kind):
    assert told[0][kind].code == "kind"
    assert any(line["code"] == "kind" and line["kind"] == kind for line in told[1])


def test_no_lie_left_a_trace_and_no_code_of_the_server_ran(place, told):
    home = place.home.home
    assert len(told[1]) == len(LIES) + len(KINDS)
    assert not any((home / name).exists() for name in ("private.safetensors", "standing.json", "errors.log", "base"))
    assert not place.hostile.canary.exists()
    assert {line["kind"] for line in place.home.ledger()} == {"refusal"}


def test_a_device_that_is_paused_or_not_charging_is_away(place):
    place.home.pause()
    place.refused(place.order(), "away", "paused")
    place.home.resume()
    with place.says((POLICY, 'needs = ["charging"]')):
        place.home.conditions(idle=True, charging=False)
        place.refused(place.order(), "away", "not charging")


def test_an_owner_may_allow_less(place):
    with place.says((POLICY, 'kinds = ["final"]')):
        place.refused(place.order(), "kind", "the policy allows final")


def test_what_goes_wrong_at_home_is_a_code(place):
    """The texts of these errors have paths and names in them: they stay in errors.log."""
    for change, code in (
        ((r"^photos = .*", 'photos = "gone"'), "photos"),
        ((r'^style = "style.*', 'style = "gone.png"'), "style"),
        ((r"^width = .*", 'width = "four"'), "setup"),
        ((r"^operator = .*", 'operator = "gone.pub"'), "setup"),
    ):
        with place.says(change):
            (reply,) = place.ask(("train", place.order()))
            assert reply.code == code
    assert (place.home.home / "errors.log").read_text().count("gone") >= 3


def limit(place, both):
    """Let no process of the device write files of more bytes; what they start has the same limit."""
    for number in pids(place.home.home, ""):
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(number, resource.RLIMIT_FSIZE, both)


@pytest.mark.parametrize("room", [100, 50_000])
def test_a_full_disk_is_a_code_and_the_device_goes_on_when_there_is_room(place, room):
    """A file-size limit stands for the disk: with 100 bytes the order cannot even be counted, with 50,000 what was trained not be kept."""
    limit(place, (room, resource.RLIM_INFINITY))
    try:
        (reply,) = place.ask(("train", place.order()))
    finally:
        limit(place, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert reply.code == "disk"
    assert not (place.home.home / "private.safetensors").exists()
    (reply,) = place.ask(("train", place.order()))
    assert set(place.contract.read_delta(reply.content)) == place.contract.shared
    assert (place.home.home / "private.safetensors").exists()
    if room == 100:
        (place.home.home / "private.safetensors").unlink()  # as new, for the other


def test_a_replayed_order_is_refused(place):
    first, second = place.order(number=2), place.order(number=3)
    for content in (first, second):
        (reply,) = place.ask(("train", content))
        assert set(place.contract.read_delta(reply.content)) == place.contract.shared
    place.refused(second, "replay", "the same train order of round 3 a second time")
    place.refused(first, "replay", "of round 2, after one of round 3")


def test_more_rounds_or_bytes_than_a_day_has_are_refused(place):
    with place.says((POLICY, "rounds_a_day = 1")):
        place.refused(place.order(number=4), "limit", "more than 1 orders in 24 hours")
    with place.says((POLICY, "bytes_a_day = 1000")):
        place.refused(place.order(number=4), "limit", "bytes in 24 hours; the policy allows 1000")


def test_a_device_whose_process_is_killed_in_mid_message_answers_the_next(place):
    """Flower says that it crashed, in words of its own, when its heartbeats are missed."""
    standing = (place.home.home / "standing.json").read_bytes()
    mine = set(pids(place.home.home, ""))
    letter = place.hostile.send(("train", place.order(number=4)))
    until(lambda: (place.home.home / "standing.json").read_bytes() != standing, "the order was never counted")
    worker = max(set(pids(place.home.home, "")) - mine)  # the fork, where what is forked is new, too
    os.kill(worker, signal.SIGKILL)
    (reply,) = place.hostile.wait(letter)
    assert reply.error
    assert not place.secrets.find(bytes(reply))
    (reply,) = place.ask(("train", place.order(number=5)))
    assert set(place.contract.read_delta(reply.content)) == place.contract.shared


# Secure sums: the same device, as it would be of a federation that sums securely, with the whole of `cnnLite`

CLIP = 1.0
SECURE = (
    (r"^clip = .*", f"clip = {CLIP}"),
    (r"^secure = .*", "secure = true"),
    (r"^last_round = .*", "last_round = 99"),
    (r"^width = .*", "width = 0"),
    (r'^name = "fedbn"$', 'name = "fedavg"'),
)
SERVER = bytes(range(2, 34))
"""A secret that no register has."""
REGISTERS = {
    "a register with another device twice": ("identity", "a key of its own for each device", lambda s, _: {"register": s.twice(1)}),
    "a register with the device itself twice": ("identity", "a key of its own for each device", lambda s, _: {"register": s.twice(0)}),
    "a register of another authority": (
        *("identity", "not signed by the authority"),
        lambda s, place: {"register": s.register.sign(Authority.create(place.federation.folder.parent / "other"))},
    ),
    "terms that name a device twice": (
        *("terms", "no terms of a secure sum: secagg clients"),
        lambda s, _: {"body": s.terms(s.register).encode().replace(b"[0,1,2,3]", b"[0,1,1,2]")},
    ),
}
KEYS = {
    "keys of the server's own": ("a signature is wrong", lambda s, t, a: {**a, 2: s.keys_of_its_own(t, 2, SERVER)}),
    "keys signed by another device's credential": ("a signature is wrong", lambda s, t, a: {**a, 2: s.keys_of_its_own(t, 2, s.secrets[1])}),
    "another device's keys, in its own name": (
        *("two clients advertise one key",),
        lambda s, t, a: {**a, 1: Advert.decode(a[2], t, s.register.by_number)[1].encode(t, 1, s.identity(1))},
    ),
    "a device twice": ("a message twice", lambda s, t, a: {**a, 3: a[2]}),
}


@dataclass(frozen=True)
class Sums:
    """What the device answered to each lie, what its own logs say of it, what left it, and the sum of a round without a lie."""

    replies: dict
    reasons: dict
    kept: dict
    after: dict
    ledger: list
    sizes: dict
    total: object


@pytest.fixture(scope="module")
def sums(place):
    home = place.home.home
    (home / "private.safetensors").unlink(missing_ok=True)  # of the smaller network
    logs, before = [home / "errors.log", home / "refusals.jsonl"], len(place.home.ledger())
    base = Base.new("cnnLite")
    contract = Contract.of(base, make_method({"name": "fedavg", "steps": 1}).shares, "fp32")
    sum = Sum(place.federation, home, base, contract, CLIP)
    replies, reasons, kept, late, told = {}, {}, {}, {}, ["", ""]

    def said():
        """What the logs have more than when they were last asked."""
        old, told[:] = list(told), [log.read_text() if log.exists() else "" for log in logs]
        return "".join(now[len(then) :] for then, now in zip(old, told, strict=True))

    def ask(content):
        (reply,) = place.ask(("train", content))
        return reply

    def body(reply):
        assert reply.code is None, said()
        return Step.read(reply.content).body

    with place.says(*SECURE):
        said()
        for name, (_, _, make) in REGISTERS.items():
            terms = sum.next()
            replies[name] = ask(sum.opening(terms, **make(sum, place)))
            reasons[name] = said()
        for name, (_, make) in KEYS.items():
            terms = sum.next()
            _, adverts = sum.adverts(terms)
            adverts = {0: body(ask(sum.opening(terms))), **adverts}
            changed = make(sum, terms, adverts)
            replies[name] = ask(sum.step("shares", Adverts(tuple(changed[one] for one in sorted(changed))).encode(terms)))
            reasons[name] = said()
            kept[name] = masking.Kept.load(home)
            late[name] = sum.step("masked", b"")
        after = dict(zip(late, place.ask(*(("train", content) for content in late.values())), strict=True))
        ledger = place.home.ledger()[before:]
        sizes, total = honest(sum, lambda content: body(ask(content)))
    return Sums(replies, reasons, kept, after, ledger, sizes, total)


def honest(sum, ask):
    """A round that keeps the protocol: the bytes of the device's steps by name, and the sum, to which the other three add zeros."""
    terms = sum.next()
    states, adverts = sum.adverts(terms)
    round = server.Round(terms, sum.register.by_number)
    round, down = server.collect_adverts(round, {0: ask(sum.opening(terms)), **adverts}.items())
    steps = {
        "shares": (server.collect_shares, client.share),
        "masked": (server.collect_masked, lambda state, down, who: client.mask(state, down, np.zeros(terms.length), who)),
        "agreement": (server.collect_agreements, client.consent),
        "unmasking": (server.collect_unmaskings, client.unmask),
    }
    sizes = {}
    for name, (collect, step) in steps.items():
        each = down if isinstance(down, dict) else dict.fromkeys(range(4), down)
        bodies = {0: ask(sum.step(name, each[0]))}
        for one, state in states.items():
            states[one], bodies[one] = step(state, each[one], sum.identity(one))
        sizes[name], result = len(bodies[0]), collect(round, bodies.items())
        round, down = result if isinstance(result, tuple) else (None, None)
    return sizes, result


@pytest.mark.parametrize("name", REGISTERS)
def test_a_list_of_devices_with_one_twice_is_refused_before_anything_is_trained(sums, name):
    code, reason, _ = REGISTERS[name]
    assert sums.replies[name].code == code
    assert reason in sums.reasons[name]


@pytest.mark.parametrize("name", KEYS)
def test_swapped_keys_end_the_round_on_the_device_which_tells_nobody_but_its_owner(sums, name):
    reason, _ = KEYS[name]
    assert sums.replies[name].code == "altered"
    assert reason in sums.reasons[name]
    assert sums.kept[name] == masking.Kept(type(sums.kept[name].state)("done", sums.kept[name].state.terms, 0))  # no secret, no update
    assert sums.after[name].code == "phase"  # and nothing masked afterwards


def test_nothing_masked_left_for_a_server_that_lies_and_the_whole_network_does_in_a_round_without_a_lie(sums):
    ends = ["failure", *["advert", "failure"] * len(KEYS), *["failure"] * len(KEYS)]
    assert [line["kind"] for line in sums.ledger] == ["refusal"] * 3 + ends
    assert not any(line.get("masked") for line in sums.ledger)
    assert len(sums.total.values) == 415_443  # all of `cnnLite`
    assert sums.sizes["masked"] == 4 * 415_443 + 149  # 32 bits each, with a head, a hash and a signature: one message
    assert 0 < np.linalg.norm(sums.total.values) <= CLIP * 1.001
    assert sums.total.clients == (0, 1, 2, 3)


def test_a_dismissed_device_and_a_strangers_key_are_not_let_in(place):
    federation, home = place.federation, place.home
    with pytest.raises(FederationError, match="there is a device '000' already"):
        federation.enrol(home.home / "key.pub", "000")
    stranger = federation.folder.parent / "stranger"
    stranger.mkdir()
    for name in ("device.toml", "authority.crt", "operator.pub"):
        (stranger / name).write_bytes((home.home / name).read_bytes())
    make_device_key(stranger / "key")
    with pytest.raises(FederationError, match="is this device registered"):
        Membership(stranger).join(seconds=PATIENCE)
    federation.dismiss("000")
    assert Roll.load(federation.folder).members == ()
    with pytest.raises(FederationError, match="there is no device '000'"):
        federation.dismiss("000")
    (home.home / "base").unlink(missing_ok=True)
    with pytest.raises(FederationError, match="is this device registered"):
        home.join(seconds=PATIENCE)
