"""A client's side of a secure sum: five steps, each from a state and the server's message to the next state and a reply.

    state, advert    = advertise(terms, me)               phase 0
    state, shares    = share(state, adverts)              phase 1
    state, masked    = mask(state, delivery, vector)      phase 2
    state, agreement = consent(state, survivors)          phase 3
    state, unmasking = unmask(state, agreements)          phase 4

Without signatures agreements bind nobody, and `reveal` takes phases 3 and 4 in one: state, unmasking = reveal(state, survivors).

States are values, so a caller can keep them between messages (`State.encode`), on the device and nowhere else: they hold secrets. Keep
the new state *before* the reply leaves, and never take a step twice from one state: answering two lists of survivors is what unmasks an
update, and a function of values cannot see that it is asked again. After any error, drop the state and sit the round out.

Every step raises WireError for a message that breaks the protocol, and FederationError when too few clients are left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstyle.errors import FederationError, ParamsError, WireError
from fedstyle.privacy.gaussian import Draw, discrete_gaussian
from fedstyle.privacy.secagg import keys, masks, shamir, wire
from fedstyle.privacy.secagg.messages import (
    PAIR,
    Advert,
    Adverts,
    Agreement,
    Agreements,
    Delivery,
    Masked,
    Shares,
    Survivors,
    Unmasking,
)  # fmt: skip
from fedstyle.privacy.secagg.terms import Terms

STATE = 100
"""The kind of a stored state: no message's."""
PHASES = ("advertised", "shared", "masked", "agreed", "done")


@dataclass(frozen=True)
class State:
    """What a client keeps between two messages. Secrets are emptied as soon as no later step needs them."""

    phase: str
    terms: Terms
    me: int
    share_secret: bytes = field(default=b"", repr=False)
    mask_secret: bytes = field(default=b"", repr=False)
    seed: bytes = field(default=b"", repr=False)
    peers: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    """The two public keys, in a row, of every client that advertised."""
    held: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    """The pair of shares that this client holds of every client that shared, its own among them."""
    survivors: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """The state's bytes, secrets in the clear: for the device's own memory or a file that only its owner reads."""
        phase = PHASES.index(self.phase).to_bytes(1, "little")
        secrets = [self.share_secret, self.mask_secret, self.seed]
        tables = [*wire.pack_table(self.peers), *wire.pack_table(self.held)]
        return wire.pack(STATE, bytes(32), self.me, [phase, self.terms.encode(), *secrets, *tables, wire.pack_ids(self.survivors)])

    @classmethod
    def decode(cls, content: bytes) -> State:
        """Read a state's bytes; raises WireError when they were altered."""
        me, fields = wire.unpack(content, STATE, bytes(32), 10)
        peers, held = wire.unpack_table(fields[5], fields[6], 64), wire.unpack_table(fields[7], fields[8], PAIR)
        return cls(
            PHASES[fields[0][0]], Terms.decode(fields[1]), me, fields[2], fields[3], fields[4], peers, held, wire.unpack_ids(fields[9])
        )


def advertise(
    terms: Terms, me: int, identity: keys.Identity | None = None, *, least: int = 3, draw: Draw = os.urandom
) -> tuple[State, bytes]:
    """Phase 0: draw two fresh key pairs and send their public halves.

    `least` is the smallest cohort that this device joins. An identity is needed if and only if the terms ask for signatures, and its roster
    must hold the whole cohort. Raises WireError for terms that this device does not accept. That the run and the round are the ones due is
    for the caller to check.
    """
    if me not in terms.clients:
        raise WireError("the server's terms do not name this client: it is not part of this secure sum")
    if len(terms.clients) < least:
        raise WireError(f"the server's cohort has {len(terms.clients)} clients, and this device joins {least} or more")
    if terms.signed != (identity is not None):
        raise WireError("the server's terms ask for signatures and this device has no identity, or the other way round: set both alike")
    if identity is not None:
        if strange := [one for one in terms.clients if one not in identity.roster]:
            raise WireError(
                f"{len(strange)} clients of the server's cohort are not on this device's roster: add their keys, or refuse them"
            )
        if identity.roster[me] != identity.public:
            raise WireError("this device's key is not the one that its roster has for it: bring one of them up to date")
    share_secret, mask_secret, seed = draw(32), draw(32), draw(32)
    state = State("advertised", terms, me, share_secret, mask_secret, seed)
    advert = Advert(keys.public_key(share_secret), keys.public_key(mask_secret))
    return state, advert.encode(terms, me, identity)


def share(state: State, content: bytes, identity: keys.Identity | None = None, *, draw: Draw = os.urandom) -> tuple[State, bytes]:
    """Phase 1: check everybody's keys, and seal to each a share of this client's mask secret and one of its seed."""
    terms, me = _due(state, "advertised")
    adverts = _bundle(Adverts, Advert, content, terms, identity)
    own = keys.public_key(state.share_secret), keys.public_key(state.mask_secret)
    if me not in adverts or (adverts[me].share_key, adverts[me].mask_key) != own:
        raise WireError("the server passes on other keys for this client than it sent: it lies, or mixed up its clients")
    public = [key for advert in adverts.values() for key in (advert.share_key, advert.mask_key)]
    if len(set(public)) != len(public):
        raise WireError("two clients advertise one key: one of them took it from the other")
    _enough(len(adverts), terms, "advertised keys")
    points = [terms.points[one] for one in adverts]
    pairs = zip(
        adverts,
        shamir.split(state.mask_secret, points, terms.threshold, draw),
        shamir.split(state.seed, points, terms.threshold, draw),
        strict=True,
    )
    shares = {one: of_secret + of_seed for one, of_secret, of_seed in pairs}
    sealed = {
        one: keys.seal(_share_key(state, advert.share_key, me, one), shares[one], _bound(terms, me, one), draw)
        for one, advert in adverts.items()
        if one != me
    }
    peers = {one: advert.share_key + advert.mask_key for one, advert in adverts.items()}
    reply = Shares(sealed, masks.commitment(state.seed, terms.digest, me))
    return replace(state, phase="shared", peers=peers, held={me: shares[me]}), reply.encode(terms, me, identity)


def mask(
    state: State, content: bytes, vector: NDArray[np.floating[Any]], identity: keys.Identity | None = None, *, draw: Draw = os.urandom
) -> tuple[State, bytes]:
    """Phase 2: open the shares that others sealed for this client, and send its update under all masks.

    `vector` is the update as one vector, in its own numbers, clipped before if it is to be; it is rounded to the grid here, and the noise
    of the terms is added. Raises ParamsError when its length is not that of the terms, or a number is not finite.
    """
    terms, me = _due(state, "shared")
    if np.shape(vector) != (terms.length,):
        raise ParamsError(f"the update has shape {np.shape(vector)}, and the secure sum takes vectors of {terms.length}")
    sealed = Delivery.decode(content, terms)[1].sealed
    if me in sealed or not sealed.keys() <= state.peers.keys():
        raise WireError("the server delivers shares of clients that did not advertise, or this client's own")
    _enough(len(sealed) + 1, terms, "shared their keys")
    opened = {
        one: keys.unseal(_share_key(state, state.peers[one][:32], one, me), blob, _bound(terms, one, me)) for one, blob in sealed.items()
    }
    whole = terms.grid.encode(vector)
    if terms.noise:
        whole += discrete_gaussian(terms.length, terms.noise, draw)
    total = whole.astype(np.dtype(f"<u{terms.bits // 8}"))  # modulo 2^bits, as numpy casts
    masks.add_mask(total, masks.self_mask(state.seed, terms.digest, me))
    for one in sealed:
        key = masks.pair_mask(state.mask_secret, state.peers[one][32:], terms.digest, me, one)
        masks.add_mask(total, key, negative=me > one)
    held = dict(sorted({**state.held, **opened}.items()))
    after = State("masked", terms, me, peers={one: state.peers[one] for one in held}, held=held)  # its secrets live on in shares only
    return after, Masked(total).encode(terms, me, identity)


def consent(state: State, content: bytes, identity: keys.Identity | None = None) -> tuple[State, bytes]:
    """Phase 3: check the list of survivors, hold to it from now on, and tell the others which list this was."""
    terms, me = _due(state, "masked")
    survivors = Survivors.decode(content, terms)[1].clients
    if me not in survivors:
        raise WireError(
            "the server counts this client as dropped out, after it sent its masked update: with the others' shares it could read it"
        )
    if not set(survivors) <= state.held.keys():
        raise WireError("the server names survivors that never shared their keys: it lies, or mixed up its clients")
    _enough(len(survivors), terms, "sent a masked update")
    return replace(state, phase="agreed", survivors=survivors), Agreement.to(survivors).encode(terms, me, identity)


def unmask(state: State, content: bytes, identity: keys.Identity | None = None) -> tuple[State, bytes]:
    """Phase 4: when enough others saw the same list, give a share of the seed of each survivor and of the mask secret of each other one."""
    terms, me = _due(state, "agreed")
    agreements = _bundle(Agreements, Agreement, content, terms, identity)
    if not agreements.keys() <= set(state.survivors):
        raise WireError("a client that is no survivor agrees to the list of survivors: the server lies, or mixed up its clients")
    if any(one != Agreement.to(state.survivors) for one in agreements.values()):
        raise WireError("clients were shown different lists of survivors: the server lies, and this update stays masked")
    _enough(len(agreements), terms, "agreed to the survivors")
    return State("done", terms, me), _unmasking(state).encode(terms, me, identity)


def reveal(state: State, content: bytes) -> tuple[State, bytes]:
    """Phases 3 and 4 in one, for terms without signatures: check the list of survivors, and give a share of each client's.

    It saves an exchange and no promise: whoever passes on agreements that nobody signed can as well write them.
    """
    if state.terms.signed:
        raise WireError("the terms ask for signatures: consent to the survivors first, and see that the others were shown the same list")
    agreed, _ = consent(state, content)
    return State("done", agreed.terms, agreed.me), _unmasking(agreed).encode(agreed.terms, agreed.me)


def _unmasking(state: State) -> Unmasking:
    """Of each client one share, and never the other: of the seed if it stayed, of the mask secret if it did not."""
    width = shamir.WIDTH
    seeds = {one: pair[width:] for one, pair in state.held.items() if one in state.survivors}
    secrets = {one: pair[:width] for one, pair in state.held.items() if one not in state.survivors}
    return Unmasking(seeds, secrets)


def _due(state: State, phase: str) -> tuple[Terms, int]:
    if state.phase != phase:
        raise WireError(f"this client has {state.phase}, and the step asked for comes after it has {phase}: a message was repeated or lost")
    return state.terms, state.me


def _enough(count: int, terms: Terms, what: str) -> None:
    if count < terms.threshold:
        raise FederationError(f"only {count} clients {what}, and the secure sum needs {terms.threshold}: this round has no result")


def _bundle(kind: Any, inner: Any, content: bytes, terms: Terms, identity: keys.Identity | None) -> dict[int, Any]:
    """The messages of clients in a server's bundle, by sender, in order; each with its signature if the terms ask for it."""
    if terms.signed != (identity is not None):
        raise WireError("the terms ask for signatures: give this device's identity at every step")
    found: dict[int, Any] = {}
    for message in kind.decode(content, terms)[1].messages:
        sender, value = inner.decode(message, terms, identity.roster if identity else None)
        if sender not in terms.points or sender in found:
            raise WireError("the server passes on a message twice, or one of a client that is not in the cohort")
        found[sender] = value
    return dict(sorted(found.items()))


def _share_key(state: State, public: bytes, sender: int, receiver: int) -> bytes:
    return masks.share_key(state.share_secret, public, state.terms.digest, sender, receiver)


def _bound(terms: Terms, sender: int, receiver: int) -> bytes:
    return terms.digest + sender.to_bytes(8, "little") + receiver.to_bytes(8, "little")
