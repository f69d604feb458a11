"""Margins in place of confusion matrices of many classes: the same figures, from 3 k numbers."""

from functools import partial

import pytest
import torch

from selmix.bootstrap import bootstrap_statistics
from selmix.confusion import class_prior, confusion_counts, coverage
from selmix.evaluation import MANY, ClassGroups, count_statistics, defined_statistics, margins_suffice
from selmix.margins import Margins
from selmix.metrics import METRICS, MetricContext, parse_metric
from selmix.metrics.request import request_of

COUNTS = torch.tensor([300, 60, 5, 5])
NAMES = ["ant", "bee", "cat", "dog"]


def drawn(seed: int, *, lacks: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels and predictions of 60 samples of four classes, half of the predictions right."""
    generator = torch.Generator().manual_seed(seed)
    labels, other = torch.randint(4, (2, 60), generator=generator)
    labels = labels[labels != lacks]
    return labels, torch.where(torch.arange(len(labels)) % 2 == 0, labels, other[: len(labels)])


def test_margins_by_hand():
    margins = Margins.of(torch.tensor([0, 0, 0, 2]), torch.tensor([0, 1, 0, 1]), 3)
    assert [own.tolist() for own in (margins.correct, margins.truth, margins.predicted)] == [
        [2, 0, 0], [3, 0, 1], [2, 2, 0],
    ]  # fmt: skip
    joint = margins.joint()
    assert class_prior(joint).tolist() == [0.75, 0, 0.25]
    assert coverage(joint).tolist() == [0.5, 0.5, 0]
    assert float(joint.sum()) == 1


@pytest.mark.parametrize("lacks", [-1, 1])
@pytest.mark.parametrize(
    "name", [*METRICS, "min_head_tail_recall", "0.5*accuracy + min(recall[cat], precision[dog])/k"]
)
def test_statistics_are_those_of_the_matrix(name, lacks):
    metric = parse_metric(name).bind(MetricContext(NAMES, COUNTS))
    groups, labels = ClassGroups.from_counts(COUNTS), drawn(0, lacks=lacks)
    expected = count_statistics(confusion_counts(*labels, 4), groups, metric)
    assert count_statistics(Margins.of(*labels, 4), groups, metric) == pytest.approx(expected, nan_ok=False)


@pytest.mark.parametrize("remembers", [False, True])
def test_the_bootstrap_draws_the_same_samples(remembers):
    labels, predictions = drawn(1)
    metric = parse_metric("min_recall").untried()
    statistics = partial(defined_statistics, ClassGroups.from_counts(COUNTS), metric)
    whole, margins = (
        bootstrap_statistics(
            labels,
            [predictions, predictions.roll(1)],
            statistics(memory={} if remembers else None),
            4,
            replicates=20,
            generator=torch.Generator().manual_seed(0),
            margins=short,
        )
        for short in (False, True)
    )
    for own, expected in zip(margins, whole, strict=True):
        for name in expected:
            torch.testing.assert_close(torch.from_numpy(own[name]), torch.from_numpy(expected[name]))


def test_a_function_of_the_users_gets_the_matrix():
    own = request_of(lambda confusion: 1 - confusion[0, 1]).bind(MetricContext(NAMES, COUNTS))
    listed = parse_metric("min_recall").untried()
    assert not margins_suffice(own, MANY)
    assert margins_suffice(listed, MANY)
    assert not margins_suffice(listed, MANY - 1)
    assert not margins_suffice(listed, MANY, 2)
