"""The standard error of a paired difference: by hand, and against the bootstrap."""

import numpy as np
import pytest
import torch
from oracles import random_labels, soft_objective

from selmix.bootstrap import resampled_counts
from selmix.confusion import confusion_counts, joint_confusion
from selmix.metrics import METRICS, mean_recall
from selmix.significance import paired_difference


def test_mean_recall_by_hand():
    # class 0: 4 samples, the candidate mends one; class 1: 2 samples, it spoils none
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    incumbent = torch.tensor([0, 0, 1, 1, 1, 0])
    candidate = torch.tensor([0, 0, 0, 1, 1, 0])
    difference, error = paired_difference(mean_recall, labels, candidate, incumbent, 2, pseudo_count=0)
    assert difference == pytest.approx(0.5 * 1 / 4)
    # contributions of class 0 are (0, 0, 1/8, 0): n_0 times their variance is 1/64 - (1/8)^2 / 4 = 3/256
    assert error == pytest.approx((3 / 256) ** 0.5)


@pytest.mark.parametrize("name", METRICS)
def test_equal_predictions_differ_by_nothing(name):
    labels, predictions = random_labels(5, seed=0)
    assert paired_difference(
        soft_objective(METRICS[name], 20), labels, predictions, predictions, 5, pseudo_count=1
    ) == (0, 0)


@pytest.mark.parametrize("name", ["mean_recall", "harmonic_mean", "geometric_mean", "macro_f1", "accuracy"])
def test_the_error_is_that_of_the_bootstrap(name):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(150)
    wrong = torch.randint(4, (600,), generator=generator)
    incumbent = torch.where(torch.rand(600, generator=generator) < 0.75, labels, wrong)
    candidate = torch.where(torch.rand(600, generator=generator) < 0.2, labels, incumbent)
    objective = soft_objective(METRICS[name], 20)
    difference, error = paired_difference(objective, labels, candidate, incumbent, 4, pseudo_count=0)
    values = [
        float(objective(joint_confusion(first)) - objective(joint_confusion(second)))
        for first, second in resampled_counts(labels, [candidate, incumbent], 4, replicates=800, generator=generator)
    ]
    plain = [objective(joint_confusion(confusion_counts(labels, p, 4))) for p in (candidate, incumbent)]
    assert difference == pytest.approx(float(plain[0] - plain[1]), rel=1e-12)
    # a standard deviation over 800 draws is known to 1 / sqrt(1600) = 2.5 %; the delta method adds its own few
    assert error == pytest.approx(np.std(values), rel=0.12)


@pytest.mark.parametrize("name", ["geometric_mean", "harmonic_mean", "min_recall"])
def test_a_class_that_rises_from_zero_is_no_luck(name):
    # 50 samples a class; the incumbent misses class 1, the candidate finds 30 of them and loses 2 of class 0:
    # in standard errors of the two recalls, 0.6 / sqrt(.6 * .4 / 50) = 8.7 against 0.04 / sqrt(.04 * .96 / 50) = 1.4
    labels = torch.arange(2).repeat_interleave(50)
    incumbent = torch.zeros(100, dtype=torch.int64)
    candidate = torch.cat([torch.zeros(48), torch.ones(2), torch.zeros(20), torch.ones(30)]).long()
    objective = soft_objective(METRICS[name], 20)
    difference, error = paired_difference(objective, labels, candidate, incumbent, 2, pseudo_count=1)
    assert difference > 3 * error > 0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("prior", [None, [0.1, 0.2, 0.05, 0.25, 0.3, 0.1]])
@pytest.mark.parametrize(("groups", "pseudo_count"), [(2, 0.0), (2, 3.0), (1, 3.0)])
def test_weights_shares_and_smoothing_row_by_row(groups, pseudo_count, prior, weighted):
    # for psi = sum G C the gradient is G; smoothing by a samples leaves n / (n + a) of a row's mean difference
    rng, num_rows = np.random.default_rng(0), 3 * groups
    rows, candidate, incumbent = rng.integers(0, num_rows, 90) % (num_rows - 1), *rng.integers(0, 3, (2, 90))
    slopes, weights = rng.normal(size=(num_rows, 3)), rng.uniform(0.1, 2, 90) if weighted else np.ones(90)
    shares = np.bincount(rows, weights, num_rows) / weights.sum() if prior is None else np.array(prior)[:num_rows]
    difference = variance = 0.0
    for row in range(num_rows - 1):  # the last row has no sample
        own = rows == row
        values, worth = (slopes[row, candidate] - slopes[row, incumbent])[own], weights[own]
        mean = np.average(values, weights=worth)
        difference += shares[row] * mean * worth.sum() / (worth.sum() + pseudo_count)
        variance += shares[row] ** 2 * np.average((values - mean) ** 2, weights=worth) / worth.sum()
    found = paired_difference(
        lambda confusion: (torch.from_numpy(slopes) * confusion).sum(),
        *(torch.from_numpy(part) for part in (rows, candidate, incumbent)),
        3,
        pseudo_count=pseudo_count,
        groups=groups,
        weights=torch.from_numpy(weights) if weighted else None,
        prior=None if prior is None else torch.tensor(prior[:num_rows], dtype=torch.float64),
    )
    assert found == pytest.approx((difference, variance**0.5), rel=1e-9)
