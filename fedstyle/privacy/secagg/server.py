"""The server's side of a secure sum: five steps, each from a state and the clients' replies to the next state and its messages.

    round = Round(terms, roster)
    round, adverts    = collect_adverts(round, replies)      to all who advertised
    round, deliveries = collect_shares(round, replies)       to each who shared
    round, survivors  = collect_masked(round, replies)       to all who sent a masked update
    round, agreements = collect_agreements(round, replies)   to all who agreed
    total             = collect_unmaskings(round, replies)   the sum, and who is in it

Without signatures `skip_agreements` takes the place of the fourth, and clients answer the survivors' list with their unmaskings.

Replies are pairs of the client's id, as the transport knows it, and its bytes; they may come from a generator, and masked updates are
added as they come, so that memory does not grow with the cohort. A bad reply is refused and noted in `refused`, and its client counts as
dropped out. A second reply of one client is refused; the first counts. When fewer than the threshold are left, a step raises
FederationError, and nothing but that is learnt: masked updates stay masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedstyle.errors import FederationError, WireError
from fedstyle.privacy.secagg import keys, masks, shamir
from fedstyle.privacy.secagg.messages import Advert, Adverts, Agreement, Agreements, Delivery, Masked, Message, Shares, Survivors, Unmasking
from fedstyle.privacy.secagg.terms import Terms

Replies = Iterable[tuple[int, bytes]]
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Refusal:
    """A reply that was not taken: whose, in which step, and why."""

    client: int
    step: str
    reason: str


@dataclass(frozen=True)
class Round:
    """What the server keeps between two steps."""

    terms: Terms
    roster: Mapping[int, bytes] | None = None
    """Verification keys by client id, if the terms ask for signatures."""
    step: str = "adverts"
    adverts: Mapping[int, Advert] = field(default_factory=dict, repr=False)
    shares: Mapping[int, Shares] = field(default_factory=dict, repr=False)
    total: masks.Words | None = field(default=None, repr=False)
    """The sum of masked updates: uniform noise to whoever lacks the shares."""
    survivors: tuple[int, ...] = ()
    refused: tuple[Refusal, ...] = ()

    def __post_init__(self) -> None:
        """Check that there are keys if and only if signatures are due."""
        if self.terms.signed != (self.roster is not None):
            raise FederationError("a roster of verification keys is needed if and only if the terms ask for signatures")


@dataclass(frozen=True)
class Total:
    """The outcome: the sum of the survivors' updates, in the updates' own numbers, and nothing about any single one."""

    values: NDArray[np.float64]
    """The sum; each number is at most len(clients) / 2 grid steps off, beside the noise that the terms ask for."""
    steps: NDArray[np.int64] = field(repr=False)
    """The same sum in whole grid steps."""
    clients: tuple[int, ...]
    refused: tuple[Refusal, ...] = ()


def collect_adverts(round: Round, replies: Replies) -> tuple[Round, bytes]:
    """Phase 0: take everybody's keys, and pass them on to all who sent some."""
    taken: dict[int, bytes] = {}
    used: set[bytes] = set()

    def check(_: int, advert: Advert, content: bytes) -> Callable[[int], None]:
        if used & {advert.share_key, advert.mask_key}:
            raise WireError("the client advertises a key that another one has")
        used.update((advert.share_key, advert.mask_key))
        return lambda sender: taken.__setitem__(sender, content)

    round, adverts = _collect(round, "adverts", Advert, replies, round.terms.clients, check)
    return replace(round, step="shares", adverts=adverts), Adverts(tuple(taken[one] for one in sorted(taken))).encode(round.terms)


def collect_shares(round: Round, replies: Replies) -> tuple[Round, dict[int, bytes]]:
    """Phase 1: take everybody's sealed shares, and deliver to each what was sealed for it."""

    def check(client: int, shares: Shares, _: bytes) -> None:
        if shares.sealed.keys() != round.adverts.keys() - {client}:
            raise WireError("the client did not seal a share to each of the others")

    after, shares = _collect(round, "shares", Shares, replies, round.adverts, check)
    deliveries = {
        one: Delivery({other: sent.sealed[one] for other, sent in shares.items() if other != one}).encode(round.terms) for one in shares
    }
    return replace(after, step="masked", shares=shares), deliveries


def collect_masked(round: Round, replies: Replies) -> tuple[Round, bytes]:
    """Phase 2: add up the masked updates as they come, and tell the survivors' list to all who are on it."""
    total = masks.zeros(round.terms.length, round.terms.bits)

    def check(_: int, masked: Masked, __: bytes) -> Callable[[int], None]:
        def add(_: int) -> None:
            np.add(total, masked.values, out=total)

        return add

    after, masked = _collect(round, "masked", Masked, replies, round.shares, check, keep=False)
    survivors = tuple(masked)
    return replace(after, step="agreements", total=total, survivors=survivors), Survivors(survivors).encode(round.terms)


def collect_agreements(round: Round, replies: Replies) -> tuple[Round, bytes]:
    """Phase 3: take everybody's word for the list that it saw, and pass these on to all who gave one."""
    taken: dict[int, bytes] = {}

    def check(_: int, agreement: Agreement, content: bytes) -> Callable[[int], None]:
        if agreement != Agreement.to(round.survivors):
            raise WireError("the client agrees to another list of survivors")
        return lambda sender: taken.__setitem__(sender, content)

    after, _ = _collect(round, "agreements", Agreement, replies, round.survivors, check)
    return replace(after, step="unmaskings"), Agreements(tuple(taken[one] for one in sorted(taken))).encode(round.terms)


def skip_agreements(round: Round) -> Round:
    """In place of phase 3, for terms without signatures: see `client.reveal`; raises FederationError for terms with them."""
    if round.terms.signed or round.step != "agreements":
        raise FederationError("agreements can be left out only where nobody signs them, and after the masked updates")
    return replace(round, step="unmaskings")


def collect_unmaskings(round: Round, replies: Replies) -> Total:
    """Phase 4: put secrets together from shares, take all masks off the sum, and give the sum.

    Raises FederationError when too few answer, or when the shares give a secret that is not the one its client is bound to: a client
    lied or a share was altered, and the round has no result.
    """
    stayed, gone = set(round.survivors), round.shares.keys() - set(round.survivors)

    def check(_: int, reply: Unmasking, __: bytes) -> None:
        if reply.seeds.keys() != stayed or reply.secrets.keys() != gone:
            raise WireError("the client did not send the one share of each other client that was asked for")

    after, found = _collect(round, "unmaskings", Unmasking, replies, round.survivors, check)
    chosen = dict(list(found.items())[: round.terms.threshold])
    points = {one: round.terms.points[one] for one in chosen}
    factors = dict(zip(points.values(), shamir.weights(list(points.values())), strict=True))
    total, digest = np.array(round.total), round.terms.digest
    for client in round.survivors:
        seed = _secret({points[one]: reply.seeds[client] for one, reply in chosen.items()}, factors)
        if masks.commitment(seed, digest, client) != round.shares[client].commitment:
            raise FederationError(
                "the shares of a survivor's seed do not fit its commitment: a client sent a wrong one, and there is no result"
            )
        masks.add_mask(total, masks.self_mask(seed, digest, client), negative=True)
    for client in sorted(gone):
        secret = _secret({points[one]: reply.secrets[client] for one, reply in chosen.items()}, factors)
        if keys.public_key(secret) != round.adverts[client].mask_key:
            raise FederationError(
                "the shares of a lost client's secret do not fit its key: a client sent a wrong one, and there is no result"
            )
        for other in round.survivors:
            key = masks.pair_mask(secret, round.adverts[other].mask_key, digest, client, other)
            masks.add_mask(total, key, negative=other < client)  # the lower of the two had added it
    steps = total.view(np.dtype(f"<i{round.terms.bits // 8}")).astype(np.int64)
    return Total(round.terms.grid.decode(steps), steps, round.survivors, after.refused)


def _secret(shares: Mapping[int, bytes], factors: Mapping[int, int]) -> bytes:
    try:
        return shamir.join(shares, factors)
    except WireError as error:
        raise FederationError(f"{error}; there is no result") from None


def _collect(
    round: Round,
    step: str,
    kind: type[M],
    replies: Replies,
    expected: Iterable[int],
    check: Callable[[int, M, bytes], Any],
    *,
    keep: bool = True,
) -> tuple[Round, dict[int, M]]:
    """The good replies of a step by client, in order, and the round with the others noted.

    `check` raises WireError for a reply that does not do, and may give a function to call once it is taken. Without `keep`, the
    dictionary has its keys alone, so that a reply's memory is free again.
    """
    if round.step != step:
        raise FederationError(f"the secure sum waits for {round.step}, and was given {step}: take the steps in order, each once")
    allowed, refused = set(expected), []
    found: dict[int, Any] = {}
    for client, content in replies:
        try:
            if client not in allowed:
                raise WireError("the client is not, or no longer, part of this secure sum")
            if client in found:
                raise WireError("the client answered before: its first reply counts")
            sender, message = kind.decode(content, round.terms, round.roster)
            if sender != client:
                raise WireError("the reply names another client as its sender")
            if taken := check(client, message, content):
                taken(client)
            found[client] = message if keep else None
        except WireError as error:
            refused.append(Refusal(client, step, str(error)))
    if len(found) < round.terms.threshold:
        causes = f"; {len(refused)} replies were refused, the first because {refused[0].reason}" if refused else ""
        raise FederationError(
            f"only {len(found)} clients' {step} came, and the secure sum needs {round.terms.threshold}{causes}: this round has no result"
        )
    return replace(round, refused=(*round.refused, *refused)), dict(sorted(found.items()))
