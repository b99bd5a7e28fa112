"""The protocol as a whole: sums, dropouts, and what a meddling party can do."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstyle.errors import ConfigError, FederationError, ParamsError, WireError
from fedstyle.privacy.gaussian import seeded
from fedstyle.privacy.grid import Grid
from fedstyle.privacy.secagg import client as device
from fedstyle.privacy.secagg import keys, masks, server, shamir, wire
from fedstyle.privacy.secagg.messages import Adverts, Agreement, Agreements, Delivery, Masked, Shares, Survivors, Unmasking
from fedstyle.privacy.secagg.terms import Terms, threshold_for

LENGTH = 40


def identities(clients):
    secrets = {one: hashlib.sha256(bytes([one % 256])).digest() for one in clients}
    roster = {one: keys.Identity(secret, {}).public for one, secret in secrets.items()}
    return {one: keys.Identity(secret, roster) for one, secret in secrets.items()}


class Play:
    """A secure sum in one process; `lost[phase]` are the clients whose answer of that phase never comes."""

    def __init__(self, count=5, *, signed=False, lost=None, stored=False, draw=None, **rest):
        self.terms = Terms.propose("run", 7, range(10, 10 + count), LENGTH, Grid(1.0, 1 << 16), signed=signed, **rest)
        self.ids = identities(self.terms.clients) if signed else dict.fromkeys(self.terms.clients)
        self.roster = self.ids[10].roster if signed else None
        rng = np.random.default_rng(count)
        self.inputs = {one: rng.uniform(-1, 1, LENGTH) for one in self.terms.clients}
        self.lost, self.stored, self.draw = lost or {}, stored, draw or os.urandom
        self.states, self.round = {}, server.Round(self.terms, self.roster)

    def step(self, phase, one, message):
        who = self.ids[one]
        if phase == 0:
            state, reply = device.advertise(self.terms, one, who, draw=self.draw)
        elif phase == 1:
            state, reply = device.share(self.states[one], message, who, draw=self.draw)
        elif phase == 2:
            state, reply = device.mask(self.states[one], message[one], self.inputs[one], who, draw=self.draw)
        else:
            state, reply = (device.consent, device.unmask)[phase - 3](self.states[one], message, who)
        self.states[one] = device.State.decode(state.encode()) if self.stored else state
        return reply

    def replies(self, phase, clients, message=None):
        return [(one, self.step(phase, one, message)) for one in clients if one not in self.lost.get(phase, ())]

    def until(self, phase):
        """Play the phases before this one; gives the server's message that starts it."""
        message, clients = None, self.terms.clients
        collect = (server.collect_adverts, server.collect_shares, server.collect_masked, server.collect_agreements)
        for now in range(phase):
            replies = self.replies(now, clients, message)
            self.round, message = collect[now](self.round, replies)
            clients = [one for one, _ in replies]
        self.clients = clients
        return message

    def finish(self):
        message = self.until(4)
        return server.collect_unmaskings(self.round, self.replies(4, self.clients, message))

    def expected(self, clients):
        return sum(self.terms.grid.encode(self.inputs[one]) for one in clients)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_the_sum_is_exact_to_quantisation(signed, stored):
    play = Play(5, signed=signed, stored=stored)
    total = play.finish()
    assert total.clients == play.terms.clients
    assert total.refused == ()
    assert total.steps.tolist() == play.expected(total.clients).tolist()
    assert np.abs(total.values - sum(play.inputs.values())).max() <= 5 / 2 * play.terms.grid.step * (1 + 1e-9)


def test_64_bits_serve_when_32_do_not():
    play = Play(4)
    play.terms = replace(play.terms, grid=Grid(1.0, 1 << 40))
    play.round = server.Round(play.terms)
    assert play.terms.bits == 64
    assert play.finish().steps.tolist() == play.expected(play.terms.clients).tolist()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_allowed_dropouts_leave_the_sum_of_those_who_stayed(data):
    count = data.draw(st.integers(3, 8))
    signed = data.draw(st.booleans())
    clients = list(range(10, 10 + count))
    spare = count - threshold_for(count)
    gone = data.draw(st.lists(st.sampled_from(clients), max_size=spare, unique=True))
    phases = {one: data.draw(st.integers(0, 4)) for one in gone}
    lost = {phase: [one for one in gone if phases[one] == phase] for phase in range(5)}
    play = Play(count, signed=signed, lost=lost)
    total = play.finish()
    stayed = tuple(one for one in clients if phases.get(one, 5) > 2)
    assert total.clients == stayed
    assert total.steps.tolist() == play.expected(stayed).tolist()


@pytest.mark.parametrize("phase", range(5))
def test_too_many_dropouts_abort_and_reveal_nothing(phase):
    play = Play(6, lost={phase: [10, 11, 12]})  # 4 must stay
    with pytest.raises(FederationError, match=r"only 3 clients' .* came, and the secure sum needs 4"):
        play.finish()
    if play.round.total is not None:  # what the server holds then is nobody's update, nor the sum of any
        words = play.round.total
        for some in ([one] for one in play.terms.clients):
            assert np.mean(words == play.expected(some).astype(words.dtype)) < 0.2


def test_clients_stop_when_the_server_goes_on_with_too_few():
    play = Play(6)
    messages = [play.step(0, one, None) for one in (10, 11, 12)]
    with pytest.raises(FederationError, match="only 3 clients advertised"):
        play.step(1, 10, Adverts(tuple(messages)).encode(play.terms))
    play = Play(6)
    deliveries = play.until(2)
    sealed = Delivery.decode(deliveries[10], play.terms)[1].sealed
    with pytest.raises(FederationError, match="only 2 clients shared"):
        play.step(2, 10, {10: Delivery({11: sealed[11]}).encode(play.terms)})


# What a server that lies can try.


def test_a_client_that_is_called_lost_keeps_silent():
    play = Play(5, signed=True)
    play.until(3)
    with pytest.raises(WireError, match="counts this client as dropped out"):
        play.step(3, 10, Survivors((11, 12, 13, 14)).encode(play.terms))


def test_different_survivor_lists_for_different_clients_are_seen():
    play = Play(5, signed=True)
    play.until(3)
    one, other = (10, 11, 12, 13), (10, 11, 12, 14)
    said = {who: play.step(3, who, Survivors(one).encode(play.terms)) for who in (10, 11, 13)}
    said |= {who: play.step(3, who, Survivors(other).encode(play.terms)) for who in (12, 14)}
    mixed = Agreements((said[10], said[11], said[12], said[13])).encode(play.terms)
    with pytest.raises(WireError, match="different lists of survivors"):
        play.step(4, 10, mixed)
    with pytest.raises(WireError, match="no survivor agrees"):
        play.step(4, 10, Agreements((said[10], said[11], said[14], said[13])).encode(play.terms))
    with pytest.raises(FederationError, match="only 2 clients agreed"):
        play.step(4, 10, Agreements((said[10], said[11])).encode(play.terms))
    with pytest.raises(WireError, match="twice"):
        play.step(4, 10, Agreements((said[10], said[10], said[11], said[13])).encode(play.terms))


def test_a_forged_agreement_is_seen_when_messages_are_signed():
    play = Play(5, signed=True)
    survivors = play.until(3)
    said = {who: play.step(3, who, survivors) for who in (10, 11, 12)}
    stranger = keys.Identity(bytes(32), {})
    forged = Agreement.to((10, 11, 12)).encode(play.terms, 13, stranger)
    with pytest.raises(WireError, match="signature is wrong"):
        play.step(4, 10, Agreements((said[10], said[11], forged)).encode(play.terms))


def test_without_signatures_four_exchanges_do():
    play = Play(5, lost={2: [12]})
    survivors = play.until(3)
    replies = [(one, device.reveal(play.states[one], survivors)[1]) for one in play.clients]
    total = server.collect_unmaskings(server.skip_agreements(play.round), replies)
    assert total.clients == (10, 11, 13, 14)
    assert total.steps.tolist() == play.expected(total.clients).tolist()


def test_an_exchange_that_signatures_need_is_not_left_out():
    play = Play(5, signed=True)
    survivors = play.until(3)
    with pytest.raises(WireError, match="ask for signatures: consent"):
        device.reveal(play.states[10], survivors)
    with pytest.raises(FederationError, match="left out only where nobody signs"):
        server.skip_agreements(play.round)
    with pytest.raises(FederationError, match="after the masked updates"):
        server.skip_agreements(Play(5).round)


def test_who_reveals_keeps_silent_as_in_two_steps():
    play = Play(5)
    play.until(3)
    with pytest.raises(WireError, match="counts this client as dropped out"):
        device.reveal(play.states[10], Survivors((11, 12, 13, 14)).encode(play.terms))
    state, _ = device.reveal(play.states[11], Survivors((10, 11, 12, 13, 14)).encode(play.terms))
    with pytest.raises(WireError, match="this client has done"):
        device.reveal(state, Survivors((10, 11, 12, 13)).encode(play.terms))


def test_shares_of_both_secrets_of_a_client_are_never_given():
    play = Play(5)
    survivors = play.until(3)
    play.step(3, 10, survivors)
    with pytest.raises(WireError, match="has agreed, and the step asked for comes after"):
        play.step(3, 10, Survivors((10, 11, 12)).encode(play.terms))
    play = Play(5, lost={2: [14]})
    agreements = play.until(4)
    reply = play.step(4, 10, agreements)
    _, given_ = Unmasking.decode(reply, play.terms)
    assert (sorted(given_.seeds), sorted(given_.secrets)) == ([10, 11, 12, 13], [14])
    with pytest.raises(WireError, match="has done"):
        play.step(4, 10, agreements)
    share = given_.seeds[11]
    both = Unmasking(given_.seeds, {**given_.secrets, 11: share}).encode(play.terms, 10)
    with pytest.raises(WireError, match="both secrets"):
        Unmasking.decode(both, play.terms)
    with pytest.raises(WireError, match="twice or out of order"):
        wire.unpack_ids(wire.pack_ids([11, 11]))


def test_states_forget_secrets_that_no_later_step_needs():
    play = Play(5)
    play.until(3)
    for state in play.states.values():
        assert state.share_secret == state.mask_secret == state.seed == b""
    play = Play(5)
    play.finish()
    assert all(not state.held and not state.peers for state in play.states.values())
    assert "secret" not in repr(play.states[10])


def test_keys_of_a_client_cannot_be_swapped_or_taken():
    play = Play(5)
    play.until(1)
    adverts = {one: play.step(0, one, None) for one in play.terms.clients}  # now the states hold other keys than the server has
    play2 = Play(5)
    theirs = play2.until(1)
    with pytest.raises(WireError, match="other keys for this client"):
        play.step(1, 10, theirs)
    copied = wire.pack(1, play.terms.digest, 11, wire.unpack(adverts[12], 1, play.terms.digest, 2)[1])
    bundle = Adverts((adverts[10], copied, adverts[12], adverts[13])).encode(play.terms)
    with pytest.raises(WireError, match="two clients advertise one key"):
        play.step(1, 10, bundle)
    with pytest.raises(FederationError, match="a key that another one has"):
        server.collect_adverts(server.Round(play.terms), [(11, copied), (12, adverts[12]), (13, adverts[13])])


def test_a_key_of_low_order_is_refused():
    with pytest.raises(WireError, match="public key is none"):
        keys.agree(os.urandom(32), bytes(32))


def test_a_masked_update_of_another_client_a_replay_and_a_second_reply_are_refused():
    play = Play(5)
    deliveries = play.until(2)
    replies = dict(play.replies(2, play.terms.clients, deliveries))
    old = Play(5)
    old.terms = replace(old.terms, round=6)
    old.round = server.Round(old.terms)
    stale = dict(old.replies(2, old.terms.clients, old.until(2)))
    given_ = [(10, replies[10]), (10, replies[10]), (11, replies[12]), (12, replies[12]), (13, stale[13]), (99, replies[10])]
    after, _ = server.collect_masked(play.round, [*given_, (13, replies[13]), (14, replies[14])])
    assert after.survivors == (10, 12, 13, 14)
    reasons = {(refusal.client, refusal.reason.split(":")[0]) for refusal in after.refused}
    assert reasons == {
        (10, "the client answered before"),
        (11, "the reply names another client as its sender"),
        (13, "a message is from another run, round or cohort"),
        (99, "the client is not, or no longer, part of this secure sum"),
    }


@pytest.mark.parametrize("signed", [False, True])
def test_every_flipped_bit_is_seen_in_every_message(signed):
    rng = np.random.default_rng(0)
    play = Play(4, signed=signed)
    message = None
    clients = play.terms.clients
    collect = (server.collect_adverts, server.collect_shares, server.collect_masked, server.collect_agreements, server.collect_unmaskings)
    for phase in range(5):
        before = dict(play.states)
        if phase:  # what the server sends
            content = message[10] if phase == 2 else message
            for at in {*range(0, 50 * 8, 7), *rng.integers(0, 8 * len(content), 40).tolist()}:
                bad = flip(content, int(at))
                with pytest.raises(WireError):
                    play.step(phase, 10, {10: bad} if phase == 2 else bad)
                assert play.states == before
        replies = play.replies(phase, clients, message)
        content = dict(replies)[10]
        for at in {*range(0, 50 * 8, 7), *rng.integers(0, 8 * len(content), 40).tolist()}:
            bad = [(one, flip(reply, int(at)) if one == 10 else reply) for one, reply in replies]
            if phase == 4:
                assert [refusal.client for refusal in collect[4](play.round, bad).refused] == [10]
            else:
                assert [refusal.client for refusal in collect[phase](play.round, bad)[0].refused] == [10]
        if phase < 4:
            play.round, message = collect[phase](play.round, replies)


def flip(content, bit):
    bit %= 8 * len(content)
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def test_cut_and_lengthened_messages_are_seen():
    play = Play(4, signed=True)
    content = play.step(0, 10, None)
    for bad in (b"", content[:10], content[:-1], content + b"\0", content[:-64], b"x" * 500, None):
        with pytest.raises(WireError):
            wire.unpack(bad, 1, play.terms.digest, 2, play.roster)
    with pytest.raises(WireError, match="out of step"):
        wire.unpack(content, 2, play.terms.digest, 2, play.roster)


def test_an_altered_share_does_not_open_even_with_a_right_hash():
    play = Play(4)
    deliveries = play.until(2)
    sealed = Delivery.decode(deliveries[10], play.terms)[1].sealed
    for bad in ({**sealed, 11: flip(sealed[11], 300)}, {**sealed, 11: sealed[12], 12: sealed[11]}):
        with pytest.raises(WireError, match="does not open"):
            play.step(2, 10, {10: Delivery(bad).encode(play.terms)})
    other = Delivery.decode(deliveries[11], play.terms)[1].sealed
    with pytest.raises(WireError, match="own"):
        play.step(2, 10, {10: Delivery(other).encode(play.terms)})


@pytest.mark.parametrize("which", ["seeds", "secrets"])
def test_a_wrong_share_gives_no_result_rather_than_a_wrong_one(which):
    play = Play(6, lost={2: [14]})
    replies = play.replies(4, [10, 11, 12, 13, 15], play.until(4))
    _, given_ = Unmasking.decode(replies[0][1], play.terms)
    table = dict(getattr(given_, which))
    victim = 14 if which == "secrets" else 11
    table[victim] = flip(table[victim], 3)
    lie = replace(given_, **{which: table}).encode(play.terms, 10)
    with pytest.raises(FederationError, match=r"do not fit|gives? no secret|was altered"):
        server.collect_unmaskings(play.round, [(10, lie), *replies[1:]])
    short = Unmasking({11: given_.seeds[11]}, given_.secrets).encode(play.terms, 10)
    assert server.collect_unmaskings(play.round, [(10, short), *replies[1:]]).refused[0].client == 10


def test_shares_must_be_for_all_others():
    play = Play(4)
    adverts = play.until(1)
    replies = play.replies(1, play.terms.clients, adverts)
    _, shares = Shares.decode(replies[0][1], play.terms)
    some = Shares({11: shares.sealed[11]}, shares.commitment).encode(play.terms, 10)
    after, _ = server.collect_shares(play.round, [(10, some), *replies[1:]])
    assert after.refused[0].reason.startswith("the client did not seal")


def test_steps_are_taken_in_order():
    play = Play(4)
    play.until(1)
    with pytest.raises(FederationError, match="waits for shares, and was given adverts"):
        server.collect_adverts(play.round, [])
    with pytest.raises(WireError, match="has advertised"):
        play.step(2, 10, {10: b""})


def test_identities_are_checked_before_a_client_joins():
    play = Play(4, signed=True)
    one = play.ids[10]
    with pytest.raises(WireError, match="not on this device's roster"):
        device.advertise(play.terms, 10, keys.Identity(one.secret, {10: one.public}))
    with pytest.raises(WireError, match="this device's key"):
        device.advertise(play.terms, 10, keys.Identity(bytes(32), one.roster))
    with pytest.raises(WireError, match="has no identity"):
        device.advertise(play.terms, 10)
    with pytest.raises(WireError, match="do not name this client"):
        device.advertise(play.terms, 99, one)
    with pytest.raises(WireError, match="joins 10 or more"):
        device.advertise(play.terms, 10, one, least=10)
    with pytest.raises(FederationError, match="roster"):
        server.Round(play.terms)
    assert one.secret.hex() not in repr(one)


def test_the_update_must_fit_the_terms():
    play = Play(4)
    deliveries = play.until(2)
    for bad in (np.zeros(LENGTH + 1), np.zeros((1, LENGTH))):
        with pytest.raises(ParamsError, match="has shape"):
            device.mask(play.states[10], deliveries[10], bad)
    with pytest.raises(ParamsError, match="not finite"):
        device.mask(play.states[10], deliveries[10], np.full(LENGTH, np.nan))


# Terms.


def test_terms_have_one_form_and_hold_their_rules():
    terms = Terms.propose("run", 1, [3, 1, 2**63], 10, Grid(0.5))
    assert terms.clients == (1, 3, 2**63)
    assert Terms.decode(terms.encode()) == terms
    content = terms.encode()
    wrong = (
        b"",
        b"[]",
        b"null",
        b"{}",
        content + b" ",
        content.replace(b'"round":1', b'"round":true'),
        content.replace(b":10,", b":10.0,"),
    )
    for bad in (*wrong, content.replace(b'"threshold":2', b'"threshold":1'), content.replace(b'"secagg":1', b'"secagg":2')):
        assert bad != content
        with pytest.raises(WireError):
            Terms.decode(bad)
    for field, bad in {
        "clients": (1, 2),
        "threshold": 4,
        "colluders": 3,
        "round": -1,
        "run": "",
        "length": 0,
        "noise": -1.0,
    }.items():
        with pytest.raises(ConfigError):
            replace(terms, **{field: bad})
    with pytest.raises(ConfigError, match="clients"):
        replace(terms, clients=(3, 1, 2))
    with pytest.raises(ConfigError, match="does not fit into 64 bits"):
        replace(terms, noise=1e18)


def test_thresholds_leave_no_room_for_two_lists():
    # n clients, c of them colluding: two groups of t hold 2 t - n in common, more than c of them, so one is honest and answers once.
    for count in range(3, 200):
        for colluders in (None, 0, 1):
            assumed = (count - 1) // 3 if colluders is None else colluders
            least = threshold_for(count, colluders)
            assert 2 * least - count > assumed
            assert least - assumed >= 2
            assert least <= count
    assert [threshold_for(count) for count in (3, 5, 10, 50, 200, 1000)] == [2, 4, 7, 34, 134, 667]


def test_a_sum_that_could_wrap_is_refused_or_gets_64_bits():
    # 2,047 x 2^20 = 2^31 - 2^20 stays below 2^31, and 2,048 x 2^20 does not.
    assert Grid(1.0).bits(2047) == 32
    assert Grid(1.0).bits(2048) == 64
    assert Grid(1.0).bits(2040, noise=2.0**20) == 64
    assert Grid(1.0, 1 << 40).bits((1 << 23) - 1) == 64
    with pytest.raises(ConfigError, match="does not fit"):
        Grid(1.0, 1 << 40).bits(1 << 23)


def test_the_largest_sum_of_32_bits_comes_out_right():
    play = Play(3)
    play.terms = replace(play.terms, grid=Grid(1.0, ((1 << 31) - 1) // 3))
    play.round = server.Round(play.terms)
    assert play.terms.bits == 32
    play.inputs = dict.fromkeys(play.terms.clients, np.array([1.0, -1.0] * (LENGTH // 2)))
    assert play.finish().values.tolist() == [3.0, -3.0] * (LENGTH // 2)


# Bytes that must not change.


def test_golden_messages():
    play = Play(3, draw=seeded(1))
    hashes = []
    message = None
    for phase in range(5):
        replies = play.replies(phase, play.terms.clients, message)
        hashes.append(hashlib.sha256(b"".join(reply for _, reply in replies)).hexdigest()[:16])
        if phase < 4:
            collect = (server.collect_adverts, server.collect_shares, server.collect_masked, server.collect_agreements)[phase]
            play.round, message = collect(play.round, replies)
    assert play.terms.digest.hex()[:16] == TERMS
    assert hashes == MESSAGES


TERMS = "3aafcf69863b488a"
MESSAGES = ["291c2932d535db11", "f50558b548f5efc6", "13b0d8bf104b17fd", "4447306837420ecc", "4a58c1ea1dd57b26"]


def test_golden_mask_stream():
    # AES-256 of a block of zeros under a key of zeros, and of the counter 1: published test vectors of the cipher.
    words = masks.zeros(8, 32)
    masks.add_mask(words, bytes(32))
    assert words.tobytes().hex() == "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738b"


def test_masks_of_both_widths_have_the_same_bytes_and_come_off_again():
    length = 3 * masks.CHUNK // 4 + 5  # more than three chunks
    narrow, wide = masks.zeros(2 * length, 32), masks.zeros(length, 64)
    masks.add_mask(narrow, bytes(range(32)))
    masks.add_mask(wide, bytes(range(32)))
    assert narrow.tobytes() == wide.tobytes()
    masks.add_mask(wide, bytes(range(32)), negative=True)
    assert not wide.any()


# Statistics, with fixed seeds: they pass or fail for good. Each bound would raise a false alarm for one seed in a million.

MILLION = {255: 377.0, 65_025: 66_760.0}
"""Chi-square's quantiles at 1 - 1e-6: for 255 degrees of freedom; and for 255 x 255 by Wilson and Hilferty's cube."""


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


def masked(inputs, seed, length=200_000):
    play = Play(3, draw=seeded(seed))
    play.terms = replace(play.terms, length=length, grid=Grid(1.0))
    play.round = server.Round(play.terms)
    play.inputs = dict.fromkeys(play.terms.clients, inputs)
    deliveries = play.until(2)
    return Masked.decode(play.step(2, 10, deliveries), play.terms)[1].values


def test_masked_updates_are_uniform_bytes_whatever_the_update():
    for inputs in (np.zeros(200_000), np.ones(200_000), np.linspace(-1, 1, 200_000)):
        values = masked(inputs, 5).view(np.uint8)
        assert chi_square(np.bincount(values, minlength=256), len(values) / 256) < MILLION[255]
        for place in range(4):  # each byte of a number by itself
            part = values[place::4]
            assert chi_square(np.bincount(part, minlength=256), len(part) / 256) < MILLION[255]


def test_masked_updates_are_independent_of_the_update():
    # Counts of pairs (a byte of the number in the clear, the same byte masked) against the product of their shares.
    clear = np.random.default_rng(2).normal(0, 0.3, 200_000).clip(-1, 1)
    values = masked(clear, 6)
    plain = Grid(1.0).encode(clear).astype("<u4")
    for shift in (0, 8, 16):
        a, b = (plain >> shift) & 255, (values >> shift) & 255
        table = np.zeros((256, 256))
        np.add.at(table, (a, b), 1)
        rows = table.sum(1, keepdims=True)
        expected = (rows @ table.sum(0, keepdims=True) / table.sum())[rows[:, 0] > 500]  # rows with counts enough
        freedom = (len(expected) - 1) * 255
        found = chi_square(table[rows[:, 0] > 500], expected)
        assert abs(found - freedom) < 5 * np.sqrt(2 * freedom)  # two sides: beyond 5 standard deviations once in 1.7 million
    assert abs(np.corrcoef(clear, values.astype(float))[0, 1]) < 4.9 / np.sqrt(200_000)  # two sides: once in a million


def test_two_clients_masks_and_two_rounds_masks_are_unlike():
    one, other = masked(np.zeros(200_000), 7), masked(np.zeros(200_000), 8)
    assert np.mean(one == other) < 1e-4
    assert abs(np.corrcoef(one.astype(float), other.astype(float))[0, 1]) < 4.9 / np.sqrt(200_000)


# Shamir's sharing.


def test_shamir_by_hand_over_a_field_of_13():
    # f(x) = 5 + 3 x + 2 x^2 mod 13: f(1) = 10, f(2) = 5 + 6 + 8 = 19 = 6, f(3) = 5 + 9 + 18 = 32 = 6, f(4) = 5 + 12 + 32 = 49 = 10.
    assert [shamir.evaluate([5, 3, 2], x, 13) for x in (1, 2, 3, 4)] == [10, 6, 6, 10]
    # Lagrange at 0 from 1, 2, 4: for 1: (2 x 4) / ((2 - 1)(4 - 1)) = 8 / 3, and 1/3 = 9 for 27 = 1, so 72 = 7;
    # for 2: (1 x 4) / ((1 - 2)(4 - 2)) = 4 / -2 = -2 = 11; for 4: (1 x 2) / ((1 - 4)(2 - 4)) = 2 / 6 = 1/3 = 9.
    assert shamir.weights([1, 2, 4], 13) == [7, 11, 9]
    # 7 x 10 + 11 x 6 + 9 x 10 = 226 = 17 x 13 + 5: the secret.
    assert (7 * 10 + 11 * 6 + 9 * 10) % 13 == 5
    # Two shares fit every secret: through (1, 10), (2, 6) and (0, s) goes one parabola for each s.
    through = {s: [(1, 10), (2, 6), (0, s)] for s in range(13)}
    for points in through.values():
        fits = [
            (a, b, c)
            for a in range(13)
            for b in range(13)
            for c in range(13)
            if all(shamir.evaluate([a, b, c], x, 13) == y for x, y in points)
        ]
        assert len(fits) == 1


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 6), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(secret, threshold, more, rng):
    points = rng.sample(range(1, 50), threshold + more)
    shares = dict(zip(points, shamir.split(secret, points, threshold, os.urandom), strict=True))
    chosen = rng.sample(points, threshold)
    factors = dict(zip(chosen, shamir.weights(chosen), strict=True))
    assert shamir.join({point: shares[point] for point in chosen}, factors) == secret


def test_fewer_shares_than_the_threshold_look_like_nothing():
    # With a threshold of 2, one share is uniform whatever the secret: bytes of 1,500 shares of two fixed secrets.
    for secret in (bytes(32), b"\xff" * 32):
        draw = seeded(9)
        found = b"".join(shamir.split(secret, [1, 2], 2, draw)[0][:31] for _ in range(1500))
        counts = np.bincount(np.frombuffer(found, np.uint8), minlength=256)
        assert chi_square(counts, len(found) / 256) < MILLION[255]


def test_shamir_refuses_what_is_no_share():
    with pytest.raises(WireError, match="no element"):
        shamir.join({1: b"\xff" * 33}, {1: 1})
    with pytest.raises(WireError, match="no element"):
        shamir.join({1: bytes(32)}, {1: 1})
    with pytest.raises(WireError, match="no secret"):
        shamir.join({1: (1 << 256).to_bytes(33, "little")}, {1: 1})
    for secret, points, threshold in ((bytes(31), [1, 2], 2), (bytes(32), [0, 1], 2), (bytes(32), [1, 1], 2), (bytes(32), [1], 2)):
        with pytest.raises(FederationError):
            shamir.split(secret, points, threshold, os.urandom)


def test_the_prime_is_prime():
    # Fermat's test to several bases, and Miller and Rabin's strong one, which no composite of this kind is known to pass.
    odd, twos = shamir.PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        x = pow(base, odd, shamir.PRIME)
        assert x in (1, shamir.PRIME - 1) or any(pow(x, 2**k, shamir.PRIME) == shamir.PRIME - 1 for k in range(1, twos))


def test_a_field_element_is_drawn_from_the_whole_field():
    assert shamir.element(lambda n: b"\x01" + bytes(n - 1)) == 1
    tries = iter([b"\xff" * 33, bytes(33)])  # the first is beyond the prime, and drawn again
    assert shamir.element(lambda _: next(tries)) == 0
