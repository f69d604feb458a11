"""The gain of a pair and its first half, the metric's gradient in logit space, against slow second ways."""

import pytest
import torch
from oracles import (
    finite_difference_gains,
    naive_gains,
    numeric_gradient,
    random_confusion,
    random_prior,
    soft_confusion,
    soft_objective,
)
from torch.utils._python_dispatch import TorchDispatchMode

from selmix import gains as gains_module
from selmix.confusion import coverage, row_normalised
from selmix.gains import gain_matrix
from selmix.metrics import METRICS, logit_gradient, mean_recall

OBJECTIVES = {name: soft_objective(metric, 50) for name, metric in METRICS.items()} | {"hard": METRICS["min_recall"]}


def random_head(seed: int, num_classes: int, *, bias: bool, width: int = 6) -> tuple[torch.Tensor, ...]:
    """Return class means, weight, bias or None, and a logit gradient at an unbalanced prior with class 0 empty."""
    generator = torch.Generator().manual_seed(seed)
    means, weight = torch.randn(2, num_classes, width, generator=generator, dtype=torch.float64)
    shift = torch.randn(num_classes, generator=generator, dtype=torch.float64) if bias else None
    confusion = random_confusion(seed, num_classes, empty=(0,) if num_classes > 2 else ())
    return means, weight, shift, logit_gradient(mean_recall, confusion)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, *, share: float) -> None:
    """Compare entry by entry; the tolerance is a share of the largest expected entry."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=share * float(expected.abs().max()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_logit_gradient_agrees_with_finite_differences(name, seed):
    generator = torch.Generator().manual_seed(seed)
    prior = random_prior(6, generator=generator, empty=(2,) if seed == 2 else ())
    logits = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    expected = numeric_gradient(lambda point: OBJECTIVES[name](soft_confusion(prior, point)), logits)
    actual = logit_gradient(OBJECTIVES[name], soft_confusion(prior, logits))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-8)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_logit_gradient_sums_to_zero_in_rows_and_is_zero_for_an_empty_class(name):
    gradient = logit_gradient(OBJECTIVES[name], random_confusion(7, empty=(1, 4)))
    torch.testing.assert_close(gradient.sum(1), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-15)
    assert torch.equal(gradient[[1, 4]], torch.zeros(2, 5, dtype=torch.float64))
    assert gradient[[0, 2, 3]].abs().amax() > 1e-3


def closed_form(name: str, confusion: torch.Tensor) -> torch.Tensor:
    """Return M by specs/selmix.md A.4: a factor per class times (1[k=l] - q_kl); accuracy by dC_kk = C_kk (1 - q)."""
    by_row = row_normalised(confusion)
    recalls, count = by_row.diagonal(), len(confusion)
    factor = {
        "accuracy": confusion.diagonal(),
        "mean_recall": recalls / count,
        "min_recall": (-50 * recalls).softmax(0) * recalls,
        "geometric_mean": recalls.prod() ** (1 / count) / count * torch.ones(count),
        "harmonic_mean": (count / (1 / recalls).sum()) ** 2 / count / recalls,
    }[name]
    return factor[:, None] * (torch.eye(count) - by_row)


@pytest.mark.parametrize("name", ["accuracy", "mean_recall", "min_recall", "geometric_mean", "harmonic_mean"])
def test_logit_gradient_has_its_closed_form(name):
    confusion = random_confusion(8)
    torch.testing.assert_close(logit_gradient(OBJECTIVES[name], confusion), closed_form(name, confusion))


def test_logit_gradient_of_a_coverage_term_has_its_closed_form():
    # A.4: C_kl (lambda_l - sum_j q_kj lambda_j)
    confusion, multipliers = random_confusion(9), torch.tensor([0.0, 9.5, 1, 0, 3], dtype=torch.float64)
    expected = confusion * (multipliers - (row_normalised(confusion) @ multipliers)[:, None])
    actual = logit_gradient(lambda c: multipliers @ coverage(c), confusion)
    torch.testing.assert_close(actual, expected)


def test_gain_by_hand():
    # z_0 = 1, z_1 = 0, W = (0, 0): every p is (1/2, 1/2), e_0 - p = (1/2, -1/2); M = [[1, -1], [-2, 2]]
    # no bias: z_m . z_ij is lam (i=0, j=1), 1 - lam (1, 0), 1 (0, 0), 0 (1, 1), and only m = 0 feels the step
    #   G_0j = z_0 . z_0j (1/2 + 1/2),  G_1j = z_0 . z_1j (-1/2 - 1/2)
    # the bias adds sum_m M_m . (e_i - p) = (-1, 1) . (e_i - p) = -1 for i = 0 and +1 for i = 1
    means, weight = torch.tensor([[1.0], [0.0]], dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    gradient = torch.tensor([[1.0, -1], [-2, 2]], dtype=torch.float64)
    plain = torch.tensor([[1, 0.75], [-0.25, 0]], dtype=torch.float64)
    torch.testing.assert_close(gain_matrix(means, weight, None, gradient, mix=0.75), plain)
    with_bias = plain + torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    actual = gain_matrix(means, weight, torch.zeros(2, dtype=torch.float64), gradient, mix=0.75)
    torch.testing.assert_close(actual, with_bias)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_gains_of_smoothed_targets_agree_with_moving_the_head(bias, groups):
    _, weight, shift, _ = random_head(13, 4, bias=bias)
    generator = torch.Generator().manual_seed(14)
    rows = 4 * groups
    means = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    gradient = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    gradient -= gradient.mean(1, keepdim=True)
    smoothing = torch.linspace(0, 0.9, rows, dtype=torch.float64)
    expected = naive_gains(means, weight, shift, gradient, 0.8, smoothing)
    assert_close(gain_matrix(means, weight, shift, gradient, mix=0.8, smoothing=smoothing), expected, share=1e-12)
    assert (expected - naive_gains(means, weight, shift, gradient, 0.8)).abs().max() > 0.1


@pytest.mark.parametrize(("bias", "mix"), [(False, 0.8), (True, 0.8), (True, 0.5), (False, 1.0), (True, 0.0)])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gain_agrees_with_finite_differences_of_the_objective_along_the_descent_step(name, bias, mix):
    means, weight, shift, _ = random_head(11, 5, bias=bias, width=3)
    prior = random_prior(5, generator=torch.Generator().manual_seed(12), empty=(3,) if mix == 0.8 else ())
    logits = means @ weight.T + (shift if bias else 0)
    gradient = logit_gradient(OBJECTIVES[name], soft_confusion(prior, logits))
    expected = finite_difference_gains(OBJECTIVES[name], prior, means, weight, shift, mix)
    assert_close(gain_matrix(means, weight, shift, gradient, mix=mix), expected, share=1e-6)


@pytest.mark.parametrize("mix", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_classes", [2, 3, 7, 12])
def test_gain_agrees_with_the_k4_oracle(num_classes, bias, mix):
    head = random_head(num_classes, num_classes, bias=bias)
    assert_close(gain_matrix(*head, mix=mix), naive_gains(*head, mix), share=1e-12)


@pytest.mark.parametrize("cells", [1, 24, 60, 131, 144])
def test_gain_does_not_depend_on_the_block_size(monkeypatch, cells):
    head = random_head(3, 12, bias=True)
    monkeypatch.setattr(gains_module, "_CELLS", cells)
    assert_close(gain_matrix(*head, mix=0.5), naive_gains(*head, 0.5), share=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("num_classes", "groups"), [(4, 2), (3, 3), (1, 4)])
def test_gain_of_groups_agrees_with_the_oracle(num_classes, groups, bias):
    generator = torch.Generator().manual_seed(num_classes)
    means = torch.randn(num_classes * groups, 6, generator=generator, dtype=torch.float64)
    gradient = torch.randn(num_classes * groups, num_classes, generator=generator, dtype=torch.float64)
    weight = torch.randn(num_classes, 6, generator=generator, dtype=torch.float64)
    shift = torch.randn(num_classes, generator=generator, dtype=torch.float64) if bias else None
    expected = naive_gains(means, weight, shift, gradient, 0.7)
    assert_close(gain_matrix(means, weight, shift, gradient, mix=0.7), expected, share=1e-12)


def test_gain_of_a_head_in_float32_is_float64_and_close():
    means, weight, shift, gradient = random_head(4, 40, bias=True, width=64)
    single = gain_matrix(means, weight.float() / 8, shift.float(), gradient, mix=0.8)
    assert single.dtype == torch.float64
    assert_close(single, gain_matrix(means, weight / 8, shift, gradient, mix=0.8), share=1e-5)
    from_floats = gain_matrix(means.float(), weight.float() / 8, shift.float(), gradient.float(), mix=0.8)
    assert from_floats.dtype == torch.float64
    assert_close(from_floats, single, share=1e-5)
    smoothing = torch.linspace(0, 0.5, 40)
    smoothed = [
        gain_matrix(means, weight, shift, gradient, mix=0.8, smoothing=own) for own in (smoothing.double(), smoothing)
    ]
    assert_close(smoothed[1], smoothed[0], share=1e-6)


# class i's mean has one logit of about `gap`, that of class i + 1, so the normaliser of (i, j), i != j, is about
# exp(-gap min(lam, 1 - lam)); the stated bound is 960 nats there, and float64 on its own would end at 745
@pytest.mark.parametrize(
    ("gap", "mix"),
    [(100, 0.5), (1000, 0.5), (1900, 0.5), (700, 0.2), (4700, 0.8), (4700, 0.2), (1e6, 1.0), (1e6, 0.0), (9e3, 0.9)],
)
@pytest.mark.parametrize("cells", [1 << 23, 8])
def test_gain_is_exact_for_logits_far_apart(monkeypatch, gap, mix, cells):
    monkeypatch.setattr(gains_module, "_CELLS", cells)
    means = torch.eye(4, dtype=torch.float64) + 0.01 * random_confusion(1, 4)
    weight = gap * torch.eye(4, dtype=torch.float64).roll(1, 0)
    gradient = logit_gradient(mean_recall, random_confusion(2, 4))
    expected = naive_gains(means, weight, None, gradient, mix)
    assert_close(gain_matrix(means, weight, None, gradient, mix=mix), expected, share=1e-11)


@pytest.mark.parametrize("feature_scale", [3e3, 1e6, 1e12])
@pytest.mark.parametrize("mix", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_gain_beyond_the_bound_is_that_of_logits_cut_off_below_the_top(mix, feature_scale):
    gradient = logit_gradient(mean_recall, random_confusion(2, 12))
    # with means that are multiples of unit vectors the logits are the weights, and cutting these cuts those
    means = feature_scale * torch.eye(12, dtype=torch.float64)
    weight = torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    actual = gain_matrix(means, weight, None, gradient, mix=mix)
    assert torch.isfinite(actual).all()
    logits = feature_scale * weight.T
    logits -= logits.amax(1, keepdim=True)
    for i in range(12):
        for j in range(12):
            exponents = (mix * logits[i]).clamp_min(-1000) + ((1 - mix) * logits[j]).clamp_min(-1000)
            residual = torch.eye(12, dtype=torch.float64)[i] - exponents.softmax(0)
            # Z Z^T is feature_scale^2 times the identity
            expected = feature_scale**2 * (mix * gradient[i] + (1 - mix) * gradient[j]) @ residual
            assert float(actual[i, j]) == pytest.approx(float(expected), abs=1e-11 * float(actual.abs().max()))


class NoWaiting(TorchDispatchMode):
    """Fail on operators whose result goes to the host, or whose result's shape may depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        assert not waits, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_gain_never_waits_for_the_device(scale):
    head = random_head(3, 12, bias=True)
    with NoWaiting():
        gain_matrix(scale * head[0], *head[1:], mix=0.8)
    for waiting in (torch.Tensor.nonzero, lambda x: bool(x[0]), lambda x: x[x > 0], lambda x: x.amax().item()):
        with NoWaiting(), pytest.raises(AssertionError, match="waits"):
            waiting(torch.arange(4.0))


def test_gain_leaves_its_arguments_alone():
    head = random_head(3, 5, bias=True)
    before = [tensor.clone() for tensor in head]
    gain_matrix(*head, mix=0.8)
    assert all(torch.equal(own, old) for own, old in zip(head, before, strict=True))


@pytest.mark.parametrize("bias", [None, torch.tensor([4.0])])
@pytest.mark.parametrize("slope", [0.0, 2.0])
def test_one_class_has_no_gain(bias, slope):
    gains = gain_matrix(torch.tensor([[3.0, -1]]), torch.tensor([[0.5, 2]]), bias, torch.tensor([[slope]]), mix=0.8)
    assert torch.equal(gains, torch.zeros(1, 1, dtype=torch.float64))


def test_gain_follows_a_renaming_of_the_classes():
    means, weight, bias, gradient = random_head(5, 7, bias=True)
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
    renamed = gain_matrix(means[order], weight[order], bias[order], gradient[order][:, order], mix=0.8)
    torch.testing.assert_close(renamed, gain_matrix(means, weight, bias, gradient, mix=0.8)[order][:, order])


def test_gain_scales_as_the_metric_and_as_the_square_of_the_features():
    means, weight, _, gradient = random_head(6, 7, bias=False)
    expected = 3 * 4 * gain_matrix(means, weight, None, gradient, mix=0.8)
    torch.testing.assert_close(gain_matrix(2 * means, weight / 2, None, 3 * gradient, mix=0.8), expected)


def test_gain_ignores_a_shift_of_all_logits():
    means, weight, bias, gradient = random_head(9, 7, bias=True)
    shifted = gain_matrix(means, weight + torch.arange(6), bias + 100, gradient, mix=0.8)
    assert_close(shifted, gain_matrix(means, weight, bias, gradient, mix=0.8), share=1e-11)
