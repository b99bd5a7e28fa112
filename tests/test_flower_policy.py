"""What a device refuses, and that the reason stays at home. The peer that lies is made here: see test_flower_device for messages."""

import dataclasses
import json

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flower_fakes import contract, small_base
from flwr.app import ConfigRecord, RecordDict

from fedstyle.errors import ConfigError, FedstyleError, OutputError
from fedstyle.flower.orders import PROOF, prove
from fedstyle.flower.policy import Policy, RefusedError, Standing, admit, count_reply, note_refusal, set_conditions
from fedstyle.flower.wire import BASE, Failure, Order, pack, received, sizes

KEY = Ed25519PrivateKey.generate()
DAY = 86400.0


def order(round=1, proximal=0.0, base=None):
    return Order(received(base or small_base(), "fp16"), round, proximal)


def message(asked, kind="train", federation="ours", key=KEY):
    content = (contract().whole if kind == "final" else contract()).write_order(asked)
    content[PROOF] = prove(kind, asked, federation, key)
    return content


def ask(home, content, kind="train", *, policy=None, operator=True, now=1e6):
    key = KEY.public_key() if operator else None
    return admit(kind, content, home, policy or Policy(), contract(), key, clock=lambda: now)


def refused(home, content, code, match, **named):
    before = (home / "standing.json").read_bytes() if (home / "standing.json").exists() else None
    with pytest.raises(RefusedError, match=match) as caught:
        ask(home, content, **named)
    assert caught.value.code is code
    assert ((home / "standing.json").read_bytes() if (home / "standing.json").exists() else None) == before
    return caught.value


def test_an_order_of_the_operator_is_admitted_and_counted(tmp_path):
    content = message(order(3, 0.5))
    asked, rest = ask(tmp_path, content)
    assert (asked.round, asked.proximal, asked.base.sha256) == (3, 0.5, received(small_base(), "fp16").sha256)
    assert set(rest) == set(content) - {PROOF}
    standing = Standing.load(tmp_path)
    assert standing.answered == [(1e6, sum(sizes(content).values()))]
    assert standing.federations == {"ours": (3, [content.config_records[PROOF]["nonce"].hex()])}
    up = contract().write_delta({name: torch.zeros(shape) for name, shape in contract().shapes.items() if name in contract().shared})
    count_reply(tmp_path, up, clock=lambda: 1e6)
    assert Standing.load(tmp_path).answered == [(1e6, sum(sizes(content).values()) + sum(sizes(up).values()))]


def test_a_paused_device_and_one_whose_conditions_do_not_hold_are_away(tmp_path):
    careful = Policy(needs=("idle", "charging"))
    refused(tmp_path, message(order()), Failure.AWAY, "not idle, not charging", policy=careful)
    set_conditions(tmp_path, idle=True, charging=False, unmetered=True)
    refused(tmp_path, message(order()), Failure.AWAY, "not charging", policy=careful)
    (tmp_path / "conditions.json").write_text("[tru")
    refused(tmp_path, message(order()), Failure.AWAY, "not idle", policy=careful)
    set_conditions(tmp_path, idle=True, charging=True)
    ask(tmp_path, message(order()), policy=careful)
    (tmp_path / "paused").touch()
    refused(tmp_path, message(order()), Failure.AWAY, "paused")
    with pytest.raises(ConfigError, match="condition = 'warm': choose of idle, charging, unmetered"):
        set_conditions(tmp_path, warm=True)


@pytest.mark.parametrize("kind", ["query", "evaluate", "train.another", "photos"])
def test_a_request_outside_the_allow_list(tmp_path, kind):
    refused(tmp_path, message(order()), Failure.KIND, "the policy allows train, final", kind=kind)
    refused(tmp_path, message(order(), "final"), Failure.KIND, "allows train", kind="final", policy=Policy(kinds=("train",)))


def test_a_message_that_is_too_large_is_not_even_read(tmp_path):
    large = message(order())
    large[BASE] = pack({"photos": torch.zeros(2_000_000)}, "fp16")
    refused(tmp_path, large, Failure.SIZE, "bytes of arrays")
    many = message(order())
    many["more"] = ConfigRecord({"a": 1})
    refused(tmp_path, many, Failure.SIZE, "in 4 records")
    two = RecordDict({BASE: large[BASE], "other": pack({}, "fp16")})
    refused(tmp_path, two, Failure.SIZE, "in 2 records")


def test_another_architecture_and_renamed_or_added_parameters(tmp_path):
    weights = dict(small_base().weights)
    first = min(weights)
    renamed = {name: value for name, value in weights.items() if name != first} | {"other": weights[first]}
    for changed in (renamed, weights | {"more": torch.zeros(1)}, {name: value for name, value in weights.items() if name != first}):
        content = message(order())
        content[BASE] = pack(changed, "fp16")
        refused(tmp_path, content, Failure.BASE, "expected tensors")
    content[BASE] = pack({name: value.flatten() for name, value in weights.items()}, "fp16")
    refused(tmp_path, content, Failure.BASE, "expected tensors, by name, shape and type fp16")
    refused(tmp_path, RecordDict(), Failure.BASE, "no proof")


def test_a_base_or_an_order_that_another_key_signed(tmp_path):
    signed_by_another = message(order(), key=Ed25519PrivateKey.generate())
    refused(tmp_path, signed_by_another, Failure.IDENTITY, "not signed by the operator")
    refused(tmp_path, message(order(), key=None), Failure.IDENTITY, "not signed by the operator")
    other = {name: value + 1e-3 for name, value in small_base().weights.items()}
    another_base = message(order())
    another_base[BASE] = pack(other, "fp16")
    refused(tmp_path, another_base, Failure.IDENTITY, "not signed")
    another_round = message(order(2))
    another_round["round"] = contract().write_order(order(3))["round"]
    refused(tmp_path, another_round, Failure.IDENTITY, "not signed")
    final = message(order())
    final[PROOF] = prove("final", order(), "ours", KEY)
    refused(tmp_path, final, Failure.IDENTITY, "not signed")  # a final order sent as one to train
    refused(tmp_path, message(order(), "final"), Failure.BASE, "type fp16")  # which would be in fp32, too
    another_federation = message(order())
    another_federation.config_records[PROOF]["federation"] = "theirs"
    refused(tmp_path, another_federation, Failure.IDENTITY, "not signed")
    ask(tmp_path, message(order(), key=None), operator=False)  # a device that pins no key takes the SuperLink's word


def test_the_first_base_is_pinned_by_its_hash(tmp_path):
    pinned = Policy(base=received(small_base(), "fp16").sha256)
    other = dataclasses.replace(small_base(), weights={name: value + 1 for name, value in small_base().weights.items()})
    refused(tmp_path, message(order(1, base=other)), Failure.IDENTITY, "round 1 starts from base", policy=pinned)
    ask(tmp_path, message(order(1)), policy=pinned)
    ask(tmp_path, message(order(2, base=other)), policy=pinned)  # later bases are what everyone made of it


@pytest.mark.parametrize("wire", ["fp32", "fp16", "int8"])
def test_what_is_signed_and_pinned_is_the_base_as_it_crosses(tmp_path, wire):
    terms = dataclasses.replace(contract(), wire=wire)
    mine, theirs = small_base(), received(small_base(), wire)
    assert (mine.sha256 == theirs.sha256) == (wire == "fp32")
    for base, right in ((theirs, True), (mine, wire == "fp32")):
        content = terms.write_order(Order(mine, 1, 0.0))
        content[PROOF] = prove("train", Order(base, 1, 0.0), "ours", KEY)
        place, policy = tmp_path / base.sha256, Policy(base=base.sha256)
        if right:
            assert admit("train", content, place, policy, terms, KEY.public_key())[0].base.sha256 == theirs.sha256
        else:
            with pytest.raises(RefusedError, match="not signed"):
                admit("train", content, place, policy, terms, KEY.public_key())
            with pytest.raises(RefusedError, match="round 1 starts from base"):
                admit("train", content, place, policy, terms)
    last = terms.whole.write_order(Order(mine, 2, 0.0))  # what a device keeps is the federation's own base, by its own hash
    last[PROOF] = prove("final", Order(mine, 2, 0.0), "ours", KEY)
    assert admit("final", last, tmp_path / "last", Policy(), terms, KEY.public_key())[0].base.sha256 == mine.sha256


def test_a_replayed_order_is_refused_and_a_repeated_round_is_not(tmp_path):
    first, second = message(order(1)), message(order(2))
    ask(tmp_path, first)
    refused(tmp_path, first, Failure.REPLAY, "the same train order of round 1 a second time")
    ask(tmp_path, message(order(1)))  # a server that lost the answer asks anew
    refused(tmp_path, first, Failure.REPLAY, "a second time")
    ask(tmp_path, second)
    refused(tmp_path, first, Failure.REPLAY, "of round 1, after one of round 2")
    refused(tmp_path, second, Failure.REPLAY, "a second time")
    ask(tmp_path, message(order(1), federation="another"))


def test_hyper_parameters_out_of_bounds(tmp_path):
    strict = Policy(last_round=5, proximal=0.1)
    refused(tmp_path, message(order(6)), Failure.BOUNDS, "round 6", policy=strict)
    refused(tmp_path, message(order(1, 0.2)), Failure.BOUNDS, "factor 0.2", policy=strict)
    ask(tmp_path, message(order(5, 0.1)), policy=strict)
    ask(tmp_path, message(order(6), "final"), "final", policy=strict)  # what five rounds made
    content = message(order(7))
    content["round"] = ConfigRecord({"round": 7, "proximal": 0.0, "rate": 3.0})
    refused(tmp_path, content, Failure.BASE, "asks for more than")


def test_so_many_rounds_and_bytes_a_day(tmp_path):
    size = sum(sizes(message(order())).values())
    twice = Policy(rounds_a_day=2)
    ask(tmp_path, message(order(1)), policy=twice, now=0.0)
    ask(tmp_path, message(order(2)), policy=twice, now=100.0)
    refused(tmp_path, message(order(3)), Failure.LIMIT, "more than 2 orders", policy=twice, now=DAY - 1)
    ask(tmp_path, message(order(3)), policy=twice, now=DAY)
    refused(tmp_path, message(order(4)), Failure.LIMIT, f"{3 * size} bytes", policy=Policy(bytes_a_day=3 * size - 1), now=DAY + 1)


def test_a_clock_that_jumps_frees_nothing_backwards_and_blocks_no_more_than_a_day(tmp_path):
    once = Policy(rounds_a_day=1)
    ask(tmp_path, message(order(1)), policy=once, now=400 * DAY)  # the clock was far ahead
    refused(tmp_path, message(order(2)), Failure.LIMIT, "orders in 24 hours", policy=once, now=5 * DAY)
    ask(tmp_path, message(order(2)), policy=Policy(), now=5 * DAY)  # what is counted now is counted by the clock as it is
    assert [when for when, _ in Standing.load(tmp_path).answered] == [5 * DAY, 5 * DAY]
    ask(tmp_path, message(order(3)), policy=once, now=6 * DAY)


def test_an_order_that_cannot_be_counted_is_not_answered(tmp_path):
    (tmp_path / "standing.json").write_text("{")
    with pytest.raises(FedstyleError, match=r"standing\.json is damaged: remove it"):
        ask(tmp_path, message(order()))
    (tmp_path / "standing.json").unlink()
    (tmp_path / "file").touch()
    with pytest.raises((OutputError, FedstyleError)):
        ask(tmp_path / "file", message(order()))


def test_a_refusal_is_logged_at_home(tmp_path):
    note_refusal(tmp_path, "x" * 100, RefusedError(Failure.LIMIT, "more than 2 orders in 24 hours"))
    line = json.loads((tmp_path / "refusals.jsonl").read_text())
    assert (line["kind"], line["code"], line["reason"]) == ("x" * 40, "limit", "more than 2 orders in 24 hours")
    assert json.loads((tmp_path / "ledger.jsonl").read_text()) == {"round": 0, "kind": "refusal", "code": "limit", "bytes": 5}


def test_a_policy_is_checked_when_it_is_read():
    for wrong in ({"kinds": ("photos",)}, {"needs": ("warm",)}, {"rounds_a_day": -1}, {"proximal": -1.0}, {"base": "abc"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Policy(**wrong)
