"""Precision under another prior: by hand, by drawing such a pool, and bounded as scipy bounds a proportion."""

import math

import pytest
import torch
from scipy.stats import binomtest, norm

from selmix.pseudo.precision import pseudo_precision, wilson_lower


def test_by_hand():
    # class 0: 4 samples, selected as 0, 0, 1 and not at all; class 1: 2 samples, selected as 1 and 0
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    pseudo = torch.tensor([0, 0, 1, -1, 1, 0])
    found = pseudo_precision(labels, pseudo, torch.tensor([0.2, 0.8]))
    # shares: as 0, 0.2 * 2/4 right and 0.8 * 1/2 wrong; as 1, 0.8 * 1/2 right and 0.2 * 1/4 wrong
    assert found.share.tolist() == pytest.approx([0.5, 0.45])
    assert found.estimate.tolist() == pytest.approx([0.1 / 0.5, 0.4 / 0.45])
    assert found.overall == pytest.approx(0.5 / 0.95)
    # as 0, three samples of weights 0.05, 0.05 and 0.4
    assert found.evidence.tolist() == pytest.approx([0.5**2 / (2 * 0.05**2 + 0.4**2), 0.45**2 / (0.05**2 + 0.4**2)])
    # what is not seen: a sample of the other class, taken for this one
    assert found.unseen.tolist() == pytest.approx([0.4, 0.05])
    more = [wilson(0.1 / 0.9, 0.9**2 / (2 * 0.05**2 + 2 * 0.4**2)), wilson(0.4 / 0.5, 0.5**2 / (2 * 0.05**2 + 0.4**2))]
    assert found.lower.tolist() == pytest.approx(more)


def wilson(rate: float, count: float, level: float = 0.95) -> float:
    """Return the one-sided lower bound as its paper has it: centre minus half of the width."""
    z = norm.ppf(level)
    centre, half = rate + z**2 / (2 * count), z * math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
    return (centre - half) / (1 + z**2 / count)


def test_under_the_samples_own_prior_it_is_counting_and_the_bound_is_scipys():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (400,), generator=generator)
    pseudo = torch.where(torch.rand(400, generator=generator) < 0.8, labels, 2)
    pseudo[::5] = -1
    found = pseudo_precision(labels, pseudo, torch.bincount(labels) / 400)
    for own in range(3):
        selected = labels[pseudo == own]
        right = int((selected == own).sum())
        assert float(found.evidence[own]) == pytest.approx(len(selected))
        assert float(found.estimate[own]) == pytest.approx(right / len(selected))
        # with one more that is wrong
        expected = binomtest(right, len(selected) + 1, alternative="greater").proportion_ci(0.95, method="wilson").low
        assert float(found.lower[own]) == pytest.approx(expected)


def test_it_is_the_precision_of_a_pool_of_that_prior():
    rates = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.0, 0.1, 0.6, 0.3]])  # the last: not selected
    prior = torch.tensor([0.1, 0.3, 0.6])
    generator = torch.Generator().manual_seed(1)

    def drawn(labels: torch.Tensor) -> torch.Tensor:
        pseudo = torch.multinomial(rates[labels], 1, generator=generator)[:, 0]
        return torch.where(pseudo == 3, -1, pseudo)

    labels = torch.arange(3).repeat_interleave(torch.tensor([20000, 5000, 2000]))
    found = pseudo_precision(labels, drawn(labels), prior)
    pool = torch.multinomial(prior, 200000, replacement=True, generator=generator)
    pseudo = drawn(pool)
    for own in range(3):
        assert float((pool[pseudo == own] == own).double().mean()) == pytest.approx(
            float(found.estimate[own]), abs=0.02
        )
        assert float((pseudo == own).double().mean()) == pytest.approx(float(found.share[own]), abs=0.01)


@pytest.mark.parametrize("truth", [0.6, 0.9])
def test_the_bound_holds_as_often_as_it_says(truth):
    # 25 labeled samples of class 0 and 60 of class 1, under a prior that weighs them unlike
    generator, prior = torch.Generator().manual_seed(2), torch.tensor([0.5, 0.5])
    labels = torch.tensor([0] * 25 + [1] * 60)
    wrong = (1 - truth) / truth  # selected as 0: all of class 0, and so many of class 1
    holds = 0
    for _ in range(300):
        pseudo = torch.where(torch.rand(85, generator=generator) < wrong, 0, -1)
        pseudo[:25] = 0
        holds += float(pseudo_precision(labels, pseudo, prior).lower[0]) <= truth
    assert holds / 300 >= 0.93


def test_the_bound_holds_where_what_errs_is_frequent_in_the_pool_and_has_few_labels():
    # one in fifty of class 1 passes for class 0: more than a quarter of what does in the pool, and mostly no label
    generator, prior = torch.Generator().manual_seed(3), torch.tensor([0.05, 0.95])
    labels = torch.tensor([0] * 200 + [1] * 25)
    truth, holds, without = 0.05 / (0.05 + 0.95 * 0.02), 0, 0
    for _ in range(300):
        pseudo = torch.where((torch.rand(225, generator=generator) < 0.02) & (labels == 1), 0, -1)
        pseudo[:200] = 0
        found = pseudo_precision(labels, pseudo, prior)
        holds += float(found.lower[0]) <= truth
        without += wilson(float(found.estimate[0]), float(found.evidence[0])) <= truth
    assert holds / 300 >= 0.93
    assert without / 300 < 0.5  # in 0.98^25 = 60 % of the cases nobody errs


def test_weights_are_worth():
    labels, pseudo = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 1])
    prior = torch.tensor([0.5, 0.5])
    # three copies of everything, each worth a third
    once = pseudo_precision(labels, pseudo, prior)
    thrice = pseudo_precision(labels.repeat(3), pseudo.repeat(3), prior, weights=torch.full((15,), 1 / 3))
    for name in ("estimate", "lower", "evidence", "share"):
        torch.testing.assert_close(getattr(thrice, name), getattr(once, name), rtol=1e-6, atol=0)
    # a sample without worth says nothing
    more = pseudo_precision(
        torch.cat([labels, torch.tensor([1])]),
        torch.cat([pseudo, torch.tensor([0])]),
        prior,
        weights=torch.tensor([1.0, 1, 1, 1, 1, 0]),
    )
    torch.testing.assert_close(more.lower, once.lower)


def test_without_evidence_nothing_is_trusted():
    labels, pseudo = torch.tensor([0] * 30 + [1] * 30), torch.tensor([0] * 30 + [-1] * 30)
    found = pseudo_precision(labels, pseudo, torch.ones(3) / 3)
    assert found.estimate[0] == 1
    assert found.estimate[1:].isnan().all()
    assert found.lower[1:].tolist() == found.evidence[1:].tolist() == [0, 0]
    # 30 of 30, and one of class 1 that is not seen
    bound = wilson(30 / 31, 31)
    assert found.trusted(bound - 1e-9).tolist() == [True, False, False]
    assert found.trusted(bound + 1e-9).tolist() == [False] * 3
    assert found.trusted(0).tolist() == [True, False, False]
    nobody = pseudo_precision(labels[:0], pseudo[:0], torch.ones(2) / 2)
    assert not nobody.trusted(0).any()
    assert math.isnan(nobody.overall)
    # a class that the prior rules out makes pseudo-labels without share
    assert not pseudo_precision(labels, pseudo, torch.tensor([0.0, 1])).trusted(0).any()


def test_the_bound_of_one_sample_is_finite():
    # Wilson with one success in one trial: 1 / (1 + z^2)
    z = 1.6448536269514722
    assert float(wilson_lower(torch.ones(1), torch.ones(1), level=0.95)) == pytest.approx(1 / (1 + z * z))
    assert float(wilson_lower(torch.zeros(1), torch.ones(1), level=0.95)) == pytest.approx(0, abs=1e-7)


def test_several_pseudo_classes_together_are_one():
    labels, pseudo = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, -1, 1, 0, 2])
    found = pseudo_precision(labels, pseudo, torch.tensor([0.6, 0.2, 0.2]))
    # samples of class 0 weigh 0.2, those of class 1 0.1: right are 0.2 and 0.1 of 0.3 and 0.3; one of class 2 0.2
    estimate, lower = found.together(torch.tensor([True, True, False]), level=0.9)
    assert estimate == pytest.approx(0.3 / 0.6)
    assert lower == pytest.approx(wilson(0.3 / 0.8, 0.8**2 / (3 * 0.2**2 + 2 * 0.1**2), level=0.9))
    estimate, lower = found.together(torch.zeros(3, dtype=torch.bool))
    assert math.isnan(estimate)
    assert lower == 0


def test_where_nothing_is_selected_there_is_nothing_to_be_precise_about():
    nothing = pseudo_precision(torch.tensor([0, 1, 1]), torch.full((3,), -1), torch.tensor([0.5, 0.5]))
    assert nothing.share.tolist() == [0, 0]
    assert nothing.estimate.isnan().all()
    assert nothing.lower.tolist() == [0, 0]
    estimate, lower = nothing.together(torch.tensor([True, True]))
    assert estimate != estimate  # nan
    assert lower == 0
