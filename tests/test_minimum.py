"""Soft minima and their standard errors: by hand, against multinomial draws, and what tuning sees of them."""

import math
from functools import partial

import pytest
import torch
from oracles import numeric_gradient, random_confusion

from selmix.confusion import joint_confusion
from selmix.metrics import (
    METRICS,
    MetricContext,
    get_metric,
    logit_gradient,
    metric_gradient,
    parse_metric,
    soft_minimum,
)
from selmix.metrics.minimum import rate_variance

# priors (.5, .5), recalls (.8, .4)
HAND = torch.tensor([[0.4, 0.1], [0.3, 0.2]], dtype=torch.float64)
SOFT = partial(soft_minimum, sharpness=2.0)


def seen_by(metric, confusion, support):
    """Return the (values, errors) that the metric's minima hand to the soft minimum, innermost first."""
    calls = []

    def recording(values, errors):
        assert not errors.requires_grad
        calls.append((values.detach(), errors))
        return values.amin()

    metric.objective(support, recording)(confusion)
    return calls


@pytest.mark.parametrize("sharpness", [0.1, 2.0, 1e4])
def test_soft_minimum_lies_within_its_stated_bounds(sharpness):
    values, errors = torch.tensor([0.3, 0.31, 0.9], dtype=torch.float64), torch.tensor([0.1, 0.2, 0.05]).double()
    steepness = sharpness / math.sqrt((0.01 + 0.04 + 0.0025) / 3)
    excess = float(soft_minimum(values, errors, sharpness=sharpness)) - 0.3
    assert 0 <= excess <= math.log(3) / steepness + 1e-12


def test_soft_minimum_by_hand():
    # errors (3, 4) / 10: root mean square sqrt(.125); sharpness 5 is steepness s = 5 / sqrt(.125)
    steepness = 5 / math.sqrt(0.125)
    expected = -math.log((math.exp(-0.8 * steepness) + math.exp(-0.4 * steepness)) / 2) / steepness
    value = soft_minimum(torch.tensor([0.8, 0.4], dtype=torch.float64), torch.tensor([0.3, 0.4]), sharpness=5)
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_without_errors_the_soft_minimum_is_the_minimum_and_finite():
    values = torch.tensor([0.8, 0.4, 0.4], dtype=torch.float64, requires_grad=True)
    value = soft_minimum(values, torch.zeros(3), sharpness=2)
    assert float(value.detach()) == pytest.approx(0.4, abs=1e-5)
    (gradient,) = torch.autograd.grad(value, values)
    torch.testing.assert_close(gradient, torch.tensor([0, 0.5, 0.5], dtype=torch.float64))


def test_errors_of_recalls_by_hand():
    # 10 and 40 samples: r' = (8 + 1) / 12 and (16 + 1) / 42
    ((values, errors),) = seen_by(METRICS["min_recall"], HAND, torch.tensor([10, 40]))
    torch.testing.assert_close(values, torch.tensor([0.8, 0.4], dtype=torch.float64))
    first, second = 9 / 12, 17 / 42
    expected = torch.tensor([first * (1 - first) / 10, second * (1 - second) / 40], dtype=torch.float64).sqrt()
    torch.testing.assert_close(errors, expected)


def test_a_minimum_of_named_recalls_sees_the_same_errors_as_min_recall():
    # the delta method on gradients against the closed form, at recalls of 0 and 1 as well
    confusion = torch.tensor([[0.2, 0, 0], [0.1, 0, 0.1], [0.1, 0.2, 0.3]], dtype=torch.float64)
    support = torch.tensor([20, 20, 60])
    (closed,) = seen_by(METRICS["min_recall"], confusion, support)
    (general,) = seen_by(get_metric("min(recall[0], recall[1], recall[2])"), confusion, support)
    torch.testing.assert_close(general, closed)
    assert (closed[1] > 0.01).all()


def test_a_maximum_is_rounded_towards_the_larger():
    metric = get_metric("max(recall[0], recall[1], 0.5)")
    assert float(metric(HAND)) == 0.8
    value = float(metric.objective(torch.tensor([10, 10]), SOFT)(HAND))
    flipped = -float(get_metric("min(-recall[0], -recall[1], -0.5)").objective(torch.tensor([10, 10]), SOFT)(HAND))
    assert value == pytest.approx(flipped, rel=1e-12)
    assert 0.5 < value < 0.8


EXPRESSIONS = {
    "recall": "min(recall[0], 2)",
    "precision": "min(precision[1], 2)",
    "coverage": "min(coverage[2], 2)",
    "mean": "min(mean_recall, 2)",
    "f1": "min(macro_f1, 2)",
    "ratio": "min(harmonic_mean / (0.1 + accuracy) + 3 * recall[3], 2)",
    "mcc": "min(mcc ** 2, 2)",
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_delta_errors_are_those_of_multinomial_draws(name):
    confusion = random_confusion(3, 4)
    support = (confusion.sum(1) * 4000).round()
    confusion = confusion / confusion.sum(1, keepdim=True) * (support / support.sum())[:, None]
    metric = get_metric(EXPRESSIONS[name])
    ((_, errors),) = seen_by(metric, confusion, support)
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(1500):
        rows = [
            torch.bincount(torch.multinomial(row, int(n), replacement=True, generator=generator), minlength=4)
            for row, n in zip(confusion, support, strict=True)
        ]
        draws.append(float(get_metric(EXPRESSIONS[name].removeprefix("min(").removesuffix(", 2)"))(
            torch.stack(rows).double() / support.sum()
        )))  # fmt: skip
    # a standard deviation over 1500 draws is known to 1 / sqrt(3000) = 1.8 %; the linearisation adds a little
    assert float(errors[0]) == pytest.approx(torch.tensor(draws).std().item(), rel=0.06)
    assert float(errors[1]) == 0


def test_a_mean_of_recalls_has_the_root_of_the_summed_variances_over_the_count():
    metric = parse_metric("min_head_tail_recall").bind(MetricContext("abcd", torch.tensor([500, 300, 50, 5])))
    confusion, support = random_confusion(4, 4), torch.tensor([30, 20, 10, 10])
    ((_, own),) = seen_by(METRICS["min_recall"], confusion, support)
    ((values, errors),) = seen_by(metric, confusion, support)
    recalls = confusion.diagonal() / confusion.sum(1)
    torch.testing.assert_close(values, torch.stack([recalls[:2].mean(), recalls[3]]))
    expected = torch.stack([(own[0] ** 2 + own[1] ** 2).sqrt() / 2, own[3]])
    torch.testing.assert_close(errors, expected)


def test_a_minimum_of_numbers_has_no_error():
    ((values, errors),) = seen_by(get_metric("accuracy + min(0.3, 1/k)"), HAND, torch.tensor([10, 10]))
    assert values.tolist() == [0.3, 0.5]
    assert errors.tolist() == [0, 0]


def test_every_minimum_in_an_expression_is_rounded():
    calls = seen_by(get_metric("min(min_recall, accuracy) + max(recall[0], 0.3)"), HAND, torch.tensor([10, 10]))
    assert [len(values) for values, _ in calls] == [2, 2, 2]
    smooth = get_metric("mean_recall * 0.5 + q_mean")
    assert seen_by(smooth, HAND, torch.tensor([10, 10])) == []
    assert float(smooth.objective(torch.tensor([10, 10]), SOFT)(HAND)) == float(smooth(HAND))


@pytest.mark.parametrize("text", ["min_recall", "min(recall[0], 0.5*mean_recall)", "min(min_recall, accuracy)*k"])
def test_the_objective_wants_no_graph_from_its_caller_and_leaves_one_if_there_is_one(text):
    objective = get_metric(text).objective(torch.tensor([10, 10]), SOFT)
    with torch.no_grad():
        plain = objective(HAND)
    assert not plain.requires_grad
    assert not objective(HAND).requires_grad
    point = HAND.clone().requires_grad_()
    value = objective(point * 1)
    assert value.requires_grad
    assert float(value.detach()) == float(plain)
    assert float(metric_gradient(objective, HAND).abs().sum()) > 0.1


def test_errors_are_constants_to_the_gradient():
    support = torch.tensor([10, 40])
    ((_, errors),) = seen_by(METRICS["min_recall"], HAND, support)
    frozen = get_metric("min_recall").objective(support, lambda values, _: SOFT(values, errors))
    expected = numeric_gradient(frozen, HAND, step=1e-7)
    actual = metric_gradient(METRICS["min_recall"].objective(support, SOFT), HAND)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


def test_a_class_without_samples_is_left_out_whatever_its_support():
    confusion = random_confusion(5, 4, empty=(1,))
    ((values, errors),) = seen_by(METRICS["min_recall"], confusion, torch.tensor([9, 0, 16, 25]))
    support = torch.tensor([9, 16, 25])
    torch.testing.assert_close(values, (confusion.diagonal() / confusion.sum(1))[[0, 2, 3]])
    rates = (values * support + 1) / (support + 2)
    torch.testing.assert_close(errors, (rates * (1 - rates) / support).sqrt())


def test_more_samples_make_the_minimum_sharper():
    worst = float(METRICS["min_recall"](HAND))
    excess = [float(METRICS["min_recall"].objective(torch.full((2,), n), SOFT)(HAND)) - worst for n in (5, 50, 5000)]
    assert excess[0] > 2 * excess[1] > 4 * excess[2] > 0


@pytest.mark.parametrize("name", METRICS)
def test_a_start_with_zero_recalls_still_pulls_on_these_classes(name):
    # classes 1 and 2 are never found; the loop smooths the counts by one sample a class
    counts = torch.tensor([[90.0, 0, 0], [10, 0, 0], [8, 2, 0]], dtype=torch.float64)
    confusion = joint_confusion(counts, pseudo_count=1)
    gradient = logit_gradient(METRICS[name].objective(counts.sum(1), SOFT), confusion)
    assert torch.isfinite(gradient).all()
    # at least 1 % of the largest pull, towards the own class
    assert (gradient.diagonal()[1:] > 0.01 * gradient.abs().max()).all()


def test_the_variance_of_rates_of_no_sample_of_one_and_of_two_by_hand():
    # two imaginary samples, one right: rates 1/2, 2/3 and 3/4; of no sample counted as of one
    variance = rate_variance(torch.tensor([0.0, 1, 1]), torch.tensor([0.0, 1, 2]))
    assert variance.tolist() == pytest.approx([1 / 4, 2 / 9, 3 / 32])
