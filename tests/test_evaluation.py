"""What is reported of a head, against scikit-learn and by hand; groups by training count, never by index."""

import itertools

import numpy as np
import pytest
import torch
from oracles import count_confusions, random_labels
from sklearn import metrics as sk

from selmix.evaluation import UNDEFINED, ClassGroups, count_statistics, defined_statistics, evaluate
from selmix.heads import LinearHead
from selmix.metrics import Metric
from selmix.predictions import Predictions, predict

# recalls 0.8, 0.5, 0.25; coverage 10/24, 8/24, 6/24
COUNTS = torch.tensor([[8.0, 1, 1], [1, 5, 4], [1, 2, 1]], dtype=torch.float64)
GROUPS = ClassGroups.from_counts(torch.tensor([10, 500, 50]))


def test_statistics_by_hand():
    result = count_statistics(COUNTS, GROUPS)
    expected = {
        "accuracy": 14 / 24,
        "mean_recall": (0.8 + 0.5 + 0.25) / 3,
        "min_recall": 0.25,
        "geometric_mean": 0.1 ** (1 / 3),
        "harmonic_mean": 3 / (1.25 + 2 + 4),
        "macro_f1": (16 / 20 + 10 / 18 + 2 / 10) / 3,
        "micro_f1": 14 / 24,
        # labels 10, 10, 4, predictions 10, 8, 6 of 24: 100 + 80 + 24 pairs agree by chance
        "mcc": (14 * 24 - 204) / ((24**2 - 216) * (24**2 - 200)) ** 0.5,
        "kappa": (14 / 24 - 204 / 24**2) / (1 - 204 / 24**2),
        "q_mean": 1 - ((0.2**2 + 0.5**2 + 0.75**2) / 3) ** 0.5,
        "min_coverage": 6 / 24,
        "head_recall": 0.5,
        "medium_recall": 0.25,
        "tail_recall": 0.8,
        "min_head_tail_recall": 0.5,
    }
    assert result == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_statistics_agree_with_scikit_learn(seed):
    labels, predictions = random_labels(6, seed=seed)
    result = count_statistics(count_confusions(labels, predictions, 6), ClassGroups.from_counts(torch.ones(6)))
    pair = labels.numpy(), predictions.numpy()
    assert result["accuracy"] == pytest.approx(sk.accuracy_score(*pair), abs=1e-12)
    assert result["mean_recall"] == pytest.approx(sk.balanced_accuracy_score(*pair), abs=1e-12)
    assert result["mcc"] == pytest.approx(sk.matthews_corrcoef(*pair), abs=1e-12)
    assert result["kappa"] == pytest.approx(sk.cohen_kappa_score(*pair), abs=1e-12)
    assert result["macro_f1"] == pytest.approx(sk.f1_score(*pair, average="macro"), abs=1e-12)
    recalls = sk.recall_score(*pair, average=None)
    assert result["min_recall"] == pytest.approx(recalls.min(), abs=1e-12)
    assert result["tail_recall"] == pytest.approx(recalls.mean(), abs=1e-12)


def test_groups_have_their_borders_at_100_and_20():
    members = ClassGroups.from_counts(torch.tensor([19, 100, 20, 101, 1, 5000])).members
    assert members["head"].tolist() == [False, False, False, True, False, True]
    assert members["medium"].tolist() == [False, True, True, False, False, False]
    assert members["tail"].tolist() == [True, False, False, False, True, False]


def test_groups_follow_the_classes_and_not_their_index():
    counts = torch.tensor([300, 120, 40, 30, 5, 2])
    confusion = torch.randint(1, 20, (6, 6), generator=torch.Generator().manual_seed(0)).double()
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    plain = count_statistics(confusion, ClassGroups.from_counts(counts))
    renamed = count_statistics(confusion[order][:, order], ClassGroups.from_counts(counts[order]))
    assert renamed == pytest.approx(plain, abs=1e-15)


def test_a_class_without_samples_has_no_recall_and_is_left_out():
    # two head classes, of which the second has no sample here; the only tail class has none either
    groups = ClassGroups.from_counts(torch.tensor([300, 300, 50, 5]))
    labels, logits = torch.tensor([0, 0, 0, 2, 2]), torch.eye(4)[[0, 0, 1, 2, 3]]
    result = evaluate(Predictions.of_logits(logits), labels, groups, num_classes=4)
    assert result.recall == [pytest.approx(2 / 3), None, 0.5, None]
    assert result.metrics["head_recall"] == pytest.approx(2 / 3)
    assert result.metrics["medium_recall"] == result.metrics["min_recall"] == 0.5
    assert result.metrics["mean_recall"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    undefined = {name for name, value in result.metrics.items() if value is None}
    assert undefined == {"tail_recall", "min_head_tail_recall"}


def test_a_metric_without_a_value_is_none():
    own = Metric("own", "mean of all recalls", lambda confusion: (confusion.diagonal() / confusion.sum(1)).mean())
    counts = torch.tensor([[3.0, 1], [0, 0]])
    assert count_statistics(counts, ClassGroups.from_counts(torch.tensor([9, 9])), own)["own"] is None


def test_groups_of_samples_have_rows_of_their_own():
    labels, groups = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 0, 1, 1])
    logits = torch.eye(2)[[0, 0, 1, 1, 1, 0]]
    metrics = evaluate(
        Predictions.of_logits(logits),
        2 * labels + groups,
        ClassGroups.from_counts(torch.tensor([3, 3])),
        num_classes=2,
        num_groups=2,
    ).metrics
    assert metrics["worst_group_recall"] == 0.25  # group 1: class 0 0 of 1, class 1 1 of 2
    assert metrics["mean_recall"] == pytest.approx(2 / 3)


SAMPLES = {"head": 200, "medium": 50, "tail": 5}
PRESENT = [groups for size in (1, 2, 3) for groups in itertools.combinations(SAMPLES, size)]


@pytest.mark.parametrize("groups", PRESENT, ids="-".join)
def test_what_is_undefined_is_none_with_a_reason(groups):
    class_counts = torch.tensor([SAMPLES[group] for group in groups])
    own = ClassGroups.from_counts(class_counts)
    confusion = torch.ones(len(groups), len(groups), dtype=torch.float64)
    result = count_statistics(confusion, own)
    undefined = {f"{group}_recall" for group in SAMPLES if group not in groups}
    if not {"head", "tail"} <= set(groups):
        undefined.add("min_head_tail_recall")
    assert {name for name, value in result.items() if value is None} == undefined
    assert undefined <= set(UNDEFINED)
    assert defined_statistics(own)(confusion) == {name: v for name, v in result.items() if name not in undefined}


def test_every_reason_can_be_met():
    assert set(UNDEFINED) == {f"{group}_recall" for group in SAMPLES} | {"min_head_tail_recall"}


def naive_ece(confidence: list[float], correct: list[bool], bins: int = 15) -> float:
    """Sum over bins ((b - 1) / 15, b / 15] the share of samples times |accuracy - mean confidence|."""
    total = 0.0
    for number in range(bins):
        inside = [i for i, c in enumerate(confidence) if number / bins < c <= (number + 1) / bins]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            total += len(inside) * abs(accuracy - sum(confidence[i] for i in inside) / len(inside))
    return total / len(confidence)


@pytest.mark.parametrize("seed", range(2))
def test_evaluate_agrees_with_scikit_learn_and_naive_calibration(seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(4), rng.choice(4, 300, p=[0.5, 0.3, 0.15, 0.05])])
    features = rng.standard_normal((304, 5)) + np.eye(4, 5)[labels]
    weight, bias = 2 * np.eye(4, 5), rng.standard_normal(4)
    logits = features @ weight.T + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    predictions = logits.argmax(1)

    groups = ClassGroups.from_counts(torch.tensor([500, 50, 40, 5]))
    given = Predictions.of_logits(torch.from_numpy(logits).float())
    result = evaluate(given, torch.from_numpy(labels), groups, num_classes=4)
    assert result.predictions.tolist() == predictions.tolist()
    recalls = sk.recall_score(labels, predictions, average=None)
    assert result.recall == pytest.approx(recalls, abs=1e-12)
    assert result.metrics["tail_recall"] == pytest.approx(recalls[3], abs=1e-12)
    assert result.metrics["medium_recall"] == pytest.approx(recalls[1:3].mean(), abs=1e-12)
    assert result.metrics["accuracy"] == pytest.approx((predictions == labels).mean(), abs=1e-12)
    assert result.metrics["min_coverage"] == pytest.approx(np.bincount(predictions).min() / 304, abs=1e-12)
    ece = naive_ece(probabilities.max(1).tolist(), (predictions == labels).tolist())
    assert ece > 0.01
    assert result.metrics["ece"] == pytest.approx(ece, abs=1e-5)


def test_a_class_that_is_never_predicted_has_coverage_and_recall_zero():
    counts = torch.tensor([[3.0, 0], [2, 0]], dtype=torch.float64)
    result = count_statistics(counts, ClassGroups.from_counts(torch.tensor([200, 5])))
    assert result["min_coverage"] == result["min_recall"] == result["tail_recall"] == 0
    assert result["geometric_mean"] == result["harmonic_mean"] == 0
    assert result["macro_f1"] == pytest.approx((6 / 8 + 0) / 2)


def test_the_probability_of_the_true_class_is_that_of_softmax(monkeypatch):
    monkeypatch.setattr("selmix.predictions._LOGITS", 8)  # blocks of two samples
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(7, 3, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    head = LinearHead(torch.randn(4, 3, generator=generator), torch.randn(4, generator=generator))
    found = predict(head, features, labels=labels)
    odds = np.exp((features @ head.weight.T + head.bias).double().numpy())
    expected = odds[np.arange(7), labels.numpy()] / odds.sum(1)
    assert found.of_truth.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    plain = predict(head, features)
    assert plain.of_truth is None
    assert torch.equal(plain.classes, found.classes)
    assert torch.equal(plain.confidence, found.confidence)
