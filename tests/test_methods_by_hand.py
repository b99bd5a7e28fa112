"""Each method's own arithmetic, worked out by hand on two parameters.

The toys give y = w + b with the loss y², so that both slopes are 2 (w + b), first w = 1 and b = 0.5: the loss is 2.25, the slopes 3.
Adam's first step is as long as its rate (`warmup=1`), whatever the slope; its first moment is then a tenth of the slope, and shows it.
"""

import dataclasses

import pytest
import torch
from toys import CONV, FIRST, LAST, NORM, Ends, Two, toy_task

from fedstyle.methods import make_method

ONE = {"steps": 1, "lr": 0.1, "norm_lr": 0.2}
"""One iteration a round; the rate is 0.1 for w and 0.2 for b where b is a norm."""
TASK = {"warmup": 1, "rate": 0.1, "norm_rate": 0.2}


def fit(name, net, memory=None, **fields):
    method = make_method({"name": name, **ONE, **fields})
    return list(method.fit(net, toy_task(**TASK), {} if memory is None else memory))


def personalize(name, net, memory=None, iterations=1, full=False, **fields):
    memory = {key: value for key, value in (memory or {}).items() if key.startswith("own/")}  # what a client hands on
    method = make_method({"name": name, **ONE, **fields})
    steps = list(method.personalize(net, toy_task(**TASK), memory, iterations, full))
    assert len(steps) == iterations
    return memory


def slope(memory, name, drawer=""):
    """The slope of a fresh Adam's first step."""
    return pytest.approx(10 * float(memory[f"{drawer}adam/exp_avg/{name}"]), rel=1e-5)


# -------------------------------------------------------------------------------------------------- a private part of the net


@pytest.mark.parametrize(("name", "private"), [("fedper", LAST), ("fedrep", LAST), ("fedbabu", LAST), ("lg-fedavg", FIRST)])
def test_which_end_is_private(name, private):
    method = make_method({"name": name})
    assert [method.shares(one) for one in (FIRST, "blocks.4.second.norm.bias", LAST)] == [one != private for one in (FIRST, None, LAST)]
    assert not method.shares("predictor.out.weight")


@pytest.mark.parametrize("name", ["fedper", "lg-fedavg"])
def test_both_ends_train_together(name):
    net = Ends()
    fit(name, net)
    assert net.values == pytest.approx([0.9, 0.4])


@pytest.mark.parametrize(
    ("name", "tuned"), [("fedper", [1.0, 0.4]), ("fedrep", [1.0, 0.4]), ("fedbabu", [1.0, 0.4]), ("lg-fedavg", [0.9, 0.5])]
)
def test_a_filter_is_tuned_in_its_private_part(name, tuned):
    for full, expected in ((False, tuned), (True, [0.9, 0.4])):
        net = Ends()
        personalize(name, net, full=full)
        assert net.values == pytest.approx(expected)


def test_fedrep_trains_the_head_and_then_the_body():
    # The head's step: slope 3, b = 0.5 - 0.1. The body's step is at b = 0.4: loss 1.4² = 1.96, slope 2.8, w = 1 - 0.1.
    net, memory = Ends(), {}
    first, second = fit("fedrep", net, memory, head_steps=1)
    assert (first.iteration, second.iteration, second.iterations) == (1, 2, 2)
    assert [first.total, second.total] == pytest.approx([2.25, 1.96])
    assert (slope(memory, LAST, "head/"), slope(memory, FIRST, "body/")) == (3.0, 2.8)
    assert net.values == pytest.approx([0.9, 0.4])


def test_fedbabu_trains_no_head_in_a_round():
    net = Ends()
    fit("fedbabu", net, steps=2, keep_moments=False)
    assert net.values[1] == 0.5
    assert net.values[0] < 0.9


# ----------------------------------------------------------------------------------------------------- a network beside the net


def test_ditto_pulls_its_second_network_to_the_base():
    # Round 1: both networks start at the base, where the pull is 0, and go to (0.9, 0.3). The shared one is what the net holds.
    net, memory = Two(), {}
    steps = fit("ditto", net, memory, lam=2.0, keep_moments=False)
    assert [progress.iteration for progress in steps] == [1, 2]
    assert net.values == pytest.approx([0.9, 0.3])
    # Round 2, and the base is (1, 0.5) again, so that the shared network goes to (0.9, 0.3) again. The own one stands at (0.9, 0.3), where
    # the loss's slopes are 2.4; the pulls are 2 (0.9 - 1) = -0.2 and 2 (0.3 - 0.5) = -0.4: slopes 2.2 and 2.0, and it goes to (0.8, 0.1).
    net = Two()
    fit("ditto", net, memory, lam=2.0, keep_moments=False)
    assert net.values == pytest.approx([0.9, 0.3])
    assert [slope(memory, name, "second/") for name in (CONV, NORM)] == [2.2, 2.0]
    assert [float(memory[f"own/{name}"]) for name in (CONV, NORM)] == pytest.approx([0.8, 0.1])
    # The filter begins there. From (0.8, 0.1) the slopes are 1.8 + 2 (0.8 - 1) = 1.4 and 1.8 + 2 (0.1 - 0.5) = 1.0.
    net = Two()
    personalize("ditto", net, memory, iterations=0)
    assert net.values == pytest.approx([0.8, 0.1])
    net = Two()
    after = personalize("ditto", net, memory, lam=2.0)
    assert [slope(after, name) for name in (CONV, NORM)] == [1.4, 1.0]
    assert net.values == pytest.approx([0.7, -0.1])


def test_apfl_mixes_weights_and_learns_how_much():
    # Round 1: v = w, so the mixture is (1, 0.5) and its slopes 3; v's are alpha * 3 = 1.5; alpha's is 3 (v - w) summed, 0: it stays.
    net, memory = Two(), {}
    (progress,) = fit("apfl", net, memory, keep_moments=False)
    assert progress.total == 2.25
    assert slope(memory, f"net.{CONV}", "second/") == 1.5
    assert float(memory["own/alpha"]) == 0.5
    assert net.values == pytest.approx([0.9, 0.3])
    # Round 2 from w = (1, 0.5), v = (0.9, 0.3): the mixture is (0.95, 0.4), its slopes 2.7; v's are 1.35; alpha's is
    # 2.7 (0.9 - 1) + 2.7 (0.3 - 0.5) = -0.81, so alpha goes up by its rate 0.1. v goes to (0.8, 0.1), w to (0.9, 0.3).
    net = Two()
    (progress,) = fit("apfl", net, memory, keep_moments=False)
    assert progress.total == pytest.approx(1.35**2)
    assert slope(memory, f"net.{CONV}", "second/") == 1.35
    assert slope(memory, "more.alpha", "second/") == -0.81
    assert float(memory["own/alpha"]) == pytest.approx(0.6)
    assert [float(memory[f"own/v/{name}"]) for name in (CONV, NORM)] == pytest.approx([0.8, 0.1])
    assert net.values == pytest.approx([0.9, 0.3])
    # The filter begins at 0.6 v + 0.4 w for the base's w = (1, 0.5): (0.48 + 0.4, 0.06 + 0.2).
    net = Two()
    personalize("apfl", net, memory, iterations=0)
    assert net.values == pytest.approx([0.88, 0.26])
    personalize("apfl", again := Two(), memory)
    assert again.values == pytest.approx([0.78, 0.06])


def test_apfl_keeps_alpha_between_0_and_1():
    memory = {"own/alpha": torch.tensor(0.95), f"own/v/{CONV}": torch.tensor([0.9]), f"own/v/{NORM}": torch.tensor([0.3])}
    fit("apfl", Two(), memory)  # as in round 2 above it goes up, by 0.1
    assert float(memory["own/alpha"]) == 1.0


def test_pfedme_moves_w_after_each_theta():
    # lam = 2, one step on theta for each of w, which goes half of the way. Theta starts at w = (1, 0.5), where the pull is 0: slopes 3, it
    # goes to (0.9, 0.3); w goes to (0.95, 0.4). The second step's slopes are 2.4 + 2 (0.9 - 0.95) = 2.3 and 2.4 + 2 (0.3 - 0.4) = 2.2.
    #   theta_w: m = 0.27 + 0.23 = 0.50, / 0.19 = 2.631579; v = 0.008991 + 0.00529 = 0.014281, / 0.001999 = 7.144072, root 2.672840
    #            ratio 0.984563, so 0.9 - 0.0984563 = 0.8015437
    #   theta_b: m = 0.27 + 0.22 = 0.49, / 0.19 = 2.578947; v = 0.008991 + 0.00484 = 0.013831, / 0.001999 = 6.918959, root 2.630391
    #            ratio 0.980443, so 0.3 - 0.1960886 = 0.1039114
    # and w goes half of the way there: (0.8757719, 0.2519557).
    net, memory = Two(), {}
    steps = fit("pfedme", net, memory, steps=2, inner=1, outer=0.5, lam=2.0)
    assert [(progress.iteration, progress.iterations) for progress in steps] == [(1, 2), (2, 2)]
    assert [float(memory[f"own/{name}"]) for name in (CONV, NORM)] == pytest.approx([0.8015437, 0.1039114], rel=1e-5)
    assert net.values == pytest.approx([0.8757719, 0.2519557], rel=1e-5)
    # A filter is theta, pulled to the base: from (1, 0.5) as the base the slope of w is 2 * 0.9054551 + 2 (0.8015437 - 1) = 1.4139976.
    net = Two()
    personalize("pfedme", net, memory, iterations=0)
    assert net.values == pytest.approx([0.8015437, 0.1039114], rel=1e-5)
    after = personalize("pfedme", Two(), memory, lam=2.0)
    assert slope(after, CONV) == 1.4139976


def test_pfedme_ends_a_round_with_what_is_left_of_an_inner_loop():
    # Three steps with inner = 2: w moves after the second and the third.
    net = Two()
    assert len(fit("pfedme", net, steps=3, inner=2, lam=0.0, outer=1.0)) == 3
    plain = Two()
    fit("fedavg", plain, steps=3)
    assert net.values == pytest.approx(plain.values)  # with no pull and the whole way it is FedAvg


# ---------------------------------------------------------------------------------------------------------------- meta-learning


def test_per_fedavg_takes_its_slope_after_an_inner_step():
    # The inner step of 0.1 against the slopes 3 leads to (0.7, 0.2): loss 0.81, slopes 2 * 0.9 = 1.8. The Hessian's factor, which the
    # first-order variant leaves out, would make them 1.8 - 0.1 * 2 * (1.8 + 1.8) = 1.08. The step starts where the net was.
    net, memory = Two(), {}
    (progress,) = fit("per-fedavg", net, memory, inner_lr=0.1)
    assert progress.total == pytest.approx(0.81)
    assert [slope(memory, f"net.{name}") for name in (CONV, NORM)] == [1.8, 1.8]
    assert net.values == pytest.approx([0.9, 0.3])


def test_each_step_of_per_fedavg_has_an_inner_step_of_its_own():
    # The second inner step starts at (0.9, 0.3) with slopes 2.4, and leads to (0.66, 0.06): loss 0.72².
    steps = fit("per-fedavg", Two(), steps=2, inner_lr=0.1)
    assert steps[1].total == pytest.approx(0.72**2)


def test_reptile_sends_a_part_of_the_way():
    # One step leads from (1, 0.5) to (0.9, 0.3); a quarter of the way is (0.975, 0.45).
    net = Two()
    fit("reptile", net, outer=0.25)
    assert net.values == pytest.approx([0.975, 0.45])
    plain, whole = Two(), Two()
    fit("fedavg", plain, steps=3)
    fit("reptile", whole, steps=3, outer=1.0)
    assert whole.values == plain.values  # Reptile's special case


def test_meta_norms_train_the_convolution_at_norms_that_were_trained():
    # Inner step on b: slope 3, b = 0.5 - 0.2. Outer step on w at b = 0.3: loss 1.69, slope 2.6, w = 1 - 0.1. Then b is 0.5 again.
    net, memory = Two(), {}
    first, second = fit("meta-norms", net, memory, inner=1)
    assert [first.total, second.total] == pytest.approx([2.25, 1.69])
    assert slope(memory, CONV, "outer/") == 2.6
    assert f"outer/adam/exp_avg/{NORM}" not in memory
    assert net.values == pytest.approx([0.9, 0.5])


# -------------------------------------------------------------------------------------------- what travels beside the base


def carry(name, net, beside, memory=None, **fields):
    """A round with these companions, which it changes."""
    method = make_method({"name": name, **ONE, **fields})
    return list(method.fit(net, dataclasses.replace(toy_task(**TASK), beside=beside), {} if memory is None else memory))


def test_scaffold_adds_what_the_others_slopes_are_more():
    # Round 1: c = 0, and there is no c_i, so that the step is FedAvg's, to (0.9, 0.3). The new c_i is the slope at the base, 3, and so is c
    # less c plus c_i: what the companions hold is 3 / 1024.
    net, memory, beside = Two(), {}, {f"control.{name}": torch.zeros(1) for name in (CONV, NORM)}
    carry("scaffold", net, beside, memory, keep_moments=False)
    assert net.values == pytest.approx([0.9, 0.3])
    assert [slope(memory, name) for name in (CONV, NORM)] == [3.0, 3.0]
    assert [1024 * float(beside[f"control.{name}"]) for name in (CONV, NORM)] == [3.0, 3.0]
    # Round 2 from (1, 0.5) again, and c is (1, 2) now: the slopes are 3 + 1 - 3 = 1 and 3 + 2 - 3 = 2.
    net, beside = Two(), {f"control.{CONV}": torch.tensor([1 / 1024]), f"control.{NORM}": torch.tensor([2 / 1024])}
    carry("scaffold", net, beside, memory, keep_moments=False)
    assert [slope(memory, name) for name in (CONV, NORM)] == [1.0, 2.0]
    # c_i is the slope at the base, not at the end; and with part = 0.5 c goes half of the way to it, from 1 to 2 and from 2 to 2.5.
    assert [float(memory[f"control.{name}"]) for name in (CONV, NORM)] == [3.0, 3.0]
    beside = {f"control.{CONV}": torch.tensor([1 / 1024]), f"control.{NORM}": torch.tensor([2 / 1024])}
    carry("scaffold", Two(), beside, memory, part=0.5)
    assert [1024 * float(beside[f"control.{name}"]) for name in (CONV, NORM)] == [2.0, 2.5]


def test_where_everybody_takes_part_scaffolds_c_is_the_papers():
    # Two clients whose c_i were 3 and 1, so that c = 2; the base moved, and their slopes are 2 (0.75 + 0.25) = 2 and 2 (1.5 + 0.5) = 4. The
    # paper's c + mean(new c_i - c_i) is 2 + ((2 - 3) + (4 - 1)) / 2 = 3, and so is c and the mean of what is sent: 2 + (0 + 2) / 2.
    sent = []
    for own, net in ((3.0, Two(0.75, 0.25)), (1.0, Two(1.5, 0.5))):
        beside, memory = (
            {f"{key}{name}": torch.tensor([value]) for name in (CONV, NORM)} for key, value in (("control.", 2 / 1024), ("control.", own))
        )
        carry("scaffold", net, beside, memory)
        sent.append(1024 * float(beside[f"control.{CONV}"]) - 2)
    assert 2 + sum(sent) / 2 == 3.0


def test_ifca_trains_the_network_with_the_least_loss_and_no_other():
    # The base's loss is 1.5² = 2.25, that of cluster 1 is (0.5 + 0.25)² = 0.5625, of cluster 2 (2 + 1)² = 9: cluster 1 is trained, to
    # (0.5 - 0.1, 0.25 - 0.2) with slope 2 * 0.75 = 1.5, and the others are what they were.
    values = {f"1.{CONV}": 0.5, f"1.{NORM}": 0.25, f"2.{CONV}": 2.0, f"2.{NORM}": 1.0}
    beside = {name: torch.tensor([value]) for name, value in values.items()}
    net, memory = Two(), {}
    (progress,) = carry("ifca", net, beside, memory, clusters=3)
    assert progress.total == 0.5625
    assert slope(memory, CONV, "1/") == 1.5
    assert net.values == [1.0, 0.5]
    assert {name: float(value) for name, value in beside.items()} == pytest.approx(values | {f"1.{CONV}": 0.4, f"1.{NORM}": 0.05})
    # The average of two clients, of whom the other chose cluster 0, moves each network by half of its change: the paper's gamma / m.
    other = {name: torch.tensor([value + 9]) for name, value in values.items()}
    before = {name: value.clone() for name, value in other.items()}
    carry("ifca", alone := Two(), other, clusters=3)
    assert alone.values == pytest.approx([0.9, 0.3])
    assert all(torch.equal(other[name], value) for name, value in before.items())
    # A filter begins with the network that suits best, here the trained cluster 1, and tunes its norms: 0.05 - 0.2.
    for iterations, made in ((0, [0.4, 0.05]), (1, [0.4, -0.15])):
        task = dataclasses.replace(toy_task(**TASK), beside=beside)
        list(make_method({"name": "ifca", "clusters": 3}).personalize(net := Two(), task, {}, iterations, False))
        assert net.values == pytest.approx(made)


# ----------------------------------------------------------------------------------------------------------------------- LoRA


@pytest.mark.usefixtures("fp32")
def test_lora_trains_an_adapter_beside_the_convolution():
    # With a = 2, b = 0 the adapter adds nothing: y's slopes are 3. The convolution's is 3, b's 3 a = 6, a's 3 b = 0. So the convolution
    # goes to 0.9, the norm to 0.3, b to -0.1, and a stays: its slope is 0. The net holds the convolution alone.
    low = {"own/layer/conv/weight/a": torch.tensor([[2.0]]), "own/layer/conv/weight/b": torch.tensor([[0.0]])}
    net, memory = Two(), dict(low)
    fit("lora", net, memory)
    assert net.values == pytest.approx([0.9, 0.3])
    assert slope(memory, "more.layer/conv/weight/b") == 6.0
    assert [float(memory[f"own/layer/conv/weight/{part}"]) for part in "ab"] == pytest.approx([2.0, -0.1])
    # The filter of a base with w = 1 and the private norm 0.3 begins at w = 1 + 2 (-0.1) = 0.8.
    net = Two(1.0, 0.3)
    personalize("lora", net, memory, iterations=0)
    assert net.values == pytest.approx([0.8, 0.3])
    # A step there: y's slopes are 2.2, b's 2 * 2.2, a's -0.1 * 2.2. b goes to -0.2, a to 2.1, the norm to 0.1; w = 1 - 0.2 * 2.1 = 0.58.
    net = Two(1.0, 0.3)
    after = personalize("lora", net, memory)
    assert [slope(after, f"more.layer/conv/weight/{part}") for part in "ab"] == [-0.22, 4.4]
    assert f"adam/exp_avg/net.{CONV}" not in after
    assert net.values == pytest.approx([0.58, 0.1])
    # In full the merged network is trained: 0.8 - 0.1, and 0.3 - 0.2.
    net = Two(1.0, 0.3)
    personalize("lora", net, memory, full=True)
    assert net.values == pytest.approx([0.7, 0.1])


def test_a_new_adapter_adds_nothing_and_has_its_rank(base):
    memory = {}
    method = make_method({"name": "lora", "rank": 2})
    net = base.net()
    list(method.personalize(net, toy_task(), memory, 0, False))
    assert all(torch.equal(value, base.weights[name]) for name, value in net.named_parameters())
    adapted = method._adapted(net, toy_task(), {})
    shapes = {name: tuple(value.shape) for name, value in adapted.more.items() if name.startswith(("down2", "out"))}
    (rows, *rest), outer = base.weights["down2.conv.weight"].shape, base.weights["out.conv.weight"].shape
    assert shapes["down2/conv/weight/b"] == (rows, 2)
    assert shapes["down2/conv/weight/a"] == (2, rest[0] * rest[1] * rest[2])
    assert shapes["out/conv/weight/b"] == (outer[0], 2)
    assert len(adapted.more) == 2 * sum(name.endswith(".conv.weight") for name in base.weights)


# ------------------------------------------------------------------------------------------------------------------ fine-tuning


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["fedavg-ft", "reptile", "per-fedavg"])
def test_what_all_share_is_tuned_as_a_whole(name, full):
    method = make_method({"name": name})
    assert (method.shares(CONV), method.shares(NORM), method.shares("predictor.out.weight")) == (True, True, False)
    net = Two()
    personalize(name, net, full=full)
    assert net.values == pytest.approx([0.9, 0.3])


def test_a_round_of_fedavg_ft_is_one_of_fedavg():
    one, other = Two(), Two()
    fit("fedavg", one, steps=3)
    fit("fedavg-ft", other, steps=3)
    assert one.values == other.values


@pytest.mark.parametrize(
    ("name", "mine"), [("fedavg-ft", ""), ("ditto", ""), ("apfl", ""), ("reptile", ""), ("lora", "net."), ("per-fedavg", "net.")]
)
def test_a_server_with_fedprox_pulls_what_is_shared(name, mine):
    # Two steps with mu = 2: after the first the pull on w is 2 (0.9 - 1) = -0.2, and Adam's first moment gets a tenth of it.
    moments = []
    for mu in (0.0, 2.0):
        memory = {}
        table = {"inner_lr": 1e-9} if name == "per-fedavg" else {}  # so that its slopes are FedAvg's
        list(make_method({"name": name, **ONE, "steps": 2, **table}).fit(Two(), toy_task(proximal=mu, **TASK), memory))
        moments.append(float(memory[f"adam/exp_avg/{mine}{CONV}"]))
    assert moments[1] - moments[0] == pytest.approx(-0.02, rel=1e-3)
