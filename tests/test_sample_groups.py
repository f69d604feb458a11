"""Confusion matrices with a row for each class and group of samples (row = class * g + group)."""

import pytest
import torch
from oracles import random_labels
from sklearn import metrics as sk

from selmix.confusion import class_confusion, joint_confusion
from selmix.evaluation import ClassGroups, count_statistics
from selmix.metrics import METRICS, MetricContext, logit_gradient, parse_metric

COUNTS = torch.tensor([500, 50, 5])


def grouped(num_groups, *, seed=0, num_classes=3):
    """Return labels, predictions, groups and the counts [k g, k], sample by sample."""
    labels, predictions = random_labels(num_classes, seed=seed)
    groups = torch.randint(num_groups, labels.shape, generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(num_classes * num_groups, num_classes, dtype=torch.float64)
    for truth, guess, group in zip(labels.tolist(), predictions.tolist(), groups.tolist(), strict=True):
        counts[truth * num_groups + group, guess] += 1
    return labels, predictions, groups, counts


@pytest.mark.parametrize("num_groups", [1, 2, 5])
@pytest.mark.parametrize("name", [*METRICS, "min_head_tail_recall", "recall[1] - precision[2] + coverage[0]"])
def test_class_metrics_do_not_see_the_groups(name, num_groups):
    labels, predictions, _, counts = grouped(num_groups)
    metric = parse_metric(name).bind(MetricContext("abc", COUNTS, num_groups))
    plain = torch.tensor(sk.confusion_matrix(labels, predictions), dtype=torch.float64)
    assert torch.equal(class_confusion(counts), plain)
    value = float(metric(joint_confusion(counts)))
    assert value == pytest.approx(float(metric(joint_confusion(plain))), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_worst_group_recall_agrees_with_scikit_learn(seed):
    labels, predictions, groups, counts = grouped(3, seed=seed)
    # group 2 has no sample of class 1, group 1 only samples of class 0
    keep = ~((groups == 2) & (labels == 1)) & ~((groups == 1) & (labels > 0))
    counts[[5, 4, 7]] = 0
    metric = parse_metric("worst_group_recall").bind(MetricContext("abc", COUNTS, 3))
    expected = []
    for group in range(3):
        rows = (keep & (groups == group)).nonzero().squeeze(1)
        own = labels[rows].unique().tolist()
        expected.append(sk.recall_score(labels[rows], predictions[rows], labels=own, average="macro"))
    assert float(metric(joint_confusion(counts))) == pytest.approx(min(expected), rel=1e-12)


def test_where_each_group_holds_one_class_it_is_the_worst_group_accuracy_and_its_errors_are_those_of_rates():
    # class 0: groups 0 and 1; class 1: groups 2 and 3, as in Waterbirds
    counts = torch.zeros(8, 2, dtype=torch.float64)
    counts[0], counts[1], counts[6], counts[7] = (torch.tensor(row) for row in ([9.0, 1], [3, 2], [4, 16], [1, 3]))
    metric = parse_metric("worst_group_recall").bind(MetricContext("ab", torch.tensor([30, 30]), 4))
    assert float(metric(joint_confusion(counts))) == pytest.approx(0.6)
    calls = []

    def recording(values, errors):
        calls.append((values.detach(), errors))
        return values.amin()

    metric.objective(counts.sum(1), recording)(joint_confusion(counts))
    ((values, errors),) = calls
    torch.testing.assert_close(values, torch.tensor([0.9, 0.6, 0.8, 0.75], dtype=torch.float64))
    support, right = torch.tensor([10, 5, 20, 4]), torch.tensor([9, 3, 16, 3])
    rates = (right + 1).double() / (support + 2)
    torch.testing.assert_close(errors, (rates * (1 - rates) / support).sqrt())


def test_metrics_of_groups_and_of_head_and_tail_tell_their_name_and_formula():
    context = MetricContext("abc", COUNTS, 2)
    for name, formula in (("worst_group_recall", "within the group"), ("min_head_tail_recall", "100 training samples")):
        metric = parse_metric(name).bind(context)
        assert metric.name == name
        assert formula in metric.formula


def test_a_group_without_samples_is_left_out():
    counts = torch.tensor([[9.0, 1], [0, 0], [1, 4], [0, 0]], dtype=torch.float64)
    metric = parse_metric("worst_group_recall").bind(MetricContext("ab", torch.tensor([30, 30]), 2))
    assert float(metric(joint_confusion(counts))) == pytest.approx((0.9 + 0.8) / 2)


def test_its_gradient_pulls_on_the_worst_group_alone():
    counts = torch.tensor([[9.0, 1], [5, 5], [1, 9], [2, 8]], dtype=torch.float64)
    metric = parse_metric("worst_group_recall").bind(MetricContext("ab", torch.tensor([30, 30]), 2))
    gradient = logit_gradient(metric, joint_confusion(counts))
    # group 1 is the worse (.5 + .8) / 2; M_ii of half a recall is r (1 - r) / 2
    torch.testing.assert_close(gradient[1], torch.tensor([0.125, -0.125], dtype=torch.float64))
    torch.testing.assert_close(gradient[3], torch.tensor([-0.08, 0.08], dtype=torch.float64))
    assert torch.equal(gradient[[0, 2]], torch.zeros(2, 2, dtype=torch.float64))


def test_it_is_reported_where_there_are_groups():
    _, _, _, counts = grouped(2)
    result = count_statistics(counts, ClassGroups.from_counts(COUNTS))
    expected = min((counts[group::2].diagonal() / counts[group::2].sum(1)).mean() for group in range(2))
    assert result["worst_group_recall"] == pytest.approx(float(expected))
    plain = count_statistics(class_confusion(counts), ClassGroups.from_counts(COUNTS))
    assert "worst_group_recall" not in plain
    assert {name: result[name] for name in plain} == pytest.approx(plain)


def test_the_target_is_reported_even_where_the_report_would_leave_it_out():
    # bound to all training labels; a fifth of them was set aside for validation since, and no class is a head class now
    _, _, _, counts = grouped(1)
    metric = parse_metric("min_head_tail_recall").bind(MetricContext("abc", torch.tensor([110, 50, 5])))
    groups = ClassGroups.from_counts(torch.tensor([88, 40, 4]))
    assert count_statistics(counts, groups)["min_head_tail_recall"] is None
    expected = min(counts[0, 0] / counts[0].sum(), counts[2, 2] / counts[2].sum())
    assert count_statistics(counts, groups, metric)["min_head_tail_recall"] == pytest.approx(float(expected))


def test_the_users_own_metric_is_reported_under_its_text():
    _, _, _, counts = grouped(1)
    metric = parse_metric("0.5*accuracy + 0.5*recall[b]").bind(MetricContext("abc", COUNTS))
    result = count_statistics(counts, ClassGroups.from_counts(COUNTS), metric)
    expected = (counts.trace() / counts.sum() + counts[1, 1] / counts[1].sum()) / 2
    assert result["0.5*accuracy + 0.5*recall[b]"] == pytest.approx(float(expected))
