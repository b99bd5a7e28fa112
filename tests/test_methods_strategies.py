"""Every method with every stock strategy that it goes with; the rest are refused before anything runs."""

import dataclasses

import flower_fakes as fakes
import pytest

from fedstyle import params
from fedstyle.companions import is_companion, outfit
from fedstyle.config import Config, Server, Training
from fedstyle.errors import ConfigError
from fedstyle.flower.engine import run_federation
from fedstyle.flower.strategies import STRATEGIES
from fedstyle.methods import METHODS, make_method
from fedstyle.simulate import check

ROBUST = ("Bulyan", "FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum")
REFUSED = {("local", "Bulyan"), ("local", "Krum"), ("local", "MultiKrum"), ("pfedme", "FedProx")}
REFUSED |= {("ifca", name) for name in ROBUST} | {("scaffold", name) for name in STRATEGIES if name not in ("FedAvg", "FedProx")}


@dataclasses.dataclass(frozen=True)
class Trainee:
    """Moves what the method shares a tenth of the way to a network of its own."""

    partition: int
    shares: object

    def fit(self, base, *, round, proximal):
        own = fakes.Base.new(base.arch, base.padding, seed=100 + self.partition, width=base.net().width).weights
        own |= {name: value + 0.1 for name, value in base.weights.items() if is_companion(name)}
        return fakes.Update({name: 0.1 * (own[name] - value) for name, value in base.weights.items() if self.shares(name)})


@dataclasses.dataclass(frozen=True)
class Trainees(fakes.Fakes):
    method: str = "fedbn"

    def __call__(self, partition):
        return Trainee(partition, make_method({"name": self.method}).shares)


def run(folder, method, strategy):
    config = Config(
        method={"name": method}, server=Server(rounds=1, timeout=240.0, strategy=strategy, workers=1), training=Training(seed=7)
    )
    return run_federation(config, outfitted(method), Trainees(folder, method=method), 5)


def outfitted(method):
    return outfit(fakes.small_base(), make_method({"name": method}))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", ["local", "fedbn", "scaffold", "ifca"])  # to a strategy a method is a set of names, which may be empty
def test_a_method_runs_with_a_strategy_or_is_refused(method, strategy, tmp_path):
    if (method, strategy) in REFUSED:
        with pytest.raises(ConfigError, match=f"'{strategy}' does not go with the method"):
            run(tmp_path, method, strategy)
        assert not list(tmp_path.iterdir())
        return
    base, made = outfitted(method), run(tmp_path, method, strategy)
    params.check_alike(made.weights, base.weights)
    shares = make_method({"name": method}).shares
    moved = {name for name, value in made.weights.items() if not value.equal(base.weights[name])}
    assert moved <= {name for name in base.weights if shares(name)}
    assert bool(moved) == (method != "local")
    assert any(map(is_companion, moved)) == (method in ("scaffold", "ifca"))


def test_only_these_pairs_are_refused():
    assert {(name, strategy) for name, kind in METHODS.items() for strategy in getattr(kind, "refuses", ())} == REFUSED


@pytest.mark.parametrize(("method", "strategy"), sorted(REFUSED))
def test_a_run_finds_out_before_it_writes_anything(method, strategy):
    with pytest.raises(ConfigError, match="does not go with the method"):
        check(Config(method={"name": method}, server=Server(strategy=strategy)))
