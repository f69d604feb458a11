"""Decisions tuned for a metric on given probabilities: a bias per class, and the Frank-Wolfe mixture."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, recall_score

from selmix.baselines.choice import score_counts
from selmix.baselines.class_bias import FIRST_STRENGTHS, _best_coordinate, tuned_bias
from selmix.baselines.plug_in import PlugInMixture, fitted_temperature, frank_wolfe, posterior, rounded_gradient
from selmix.heads import LinearHead
from selmix.metrics import METRICS

SCORES = {
    "min_recall": lambda labels, predictions: recall_score(labels, predictions, average=None).min(),
    "mean_recall": balanced_accuracy_score,
    "macro_f1": lambda labels, predictions: f1_score(labels, predictions, average="macro", zero_division=0),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy_logits(counts, seed, signal=1.0):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(labels), len(counts), generator=generator(seed))
    return noise + signal * torch.nn.functional.one_hot(labels, len(counts)), labels


# --- a bias per class ---


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("counts", [[14, 9], [120, 70]])
@pytest.mark.parametrize("seed", range(3))
def test_two_classes_get_the_best_threshold_there_is(name, counts, seed):
    logits, labels = noisy_logits(counts, seed)
    margin = (logits[:, 1] - logits[:, 0]).double()
    cuts = np.concatenate([[margin.min() - 1], np.sort(margin.numpy()) + 1e-9])
    best = max(SCORES[name](labels, (margin.numpy() > cut).astype(int)) for cut in cuts)
    bias = tuned_bias(logits, labels, torch.tensor(counts), METRICS[name])
    found = SCORES[name](labels, (logits + bias).argmax(1))
    # few samples: exhaustive; many: coarse to fine, may miss the peak of a rugged metric by a sample or two
    assert found == pytest.approx(best, abs=1e-9 if sum(counts) < 30 else 0.015)
    assert found <= best + 1e-9


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("seed", range(2))
def test_three_classes_come_near_the_best_of_a_fine_grid(name, seed):
    counts = [12, 8, 6]
    logits, labels = noisy_logits(counts, seed, signal=1.5)
    grid = np.linspace(-4, 4, 41)
    best = max(
        float(METRICS[name](_joint(labels, (logits + torch.tensor([0.0, one, two])).argmax(1))))
        for one, two in itertools.product(grid, grid)
    )
    bias = tuned_bias(logits, labels, torch.tensor(counts), METRICS[name])
    assert SCORES[name](labels, (logits + bias).argmax(1)) >= best - 0.1


def _joint(labels, predictions):
    cells = np.zeros((3, 3))
    np.add.at(cells, (labels.numpy(), predictions.numpy()), 1 / len(labels))
    return torch.from_numpy(cells)


@pytest.mark.parametrize("name", SCORES)
def test_the_bias_is_never_worse_than_its_start_and_cannot_be_bettered_one_class_at_a_time(name):
    counts = [14, 8, 5, 4]
    logits, labels = noisy_logits(counts, 7)
    log_prior = torch.tensor(counts).double().div(sum(counts)).log()
    bias = tuned_bias(logits, labels, torch.tensor(counts), METRICS[name])
    found = SCORES[name](labels, (logits + bias).argmax(1))
    starts = [SCORES[name](labels, (logits - tau * log_prior).argmax(1)) for tau in FIRST_STRENGTHS]
    assert found >= max(starts) - 1e-12
    for label, change in itertools.product(range(4), np.linspace(-5, 5, 101)):
        moved = bias.clone()
        moved[label] += change
        assert SCORES[name](labels, (logits + moved).argmax(1)) <= found + 1e-12


@pytest.mark.parametrize("twins", [[0, 1], [1, 0]])
def test_equal_thresholds_fall_together(twins):
    # the first two have the same logits and different labels: no bias can part them, so the best is to give both to
    # class 1, recalls 3/4 and 1
    logits = torch.tensor([[1.0, 0]] * 2 + [[5.0, 0]] * 3)
    labels = torch.tensor([*twins, 0, 0, 0])
    bias = tuned_bias(logits, labels, torch.tensor([1, 1]), METRICS["mean_recall"])
    assert balanced_accuracy_score(labels, (logits + bias).argmax(1)) == 0.875


@pytest.mark.parametrize("cut", [3, 250, 700, 998])
def test_coarse_to_fine_finds_the_one_threshold_that_parts_the_classes(cut):
    # the metric falls on either side of it, so the search cannot be led astray
    margin = torch.randn(1000, generator=generator()).sort().values
    labels = (torch.arange(1000) >= cut).long()
    logits = torch.stack([torch.zeros(1000), margin], dim=1)
    change, score = _best_coordinate(logits.double(), labels, 1, METRICS["mean_recall"])
    assert score == (1, 1)
    assert ((logits + torch.tensor([0, change])).argmax(1) == labels).all()


def test_among_equals_the_mean_recall_decides():
    # min_recall is 1/2 in both, the mean recall 3/4 and 1/2
    better, worse = (torch.tensor([[1.0, 1], row]).double() for row in ([0, 2], [1, 1]))
    assert score_counts(better, METRICS["min_recall"]) > score_counts(worse, METRICS["min_recall"])
    assert score_counts(better, METRICS["min_recall"]) == (0.5, 0.75)


# --- the Frank-Wolfe mixture ---


def test_the_temperature_is_the_best_one():
    logits, labels = noisy_logits([300, 300, 300], 0, signal=1.0)
    hot = 5 * logits  # noise of variance 1 and signal 1: the logits themselves are calibrated
    theirs = minimize_scalar(lambda log: log_loss(labels, (hot.double() / math.exp(log)).softmax(1)), bounds=(-2, 4))
    assert fitted_temperature(hot, labels) == pytest.approx(math.exp(theirs.x), rel=0.02)
    assert fitted_temperature(hot, labels) == pytest.approx(5, rel=0.15)


def test_a_posterior_is_moved_to_another_prior_by_bayes():
    balanced = torch.tensor([[0.6, 0.3, 0.1]]).double()
    prior = torch.tensor([0.2, 0.2, 0.6])
    expected = torch.tensor([[0.12, 0.06, 0.06]]).double() / 0.24
    torch.testing.assert_close(posterior(2 * balanced.log(), prior, temperature=2.0), expected, rtol=1e-6, atol=1e-7)


def population(prior, size=20_000):
    """Two unit Gaussians at -1 and 1 with a prior, on a grid of quantiles: P(class | z), labels, z."""
    counts = [round(size * share) for share in prior]
    z = np.concatenate([centre + norm.ppf((np.arange(n) + 0.5) / n) for centre, n in zip((-1, 1), counts, strict=True)])
    labels = torch.tensor([0] * counts[0] + [1] * counts[1])
    odds = np.stack([prior[0] * norm.pdf(z, -1), prior[1] * norm.pdf(z, 1)], axis=1)
    return torch.from_numpy(odds / odds.sum(1, keepdims=True)), labels, z


@pytest.mark.parametrize("name", [*SCORES, "geometric_mean", "harmonic_mean", "accuracy"])
def test_the_mixture_reaches_the_best_threshold_of_two_gaussians(name):
    prior = (0.8, 0.2)
    probabilities, labels, _ = population(prior)
    # by the Neyman-Pearson lemma a threshold on z is optimal: recalls Phi(t + 1) and Phi(1 - t)
    cuts = np.linspace(-3, 3, 2001)
    first, second = norm.cdf(cuts + 1), norm.cdf(1 - cuts)
    right, coverage = prior[1] * second, prior[0] * (1 - first) + prior[1] * second
    values = {
        "min_recall": np.minimum(first, second),
        "mean_recall": (first + second) / 2,
        "geometric_mean": np.sqrt(first * second),
        "harmonic_mean": 2 / (1 / first + 1 / second),
        "accuracy": prior[0] * first + prior[1] * second,
        "macro_f1": prior[0] * first / (prior[0] + 1 - coverage) + right / (prior[1] + coverage),
    }[name]
    gains, weights = frank_wolfe(probabilities, labels, METRICS[name], generator=generator())
    assert float(weights.sum()) == pytest.approx(1)
    confusion = torch.zeros(2, 2, dtype=torch.float64)
    for gain, weight in zip(gains, weights, strict=True):
        predictions = (probabilities @ gain).argmax(1)
        cells = torch.bincount(2 * labels + predictions, minlength=4).double().view(2, 2) / len(labels)
        confusion += weight * cells
    assert float(METRICS[name](confusion)) == pytest.approx(values.max(), abs=0.005)
    assert float(METRICS[name](confusion)) <= values.max() + 1e-3


def test_a_smooth_metric_keeps_its_gradient_and_a_minimum_shares_it_out():
    confusion = torch.tensor([[0.4, 0.1], [0.1, 0.4]]).double()
    exact = torch.tensor([[1.0, 0], [0, 1]]).double()
    torch.testing.assert_close(rounded_gradient(METRICS["accuracy"], confusion, 10**6, generator=generator()), exact)
    # equal recalls: of d(min r)/dC about half falls to each class, where the sub-gradient gives one of them all
    shares = rounded_gradient(METRICS["min_recall"], confusion, 100, generator=generator())
    shares = (
        sum(rounded_gradient(METRICS["min_recall"], confusion, 100, generator=generator(s)) for s in range(20)) / 20
    )
    recall_shares = (shares.diagonal() - shares[[0, 1], [1, 0]]) / 2
    assert recall_shares.tolist() == pytest.approx([0.5, 0.5], abs=0.1)


def test_the_mixture_draws_by_its_weights_and_repeats_itself():
    # decision 0 always says 0, decision 1 always says 1
    gains = torch.tensor([[[1.0, 0], [1, 0]], [[0, 1], [0, 1]]]).double()
    head = LinearHead(torch.zeros(2, 1), torch.zeros(2))
    mixture = PlugInMixture(head, 1.0, torch.tensor([0.5, 0.5]), gains, torch.tensor([0.3, 0.7]).double(), seed=4)
    first, again = (mixture.logits(torch.zeros(20_000, 1)).argmax(1) for _ in range(2))
    assert torch.equal(first, again)
    assert float(first.double().mean()) == pytest.approx(0.7, abs=0.015)
