"""Secure sums in real rounds: what the server gets, what falls out, and what a device refuses."""

import contextlib
import dataclasses
import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import flower_fakes as fakes
import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from private_things import plant
from test_private_things import wishes as planted
from test_walls import loaded

from fedstyle.config import Export, Privacy
from fedstyle.errors import ConfigError, FederationError, FedstyleError, WireError
from fedstyle.files import locked
from fedstyle.flower import engine, masking
from fedstyle.flower.client import answer
from fedstyle.flower.private import EXTRA, Promise, read_ledger
from fedstyle.flower.secure import STEPS, SUM, Plan, Step
from fedstyle.flower.server import serve
from fedstyle.flower.wire import DELTA, FAILURE, CodedError, Failure, Order
from fedstyle.flower.wire import sizes as sizes_of
from fedstyle.net import is_norm
from fedstyle.privacy.accounting import epsilon
from fedstyle.privacy.gaussian import shorten
from fedstyle.privacy.grid import LEVELS
from fedstyle.privacy.noise import flatten
from fedstyle.privacy.sampling import Fixed, Poisson
from fedstyle.privacy.secagg import server
from fedstyle.privacy.secagg.messages import Delivery, Masked, Survivors, Unmasking
from fedstyle.roster import Roster
from fedstyle.simulate import simulate

COUNT = 5
"""Five clients: one may work with the server, so that (5 + 1) // 2 + 1 = 4 must stay to the end, and one may fall out."""
CLIP = 100.0
"""No update of the fakes is as long, so that none is shortened."""


def wishes(clip=CLIP, noise=0.0, server=None, **privacy):
    asked = fakes.config(**{"rounds": 1, "wire": "fp32", "workers": 2, **(server or {})})
    return dataclasses.replace(asked, privacy=Privacy(clip=clip, noise=noise, **{"secure": True, **privacy}))


class Tap:
    """Stands between grid and devices: keeps what crosses, and may lose or change it."""

    def __init__(self, lose=(), down=None, up=None):
        self.lose, self.down, self.up = set(lose), down, up
        self.sent, self.replies = [], []

    def __call__(self, app):
        def answer(message, context):
            partition, step = message.metadata.dst_node_id - 1, message.content.config_records.get(SUM, {}).get("step")
            if (partition, step) in self.lose:
                raise RuntimeError("the process dies")
            if step and self.down and (changed := self.down(partition, Step.read(message.content))):
                message.content = changed.write()
            reply = app(message, context)
            if self.up and SUM in reply.content and (changed := self.up(partition, Step.read(reply.content))):
                reply.content = changed.write()
            if step:
                self.replies.append((partition, step, reply.content))
            return reply

        return answer

    def bodies(self, step):
        return {one: Step.read(content).body for one, name, content in self.replies if name == step and SUM in content}


def run(folder, config=None, *, tap=None, clients=None, count=COUNT, **told):
    """The base and the rounds of a run of fake clients."""
    rounds = []
    with pytest.MonkeyPatch.context() as patch:
        if tap:
            make = engine.client_app
            patch.setattr(engine, "client_app", lambda *given, **named: tap(make(*given, **named)))
        clients = clients or fakes.Fakes(folder)
        told = {"on_round": rounds.append, **told}
        base = engine.run_federation(config or wishes(), fakes.small_base(), clients, count, **told)
    return base, rounds


def mean_of(partitions, clip=CLIP):
    """Base + mean of these clients' clipped deltas of round 1, in 64-bit floats, as one vector."""
    first = fakes.small_base()
    vectors = [shorten(flatten(fakes.Trainee(one).fit_alone(first, 1)), clip) for one in partitions]
    return flatten(shared(first)) + sum(vectors) / len(vectors)


def shared(base):
    return {name: value for name, value in base.weights.items() if not is_norm(name)}


def bound(clip, largest):
    """How far a secure base may be from the mean in real numbers.

    Each update's number moves to the nearest point of the grid, half a step clip / 2^20 at most, so their mean does, too. The mean, of
    size `largest` at most, is rounded to fp32, base + mean again, and by FedAvg once more: half of 2^-23 of it each time.
    """
    return clip / LEVELS / 2 + 3 * largest * 2.0**-24


def apart(base, partitions, clip=CLIP):
    wanted = mean_of(partitions, clip)
    return np.abs(flatten(shared(base)) - wanted).max() / bound(clip, np.abs(wanted).max())


# The base


def test_the_base_is_that_of_fedavg_to_quantisation(tmp_path):
    secure, rounds = run(tmp_path / "secure")
    plain, _ = run(tmp_path / "plain", wishes(secure=False))
    assert apart(secure, range(COUNT)) <= 1
    both = [flatten(shared(base)) for base in (secure, plain)]
    assert 0 < np.abs(both[0] - both[1]).max() <= 2 * bound(CLIP, np.abs(both[0]).max())  # the plain one has its own roundings
    assert (rounds[0].replied, rounds[0].failures) == (tuple(range(COUNT)), {})
    first = fakes.small_base()
    assert all(torch.equal(secure.weights[name], first.weights[name]) for name in filter(is_norm, first.weights))


def test_devices_clip_whatever_their_method_gave(tmp_path):
    base, _ = run(tmp_path, wishes(clip=0.25))
    assert apart(base, range(COUNT), clip=0.25) <= 1
    assert np.linalg.norm(flatten(shared(base)) - flatten(shared(fakes.small_base()))) <= 0.25


@pytest.mark.parametrize("strategy", ["FedAvgM", "FedAdam", "FedProx"])
def test_other_averages_get_one_reply_and_do_with_it_what_they_do_with_many(tmp_path, strategy):
    options = {"FedAvgM": {"server_momentum": 0.9}, "FedAdam": {"eta": 0.01, "tau": 0.1}, "FedProx": {"proximal_mu": 0.5}}[strategy]
    server = {"strategy": strategy, "options": options, "rounds": 2}
    secure, plain = (flatten(shared(run(tmp_path / f"{on}", wishes(secure=on, server=server))[0])) for on in (True, False))
    # Two rounds, each off by the bound; the server's rates are at most 1, and momentum's 1 + 0.9, or Adam's 1 / tau, multiply a difference.
    assert np.abs(secure - plain).max() <= 2 * 2 * 1.9 * bound(CLIP, np.abs(plain).max())


def test_any_number_of_workers_gives_the_same_bits_and_so_does_a_run_that_goes_on(tmp_path):
    config = wishes(server={"rounds": 3, "cohort": 4})
    whole, _ = run(tmp_path / "a", config)
    _, rounds = run(tmp_path / "b", dataclasses.replace(config, server=dataclasses.replace(config.server, workers=1, rounds=2)))
    rest, later = run(tmp_path / "b", config, after=rounds[-1].state)
    assert rest.sha256 == whole.sha256
    assert [now.number for now in later] == [3]


# Who falls out


@pytest.mark.parametrize("step", STEPS)
def test_a_client_may_fall_out_in_any_step(tmp_path, step):
    base, rounds = run(tmp_path, wishes(server={"min_replies": 0.5}), tap=Tap(lose={(1, step)}))
    stayed = tuple(range(COUNT)) if step == "unmasking" else (0, 2, 3, 4)
    assert rounds[0].replied == stayed
    assert rounds[0].failures == ({} if step == "unmasking" else {1: "lost"})
    assert apart(base, stayed) <= 1


@pytest.mark.parametrize("step", STEPS)
def test_too_many_that_fall_out_end_the_run_and_nothing_is_unmasked(tmp_path, step):
    tap = Tap(lose={(1, step), (4, step)})
    words = r"round 1: only 3 of 5 clients replied \(lost 2\), and 4 must: .*, for a secure sum needs so many"
    with pytest.raises(FederationError, match=words):
        run(tmp_path, wishes(server={"min_replies": 0.5}), tap=tap)
    assert bool(tap.bodies("unmasking")) == (step == "unmasking")


def test_the_configured_share_of_replies_rules_as_in_any_round(tmp_path):
    with pytest.raises(FederationError, match=r"only 4 of 5 clients replied \(photos 1\), and 5 must: .* lower server.min_replies"):
        run(tmp_path, clients=fakes.Fakes(tmp_path, bad=(1,)))
    base, rounds = run(tmp_path / "b", wishes(server={"min_replies": 0.8}), clients=fakes.Fakes(tmp_path / "b", bad=(1,)))
    assert rounds[0].failures == {1: "photos"}
    assert apart(base, (0, 2, 3, 4)) <= 1
    assert "round 1: photos" in (tmp_path / "b" / "1" / "errors.log").read_text()


def test_flaky_clients_fall_out_before_they_have_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(Roster, "of", lambda *_: Roster(flaky=frozenset([1, 4]), flaky_rate=1.0, seed=1))  # lost, and then late
    tap = Tap()
    _, rounds = run(tmp_path, wishes(server={"min_replies": 0.5, "rounds": 2}), tap=tap, count=7)
    assert [now.failures for now in rounds] == [{1: "lost", 4: "lost"}, {1: "late", 4: "late"}]
    assert not {1, 4} & tap.bodies("shares").keys()


def test_a_client_that_is_late_in_training_is_left_out_before_the_others_are_out_of_time(tmp_path):
    class Slow(fakes.Fakes):
        def __call__(self, partition):
            while partition == 1:
                time.sleep(0.01)
            return super().__call__(partition)

    _, rounds = run(tmp_path, wishes(server={"min_replies": 0.5, "timeout": 6.0, "workers": 3}), clients=Slow(tmp_path))
    assert rounds[0].failures == {1: "late"}
    assert 0.7 * 6 <= rounds[0].seconds < 6


# What crosses


def test_the_server_gets_keys_shares_and_masked_numbers_and_no_update(tmp_path):
    tap = Tap()
    _, rounds = run(tmp_path, tap=tap)
    plan = Plan(CLIP)
    length = fakes.contract().length
    clear = {one: flatten(fakes.Trainee(one).fit_alone(fakes.small_base(), 1)) for one in range(COUNT)}
    assert all(set(content) == {SUM} for _, _, content in tap.replies)
    assert [sum(step == name for _, name, _ in tap.replies) for step in STEPS] == [COUNT] * 4
    terms = plan.terms("x", 1, range(COUNT), length)
    for one, body in tap.bodies("masked").items():
        words = np.frombuffer(body[-32 - 4 * length : -32], "<u4")  # the fields end where the hash begins
        plain = terms.grid.encode(clear[one])
        assert uneven(words) < 6, "a masked update is not uniform"
        assert uneven(plain.astype("<u4")) > 1000  # the same check sees what is not masked
        # A masked number equals the one below it with a chance of 2^-32; 27,000 numbers do so once in 160,000 runs.
        assert np.mean(words == plain.astype("<u4")) < 0.001
        assert abs(np.corrcoef(words.astype(float), clear[one])[0, 1]) < 6 / np.sqrt(length)
        assert clear[one].astype("<f4").tobytes()[:64] not in b"".join(Step.read(content).body for _, _, content in tap.replies)
    total = sum(len(Step.read(content).body) for _, _, content in tap.replies)
    assert rounds[0].bytes_up == total


def uneven(words):
    """The chi-square statistic of the four byte positions' 256 values, the worst, in standard deviations over its mean.

    Of uniform bytes it has mean 255 and standard deviation sqrt(2 * 255).
    """
    columns = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 4)
    expected = len(columns) / 256
    worst = max(((np.bincount(columns[:, place], minlength=256) - expected) ** 2 / expected).sum() for place in range(4))
    return (worst - 255) / np.sqrt(2 * 255)


def test_nothing_that_was_planted_in_photos_and_styles_is_in_any_step(tmp_path, monkeypatch):
    secrets, tap, make = plant(tmp_path / "home"), Tap(), engine.client_app
    config = planted(tmp_path / "home")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, clients=3), privacy=Privacy(clip=1.0, secure=True))
    config = dataclasses.replace(config, server=dataclasses.replace(config.server, rounds=1))
    monkeypatch.setattr(engine, "client_app", lambda *given, **named: tap(make(*given, **named)))
    simulate(dataclasses.replace(config, export=Export(clients=False)), tmp_path / "run")
    assert len(tap.replies) == 3 * len(STEPS)
    assert [secrets.find(Step.read(content).body) for _, _, content in tap.replies] == [[]] * len(tap.replies)
    for home in (tmp_path / "run" / "clients").iterdir():
        assert secrets.find((home / masking.FILE).read_bytes()) == []
        assert secrets.find((home / "ledger.jsonl").read_bytes()) == []


def test_a_failing_device_tells_a_code_and_nothing_else(tmp_path):
    tap = Tap()
    run(tmp_path, wishes(server={"min_replies": 0.5}), tap=tap, clients=fakes.Fakes(tmp_path, bad=(1,)))
    (told,) = [content for one, _, content in tap.replies if one == 1]
    assert (set(told), told[FAILURE]) == ({FAILURE}, ConfigRecord({"code": "photos"}))


def test_two_rounds_of_one_update_look_nothing_alike(tmp_path):
    bodies = []
    for name in ("a", "b"):
        tap = Tap()
        run(tmp_path / name, tap=tap)
        bodies.append(np.frombuffer(tap.bodies("masked")[0][-32 - 4 * fakes.contract().length : -32], "<u4"))
    assert np.mean(bodies[0] == bodies[1]) < 0.001
    assert uneven(bodies[0] - bodies[1]) < 6


def test_the_ledger_of_a_device_has_a_line_for_every_step(tmp_path):
    _, rounds = run(tmp_path)
    lines = [[json.loads(line) for line in (tmp_path / f"{one}" / "ledger.jsonl").read_text().splitlines()] for one in range(COUNT)]
    assert all([line["kind"] for line in own] == ["hello", "advert", "shares", "update", "unmasking"] for own in lines)
    assert sum(line["bytes"] for own in lines for line in own if line["round"]) == rounds[0].bytes_up
    # A message has 81 bytes around its fields, and 4 before each: two keys; four sealed shares of 94 bytes by number, and a commitment;
    # the numbers; five shares of 33 bytes by number, in two tables.
    length = fakes.contract().length
    sizes = [81 + 2 * 36, 81 + 3 * 4 + 32 + 4 * 102, 81 + 4 + 4 * length, 81 + 4 * 4 + 5 * 41]
    assert [[line["bytes"] for line in own[1:]] for own in lines] == [sizes] * COUNT
    update = lines[0][3]
    assert update["masked"] is True
    assert set(update["arrays"]) == fakes.contract().shared
    assert sum(update["arrays"].values()) == 4 * length
    # Down: the base, and the terms; five adverts; four sealed shares; five numbers.
    down = sum(sizes_of(fakes.contract("fp32").write_order(Order(fakes.small_base(), 1, 0.0))).values()) + len(terms_of(tmp_path).encode())
    down += (81 + 8 + 4 + 5 * sizes[0]) + (81 + 2 * 4 + 4 * 102) + (81 + 4 + 5 * 8)
    assert rounds[0].bytes_down == COUNT * down


# Meddling


def flip(content, place=-40):
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("step", STEPS[:3])
def test_a_reply_that_was_altered_on_its_way_is_dropped_by_code(tmp_path, step):
    def up(partition, found):
        return dataclasses.replace(found, body=flip(found.body)) if (partition, found.name) == (2, step) else None

    base, rounds = run(tmp_path, wishes(server={"min_replies": 0.5}), tap=Tap(up=up))
    assert rounds[0].failures == {2: "invalid"}
    assert apart(base, (0, 1, 3, 4)) <= 1


def test_a_reply_of_another_step_or_round_is_dropped(tmp_path):
    def up(partition, found):
        changed = {1: {"round": 2}, 2: {"name": "shares"}}.get(partition) if found.name == "advert" else None
        return dataclasses.replace(found, **changed) if changed else None

    with pytest.raises(FederationError, match=r"only 3 of 5 clients replied \(invalid 2\)"):
        run(tmp_path, wishes(server={"min_replies": 0.5}), tap=Tap(up=up))


def terms_of(folder, partition=0):
    return masking.Kept.load(folder / f"{partition}").state.terms


def test_a_share_that_another_party_made_is_found_by_its_receiver(tmp_path):
    def down(partition, found):
        if (partition, found.name) != (3, "masked"):
            return None
        terms = terms_of(tmp_path)
        sealed = dict(Delivery.decode(found.body, terms)[1].sealed)
        sealed[0] = flip(sealed[0], 20)
        return dataclasses.replace(found, body=Delivery(sealed).encode(terms))  # with the right hash

    base, rounds = run(tmp_path, wishes(server={"min_replies": 0.5}), tap=Tap(down=down))
    assert rounds[0].failures == {3: "altered"}
    assert apart(base, (0, 1, 2, 4)) <= 1


def test_a_wrong_share_at_the_end_is_no_result_instead_of_a_wrong_one(tmp_path):
    def up(partition, found):
        if (partition, found.name) != (0, "unmasking"):
            return None
        terms = terms_of(tmp_path)
        sent = Unmasking.decode(found.body, terms)[1]
        return dataclasses.replace(found, body=Unmasking({**sent.seeds, 1: flip(sent.seeds[1], 3)}, sent.secrets).encode(terms, 0))

    with pytest.raises(FederationError, match=r"round 1: the shares of a survivor's seed do not fit its commitment"):
        run(tmp_path, tap=Tap(up=up))


def test_a_device_that_is_called_lost_gives_no_share(tmp_path):
    def down(partition, found):
        return dataclasses.replace(found, body=Survivors((0, 1, 3, 4)).encode(terms_of(tmp_path))) if found.name == "unmasking" else None

    tap = Tap(down=down)
    with pytest.raises(FederationError, match="did not send the one share"):  # what it was shown is not what the server has
        run(tmp_path, wishes(server={"min_replies": 0.5}), tap=tap)
    assert 2 not in tap.bodies("unmasking")
    assert "counts this client as dropped out" in (tmp_path / "2" / "errors.log").read_text()


# A device alone


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "0")


class Device:
    """Client 0 of three, of whom the other two are played in homes of their own."""

    def __init__(self, home):
        self.plan = Plan(CLIP)
        self.contract = dataclasses.replace(fakes.contract(), secure=self.plan)
        self.homes = [home, home.parent / "1", home.parent / "2"]
        for one in self.homes:
            one.mkdir()

    def terms(self, number=1, run="run", clients=(0, 1, 2)):
        return self.plan.terms(run, number, clients, self.contract.length)

    def order(self, terms, number=None):
        content = self.contract.write_order(Order(fakes.small_base(), number or terms.round, 0.0))
        content[SUM] = Step("advert", number or terms.round, terms.encode()).write()[SUM]
        return content

    def begin(self, terms, me=0):
        order, same = masking.accept(self.contract, self.homes[me], me, self.order(terms))
        return masking.begin(self.contract, self.homes[me], me, same, fakes.Trainee(me).fit_alone(order.base, order.round))[0]

    def step(self, name, body, me=0, number=1):
        return masking.go_on(self.contract, self.homes[me], Step(name, number, body).write())[0]

    def until(self, name):
        """Play the steps before this one; gives the server's message that starts it."""
        terms = self.terms()
        round = server.Round(terms)
        replies = [(one, Step.read(self.begin(terms, one)).body) for one in range(3)]
        for step, collect in zip(STEPS[1:], (server.collect_adverts, server.collect_shares, server.collect_masked), strict=True):
            round, message = collect(round, replies)
            if step == name:
                return message
            each = message if isinstance(message, dict) else dict.fromkeys(range(3), message)
            replies = [(one, Step.read(self.step(step, each[one], one)).body) for one in range(3)]
        raise AssertionError(name)

    @property
    def file(self):
        return self.homes[0] / masking.FILE


def refused(code, act, *given, **named):
    with pytest.raises(CodedError) as caught:
        act(*given, **named)
    assert caught.value.code is code


def test_a_round_begins_once(device):
    device.begin(device.terms(number=3))
    for number in (3, 2):
        refused(Failure.REPLAY, device.begin, device.terms(number=number))
    refused(Failure.REPLAY, device.begin, device.terms(number=3, clients=(0, 1, 2, 3)))
    device.begin(device.terms(number=4))
    device.begin(device.terms(number=4, run="taken up again"))


def test_a_round_begins_once_also_where_its_training_failed(device):
    masking.accept(device.contract, device.homes[0], 0, device.order(device.terms()))
    refused(Failure.REPLAY, device.begin, device.terms())


def test_a_round_that_trained_for_too_long_does_not_come_back(device):
    first, second = device.terms(), device.terms(number=2)
    order, _ = masking.accept(device.contract, device.homes[0], 0, device.order(first))
    device.begin(second)
    delta = fakes.Trainee(0).fit_alone(order.base, 1)
    refused(Failure.PHASE, masking.begin, device.contract, device.homes[0], 0, first, delta)
    assert masking.Kept.load(device.homes[0]).state.terms == second


def test_two_processes_do_not_answer_from_one_state(device):
    body = device.until("masked")[0]
    with locked(device.homes[0] / "sum.lock", AssertionError()):
        refused(Failure.PHASE, device.step, "masked", body)
    device.step("masked", body)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 3},
        {"colluders": 1, "threshold": 3},
        {"noise": 8.0},
        {"length": 7},
        {"signed": True},
        {"clients": (1, 2, 3)},
        {"round": 2},
    ],
    ids=lambda change: "-".join(change),
)
def test_terms_are_the_devices_own_or_none(device, change):
    content = device.order(dataclasses.replace(device.terms(), **change), number=1)
    refused(Failure.TERMS, masking.accept, device.contract, device.homes[0], 0, content)
    assert not device.file.exists()


@pytest.mark.parametrize("plan", [Plan(2 * CLIP), Plan(CLIP, noise=1.0)])
def test_another_clip_or_noise_is_refused(device, plan):
    terms = plan.terms("run", 1, range(3), device.contract.length)
    refused(Failure.TERMS, masking.accept, device.contract, device.homes[0], 0, device.order(terms))


def test_noise_may_not_be_left_out(device):
    terms = device.terms()
    careful = dataclasses.replace(device.contract, secure=Plan(CLIP, noise=1.0))
    refused(Failure.TERMS, masking.accept, careful, device.homes[0], 0, device.order(terms))


def test_a_step_is_taken_once_and_in_its_turn(device):
    body = device.until("masked")
    refused(Failure.PHASE, device.step, "unmasking", body[0])
    refused(Failure.PHASE, device.step, "shares", body[0])
    refused(Failure.PHASE, device.step, "masked", body[0], number=2)
    device.step("masked", body[0])
    refused(Failure.PHASE, device.step, "masked", body[0])


def test_no_step_comes_before_a_round(device):
    refused(Failure.PHASE, device.step, "shares", b"")


def test_a_device_answers_one_list_of_survivors_and_then_knows_nothing_more(device):
    survivors = device.until("unmasking")
    terms = device.terms()
    reply = Unmasking.decode(Step.read(device.step("unmasking", survivors)).body, terms)[1]
    assert (reply.seeds.keys(), reply.secrets.keys()) == ({0, 1, 2}, set())
    other = Survivors((0, 1)).encode(terms)
    refused(Failure.PHASE, device.step, "unmasking", other)
    kept = masking.Kept.load(device.homes[0])
    assert kept.update == b""
    assert kept.state == type(kept.state)("done", terms, 0)


def test_secrets_lie_where_only_their_owner_reads_and_go_as_soon_as_they_can(device):
    device.until("masked")
    assert stat.S_IMODE(device.file.stat().st_mode) == 0o600
    state, update = (getattr(masking.Kept.load(device.homes[0]), name) for name in ("state", "update"))
    assert len(update) == 4 * device.contract.length
    assert len(state.mask_secret) == len(state.seed) == 32
    device.begin(device.terms(number=2))
    assert masking.Kept.load(device.homes[0]).state.seed != state.seed


def test_a_masked_update_left_no_secret_behind(device):
    device.until("unmasking")
    kept = masking.Kept.load(device.homes[0])
    assert (kept.update, kept.state.mask_secret, kept.state.seed, kept.state.share_secret) == (b"", b"", b"", b"")
    assert {path.name for path in device.homes[0].iterdir()} == {masking.FILE, "sum.lock"}


def test_an_error_in_a_step_drops_the_secrets_and_the_round(device):
    body = device.until("masked")[0]
    with pytest.raises(WireError, match="altered on its way"):
        device.step("masked", flip(body))
    kept = masking.Kept.load(device.homes[0])
    assert (kept.state.phase, kept.state.seed, kept.update) == ("done", b"", b"")
    refused(Failure.PHASE, device.step, "masked", body)


def test_a_file_that_was_altered_is_said_to_be(device):
    device.until("masked")
    device.file.write_bytes(flip(device.file.read_bytes()))
    with pytest.raises(FedstyleError, match=r"sum\.state is damaged: remove it"):
        device.begin(device.terms(number=2))


def test_an_update_that_may_not_leave_does_not_come_under_masks_either(device):
    terms = device.terms()
    order, _ = masking.accept(device.contract, device.homes[0], 0, device.order(terms))
    delta = fakes.Trainee(0).fit_alone(order.base, 1)
    for bad in (delta | {"down1.norm.weight": torch.ones(8)}, {name: value * torch.nan for name, value in delta.items()}):
        with pytest.raises(WireError):
            masking.begin(device.contract, device.homes[0], 0, terms, bad)


# Either kind of federation and device


class Wary(fakes.Fakes):
    def __call__(self, partition):
        class Owned(fakes.Trainee):
            privacy = Privacy(clip=1.0, secure=True)

        return Owned(partition)


def test_a_device_that_wants_secure_sums_sends_nothing_in_the_clear(tmp_path):
    with pytest.raises(FederationError, match=r"only 0 of 5 clients replied \(setup 5\)"):
        run(tmp_path, wishes(secure=False), clients=Wary(tmp_path))
    assert "no update leaves this device" in (tmp_path / "0" / "errors.log").read_text()
    run(tmp_path / "secure", clients=Wary(tmp_path / "secure"))


def test_a_plain_order_gets_no_update_of_a_device_with_a_plan(tmp_path):
    contract = dataclasses.replace(fakes.contract(), secure=Plan(CLIP))
    context = Context(run_id=1, node_id=1, node_config={"partition-id": 0}, state=RecordDict(), run_config={})
    reply = answer(lambda _: (contract, fakes.Fakes(tmp_path)), contract.write_order(Order(fakes.small_base(), 1, 0.0)), context)
    assert DELTA not in reply
    assert reply[FAILURE] == ConfigRecord({"code": "base"})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (wishes(server={"strategy": "Krum"}), "'Krum' looks at single updates"),
        (wishes(server={"strategy": "FedMedian"}), "privacy.secure = false, or use FedAvg"),
        (wishes(server={"bound": 1.0}), "server.bound"),
        (wishes(server={"cohort": 2}), "server.cohort = 2: a secure sum is of 3 clients"),
    ],
)
def test_what_cannot_be_summed_securely_is_refused_before_anything_starts(tmp_path, config, words):
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, config)
    assert not list(tmp_path.iterdir())


def test_updates_must_be_clipped():
    with pytest.raises(ConfigError, match=r"privacy\.clip = 0\.0: secure sums are of clipped updates"):
        Privacy(secure=True)


def test_clients_that_run_elsewhere_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="for the engines inline and ray"):
        run(tmp_path, grid=object())
    with pytest.raises(ConfigError, match="for the engines inline and ray"):
        serve(None, wishes(), fakes.small_base(), fakes.contract(), 5)


# Noise in shares


def noisy(**rest):
    return wishes(**{"clip": 1e-3, "noise": 2.0, "reproducible": True, **rest})


def test_a_round_is_charged_as_if_nobody_were_drawn_by_chance():
    # The server knows whom it asked: a rate of 3 in 5 saves nothing against it.
    promise = Promise.of(noisy(server={"cohort": 3}), 5)
    assert promise.mechanism.sampler == Poisson(5, 0.6)
    assert promise.charged.sampler == Poisson(5, 1.0)
    assert Promise.of(noisy(server={"cohort": 3}, sampler="fixed"), 5).charged.sampler == Fixed(5, 5)
    config = noisy(noise=0.0, target_epsilon=4.0, server={"cohort": 3, "rounds": 4})
    found = Promise.of(config, 5)
    assert 3.99 < epsilon(found.charged.noise, Poisson(5, 1.0), 4, found.delta) <= 4


def test_a_round_is_paid_after_its_updates_came_and_before_any_share_was_given(tmp_path):
    tap, paid = Tap(), []

    def on_charge(state):
        paid.append((state, len(tap.bodies("masked")), len(tap.bodies("unmasking"))))

    _, rounds = run(tmp_path, noisy(), tap=tap, on_charge=on_charge)
    ((state, masked, unmasked),) = paid
    assert (state.round, read_ledger(state.extra).rounds, masked, unmasked) == (0, 1, COUNT, 0)
    assert read_ledger(rounds[0].state.extra) == read_ledger(state.extra)


@pytest.mark.parametrize("lost", [None, "advert", "shares", "masked", "unmasking"])
def test_the_noise_on_the_base_is_at_least_what_was_accounted_whoever_falls_out(tmp_path, lost):
    # A share has the variance s^2 / (threshold - colluders) = s^2 / 3, where s = noise * clip. Of five clients four must stay, and one of
    # those may leave its noise out: then it is s^2. Where all keep to it there is more, by 5 or 4 shares in place of 3.
    base, rounds = run(tmp_path, noisy(server={"min_replies": 0.5}), tap=Tap(lose={(1, lost)} if lost else ()))
    stayed = len(rounds[0].replied)
    assert stayed == (5 if lost in (None, "unmasking") else 4)
    moved = flatten(shared(base)) - flatten(shared(fakes.small_base()))
    wanted = 2.0 * 1e-3 / 5 * np.sqrt(stayed / 3)
    assert moved.std() * np.sqrt((stayed - 1) / stayed) > 2.0 * 1e-3 / 5 * (1 - 6 / np.sqrt(2 * len(moved)))
    # Five updates of norm 1e-3 at most, over 5, add (1e-3)^2 / d to the variance at most: under 1 %.
    assert moved.std() == pytest.approx(wanted, rel=6 / np.sqrt(2 * len(moved)) + 0.01)


def test_noise_repeats_where_it_is_asked_to_and_only_there(tmp_path):
    one, two = (run(tmp_path / name, noisy())[0].sha256 for name in "ab")
    assert one == two
    assert run(tmp_path / "c", noisy(reproducible=False))[0].sha256 != one


def test_the_mean_is_over_the_expected_cohort(tmp_path):
    # Noise almost none: 4 of 5 updates over the 5 that were expected.
    base, rounds = run(tmp_path, wishes(noise=1e-4, server={"min_replies": 0.5}, reproducible=True), tap=Tap(lose={(1, "masked")}))
    assert rounds[0].replied == (0, 2, 3, 4)
    first = flatten(shared(fakes.small_base()))
    wanted = first + (mean_of((0, 2, 3, 4)) - first) * 4 / 5
    # At most 4 shares of noise, 1e-4 * CLIP / sqrt(3) each, and six standard deviations of that.
    assert np.abs(flatten(shared(base)) - wanted).max() < 6 * 1e-4 * CLIP * np.sqrt(4 / 3) / 5


def test_a_draw_of_fewer_than_three_asks_nobody_moves_nothing_and_costs_nothing(tmp_path):
    tap, config = Tap(), noisy(server={"cohort": 3, "rounds": 6, "min_replies": 0.1}, clip=CLIP, noise=1.0)
    _, rounds = run(tmp_path, config, tap=tap)
    sizes = [len(now.cohort) for now in rounds]
    assert set(sizes) & {0}
    assert not set(sizes) & {1, 2}
    before = fakes.small_base()
    for now in rounds:
        same = all(torch.equal(now.base.weights[name], value) for name, value in before.weights.items())
        assert same == (not now.cohort)
        before = now.base
    assert read_ledger(rounds[-1].state.extra).rounds == sum(size > 0 for size in sizes)
    assert {one for one, _, _ in tap.replies} == {one for now in rounds for one in now.cohort}


def test_rounds_stop_at_the_budget_and_the_report_says_what_is_covered(tmp_path):
    config = noisy(server={"rounds": 3})
    promise = Promise.of(config, COUNT)
    two = epsilon(2.0, Poisson(COUNT, 1.0), 2, promise.delta)
    config = dataclasses.replace(config, privacy=dataclasses.replace(config.privacy, budget=two * 1.0001))
    _, rounds = run(tmp_path, config)
    assert [now.number for now in rounds] == [1, 2]
    told = engine.privacy_statement(config, COUNT, rounds[-1].state)
    assert told["epsilon"] == pytest.approx(two)
    assert "secure sum" in told["mechanism"]
    assert told["not covered"][0].startswith("a server that lies")
    signed = engine.privacy_statement(config, COUNT, rounds[-1].state, signed=True)
    assert {key for key in told if told[key] != signed[key]} == {"holds against", "not covered"}


def test_a_run_that_dies_after_the_charge_asks_the_same_devices_again(tmp_path):
    states = []

    def die(state):
        states.append(state)
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run(tmp_path, noisy(), on_charge=die)
    _, rounds = run(tmp_path, noisy(), after=states[0])
    assert read_ledger(rounds[0].state.extra).rounds == 2  # the round that is done again is paid again


def test_without_noise_nothing_is_charged(tmp_path):
    _, rounds = run(tmp_path)
    assert EXTRA not in rounds[0].state.extra


RAY = """
import dataclasses, pathlib, sys
import flower_fakes as fakes
from fedstyle.config import Privacy
from fedstyle.flower.engine import run_federation
config = dataclasses.replace(fakes.config(engine="ray", workers=2), privacy=Privacy(clip=100.0, secure=True))
print(run_federation(config, fakes.small_base(), fakes.Fakes(pathlib.Path(sys.argv[1])), 4).sha256)
"""


@pytest.mark.soak
def test_ray_gives_the_base_that_inline_gives(tmp_path):
    """Each message may reach another process: what a device keeps between two is in its home."""
    arguments = [sys.executable, "-c", RAY, str(tmp_path / "ray")]
    done = subprocess.run(arguments, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300, check=True)
    config = dataclasses.replace(fakes.config(), privacy=Privacy(clip=CLIP, secure=True))
    assert done.stdout.split()[-1] == run(tmp_path / "inline", config, count=4)[0].sha256
    assert done.stderr == ""


# Walls


def test_the_server_reads_masked_numbers_as_they_are(tmp_path):
    """The last words of a masked message are its numbers: what the checks above looked at."""
    tap = Tap()
    run(tmp_path, tap=tap)
    body = tap.bodies("masked")[0]
    values = Masked.decode(body, terms_of(tmp_path))[1].values
    assert np.array_equal(values, np.frombuffer(body[-32 - 4 * fakes.contract().length : -32], "<u4"))


def test_the_servers_half_cannot_reach_a_photo():
    modules, _ = loaded("import fedstyle.flower.summing")
    assert not modules & {f"fedstyle.{name}" for name in ("photos", "picture", "style", "client", "training", "population", "methods")}
    assert "PIL" not in modules
