"""What a secure sum costs: bytes and seconds of a client and of the server in a round, by cohort.

    python benchmarks/secagg.py            10 and 50 clients measured, 200 and 1,000 computed; --quick for a small update

One client of the cohort is timed; the others are played, so that the server has all that it needs. Bytes are counted, not modelled: the
formula that stands for larger cohorts must give the measured counts exactly, or the script fails. Seconds are modelled from what this
machine needs for one operation of each kind, and printed beside the measured ones. Seconds are those of one process, by its own clock of
processor time, without the network.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from fedstyle.privacy.gaussian import seeded
from fedstyle.privacy.grid import Grid
from fedstyle.privacy.secagg import client, keys, masks, server, shamir
from fedstyle.privacy.secagg.messages import SEALED, Masked
from fedstyle.privacy.secagg.terms import Terms, threshold_for
from fedstyle.privacy.secagg.wire import HASH, HEAD, SIGNATURE

NUMBERS = 413_891
"""Numbers in an update of the net `cnnLite` whose norms stay private; `cnn` has 1,676,035."""


def wire_bytes(count: int, length: int, bits: int, lost: int) -> dict[str, int]:
    """Bytes that a client sends and gets in a signed round in which `lost` clients drop out before their masked update."""
    whole = HEAD + HASH  # around the fields, each with 4 bytes of length
    mine, stayed = whole + SIGNATURE, count - lost
    advert, agreement = mine + 2 * (4 + 32), mine + 4 + 32
    shares = mine + 3 * 4 + 32 + (count - 1) * (8 + SEALED)
    masked = mine + 4 + length * bits // 8
    unmasking = mine + 4 * 4 + count * (8 + shamir.WIDTH)
    adverts, agreements = whole + 8 + 4 + count * advert, whole + 8 + 4 + stayed * agreement
    delivery, survivors = whole + 8 + (count - 1) * (8 + SEALED), whole + 4 + 8 * stayed
    return {"sent": advert + shares + masked + agreement + unmasking, "received": adverts + delivery + survivors + agreements}


def operations(count: int, length: int, lost: int) -> dict[str, Counter[str]]:
    """How many operations of each kind a client and the server do."""
    stayed, threshold = count - lost, threshold_for(count)
    return {
        "client": Counter(
            agree=3 * (count - 1),
            seal=2 * (count - 1),
            verify=count + stayed,
            points=2 * count * threshold,
            numbers=count * length,
            update=1,
        ),
        "server": Counter(
            verify=2 * count + 3 * stayed,
            agree=lost * stayed,
            shares=count * threshold,
            weights=threshold**2,
            numbers=(stayed + lost * stayed) * length,
            received=stayed,
        ),
    }


def seconds(act: Callable[[], Any], least: float = 0.02) -> float:
    """Processor seconds of one call, from as many as take a while."""
    act()
    calls, start = 0, time.process_time()
    while (took := time.process_time() - start) < least:
        act()
        calls += 1
    return took / calls


def unit_costs(length: int) -> dict[str, float]:
    """Seconds of one operation of each kind, on this machine."""
    secret, other = bytes(range(32)), keys.public_key(bytes(range(1, 33)))
    identity = keys.Identity(secret, {})
    signature, roster = identity.sign(b"x"), {0: identity.public}
    sealed = keys.seal(secret, bytes(66), b"", seeded(0))
    total = masks.zeros(length, 32)
    points = list(range(1, 101))
    factors = dict(zip(points, shamir.weights(points), strict=True))
    shares = {point: bytes([point]) + bytes(32) for point in points}
    terms = Terms.propose("bench", 0, range(3), length, Grid(1.0), signed=True)
    values = np.random.default_rng(0).normal(0, 0.01, length)

    def update() -> bytes:
        return Masked(terms.grid.encode(values).astype("<u4")).encode(terms, 0, identity)

    content = update()
    return {
        "agree": seconds(lambda: masks.pair_mask(secret, other, bytes(32), 0, 1)),
        "seal": seconds(lambda: keys.unseal(secret, sealed, b"")),
        "verify": seconds(lambda: keys.verify(roster, 0, signature, b"x")),
        "points": seconds(lambda: shamir.evaluate([shamir.PRIME - 2] * 100, 77)) / 100,
        "shares": seconds(lambda: shamir.join(shares, factors)) / 100,
        "weights": seconds(lambda: shamir.weights(points)) / 100**2,
        "numbers": seconds(lambda: masks.add_mask(total, secret)) / length,
        "update": seconds(update),
        "received": seconds(lambda: np.add(total, Masked.decode(content, terms, roster)[1].values, out=total)),
    }


def play(count: int, length: int, lost: int) -> dict[str, float]:
    """A signed round in this process: seconds and bytes of its first client, and seconds of the server."""
    terms = Terms.propose("bench", 0, range(count), length, Grid(1.0), signed=True)
    secrets = {one: one.to_bytes(4, "little") * 8 for one in terms.clients}
    roster = {one: keys.Identity(secret, {}).public for one, secret in secrets.items()}
    ids = {one: keys.Identity(secret, roster) for one, secret in secrets.items()}
    vector = np.random.default_rng(0).normal(0, 0.01, length)
    spent = {"client": 0.0, "server": 0.0}
    tally: Counter[str] = Counter()
    states: dict[int, client.State] = {}

    def reply(act: Callable[..., tuple[client.State, bytes]], one: int, *given: Any) -> tuple[int, bytes]:
        start = time.process_time()
        states[one], content = act(*((states[one],) if one in states else ()), *given, identity=ids[one])
        if one == 0:
            spent["client"] += time.process_time() - start
            tally["sent"] += len(content)
            tally["received"] += len(given[0]) if isinstance(given[0], bytes) else 0
        return one, content

    def serve(act: Callable[..., Any], round: server.Round, replies: Any) -> Any:
        start = time.process_time()
        result = act(round, replies)
        spent["server"] += time.process_time() - start
        return result

    stayed = [one for one in terms.clients if one < count - lost]
    round, adverts = serve(
        server.collect_adverts, server.Round(terms, roster), [reply(client.advertise, one, terms, one) for one in terms.clients]
    )
    round, deliveries = serve(server.collect_shares, round, [reply(client.share, one, adverts) for one in terms.clients])
    replies = [reply(client.mask, one, deliveries[one], vector) for one in stayed]
    round, survivors = serve(server.collect_masked, round, replies)
    replies = [reply(client.consent, one, survivors) for one in stayed]
    round, agreements = serve(server.collect_agreements, round, replies)
    replies = [reply(client.unmask, one, agreements) for one in stayed]
    total = serve(server.collect_unmaskings, round, replies)
    if (total.steps != len(stayed) * terms.grid.encode(vector)).any() or total.refused:
        raise SystemExit("the sum is wrong: nothing here can be believed")
    return {**spent, **tally}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=int, nargs="*", default=[10, 50], help="cohorts to play")
    parser.add_argument("--compute", type=int, nargs="*", default=[200, 1000], help="cohorts to compute")
    parser.add_argument("--numbers", type=int, default=NUMBERS, help="numbers in an update")
    parser.add_argument("--lost", type=float, default=0.1, help="share of clients that drop out before their masked update")
    parser.add_argument("--quick", action="store_true", help="a small update and cohort")
    args = parser.parse_args(arguments)
    if args.quick:
        args.measure, args.numbers = [5], 5000
    unit = unit_costs(args.numbers)
    print(f"{args.numbers:,} numbers; {args.lost:.0%} of the clients drop out before their masked update; processor seconds")
    print(", ".join(f"{name} {cost * 1e6:.3g} us" for name, cost in unit.items()))
    for count in [*args.measure, *args.compute]:
        lost = min(int(args.lost * count), count - threshold_for(count))
        size = wire_bytes(count, args.numbers, Grid(1.0).bits(count), lost)
        model = {
            who: sum(times * unit[name] for name, times in done.items()) for who, done in operations(count, args.numbers, lost).items()
        }
        line = f"{count} clients, {lost} lost: a client sends {size['sent']:,} bytes and gets {size['received']:,};"
        if count in args.measure:
            found = play(count, args.numbers, lost)
            if any(found[way] != size[way] for way in size):
                raise SystemExit(f"the formula gives {size} bytes, and counted were {found}: correct the formula")
            print(f"{line} client {found['client']:.2f} s ({model['client']:.2f} computed), server {found['server']:.2f} s", end=" ")
            print(f"({model['server']:.2f} computed): measured")
        else:
            print(f"{line} client {model['client']:.1f} s, server {model['server']:.0f} s: computed")


if __name__ == "__main__":
    main()
