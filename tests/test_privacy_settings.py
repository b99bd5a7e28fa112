"""privacy.mode = "private": what it sets, what it refuses, and that a resolved configuration says it all."""

import dataclasses

import flower_fakes as fakes
import pytest

from fedstyle.config import Config, Privacy, Server
from fedstyle.errors import ConfigError
from fedstyle.flower.engine import check_server
from fedstyle.flower.private import Promise
from fedstyle.privacy.settings import COHORT, PRIVATE

TOML = '[privacy]\nmode = "private"\n'


def load(folder, text):
    path = folder / "run.toml"
    path.write_text(text)
    return Config.load(path)


def test_one_key_sets_the_documented_ones(tmp_path):
    privacy = load(tmp_path, TOML).privacy
    assert {name: getattr(privacy, name) for name in PRIVATE} == dict(PRIVATE)
    assert dict(PRIVATE) == {"secure": True, "target_epsilon": 1.0, "delta": 1e-5, "clip": 0.01}
    assert (privacy.noise, privacy.reproducible, privacy.sampler) == (0, False, "poisson")


def test_the_default_mode_sets_nothing():
    assert Privacy().mode == "default"
    assert not any(getattr(Privacy(), name) for name in PRIVATE)


def test_stricter_keys_and_any_clip_are_taken(tmp_path):
    privacy = load(tmp_path, TOML + "target_epsilon = 0.5\ndelta = 1e-6\nclip = 3.0\nbudget = 0.7\nsampler = 'fixed'\n").privacy
    assert (privacy.target_epsilon, privacy.delta, privacy.clip, privacy.budget, privacy.sampler) == (0.5, 1e-6, 3.0, 0.7, "fixed")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("secure = false", r"privacy.secure = False: privacy.mode = 'private' sets True: leave it out, or the mode"),
        ("clip = 0", "privacy.clip = 0: privacy.mode = 'private' sets 0.01"),
        ("noise = 1.0", "privacy.noise = 1.0: the private mode chooses it"),
        ("target_epsilon = 2.0", "privacy.target_epsilon = 2.0: the private mode allows 1 at most"),
        ("delta = 1e-3", "privacy.delta = 0.001: the private mode allows 1e-05 at most"),
        ("reproducible = true", "privacy.reproducible = True: noise that can be drawn again"),
    ],
)
def test_a_key_that_contradicts_it_is_an_error_of_one_line(tmp_path, line, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load(tmp_path, TOML + line)
    assert "run.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_mode_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="choose one of default, private"):
        load(tmp_path, '[privacy]\nmode = "secret"\n')


def test_the_resolved_configuration_is_read_back_to_the_same(tmp_path):
    config = load(tmp_path, TOML)
    assert "secure = true" in config.toml()
    assert load(tmp_path, config.toml()) == config


def private(**changes):
    config = Config(server=Server(rounds=2, cohort=COHORT), privacy=Privacy(mode="private"))
    return dataclasses.replace(config, **changes)


def test_a_round_of_the_private_mode_keeps_the_epsilon_without_what_sampling_saves():
    promise = Promise.of(private(), 100)
    plan = check_server(private(), 100)
    assert promise.secure
    assert plan.noise == promise.mechanism.noise
    assert promise.charged.sampler.rate == 1
    from fedstyle.privacy.accounting import epsilon

    assert 0.99 < epsilon(promise.charged.noise, promise.charged.sampler, 2, 1e-5) <= 1.0


@pytest.mark.parametrize(
    ("changes", "clients", "said"),
    [
        ({"server": Server(cohort=19)}, 100, "server.cohort = 19"),
        ({"server": Server(cohort=0, unseen=5)}, 24, "server.cohort = 19"),
        ({"method": {"name": "fedper"}}, 100, "shares instance norms"),
        ({"method": {"name": "predicted"}}, 100, "shares instance norms or a predictor"),
        ({"method": {"name": "scaffold"}}, 100, "method.name = 'scaffold' sends further tensors"),
        ({"method": {"name": "ifca"}}, 100, "take a method such as fedbn"),
        ({"server": Server(cohort=20, strategy="Krum")}, 100, "cannot be private"),
        ({"server": Server(cohort=20, bound=1.0)}, 100, "server.bound"),
    ],
)
def test_what_else_must_fit_is_checked_before_a_run(changes, clients, said):
    with pytest.raises(ConfigError, match=said):
        check_server(private(**changes), clients)


def test_a_private_run_releases_a_noisy_secure_sum_and_nothing_else(tmp_path):
    from fedstyle.flower.engine import run_federation
    from fedstyle.flower.private import read_ledger

    rounds = []
    config = private(server=Server(rounds=1, cohort=COHORT, min_replies=0.5, timeout=240.0))
    base = run_federation(config, fakes.small_base(), fakes.Fakes(tmp_path), 20, on_round=rounds.append)
    assert read_ledger(rounds[0].state.extra).epsilon(1e-5) <= 1.0
    moved = max(float((base.weights[name] - value).abs().max()) for name, value in fakes.small_base().weights.items())
    noise = Promise.of(config, 20).mechanism.noise * 0.01 / 20
    assert noise < moved < 20 * noise  # the clients' own changes are of norm 0.01 at most
