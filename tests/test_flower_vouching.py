"""Secure sums between devices that sign, in this process: homes, a SuperLink's half that keeps the protocol, and ones that lie."""

import contextlib
import dataclasses
import json
import stat

import flower_fakes as fakes
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Message, RecordDict
from test_flower_secure import CLIP, shared
from test_flower_secure import run as inline

from fedstyle import Base, Membership
from fedstyle.config import Config, Export, Net, Privacy, Server, Training
from fedstyle.errors import ConfigError, FederationError, FedstyleError, WireError
from fedstyle.federation import Federation
from fedstyle.files import read_lines, unsynced
from fedstyle.flower import masking
from fedstyle.flower.cohort import Cohort
from fedstyle.flower.credentials import Authority, make_device_key, read_operator_key, signing_secret, verification_key
from fedstyle.flower.device import Device, reply
from fedstyle.flower.hosting import FEDERATION, Member, Roll, host
from fedstyle.flower.inline import InlineGrid
from fedstyle.flower.orders import PROOF, prove
from fedstyle.flower.secure import SIGNED, SUM, Plan, Step
from fedstyle.flower.state import ServerState
from fedstyle.flower.vouching import REGISTER, Register, keep_register, read_register
from fedstyle.flower.wire import Contract, Failure, Order, read_failure
from fedstyle.privacy.gaussian import shorten
from fedstyle.privacy.noise import flatten
from fedstyle.privacy.secagg import keys
from fedstyle.privacy.secagg.messages import Advert, Adverts, Survivors

COUNT = 4
"""Four devices: one may work with the server, so that 3 must stay to the end, and one may fall out."""


def wishes(noise=0.0, **server):
    return Config(
        net=Net(width=4),
        training=Training(seed=7),
        method={"name": "fedbn", "steps": 1},
        server=Server(**{"rounds": 1, "timeout": 600.0, "wire": "fp32", "min_replies": 0.5, **server}),
        privacy=Privacy(clip=CLIP, noise=noise, secure=True),
        export=Export(clients=False),
    )


class Place:
    """A federation with enrolled homes, whose devices train in no time, and the wire between them."""

    def __init__(self, folder, config, patch, count=COUNT):
        patch.setattr("fedstyle.flower.deployment.register", lambda _, public: 1 + int(public.parent.name))
        patch.setattr("fedstyle.flower.deployment.unregister", lambda *_: None)
        patch.setattr("fedstyle.flower.hosting.PAUSE", 0.01)
        patch.setattr("fedstyle.federation.first_base", lambda _: fakes.small_base())
        patch.setattr(Device, "client", lambda device: fakes.Trainee(int(device.home.name)))
        patch.setenv(FEDERATION, str(folder / "federation"))
        self.federation = Federation.found(config, folder / "federation", ["example.org"])
        self.homes = [self.furnish(folder / f"{number}", config) for number in range(count)]
        for home in self.homes:
            self.federation.enrol(home.home / "key.pub", home.home.name)
        self.down = self.up = lambda number, content: None
        self.seen = []

    def furnish(self, home, config):
        folder = self.federation.folder
        files = {"authority": folder / "authority" / "authority.crt", "operator": folder / "operator.pub"}
        return Membership.create(home, address="a:1", photos="photos", style="style.png", config=config, wire="fp32", **files)

    def app(self, message, context):
        number = context.node_id - 1
        asked = self.down(number, message.content) or message.content
        with unsynced():
            kind = {"evaluate": "final"}.get(message.metadata.message_type, "train")
            content = reply(self.homes[number].home, kind, asked, context)
        step = asked.config_records.get(SUM, {}).get("step", kind)
        content = self.up(number, content) or content
        self.seen.append((number, step, content))
        return Message(content, reply_to=message)

    def run(self):
        grid = InlineGrid(self.app, len(self.homes), 1)
        try:
            host(grid, {})
        finally:
            grid.close()
        return Base.load(self.federation.folder / "base")

    def ask(self, number, content, kind="train"):
        """A device's code for a message, or None when it answers."""
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        with unsynced():
            return read_failure(reply(self.homes[number].home, kind, content, context))

    def kept(self, number):
        return masking.Kept.load(self.homes[number].home)

    def reasons(self, number):
        home = self.homes[number].home
        log = home / "errors.log"
        return " ".join(line["reason"] for line in read_lines(home / "refusals.jsonl")) + (log.read_text() if log.exists() else "")

    def codes(self, step):
        return {number: code for number, name, content in self.seen if name == step and (code := read_failure(content))}

    def opening(self, number=1, *, register=None, terms=None, key=None, federation=None):
        """What begins a round, as an operator with a key would write it, or one who lies."""
        folder = self.federation.folder
        register = register or Register.load(folder)
        contract = Contract.of(fakes.small_base(), set(Roll.load(folder).shared).__contains__, "fp32")
        plan = dataclasses.replace(Plan(CLIP), register=register)
        terms = terms or plan.terms("", number, range(COUNT), contract.length)
        step, order = Step("advert", number, terms.encode()), Order(fakes.small_base(), number, 0.0)
        content = contract.write_order(order)
        content[SUM] = step.write()[SUM]
        content[REGISTER] = ConfigRecord({"content": register.encode()})
        content[PROOF] = prove("train", order, federation or register.federation, key or read_operator_key(folder / "operator"), step)
        return content


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, wishes(), monkeypatch)


def test_the_base_is_that_of_inline_bit_for_bit_and_the_plain_mean_to_quantisation(place, tmp_path):
    base = place.run()
    config = dataclasses.replace(wishes(), server=dataclasses.replace(wishes().server, workers=1))
    assert base.sha256 == inline(tmp_path / "inline", config, count=COUNT)[0].sha256
    vectors = [shorten(flatten(fakes.Trainee(one).fit_alone(fakes.small_base(), 1)), CLIP) for one in range(COUNT)]
    wanted = flatten(shared(fakes.small_base())) + sum(vectors) / COUNT
    # Half a step of the grid, 2 CLIP / 2^20, and three roundings to fp32: see test_flower_secure.bound.
    assert np.abs(flatten(shared(base)) - wanted).max() <= CLIP / 2**20 + 3 * np.abs(wanted).max() * 2.0**-24
    assert [name for number, name, _ in place.seen if number == 0] == [*SIGNED, "final"]
    assert json.loads((place.federation.folder / "deliveries.json").read_text()) == dict.fromkeys("0123", "kept")
    (row,) = place.federation.history()
    lines = [line for home in place.homes for line in home.ledger()]
    assert [line["kind"] for line in place.homes[0].ledger()] == ["advert", "shares", "update", "agreement", "unmasking", "kept"]
    assert row["bytes_up"] == sum(line["bytes"] for line in lines if line["kind"] != "kept")


@pytest.mark.parametrize("step", SIGNED)
def test_a_device_may_fall_out_in_any_step_and_forgets_its_secrets_at_the_end(place, step):
    def up(number, content):
        if number == 1 and SUM in content and Step.read(content).name == step:
            raise SystemError("the node is gone")

    place.up = up
    base = place.run()
    (row,) = place.federation.history()
    stayed = [0, 2, 3] if step in SIGNED[:3] else list(range(COUNT))
    assert row["failures"] == ({"1": "lost"} if len(stayed) < COUNT else {})
    vectors = [shorten(flatten(fakes.Trainee(one).fit_alone(fakes.small_base(), 1)), CLIP) for one in stayed]
    moved = flatten(shared(base)) - flatten(shared(fakes.small_base()))
    assert np.abs(moved - sum(vectors) / len(stayed)).max() < CLIP / 2**19
    for number in range(COUNT):  # the last base came: what a device that fell out still had is gone
        kept = place.kept(number)
        assert kept == masking.Kept(type(kept.state)("done", kept.state.terms, number))
        assert stat.S_IMODE((place.homes[number].home / masking.FILE).stat().st_mode) == 0o600


def test_too_many_that_fall_out_end_the_run_and_the_next_one_begins_with_the_next_round(tmp_path, monkeypatch):
    place = Place(tmp_path, wishes(rounds=2), monkeypatch)
    gone = [2, 3]

    def up(number, content):
        if number in gone and SUM in content and Step.read(content).name == "masked":
            raise SystemError("the node is gone")

    place.up = up
    with pytest.raises(FederationError, match="only 2 of 4 clients replied"):
        place.run()
    assert not [name for _, name, _ in place.seen if name == "unmasking"]
    assert ServerState.load(place.federation.folder / "state.safetensors")[0].round == 1
    assert place.federation.history() == []
    gone.clear()
    base = place.run()
    assert [(row["round"], row["replied"]) for row in place.federation.history()] == [(2, COUNT)]
    assert base.record["round"] == 2
    assert place.ask(0, place.opening(1)) is Failure.REPLAY  # a round that is over, or was begun, gives no update again
    assert place.ask(0, place.opening(2)) is Failure.REPLAY


def test_a_federation_whose_last_rounds_failed_still_delivers(tmp_path, monkeypatch):
    place = Place(tmp_path, wishes(rounds=3), monkeypatch)

    def up(number, content):
        if number > 1 and SUM in content and Step.read(content).round > 1:
            raise SystemError("the node is gone")

    place.up = up
    for _ in range(2):
        with pytest.raises(FederationError, match="only 2 of 4"):
            place.run()
    base = place.run()  # no round is left
    assert base.record["round"] == 1
    assert json.loads((place.federation.folder / "deliveries.json").read_text()) == dict.fromkeys("0123", "kept")


def test_every_step_has_a_deadline_of_its_own(tmp_path, monkeypatch):
    place, ends, ask = Place(tmp_path, wishes(timeout=3600.0), monkeypatch), [], Cohort._ask

    def timed(cohort, contents, seconds, fates):
        ends.append(round(seconds / 3600, 1))  # of what is left of the round's time, of which next to none has passed
        return ask(cohort, contents, seconds, fates)

    monkeypatch.setattr(Cohort, "_ask", timed)
    place.run()
    assert ends == [0.6, 0.7, 0.8, 0.9, 1.0]


# A server that lies


def test_swapped_keys_are_seen_by_every_device(place):
    """The server puts keys of its own in the place of device 2's, as it would to read what is sealed for that one."""
    mine = keys.public_key(bytes(range(32))), keys.public_key(bytes(range(1, 33)))

    def down(number, content):
        if SUM not in content or (step := Step.read(content)).name != "shares" or number == 2:
            return None
        terms = place.kept(number).state.terms
        adverts = {Advert.decode(one, terms, None if not terms.signed else roster(place))[0]: one for one in bundle(step.body, terms)}
        adverts[2] = Advert(*mine).encode(terms, 2, keys.Identity(bytes(32), {}))
        return proved(place, Step("shares", 1, Adverts(tuple(adverts[one] for one in sorted(adverts))).encode(terms)))

    place.down = down
    with pytest.raises(FederationError, match=r"round 1: only 1 of 4 clients replied \(altered 3\)"):
        place.run()
    assert "a signature is wrong" in place.reasons(0)
    assert place.kept(0).state.phase == "done"


def roster(place):
    return Register.load(place.federation.folder).by_number


def bundle(body, terms):
    return Adverts.decode(body, terms)[1].messages


def proved(place, step):
    """A step as the holder of the operator's key can send it."""
    folder = place.federation.folder
    return RecordDict({**step.write(), PROOF: prove("train", None, Roll.load(folder).name, read_operator_key(folder / "operator"), step)})


def test_different_lists_of_survivors_are_seen_by_the_agreements(place):
    """Devices 0 and 1 are told that 3 fell out, and 2 and 3 that nobody did."""

    def down(number, content):
        if SUM in content and Step.read(content).name == "agreement" and number < 2:
            return proved(place, Step("agreement", 1, Survivors((0, 1, 2)).encode(place.kept(number).state.terms)))
        return None

    place.down = down
    with pytest.raises(FederationError, match="only 2 clients' agreements came"):
        place.run()
    assert not [name for _, name, _ in place.seen if name == "unmasking"]


@pytest.mark.parametrize("name", SIGNED[1:])
def test_a_step_that_the_operator_did_not_sign_is_refused_and_ends_nothing(place, name):
    stranger = Ed25519PrivateKey.generate()

    def down(number, content):
        if number or SUM not in content or (step := Step.read(content)).name != name:
            return
        forged = RecordDict({**step.write(), PROOF: prove("train", None, Roll.load(place.federation.folder).name, stranger, step)})
        assert place.ask(0, forged) is Failure.IDENTITY
        return

    place.down = down
    place.run()
    assert place.federation.history()[0]["failures"] == {}


@pytest.mark.parametrize("name", SIGNED)
def test_a_step_that_is_replayed_is_refused_by_code(place, name):
    codes, before = [], {}

    def down(number, content):
        if number or SUM not in content:
            return
        step = Step.read(content)
        if step.name == name:
            before["message"], before["fresh"] = content, place.opening() if name == "advert" else proved(place, step)
        elif before and not codes:  # the very message again, and the same with a proof of its own
            codes.extend(place.ask(0, before[which]) for which in ("message", "fresh"))
        return

    place.down = down
    place.run()
    if name == SIGNED[-1]:
        codes.extend(place.ask(0, before[which]) for which in ("message", "fresh"))
    assert codes == [Failure.REPLAY if name == "advert" else Failure.PHASE] * 2
    assert place.federation.history()[0]["failures"] == {}


def sybils(place, authority=None, edition=None, more=2, federation=None):
    """A register with devices more, made by who has this authority's key."""
    real = Register.load(place.federation.folder)
    made = (Ed25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(more))
    fresh = Register(federation or real.federation, edition or real.edition + 1, (*real.keys, *made))
    return fresh.sign(authority or Authority(place.federation.folder / "authority"))


def test_a_server_can_add_no_device(place, tmp_path):
    """It has the operator's key and an authority of its own; then it takes the real signature for another list."""
    real = Register.load(place.federation.folder)
    other = Authority.create(tmp_path / "other")
    assert place.ask(0, place.opening(register=sybils(place, other))) is Failure.IDENTITY
    assert place.ask(0, place.opening(register=dataclasses.replace(sybils(place, other), signature=real.signature))) is Failure.IDENTITY
    assert "not signed by the authority" in place.reasons(0)
    content = place.opening()
    content[REGISTER] = ConfigRecord({"content": b"{"})
    assert place.ask(0, content) is Failure.IDENTITY
    del content[REGISTER]
    assert place.ask(0, content) is Failure.IDENTITY
    assert place.ask(0, place.opening(federation="another")) is Failure.IDENTITY
    content = place.opening()
    content[REGISTER] = ConfigRecord({"content": sybils(place).encode()})  # a newer register than that of the terms
    assert place.ask(0, content) is Failure.TERMS
    assert place.kept(0) is None


def test_an_older_register_and_a_second_one_of_an_edition_are_refused(place):
    newer = sybils(place, edition=9)
    assert place.ask(0, place.opening(register=newer)) is None
    assert Register.load(place.homes[0].home) == newer
    assert place.ask(0, place.opening(2)) is Failure.REPLAY
    assert place.ask(0, place.opening(2, register=sybils(place, edition=9))) is Failure.IDENTITY
    assert "two registers of devices are both edition 9" in place.reasons(0)


def test_a_member_may_pin_the_register_that_others_have(place):
    toml = place.homes[0].home / "device.toml"
    said = Register.load(place.federation.folder).sha256
    assert said == place.federation.vouch()
    toml.write_text(toml.read_text().replace("[policy]", f'[policy]\nregister = "{said}"'))
    assert place.ask(0, place.opening(register=sybils(place))) is Failure.IDENTITY  # though the authority signed it
    assert place.ask(0, place.opening()) is None


def test_terms_without_signatures_are_not_the_devices_own(place):
    register = Register.load(place.federation.folder)
    terms = dataclasses.replace(Plan(CLIP), register=register).terms("", 1, range(COUNT), fakes.contract().length)
    assert place.ask(0, place.opening(terms=dataclasses.replace(terms, signed=False))) is Failure.TERMS
    assert place.ask(0, place.opening(terms=dataclasses.replace(terms, run="another"))) is Failure.TERMS
    assert place.ask(0, place.opening(terms=dataclasses.replace(terms, clients=(0, 1, 2, 9)))) is Failure.TERMS


def test_a_plain_order_gets_no_update_and_a_stranger_none_either(place):
    content = place.opening()
    del content[SUM]
    assert place.ask(0, content) is Failure.BASE
    assert place.ask(0, place.opening(key=Ed25519PrivateKey.generate())) is Failure.IDENTITY
    assert place.ask(0, proved(place, Step("shares", 1, b""))) is Failure.PHASE  # nothing has begun
    (place.homes[0].home / "register.json").write_bytes(Register.load(place.federation.folder).encode())
    assert place.ask(0, proved(place, Step("shares", 1, b""))) is Failure.PHASE
    assert place.ask(0, proved(place, Step("shares", 1, bytes((1 << 24) + 1)))) is Failure.SIZE


def test_a_device_that_is_not_on_the_register_takes_no_part(place):
    real = Register.load(place.federation.folder)
    without = Register(real.federation, real.edition + 1, real.keys[1:]).sign(Authority(place.federation.folder / "authority"))
    assert place.ask(0, place.opening(register=without)) is Failure.IDENTITY
    assert "not on the register" in place.reasons(0)


def test_who_pauses_or_leaves_in_a_round_takes_no_further_step(place):
    home = place.homes[1]

    def down(number, content):
        if number == 1 and SUM in content and Step.read(content).name == "masked":
            assert len(place.kept(1).state.seed) == 32
            home.leave()

    place.down = down
    place.run()
    assert place.codes("masked") == {1: Failure.AWAY}
    assert place.federation.history()[0]["failures"] == {"1": "away"}
    assert not (home.home / masking.FILE).exists()
    assert not (home.home / "key").exists()
    place.homes[0].forget()
    assert not {masking.FILE, "sum.lock", "register.json"} & {path.name for path in place.homes[0].home.iterdir()}


# Noise in shares


def test_with_as_many_lost_as_may_be_the_noise_is_that_which_was_charged(tmp_path, monkeypatch):
    """Three of four stay, and one of them may leave its noise out: two shares are what the accountant counts on, and three are there."""
    place = Place(tmp_path, wishes(noise=2.0), monkeypatch)

    def up(number, content):
        if number == 1 and SUM in content and Step.read(content).name == "masked":
            raise SystemError("the node is gone")

    place.up = up
    moved = flatten(shared(place.run())) - flatten(shared(fakes.small_base()))
    state = ServerState.load(place.federation.folder / "state.safetensors")[0]
    (charged,) = state.extra.values()
    assert '"noise": 2.0' in json.dumps(charged)
    vectors = [shorten(flatten(fakes.Trainee(one).fit_alone(fakes.small_base(), 1)), CLIP) for one in (0, 2, 3)]
    noise = moved * COUNT - sum(vectors)  # the mean is over the four that were expected
    least, wanted = 2.0 * CLIP, 2.0 * CLIP * np.sqrt(3 / 2)
    assert noise.std() == pytest.approx(wanted, rel=6 / np.sqrt(2 * len(noise)) + 0.001)
    assert noise.std() * np.sqrt(2 / 3) >= least * (1 - 6 / np.sqrt(2 * len(noise)))


@pytest.mark.parametrize("sampler", ["poisson", "fixed"])
def test_a_device_reckons_the_noise_of_an_epsilon_for_the_rounds_that_it_takes_part_in(tmp_path, monkeypatch, sampler):
    """Device 3 allows two rounds and not three, so that its noise would be less than the others': it finds the terms to be another's."""
    private = Privacy(clip=1e-3, secure=True, target_epsilon=2.0, delta=1e-5, sampler=sampler)
    place = Place(tmp_path, dataclasses.replace(wishes(rounds=3), privacy=private), monkeypatch)
    for number, home in enumerate(place.homes):
        toml = home.home / "device.toml"
        toml.write_text(toml.read_text().replace("[policy]", f"[policy]\nlast_round = {2 if number == 3 else 3}"))
    place.run()
    rows = place.federation.history()
    assert [row["failures"] for row in rows[:2]] == [{"3": "terms"}] * 2
    assert [row["replied"] for row in rows] == [3, 3, 3]


def test_what_both_sides_cannot_know_alike_is_refused_before_anything_starts(tmp_path, monkeypatch):
    for wrong, match in (
        ({"target_epsilon": 4.0}, "devices do not know how many they are"),
        ({"noise": 1.0, "reproducible": True}, "devices draw their noise in secret"),
    ):
        config = dataclasses.replace(wishes(), privacy=Privacy(clip=1.0, secure=True, **wrong))
        with pytest.raises(ConfigError, match=match):
            Federation.found(config, tmp_path / "federation", ["example.org"])
        with pytest.raises(ConfigError, match=match):
            Membership.create(tmp_path / "home", address="a:1", photos="p", style="s", config=config)
        (tmp_path / "home" / "key").unlink()
        (tmp_path / "home" / "key.pub").unlink()
    private = Privacy(mode="private")
    with pytest.raises(ConfigError, match="sums over 20 clients"):
        Federation.found(dataclasses.replace(wishes(cohort=19), privacy=private), tmp_path / "federation", ["example.org"])
    few = Federation.found(dataclasses.replace(wishes(), privacy=private), tmp_path / "private", ["example.org"])
    roll = dataclasses.replace(Roll.load(few.folder), members=tuple(Member(one, f"{one}", one, f"{one:064x}") for one in range(19)))
    roll.save(few.folder)
    few.vouch()
    monkeypatch.setenv(FEDERATION, str(few.folder))
    with pytest.raises(ConfigError, match=r"server\.cohort = 19: the private mode sums over 20 devices"):
        host(None, {})
    for server, match in (({"strategy": "Krum"}, "looks at single updates"), ({"cohort": 2}, "of 3 clients a round or more")):
        with pytest.raises(ConfigError, match=match):
            Federation.found(wishes(**server), tmp_path / "federation", ["example.org"])


# Who vouches


def test_enrolling_and_dismissing_need_the_authoritys_key(place, tmp_path):
    folder, before = place.federation.folder, Register.load(place.federation.folder)
    assert (before.edition, len(before.keys), before.federation) == (COUNT, COUNT, Roll.load(folder).name)
    assert before.keys[2] == verification_key(place.homes[2].home / "key.pub")
    (folder / "authority" / "authority.key").rename(tmp_path / "elsewhere")
    with pytest.raises(FederationError, match=r"no usable authority\.key"):
        place.federation.dismiss("1")
    assert Register.load(folder) == before
    with pytest.raises(FederationError, match="vouch for them first"):
        host(None, {})
    (tmp_path / "elsewhere").rename(folder / "authority" / "authority.key")
    place.federation.vouch()
    after = Register.load(folder)
    assert (after.edition, after.keys) == (COUNT + 1, (before.keys[0], *before.keys[2:]))
    one_line = tmp_path / "9" / "key.pub"
    make_device_key(tmp_path / "9" / "key")
    one_line.write_bytes(one_line.read_bytes().splitlines()[0])
    with pytest.raises(FederationError, match="no second line"):
        place.federation.enrol(one_line, "nine")


def test_a_register_has_one_form(tmp_path):
    authority = Authority.create(tmp_path / "authority")
    made = Register("ours", 3, (bytes(32), bytes(31) + b"1")).sign(authority)
    assert Register.decode(made.encode()) == made
    assert read_register(made.encode(), authority.certificate) == made
    assert made.sha256 == Register("ours", 3, made.keys).sign(authority).sha256  # ECDSA signs differently each time
    text = made.encode()
    for wrong in (text[:-1], text + b" ", text.replace(b"3", b"3.0", 1), text.replace(b'"ours"', b"7"), b"[]", b"", b"x" * (1 << 23)):
        with pytest.raises(WireError):
            Register.decode(wrong)
    for facts in (("", 1, ()), ("a b", 1, ()), ("a", 0, ()), ("a", 1, (b"short",)), ("a", 1, (bytes(32), bytes(32)))):
        with pytest.raises(WireError):
            Register(*facts)
    with pytest.raises(FederationError, match="holds no authority's certificate"):
        read_register(text, tmp_path / "none.crt")
    keep_register(tmp_path, made)
    (tmp_path / "register.json").write_bytes(text[:-1])
    with pytest.raises(FedstyleError, match="is damaged"):
        keep_register(tmp_path, made)


def test_a_device_signs_with_a_key_that_goes_where_its_own_goes(tmp_path):
    public = make_device_key(tmp_path / "key")
    secret = signing_secret(tmp_path / "key")
    assert keys.Identity(secret, {}).public == verification_key(public)
    make_device_key(tmp_path / "other")
    assert signing_secret(tmp_path / "other") != secret
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "key").unlink()
    with pytest.raises(FederationError, match="holds no device's key"):
        signing_secret(tmp_path / "key")
