"""Private rounds: what the noise stands on, in which order a round is charged and released, and runs that stop at their budget."""

import contextlib
import dataclasses
import math

import flower_fakes as fakes
import numpy as np
import pytest
import torch

from fedstyle import params
from fedstyle.config import Config, Privacy, Server, Training
from fedstyle.errors import ConfigError
from fedstyle.flower.private import EXTRA, Promise, read_ledger
from fedstyle.privacy.accounting import delta_for
from fedstyle.privacy.ledger import Ledger
from fedstyle.privacy.sampling import Fixed, Poisson


def wishes(*, rounds=3, cohort=2, strategy="FedAvg", unseen=0, late=0, **privacy):
    asked = {"clip": 0.5, "noise": 1.0, "reproducible": True, **privacy}
    server = Server(rounds=rounds, cohort=cohort, strategy=strategy, unseen=unseen, late=late, timeout=240.0)
    return Config(server=server, training=Training(seed=7), privacy=Privacy(**asked))


def test_no_noise_is_no_promise():
    assert Promise.of(Config(privacy=Privacy(clip=1.0)), 10) is None


def test_the_sampler_is_that_of_all_clients_that_rounds_may_ask():
    # 12 clients of whom 2 are unseen: 2 of 10 a round.
    promise = Promise.of(wishes(unseen=2), 12)
    assert promise.mechanism.sampler == Poisson(10, 0.2)
    assert promise.delta == delta_for(10) == pytest.approx(10**-1.1)
    assert Promise.of(wishes(unseen=2, sampler="fixed"), 12).mechanism.sampler == Fixed(10, 2)
    assert Promise.of(wishes(cohort=0), 12).mechanism.sampler == Poisson(12, 1.0)
    assert Promise.of(wishes(delta=1e-3), 12).delta == 1e-3


def test_updates_that_are_compared_with_each_other_are_not_private():
    for privacy in (Privacy(clip=1.0, noise=1.0), Privacy(clip=1.0, target_epsilon=1.0), Privacy(clip=1.0, secure=True)):
        with pytest.raises(ConfigError, match=r"server.level = true compares single updates"):
            Promise.of(Config(privacy=privacy, server=Server(level=True)), 10)


def test_a_target_chooses_the_noise_for_all_rounds():
    promise = Promise.of(wishes(noise=0.0, target_epsilon=4.0, rounds=20), 100)
    spent = Ledger().charge(promise.mechanism, 20).epsilon(promise.delta)
    assert 3.99 < spent <= 4.0


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"strategy": "Krum"}, "cannot be private"),
        ({"strategy": "FedMedian"}, "cannot be private"),
        ({"sampler": "fixed", "late": 1}, "server.late = 0"),
        ({"budget": 0.01}, "privacy.budget"),
    ],
)
def test_what_would_promise_nothing_is_refused(keys, words):
    with pytest.raises(ConfigError, match=words):
        Promise.of(wishes(**keys), 10)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"clip": 0.0}, "privacy.clip"),
        ({"target_epsilon": 2.0}, "give one"),
        ({"noise": 0.0, "budget": 3.0}, "privacy.noise"),
        ({"noise": 0.0, "delta": 1e-5}, "privacy.noise"),
        ({"delta": 1.0}, "privacy.delta"),
        ({"noise": -1.0}, "privacy.noise"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, words):
    with pytest.raises(ConfigError, match=words):
        Privacy(**{"clip": 0.5, "noise": 1.0, **keys})


def test_draws_repeat_by_seed_and_round_alone_or_never():
    promise = Promise.of(wishes(), 40)
    everyone = range(40)
    assert promise.draw(everyone, 1) == promise.draw(everyone, 1) != promise.draw(everyone, 2)
    secret = dataclasses.replace(promise, seed=None)
    like = {"a": torch.zeros(50)}
    assert torch.equal(promise.mean([], like, 3)["a"], promise.mean([], like, 3)["a"])
    assert not torch.equal(secret.mean([], like, 3)["a"], secret.mean([], like, 3)["a"])


def test_inclusion_has_the_accounted_chance():
    # 400 rounds of 40 clients at 1/20: 800 expected, standard deviation sqrt(16000 * 0.05 * 0.95) = 27.6; 6 of them are 166.
    promise = Promise.of(wishes(), 40)
    drawn = [client for number in range(400) for client in promise.draw(range(40), number)]
    assert abs(len(drawn) - 800) < 166


def test_the_mean_is_over_the_expected_cohort():
    # Clip 0.5, noise almost none: two updates of norm 0.3 and 5 give (0.3 + 0.5) / 2 expected clients, and one alone 0.3 / 2.
    promise = Promise.of(wishes(cohort=2, noise=1e-6), 10)
    like = {"a": torch.zeros(4)}
    small, large = {"a": torch.tensor([0.3, 0, 0, 0])}, {"a": torch.tensor([5.0, 0, 0, 0])}
    assert promise.mean([small, large], like, 1)["a"][0] == pytest.approx(0.4, abs=1e-4)
    assert promise.mean([small], like, 1)["a"][0] == pytest.approx(0.15, abs=1e-4)


def run(config, folder, *, clients=4, after=None, stop_after=None):
    """A run of fake clients; gives its base, its rounds and the states that were charged, in the order in which things happened."""
    from fedstyle.flower.engine import run_federation

    happened = []

    def on_round(now):
        happened.append(("round", now.number, now))
        if now.number == stop_after:
            raise KeyboardInterrupt

    def on_charge(state):
        happened.append(("charge", state.round, state))

    base = None
    told = {"on_round": on_round, "on_charge": on_charge}
    with contextlib.suppress(KeyboardInterrupt):
        base = run_federation(config, fakes.small_base(), fakes.Fakes(folder), clients, after=after, **told)
    return base, happened


def test_every_round_is_charged_before_it_is_released(tmp_path):
    base, happened = run(wishes(), tmp_path)
    assert [(kind, number) for kind, number, _ in happened] == [(k, n + (k == "round")) for n in range(3) for k in ("charge", "round")]
    charged = [read_ledger(state.extra).rounds for kind, _, state in happened if kind == "charge"]
    kept = [read_ledger(now.state.extra).rounds for kind, _, now in happened if kind == "round"]
    assert charged == kept == [1, 2, 3]
    assert all(np.isfinite(value.numpy()).all() for value in base.weights.values())


def test_without_noise_nothing_is_charged(tmp_path):
    _, happened = run(dataclasses.replace(wishes(), privacy=Privacy(clip=0.5)), tmp_path)
    assert [kind for kind, _, _ in happened] == ["round"] * 3
    assert all(EXTRA not in now.state.extra for _, _, now in happened)


def test_a_run_repeats_and_goes_on_exactly_where_it_is_seeded(tmp_path):
    whole, _ = run(wishes(), tmp_path / "a")
    again, _ = run(wishes(), tmp_path / "b")
    assert whole.sha256 == again.sha256
    _, happened = run(wishes(), tmp_path / "c", stop_after=2)
    resumed, rest = run(wishes(), tmp_path / "c", after=happened[-1][2].state)
    assert resumed.sha256 == whole.sha256
    assert read_ledger(rest[-1][2].state.extra).rounds == 3
    secret, _ = run(wishes(reproducible=False), tmp_path / "d")
    assert secret.sha256 != whole.sha256


def test_a_crash_after_the_charge_pays_and_releases_nothing(tmp_path):
    _, happened = run(wishes(), tmp_path, stop_after=1)
    charged = happened[0][2]  # what is on disk when the process dies before the release
    assert (charged.round, read_ledger(charged.extra).rounds) == (0, 1)
    _, rest = run(wishes(), tmp_path, after=charged)
    assert read_ledger(rest[-1][2].state.extra).rounds == 4  # the round that is done again is paid again


def test_rounds_stop_at_the_budget(tmp_path):
    promise = Promise.of(wishes(), 4)
    two = Ledger().charge(promise.mechanism, 2).epsilon(promise.delta)
    _, happened = run(wishes(budget=two * 1.0001, rounds=5), tmp_path)
    assert [number for kind, number, _ in happened if kind == "round"] == [1, 2]
    _, rest = run(wishes(budget=two * 1.0001, rounds=5), tmp_path, after=happened[-1][2].state)
    assert rest == []


def test_the_noise_on_the_base_is_that_which_was_accounted(tmp_path):
    # Clients that clip to 1e-9 send nothing to speak of, so that one FedAvg round moves the shared parameters by noise alone, whose
    # standard deviation is noise * clip / expected cohort, plus what rounding to the grid asks for: 2 * 1 / 4 = 0.5 of the clip.
    config = wishes(rounds=1, cohort=4, noise=2.0, clip=1.0)
    quiet = dataclasses.replace(config, privacy=dataclasses.replace(config.privacy, clip=1e-3))
    base, _ = run(quiet, tmp_path)
    first = fakes.small_base()
    moved = params.subtract(*(params.split(one.weights, lambda name: ".norm" not in name)[0] for one in (base, first)))
    numbers = torch.cat([value.flatten() for value in moved.values()]).double().numpy()
    wanted = 2.0 * 1e-3 / 4
    # Four updates of norm 1e-3 each at most, over 4: they add at most (1e-3)^2 / d to the variance, under 1 % of it here.
    assert numbers.std() == pytest.approx(wanted, rel=6 / math.sqrt(2 * len(numbers)) + 0.01)


def test_an_empty_cohort_is_a_round_of_noise(tmp_path):
    config = wishes(rounds=30, cohort=1, clip=0.5)
    _, happened = run(config, tmp_path)
    rounds = [now for kind, _, now in happened if kind == "round"]
    sizes = [len(now.cohort) for now in rounds]
    assert 0 in sizes  # (3/4)^4 = 0.32 of the rounds
    assert len(rounds) == 30
    assert all(now.replied == now.cohort for now in rounds)
