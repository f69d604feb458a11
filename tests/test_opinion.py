"""The joint opinion of sources: fitted as scipy fits it, calibrated, class by class, silent where nobody speaks."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from selmix.pseudo.opinion import Opinion, fit_opinion, log_scores


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_scores(counts: list[int], *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p(x | c), up to what classes share, of samples of three unit-variance classes, and their classes."""
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    centres = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.5]], dtype=torch.float64)
    samples = centres[labels] + torch.randn(len(labels), 2, generator=generator(seed), dtype=torch.float64)
    return -torch.cdist(samples, centres).square() / 2, labels


def penalised(parameters: np.ndarray, scores: list[np.ndarray], labels: list[int], weights: list[float]) -> float:
    """Return -2/n of the log posterior, sample by sample."""
    count, classes = len(scores), scores[0].shape[1]
    support = [sum(w for w, own in zip(weights, labels, strict=True) if own == label) for label in range(classes)]
    there = sum(own > 0 for own in support)
    value = 0.0
    for row, (label, weight) in enumerate(zip(labels, weights, strict=True)):
        logits = parameters[count:].copy()
        for number, own in enumerate(scores):
            logits += math.exp(parameters[number]) * own[row]
        value += weight / support[label] / there * (np.log(np.exp(logits).sum()) - logits[label])
    return value + 0.5 * float(np.square(parameters).sum()) / sum(weights)


@pytest.mark.parametrize("sources", [1, 2])
def test_temperatures_and_biases_are_those_that_scipy_finds(sources):
    scores = [torch.randn(60, 3, generator=generator(7 + s), dtype=torch.float64).log_softmax(1) for s in range(2)]
    scores = scores[:sources]
    # the last class has no samples
    labels = torch.where(torch.rand(60, generator=generator(2)) < 0.6, scores[0][:, :2].argmax(1), 0)
    weights = torch.rand(60, generator=generator(3), dtype=torch.float64) + 0.1
    fitted = fit_opinion(scores, labels, weights)
    arrays = [own.numpy() for own in scores]
    best = minimize(penalised, np.zeros(sources + 3), (arrays, labels.tolist(), weights.tolist()), tol=1e-10).x
    np.testing.assert_allclose(fitted.sharpness, np.exp(best[:sources]), rtol=2e-3)
    np.testing.assert_allclose(fitted.bias, best[sources:], atol=2e-3)


@pytest.mark.parametrize("counts", [[4000, 4000, 4000], [8000, 3000, 1000]])
def test_one_source_gets_back_the_temperature_and_biases_that_it_was_spoilt_by_whatever_the_class_counts(counts):
    truth, labels = gaussian_scores(counts, seed=1)
    spoilt = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    fitted = fit_opinion([(2.5 * truth + spoilt).log_softmax(1)], labels, torch.ones(len(labels)))
    # softmax(a (2.5 z + s) + b) = softmax(z): standard errors of these samples are about 0.01 and 0.05
    assert float(fitted.sharpness) == pytest.approx(0.4, abs=0.02)
    bias = fitted.bias - fitted.bias.mean()
    expected = -0.4 * (spoilt - spoilt.mean())
    torch.testing.assert_close(bias, expected, rtol=0, atol=0.15)


def test_a_sample_of_weight_two_is_two_samples():
    truth, labels = gaussian_scores([40, 20, 10], seed=2)
    doubled = torch.arange(len(labels)) % 3 == 0
    once = fit_opinion([truth], labels, 1 + doubled.double())
    twice = torch.cat([torch.arange(len(labels)), doubled.nonzero()[:, 0]])
    again = fit_opinion([truth[twice]], labels[twice], torch.ones(len(twice)))
    torch.testing.assert_close(once.sharpness, again.sharpness, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(once.bias, again.bias, rtol=1e-4, atol=1e-4)


def test_a_source_of_noise_is_hardly_heard():
    truth, labels = gaussian_scores([500, 500, 500], seed=3)
    noise = 3 * torch.randn(1500, 3, generator=generator(4), dtype=torch.float64)
    fitted = fit_opinion([truth, noise.log_softmax(1)], labels, torch.ones(1500))
    assert float(fitted.sharpness[0]) == pytest.approx(1, abs=0.1)
    assert float(fitted.sharpness[1]) < 0.1


def test_scores_rule_nothing_out_and_an_abstention_prefers_none():
    found = log_scores(torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.0, 0.0]]))
    expected = [[math.log(0.74975), math.log(0.25025)], [math.log(0.9995), math.log(0.0005)], [0.0, 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_probabilities_are_those_of_the_formula_and_none_where_all_abstain():
    opinion = Opinion(torch.tensor([0.5, 2.0]).double(), torch.tensor([0.1, -0.1]).double())
    first = torch.tensor([[math.log(0.8), math.log(0.2)], [0.0, 0.0], [0.0, 0.0]]).double()
    second = torch.tensor([[math.log(0.4), math.log(0.6)], [math.log(0.3), math.log(0.7)], [0.0, 0.0]]).double()
    prior = torch.tensor([0.9, 0.1]).double()
    shares = opinion.probabilities([first, second], prior)
    bias = [math.exp(0.1), math.exp(-0.1)]
    odds = [
        [0.9 * bias[0] * 0.8**0.5 * 0.4**2, 0.1 * bias[1] * 0.2**0.5 * 0.6**2],
        [0.9 * bias[0] * 0.3**2, 0.1 * bias[1] * 0.7**2],
    ]
    for row, own in enumerate(odds):
        assert shares[row].tolist() == pytest.approx([each / sum(own) for each in own], rel=1e-6)
    assert shares[2].tolist() == [0, 0]
    # by the uniform prior: 0.143 e^0.1 to 0.161 e^-0.1, and 0.09 e^0.1 to 0.49 e^-0.1
    assert opinion.said([first, second]).tolist() == [0, 1, -1]
