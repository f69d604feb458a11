"""Selection by hand, against sorted lists, and against torch's own divergence."""

import math

import pytest
import torch
from torch.nn import functional as F

from selmix.errors import UsageError
from selmix.pseudo.selection import Candidates, Selection, candidates, quotas, select, target_rows


def random_probabilities(count: int, num_classes: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (2 * torch.randn(count, num_classes, generator=generator)).softmax(1)
    probabilities[::17] = 0
    return probabilities


def test_blocks_are_one_pool():
    probabilities = random_probabilities(50, 4)
    targets = target_rows(torch.eye(4) + 0.1)
    whole = candidates([probabilities], targets=targets)
    for one, other in zip(whole, candidates(probabilities.split(7), targets=targets), strict=True):
        assert torch.equal(one, other)
    assert (whole.classes[::17] == -1).all()
    ordered = probabilities.sort(descending=True).values
    torch.testing.assert_close(whole.confidence, ordered[:, 0])
    torch.testing.assert_close(whole.lead, ordered[:, 0] - ordered[:, 1])
    there = whole.classes >= 0
    assert torch.equal(whole.classes[there], probabilities[there].argmax(1))


def test_threshold_and_margin():
    found = candidates([torch.tensor([[0.5, 0.5, 0], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0, 0, 0]])])
    assert select(found, Selection()).tolist() == [0, 0, 2, -1]
    assert select(found, Selection(threshold=0.6)).tolist() == [-1, 0, 2, -1]
    assert select(found, Selection(margin=0.25)).tolist() == [-1, 0, 2, -1]
    assert select(found, Selection(threshold=0.55, margin=0.5)).tolist() == [-1, -1, 2, -1]


def test_a_one_hot_target_at_005_is_fixmatchs_threshold_at_09512():
    confidence = torch.linspace(0.94, 0.96, 201, dtype=torch.float64)
    for targets in (target_rows(torch.eye(2)), None):
        found = candidates([torch.stack([confidence, 1 - confidence], 1)], targets=targets)
        kept = select(found, Selection(divergence=0.05)) == 0
        assert torch.equal(kept, confidence > math.exp(-0.05))
        assert float(confidence[kept].min()) == pytest.approx(0.9513, abs=1e-9)
    assert candidates([torch.zeros(1, 2)]).divergence.tolist() == [math.inf]


def test_the_divergence_is_torchs_and_infinite_where_a_wanted_class_is_impossible():
    targets = target_rows(torch.tensor([[3.0, 1, 0], [1, 2, 1], [0, 0, 5]]))
    torch.testing.assert_close(targets[0], torch.tensor([0.75, 0.25, 0], dtype=torch.float64))
    probabilities = random_probabilities(30, 3)[1:17]
    found = candidates([probabilities], targets=targets)
    expected = F.kl_div(probabilities.double().log(), targets[probabilities.argmax(1)], reduction="none").sum(1)
    torch.testing.assert_close(found.divergence, expected.float())
    certain = candidates([torch.eye(3)], targets=targets).divergence
    assert certain.tolist() == [math.inf, math.inf, 0]
    # a spread target accepts what is spread likewise
    assert select(candidates([targets[:1]], targets=targets), Selection(divergence=1e-6)).tolist() == [0]


def test_quotas_are_crests():
    counts = torch.tensor([10, 1000, 100, 50])
    # ranks 4, 1, 2, 3, so N_{K+1-l} is 1000, 10, 50, 100
    expected = [1, 0.01 ** (1 / 3), 0.05 ** (1 / 3), 0.1 ** (1 / 3)]
    assert quotas(counts, alpha=3).tolist() == pytest.approx(expected)
    assert quotas(torch.tensor([7, 7, 7]), alpha=3).tolist() == [1, 1, 1]
    # ranks 1 and 2 are tied: the mean of 5 / 100 and 10 / 100; so are no counts at all with one sample
    assert quotas(torch.tensor([100, 10, 100, 5]), alpha=1).tolist() == pytest.approx([0.075, 1, 0.075, 1])
    assert quotas(torch.tensor([4, 0]), alpha=1).tolist() == [0.25, 1]


def test_a_class_keeps_its_most_confident():
    probabilities = random_probabilities(300, 3)
    found = candidates([probabilities])
    counts = torch.tensor([64, 8, 1])
    labels = select(found, Selection(quota=3), class_counts=counts)
    for own, share in enumerate((1 / 4, 1 / 2, 1)):
        of_class = sorted((i for i in range(300) if found.classes[i] == own), key=lambda i: -float(found.confidence[i]))
        kept = (labels == own).nonzero()[:, 0].tolist()
        assert sorted(of_class[: math.ceil(share * len(of_class))]) == kept
    strict = select(found, Selection(quota=3, threshold=0.9), class_counts=counts)
    # each rule by itself: the quota is one of all candidates
    assert torch.equal(strict, torch.where(found.confidence >= 0.9, labels, -1))


def test_ties_go_by_lead_then_by_row():
    confidence, lead = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.2]), torch.tensor([0.1, 0.3, 0.1, 0.3, 0.2])
    found = Candidates(torch.zeros(5, dtype=torch.int64), confidence, lead, torch.zeros(5))
    for kept, expected in ((1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])):
        labels = select(found, Selection(cap=kept / 5), prior=torch.tensor([1.0, 0.0]))
        assert (labels == 0).nonzero()[:, 0].tolist() == expected


def test_caps_have_the_shape_of_the_prior():
    found = candidates([random_probabilities(1000, 3)])
    prior = torch.tensor([0.01, 0.0501, 0.9])
    labels = select(found, Selection(cap=2), prior=prior)
    available = torch.bincount(found.classes[found.classes >= 0])
    # 20 and 100.2, rounded up; of the third class there are fewer than 1800
    assert torch.bincount(labels[labels >= 0]).tolist() == [20, 101, int(available[2])]
    # 1.1 * 100 * 0.1 is 11.000000000000002 in floating point
    many = candidates([torch.tensor([[0.9, 0.1]]).expand(100, 2)])
    labels = select(many, Selection(cap=1.1), prior=torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert int((labels == 0).sum()) == 11


def test_an_empty_pool_has_no_labels():
    rules = Selection(threshold=0.5, margin=0.1, quota=3, cap=1, divergence=1)
    counts, prior = torch.tensor([3, 2]), torch.ones(2) / 2
    for blocks in ([], [torch.empty(0, 2)]):
        assert select(candidates(blocks), rules, class_counts=counts, prior=prior).tolist() == []
    nobody = candidates([torch.zeros(3, 2)], targets=target_rows(torch.eye(2)))
    assert select(nobody, rules, class_counts=counts, prior=prior).tolist() == [-1] * 3
    assert candidates([torch.ones(2, 1)]).lead.tolist() == [1, 1]


def test_what_is_missing_or_meaningless_is_refused():
    found = candidates([torch.eye(2)])
    with pytest.raises(UsageError, match="class counts"):
        select(found, Selection(quota=3))
    with pytest.raises(UsageError, match="prior"):
        select(found, Selection(cap=1))
    for gains in ([[1.0, -0.1], [0, 1]], [[1.0, 0], [0, 0]]):
        with pytest.raises(UsageError, match="gains"):
            target_rows(torch.tensor(gains))
    with pytest.raises(UsageError, match="threshold must be in .* margin .* quota .* cap .* divergence"):
        Selection(threshold=2, margin=-1, quota=0, cap=0, divergence=0)
