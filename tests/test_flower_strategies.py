import pytest
from flwr.serverapp import strategy as stock

from fedstyle.errors import ConfigError
from fedstyle.flower.strategies import STRATEGIES, make_strategy


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_stock_strategy_is_flowers_own_and_trains_the_whole_cohort(name):
    strategy = make_strategy(name, {}, 7)
    assert type(strategy) is getattr(stock, name)
    assert (strategy.fraction_train, strategy.fraction_evaluate, strategy.min_train_nodes, strategy.min_available_nodes) == (1, 0, 7, 7)


def test_no_stock_strategy_is_forgotten():
    refused = {name for name in stock.__all__ if name.startswith(("FedXgb", "DifferentialPrivacy"))}
    assert set(stock.__all__) - refused - {"QFedAvg", "Strategy", "Result"} == set(STRATEGIES)


def test_options_reach_the_strategy_whole_numbers_as_such():
    adam = make_strategy("FedAdam", {"eta": 0.01, "beta_1": 0.5}, 4)
    assert (adam.eta, adam.beta_1, adam.beta_2) == (0.01, 0.5, 0.99)
    krum = make_strategy("MultiKrum", {"num_malicious_nodes": 1.0, "num_nodes_to_select": 3.0}, 5)
    assert (krum.num_malicious_nodes, krum.num_nodes_to_select) == (1, 3)
    assert type(krum.num_nodes_to_select) is int


@pytest.mark.parametrize(
    ("name", "options", "cohort", "words"),
    [
        ("FedAdm", {}, 4, "unknown server.strategy = 'FedAdm': did you mean 'FedAdam'"),
        ("FedAdam", {"eta2": 1.0}, 4, "unknown option server.options.eta2 of FedAdam: did you mean 'eta'"),
        ("FedAvg", {"eta": 1.0}, 4, "server.options.eta of FedAvg"),
        ("FedAvg", {"fraction_train": 0.5}, 4, "server.options.fraction_train"),
        ("Bulyan", {"selection_rule": 1.0}, 4, "server.options.selection_rule"),
        ("Krum", {"num_malicious_nodes": 0.5}, 9, "whole number"),
        ("FedAdam", {"eta": -1.0}, 4, "0 or more"),
        ("FedTrimmedAvg", {"beta": 0.5}, 4, "beta"),
        ("Krum", {"num_malicious_nodes": 1.0}, 4, "needs 5 a round; there are 4"),
        ("Bulyan", {"num_malicious_nodes": 1.0}, 6, "needs 7 a round; there are 6"),
        ("MultiKrum", {"num_nodes_to_select": 6.0}, 5, "1 to 5"),
        ("QFedAvg", {}, 4, "no loss leaves a device"),
        ("FedXgbBagging", {}, 4, "trees"),
        ("DifferentialPrivacyServerSideFixedClipping", {}, 4, r"\[privacy\]"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(name, options, cohort, words):
    with pytest.raises(ConfigError, match=words) as caught:
        make_strategy(name, options, cohort)
    assert "\n" not in str(caught.value)
