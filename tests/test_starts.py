"""What tuning may start from: which decay, which head."""

import math

import pytest
import torch
from builders import cross_fit, gaussian_splits

from selmix.confusion import confusion_counts, joint_confusion
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import METRICS, MetricContext, mean_recall, parse_metric
from selmix.significance import paired_difference
from selmix.stage2 import starts as starts_module
from selmix.stage2.starts import best_start, starting_heads

SPLITS = gaussian_splits([60, 30, 10], seed=0, spread=0.7, per_class=20)
GIVEN = LinearHead(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), torch.ones(3))
COUNTS = torch.tensor([10, 20, 70])


def made(splits: dict[str, LabeledFeatures] = SPLITS) -> dict[str, list[LinearHead]]:
    generator = torch.Generator().manual_seed(1)
    return starting_heads(GIVEN, COUNTS, cross_fit(splits), smoothing=0.3, steps=60, generator=generator)


def test_there_is_a_head_for_each_of_the_plan_and_adjustment_is_by_the_counts_that_trained():
    starts = made()
    assert {name: len(heads) for name, heads in starts.items()} == {"given": 4, "logit_adjusted": 4, "balanced": 4}
    assert next(iter(starts)) == "balanced"
    for head, adjusted in zip(starts["given"], starts["logit_adjusted"], strict=True):
        assert torch.equal(head.weight, GIVEN.weight)
        assert torch.equal(head.bias, GIVEN.bias)
        torch.testing.assert_close(adjusted.bias, 1 - torch.tensor([0.1, 0.2, 0.7]).log())
    assert len({tuple(head.bias.tolist()) for head in starts["balanced"]}) == 4


def test_balanced_is_the_average_over_decays_and_smoothing_at_the_same_size_of_logits(monkeypatch):
    weights = [torch.full((3, 8), value) for value in (1.0, 2.0, -4.0, 0.5)]
    biases = [torch.tensor([0.0, 0.0, value]) for value in (1.0, 2.0, 4.0, 0.5)]
    seen = []

    def retrain(features, members, *, sampling_power, settings, generator):
        assert sampling_power == 0
        seen.append((settings.steps, settings.weight_decay, settings.smoothing))
        return [LinearHead(weights[len(seen) - 1], biases[len(seen) - 1])] * len(members)

    monkeypatch.setattr(starts_module, "retrain_heads", retrain)
    (first, *_, last) = made()["balanced"]
    assert seen == [(60, decay, smoothing) for decay in (1e-4, 1e-5) for smoothing in (0.0, 0.3)]
    # scaled to the size of the first: weights 1, 1, -1, 1 and biases 1, 1, 1, 1
    torch.testing.assert_close(first.weight, torch.full((3, 8), 0.5))
    torch.testing.assert_close(last.bias, torch.tensor([0.0, 0.0, 1.0]))


def test_starts_learn_classes_evenly_and_follow_the_generator():
    one, two = made()["balanced"], made()["balanced"]
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(one, two, strict=True))
    # of noise a balanced head predicts every class about as often, though class 2 is a tenth of train
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: LabeledFeatures(torch.randn(len(split.labels), 8, generator=generator), split.labels)
        for name, split in SPLITS.items()
    }
    shares = torch.bincount(made(noise)["balanced"][-1].predict(noise["test"].features), minlength=3) / 60
    assert float(shares.min()) > 0.15


def heads_right_on(shares: dict[str, tuple[float, ...]], count: int = 100):
    """Return starts, plan and val: features are class and number of the sample, each start right on a share of them."""
    labels = torch.arange(2).repeat_interleave(count)
    number = torch.arange(count).repeat(2)
    train = LabeledFeatures(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
    val = LabeledFeatures(torch.stack([2.0 * labels - 1, number / count], dim=1), labels)
    plan = cross_fit({"train": train, "val": val})

    class Rule:
        num_classes = 2

        def __init__(self, parts):
            self.parts = torch.tensor(parts)

        def logits(self, features):
            label = (features[:, 0] > 0).long()
            right = features[:, 1] < self.parts[label] - 1e-6
            return torch.nn.functional.one_hot(torch.where(right, label, 1 - label), 2).float()

    return {name: [Rule(parts)] * 4 for name, parts in shares.items()}, plan


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        # of 100 a class a share p is won in class 0: p / 2 against an error of sqrt(p (1 - p) / 100) / 2
        ({"balanced": (0.5, 0.5), "given": (0.5, 0.5)}, "balanced"),
        ({"balanced": (0.5, 0.5), "given": (0.53, 0.5)}, "balanced"),
        ({"balanced": (0.5, 0.5), "given": (0.55, 0.5)}, "given"),
        ({"balanced": (0.5, 0.5), "given": (0.4, 0.5)}, "balanced"),
        # 12 gained and 10 lost: the difference is 0.01, its error sqrt(.12 * .88 + .1 * .9) / 20 = 0.022
        ({"balanced": (0.5, 0.5), "given": (0.62, 0.4)}, "balanced"),
        ({"balanced": (0.5, 0.5), "given": (0.62, 0.5)}, "given"),
        # the third is better than the second by too little, and the second stays
        ({"balanced": (0.5, 0.5), "given": (0.62, 0.5), "logit_adjusted": (0.74, 0.4)}, "given"),
        ({"balanced": (0.5, 0.5), "given": (0.62, 0.5), "logit_adjusted": (0.74, 0.5)}, "logit_adjusted"),
        ({"balanced": (0.5, 0.5), "given": (0.4, 0.5), "logit_adjusted": (0.62, 0.5)}, "logit_adjusted"),
    ],
)
def test_balanced_is_the_start_unless_another_is_better_by_more_than_two_standard_errors(shares, expected):
    starts, plan = heads_right_on(shares)
    assert best_start(starts, plan, mean_recall, pseudo_count=0.0) == expected


def test_validation_alone_chooses_the_start_and_groups_have_their_rows():
    # two groups a class; overall `given` is right more often, in the worst group less
    labels, group = torch.arange(2).repeat_interleave(200), torch.arange(2).repeat_interleave(100).repeat(2)
    train = LabeledFeatures(torch.zeros(8, 1), torch.arange(2).repeat(4), torch.arange(2).repeat_interleave(4))
    val = LabeledFeatures(torch.arange(400.0)[:, None], labels, group)
    plan = cross_fit({"train": train, "val": val})
    assert plan.groups == 2

    class Rule:
        num_classes = 2

        def __init__(self, in_group):
            self.in_group = torch.tensor(in_group)

        def logits(self, features):
            own = features[:, 0].long()
            right = own % 100 < 100 * self.in_group[group[own]]
            return torch.nn.functional.one_hot(torch.where(right, labels[own], 1 - labels[own]), 2).float()

    starts = {"balanced": [Rule([0.6, 0.6])] * 4, "given": [Rule([1.0, 0.45])] * 4}
    metric = parse_metric("worst_group_recall").bind(MetricContext("ab", torch.tensor([4, 4]), 2))
    worst = metric.objective(torch.full((4,), 100.0).double(), lambda values, errors: values.amin())
    assert best_start(starts, plan, worst, pseudo_count=0.0) == "balanced"
    plain = METRICS["mean_recall"].objective(torch.full((4,), 100.0).double(), None)
    assert best_start(starts, plan, plain, pseudo_count=0.0) == "given"


def test_paired_differences_with_groups_are_those_of_the_rows_by_hand():
    # mean of the recalls of the four rows, class * 2 + group; the candidate mends one of the 4 samples of row 1
    rows = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 3, 3])
    incumbent = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 0])
    candidate = incumbent.clone()
    candidate[3] = 0

    def mean_row_recall(confusion):
        right = confusion[torch.arange(4), torch.arange(4) // 2]
        return (right / confusion.sum(1)).mean()

    counts = confusion_counts(rows, candidate, 2, groups=2)
    assert counts.tolist() == [[2, 0], [2, 2], [0, 2], [1, 1]]
    torch.testing.assert_close(joint_confusion(counts)[1], torch.tensor([0.2, 0.2]).double())
    difference, error = paired_difference(mean_row_recall, rows, candidate, incumbent, 2, pseudo_count=0, groups=2)
    assert difference == pytest.approx(1 / 4 / 4)
    # of the 4 samples of row 1 one contributes 1 / 4 of a recall of 4 samples; 4 times the variance of (1/16, 0, 0, 0)
    assert error == pytest.approx(math.sqrt((1 / 16) ** 2 * (1 - 1 / 4)))
