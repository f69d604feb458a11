"""What the loop writes down of its pairs, their promises and its multipliers."""

import pytest
import torch
from oracles import finite_difference_gains, random_prior, soft_confusion, soft_objective
from torch.nn import functional as F

from selmix.metrics import METRICS
from selmix.stage2 import trace as module
from selmix.stage2.trace import Trace, predicted_change


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_law(size, seed=0):
    law = torch.rand(size, size, generator=generator(seed), dtype=torch.float64) ** 4
    return law / law.sum()


@pytest.mark.parametrize("name", ["mean_recall", "min_recall", "macro_f1"])
def test_the_predicted_change_is_the_finite_difference_along_the_mean_step(name):
    k, width, mix, rate, steps = 4, 5, 0.8, 0.05, 7
    means, weight = torch.randn(2, k, width, generator=generator(1), dtype=torch.float64)
    prior, law = random_prior(k, generator=generator(2)), random_law(k, 3)
    metric = soft_objective(METRICS[name], 50)
    gains = finite_difference_gains(metric, prior, means, weight, None, mix)
    # the mean step of the law, by autograd on the mean cross-entropy of all mixtures
    leaf = weight.clone().requires_grad_()
    mixtures = mix * means[:, None] + (1 - mix) * means
    loss = F.cross_entropy((mixtures @ leaf.T).flatten(0, 1), torch.arange(k).repeat_interleave(k), reduction="none")
    (slope,) = torch.autograd.grad((law.flatten() * loss).sum(), leaf)

    def value(scale):
        return float(metric(soft_confusion(prior, means @ (weight - scale * rate * steps * slope).T)))

    expected = (value(1e-5) - value(-1e-5)) / 2e-5
    assert abs(expected) > 1e-4
    assert predicted_change(law, gains, rate=rate, steps=steps) == pytest.approx(expected, rel=1e-4)


def test_draws_are_added_up_and_the_first_gains_kept():
    counts = torch.tensor([5, 50, 20])
    trace = Trace(counts, 1, 2)
    first, second = random_law(3, 1), random_law(3, 2)
    gains = torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    trace.add(first, gains, 30)
    trace.add(second, -gains, 10)
    traced = trace.traced()
    share = (30 * first + 10 * second) / 40
    assert traced.bins.tolist() == [0, 1, 2]
    torch.testing.assert_close(traced.drawn, share)
    torch.testing.assert_close(traced.gains, gains)
    order = share.flatten().argsort(descending=True)
    assert traced.drawn_pairs.tolist() == [[int(at) // 3, int(at) % 3] for at in order]
    torch.testing.assert_close(traced.drawn_shares, share.flatten()[order])
    assert (traced.gain_values > 0).all()
    assert len(traced.gain_pairs) == int((gains > 0).sum())
    torch.testing.assert_close(traced.gain_values, gains[tuple(traced.gain_pairs.T)])


def test_groups_of_samples_are_summed_up_in_their_classes():
    trace = Trace(torch.tensor([5, 5]), 2, 1)
    law, gains = random_law(4, 5), torch.arange(16.0, dtype=torch.float64).view(4, 4)
    trace.add(law, gains, 1)
    traced = trace.traced()
    for kept in range(2):
        for partner in range(2):
            block = slice(2 * kept, 2 * kept + 2), slice(2 * partner, 2 * partner + 2)
            assert float(traced.drawn[kept, partner]) == pytest.approx(float(law[block].sum()))
            assert float(traced.gains[kept, partner]) == pytest.approx(float(gains[block].mean()))


@pytest.mark.parametrize("whole", [100, 5])
def test_many_classes_are_binned_by_size_and_beyond_a_number_of_them_no_matrix_is_kept(monkeypatch, whole):
    monkeypatch.setattr(module, "BINS", 3)
    monkeypatch.setattr(module, "WHOLE", whole)
    monkeypatch.setattr(module, "PAIRS", 4)
    counts = torch.tensor([1, 9, 2, 8, 3, 7])
    trace, laws = Trace(counts, 1, 2), [random_law(6, 1), random_law(6, 2)]
    gains = torch.randn(6, 6, generator=generator(), dtype=torch.float64)
    for law in laws:
        trace.add(law, gains, 5)
    traced = trace.traced()
    assert (trace._whole is None) == (whole < 6)
    # by size the classes are 1, 3, 5, 4, 2, 0, two a bin
    members = [[1, 3], [5, 4], [2, 0]]
    assert traced.bins.tolist() == [2, 0, 2, 0, 1, 1]
    mean = (laws[0] + laws[1]) / 2
    for row, kept in enumerate(members):
        for column, partner in enumerate(members):
            assert float(traced.drawn[row, column]) == pytest.approx(float(mean[kept][:, partner].sum()))
            assert float(traced.gains[row, column]) == pytest.approx(float(gains[kept][:, partner].mean()))
    assert len(traced.drawn_pairs) == 4
    for (kept, partner), share in zip(traced.drawn_pairs.tolist(), traced.drawn_shares.tolist(), strict=True):
        assert share <= float(mean[kept, partner]) + 1e-12
    if whole > 6:
        assert float(traced.drawn_shares[0]) == pytest.approx(float(mean.max()))


def test_the_largest_multipliers_are_kept(monkeypatch):
    monkeypatch.setattr(module, "_ITEMS", 2)
    monkeypatch.setattr(module, "_MOMENTS", 3)
    trace = Trace(torch.tensor([5, 5]), 1, 5, ["a", "b", "c"])
    for step in range(6):
        trace.constrain(10 * step, torch.tensor([0.0, step, 3.0 - step]).clamp_min(0).double())
    traced = trace.traced()
    assert traced.moments.tolist() == [0, 20, 40]
    assert traced.items == ["b", "c"]
    assert traced.multipliers.tolist() == [[0, 3], [2, 1], [4, 0]]


def test_a_loop_that_takes_no_step_leaves_nothing():
    traced = Trace(torch.tensor([5, 5]), 1, 1).traced()
    assert traced.gains is None
    assert len(traced.drawn_pairs) == len(traced.gain_values) == len(traced.moments) == 0
    assert traced.drawn.tolist() == [[0, 0], [0, 0]]
