import copy
import gc
import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import CONV, NORM, Coins, Ones, Two, square, toy_task

from fedstyle import keeping, params, training
from fedstyle.config import Training
from fedstyle.errors import ConfigError, FedstyleError, ParamsError, PhotoError
from fedstyle.keeping import Budget
from fedstyle.net import is_norm
from fedstyle.perceptual import Losses, Objective, gram, load_features
from fedstyle.training import Content, Progress, Task, choose_device, derive, descend, detailed, evaluate


def run(net, task, memory=None, *, iterations=1, rate=0.1, norm_rate=0.2, **options):
    return list(descend(net, task, {} if memory is None else memory, iterations=iterations, rate=rate, norm_rate=norm_rate, **options))


@pytest.fixture(scope="module")
def objective():
    features = load_features("tiny")
    style = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    return Objective(features, tuple(gram(tap)[0] for tap in features(style)))


@pytest.fixture
def crops():
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def real(crops, objective):
    """A real task: five crops, the embedded feature network."""
    cpu = torch.device("cpu")
    return Task(Content(crops, objective, cpu), objective, Training(size=32, batch=2, warmup=2, device="cpu"), 11)


# ------------------------------------------------------------------------------------------------------- steps by hand


def test_two_steps_of_adam_by_hand():
    # y = w + b on pixels of 1, loss y², so both slopes are 2 (w + b). Rates 0.1 for w and 0.2 for b, warm-up over 2 steps,
    # beta 0.9 and 0.999. Step 1, at half the rates: w = 1, b = 0.5, loss 2.25, slope g = 3. The moments' corrections undo the betas,
    # so the step is rate * g / |g|: w = 1 - 0.05 = 0.95, b = 0.5 - 0.1 = 0.4.
    # Step 2, at the full rates: loss 1.35² = 1.8225, g = 2.7;
    #   m = 0.9 * 0.3 + 0.1 * 2.7 = 0.54           corrected by 1 - 0.9²   = 0.19:     2.842105
    #   v = 0.999 * 0.009 + 0.001 * 7.29 = 0.016281 corrected by 1 - 0.999² = 0.001999: 8.144572, root 2.853870
    # so the step is rate * 0.995878: w = 0.95 - 0.0995878, b = 0.4 - 0.1991756.
    net, memory = Two(), {}
    first, second = run(net, toy_task(warmup=2), memory, iterations=2)
    assert first == Progress(1, 2, 2.25, 0.0, 2.25)
    assert second == Progress(2, 2, *(pytest.approx(value) for value in (1.8225, 0.0, 1.8225)))
    assert net.values == pytest.approx([0.8504122, 0.2008244], rel=1e-6)
    assert float(memory[f"adam/exp_avg/{CONV}"]) == pytest.approx(0.54)
    assert float(memory[f"adam/exp_avg_sq/{NORM}"]) == pytest.approx(0.016281)
    assert (int(memory["iteration"]), int(memory["adam/step"])) == (2, 2)


def test_adam_is_torchs_to_the_bit():
    draw = torch.Generator().manual_seed(0)
    ours = [torch.randn(shape, generator=draw) for shape in ((7, 5, 3, 3), (5,))]
    theirs = [torch.nn.Parameter(value.clone()) for value in ours]
    means, squares = ([torch.zeros_like(value) for value in ours] for _ in range(2))
    adam = torch.optim.Adam([{"params": [value]} for value in theirs])
    for step in range(1, 12):
        rates = [rate * min(1, step / 5) for rate in (1e-3, 1e-2)]
        for value, group, rate in zip(theirs, adam.param_groups, rates, strict=True):
            value.grad, group["lr"] = torch.randn(value.shape, generator=draw), rate
        training._adam(ours, [value.grad for value in theirs], means, squares, step, rates)
        adam.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_training_does_not_load_torchs_compiler():
    """It takes 150 MB and seconds; torch's own Adam imports it."""
    program = """
import sys
import torch
from toys import Two, toy_task
from fedstyle.training import descend
list(descend(Two(), toy_task(), {}, iterations=1, rate=0.1, norm_rate=0.1))
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, check=True)


def test_the_rates_rise_over_the_warm_up():
    # The first step of a fresh Adam is rate / warmup whatever the slope; without a warm-up it is the whole rate.
    for warmup, factor in ((0, 1.0), (1, 1.0), (2, 0.5), (10, 0.1)):
        net = Two()
        run(net, toy_task(warmup=warmup))
        assert net.values == pytest.approx([1 - 0.1 * factor, 0.5 - 0.2 * factor], rel=1e-5)


def test_a_kept_optimiser_is_not_warmed_up_again():
    net, memory = Two(), {}
    run(net, toy_task(warmup=2), memory, iterations=2)
    memory.pop("iteration")  # as between two rounds
    other, kept = copy.deepcopy(net), copy.deepcopy(memory)
    run(net, toy_task(warmup=2), memory)
    run(other, toy_task(warmup=0), kept)
    assert net.values == other.values
    assert int(memory["adam/step"]) == 3


def test_the_proximal_term_by_hand():
    # mu = 2, w = 1, anchor of w 0.25: (mu/2) (w - 0.25)² has the slope 2 * 0.75 = 1.5, so w's is 3 + 1.5 and b's stays 3.
    # Adam's first moments are a tenth of the slopes, the second a thousandth of their squares. The losses that are shown are the filter's.
    memory = {}
    (progress,) = run(Two(), toy_task(proximal=2.0), memory, anchor={CONV: torch.tensor([0.25])})
    assert [float(memory[f"adam/exp_avg/{name}"]) for name in (CONV, NORM)] == pytest.approx([0.45, 0.3])
    assert float(memory[f"adam/exp_avg_sq/{CONV}"]) == pytest.approx(0.02025)
    assert progress.total == 2.25


def test_the_proximal_term_needs_an_anchor_and_a_mu():
    for task, anchor in ((toy_task(proximal=2.0), None), (toy_task(proximal=2.0), {}), (toy_task(), {CONV: torch.tensor([0.25])})):
        memory = {}
        run(Two(), task, memory, anchor=anchor)
        assert float(memory[f"adam/exp_avg/{CONV}"]) == pytest.approx(0.3)


def test_only_what_is_chosen_is_trained():
    net, memory = Two(), {}
    run(net, toy_task(), memory, trains=is_norm)
    assert net.values == pytest.approx([1.0, 0.4])
    assert sorted(memory) == ["adam/exp_avg/layer.norm.weight", "adam/exp_avg_sq/layer.norm.weight", "adam/step", "iteration"]
    run(net, toy_task(), trains=lambda name: not is_norm(name))
    assert net.values == pytest.approx([0.95, 0.4])


def test_a_loss_that_is_not_finite_is_an_error_and_changes_nothing():
    net = Two()
    with pytest.raises(FedstyleError, match="training diverged: the loss is not finite at iteration 2; lower the learning rates"):
        run(net, toy_task(objective=Exploding()), iterations=3)
    assert net.values == pytest.approx([0.95, 0.4])  # the first step counts, the second was not taken


class Exploding:
    """Finite for the two pictures of the first batch."""

    def __init__(self):
        self.calls = 0

    def __call__(self, y, content):
        self.calls += 1
        losses = square(y, content)
        return losses if self.calls <= 2 else Losses(losses.content, losses.style, losses.total * math.inf)


# ------------------------------------------------------------------------------------------------------------ the state


def test_the_loop_goes_on_where_it_stood():
    whole, memory = Two(), {}
    losses = run(whole, toy_task(Coins()), memory, iterations=5)
    net, kept, seen = Two(), {}, []
    for end in (2, 3, 5):
        net = Two(*net.values)
        kept = {name: value.clone() for name, value in kept.items()}
        seen += [progress.total for progress in run(net, toy_task(Coins()), kept, iterations=end)]
    assert seen == [progress.total for progress in losses]
    assert net.values == whole.values
    assert params.fingerprint(kept) == params.fingerprint(memory)
    assert run(net, toy_task(Coins()), kept, iterations=5) == []


@pytest.mark.parametrize("fast", [False, True])
def test_a_real_network_goes_on_bit_exactly(real, base, fast, monkeypatch):
    """Also with bfloat16 and channels-last, on a machine without it: slow there, but the same code."""
    monkeypatch.setattr(training, "has_fast_bf16", lambda device: fast)
    whole, memory = base.net(), {}
    run(whole, real, memory, iterations=3, rate=1e-3, norm_rate=1e-2)
    net, kept = base.net(), {}
    for end in (1, 3):
        fresh = base.net()
        fresh.load_state_dict({name: value.contiguous().clone() for name, value in net.state_dict().items()})
        net, kept = fresh, {name: value.contiguous().clone() for name, value in kept.items()}  # as they come from a file
        run(net, real, kept, iterations=end, rate=1e-3, norm_rate=1e-2)
    assert params.fingerprint(net.state_dict()) == params.fingerprint(whole.state_dict())
    assert params.fingerprint(kept) == params.fingerprint(memory)
    assert params.fingerprint(net.state_dict()) != base.sha256


def test_the_bits_do_not_depend_on_the_number_of_threads(real, base):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):  # with two, each picture of a batch has a thread of its own
            torch.set_num_threads(threads)
            net, memory = base.net(), {}
            seen = run(net, real, memory, iterations=2, rate=1e-3, norm_rate=1e-2)
            found.append((params.fingerprint(net.state_dict()), params.fingerprint(memory), seen))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_a_batchs_slope_is_the_mean_of_its_pictures(crops, objective, base):
    # Adam's first moment after one step is a tenth of the slope; that of a batch of two is the mean of those of its pictures alone.
    found = []
    for chosen in ([0, 1], [0], [1]):
        content = Content(crops[chosen], objective, torch.device("cpu"))
        memory = {}
        run(base.net(), Task(content, objective, Training(size=32, batch=len(chosen), device="cpu")), memory)
        found.append({name: value for name, value in memory.items() if name.startswith("adam/exp_avg/")})
    for name, both in found[0].items():
        # Sums of 2^8 to 2^10 pixels in another order differ by their rounding, some 1e-7 of the largest term.
        torch.testing.assert_close(both, (found[1][name] + found[2][name]) / 2, rtol=1e-4, atol=1e-6)


def test_moments_of_another_network_are_an_error():
    with pytest.raises(ParamsError, match=r"the moments kept of 'layer.conv.weight' have shape \(2,\), expected \(1,\)"):
        run(Two(), toy_task(), {f"adam/exp_avg/{CONV}": torch.zeros(2)})


def test_training_lowers_the_loss(real, base):
    net = base.net()
    views = real.content.crops
    before = evaluate(net, real.objective, views)["total"]
    run(net, real, iterations=15, rate=1e-3, norm_rate=1e-2)
    assert evaluate(net, real.objective, views)["total"] < 0.9 * before


# ----------------------------------------------------------------------------------------------------------- the batches


def test_a_batch_is_a_function_of_seed_and_iteration(crops, objective):
    content = Content(crops, objective, torch.device("cpu"))
    pixels, features = content.batch(2, 7)
    content.batch(5, 8)
    again = Content(crops, objective, torch.device("cpu")).batch(2, 7)
    assert torch.equal(pixels, again[0])
    assert torch.equal(features, again[1])
    assert pixels.shape == (2, 3, 32, 32)
    seeds = [derive(1, iteration) for iteration in range(20)]
    assert len({content.batch(2, seed)[0].sum().item() for seed in seeds}) > 5
    whole, _ = content.batch(9, 7)  # more than there are crops
    assert whole.shape[0] == len(content) == 5
    assert torch.equal(whole.sort(0)[0], (crops.float() / 255).sort(0)[0])  # each crop once


def test_what_is_of_one_colour_is_told_from_what_is_not():
    grey = torch.full((3, 8, 8), 128, dtype=torch.uint8)
    speck, checks, blue = grey.clone(), grey.clone(), grey.clone()
    speck[0, 0, 0] = 135  # deviates by 7 sqrt(1/64 x 63/64) = 0.87 levels
    checks[2, ::2] += 2  # half the rows by 2: a deviation of 1 level
    blue[2] = 255  # three colours, and each the same all over
    assert detailed(torch.stack([grey, speck, checks, blue])).tolist() == [False, False, True, False]


def test_crops_of_one_colour_are_left_out(crops, objective):
    white = torch.full_like(crops[:2], 255)
    content = Content(torch.cat([crops[:1], white, crops[1:]]), objective, torch.device("cpu"))
    assert torch.equal(content.crops, crops)
    with pytest.raises(PhotoError, match="every photo is of one colour"):
        Content(white, objective, torch.device("cpu"))


def test_a_white_photo_among_others_does_not_stop_training(crops, objective, base):
    # The slopes of a white picture are larger than 1e19, whose square is no fp32: Adam's second moment would stay infinite.
    white = torch.ones(1, 3, 32, 32)
    net = base.net()
    loss = objective(net(white), objective.content_features(white)).total.sum()
    slopes = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    assert max(float(slope.abs().max()) for slope in slopes if slope is not None) > 1e19
    memory = {}
    content = Content(torch.cat([torch.full_like(crops[:1], 255), crops]), objective, torch.device("cpu"))
    run(base.net(), Task(content, objective, Training(size=32, batch=6, device="cpu")), memory)
    assert all(torch.isfinite(value).all() for name, value in memory.items() if "exp_avg_sq" in name)


def test_the_loop_asks_for_the_batches_of_its_seed(real, base):
    asked = []

    class Listening(Ones):
        def batch(self, size, seed):
            asked.append((size, seed))
            return super().batch(size, seed)

    run(Two(), toy_task(Listening(), seed=3, batch=7), {"iteration": torch.tensor(4)}, iterations=6)
    assert asked == [(7, derive(3, 4)), (7, derive(3, 5))]


def test_content_features_are_the_same_kept_or_computed_again(crops, objective, monkeypatch):
    kept = Content(crops, objective, torch.device("cpu"))
    first = kept.batch(5, 0)[1]
    assert torch.equal(first, kept.batch(5, 0)[1])
    monkeypatch.setattr(keeping, "CONTENT", Budget(0))
    assert torch.equal(first, Content(crops, objective, torch.device("cpu")).batch(5, 0)[1])
    calls = []
    monkeypatch.setattr(Objective, "content_features", lambda self, x: calls.append(x))
    kept.batch(5, 1)
    assert calls == []  # all five were there


def test_what_all_clients_keep_is_bounded_and_given_back(crops, objective, monkeypatch):
    budget = Budget(0)
    monkeypatch.setattr(keeping, "CONTENT", budget)
    cpu = torch.device("cpu")
    first, second = (Content(crops, objective, cpu) for _ in range(2))
    tap = objective.content_features(first.pixels([0]))
    each = tap.numel() * tap.element_size()
    budget.limit = 7 * each + 1
    bits = first.batch(5, 0)[1]
    assert budget.used == 5 * each
    assert torch.equal(bits, second.batch(5, 0)[1])
    assert torch.equal(bits, second.batch(5, 0)[1])
    assert budget.used == 7 * each  # five of the first, two of the second, whatever it computes again
    del first
    gc.collect()
    assert torch.equal(bits, second.batch(5, 0)[1])
    assert budget.used == 5 * each
    del second
    gc.collect()
    assert budget.take(7 * each)
    assert not budget.take(2)


def test_derived_seeds():
    # SHA-256 of "1", NUL, "round", NUL, "2": its first 8 bytes, big-endian, without the last bit.
    assert derive(1, "round", 2) == int(hashlib.sha256(b"1\0round\0" + b"2").hexdigest()[:16], 16) // 2
    assert 0 <= derive(0) < 2**63
    assert len({derive(1), derive(1, 2), derive(12), derive(1, "round", 2), derive(1, "round2")}) == 5


# ----------------------------------------------------------------------------------------------------------- the machine


def test_a_device_is_chosen_or_an_error_says_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "mps", "tpu"):
        with pytest.raises(ConfigError, match=f"training.device = '{name}': this machine has none; use one of auto, cpu$"):
            choose_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


# -------------------------------------------------------------------------------------------------------- what it reports


def test_evaluate_is_the_mean_over_photos_one_by_one(base, objective, crops):
    net = base.net()
    whole = evaluate(net, objective, crops)
    rows = [evaluate(net, objective, crops[[i]]) for i in range(5)]
    assert whole == {key: pytest.approx(sum(row[key] for row in rows) / 5) for key in ("content", "style", "total")}
    assert evaluate(net, objective, crops) == whole
    # By hand: y = 0 x + 0.5 everywhere; the plain loss of y² is 0.25 whatever the photo.
    features = type("F", (), {"scales": torch.ones(1)})
    toy = type(
        "O", (), {"features": features, "content_features": lambda self, x: torch.zeros_like(x), "__call__": lambda s, y, c: square(y, c)}
    )
    assert evaluate(Two(0.0, 0.5), toy(), crops) == {"content": 0.25, "style": 0.0, "total": 0.25}


def test_progress():
    assert Progress(3, 4, 1.0, 2.0, 3.0).fraction == 0.75
    assert Progress(0, 0, 1.0, 2.0, 3.0).fraction == 1.0
    assert Progress(3, 4, 1.0, 2.0, 3.0).as_dict() == {"iteration": 3, "iterations": 4, "content": 1.0, "style": 2.0, "total": 3.0}
