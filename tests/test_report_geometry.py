"""The neighbours' vote and the class means, against a loop over samples."""

import numpy as np
import pytest
import torch
from builders import gaussian_splits

from selmix.features.labeled import LabeledFeatures
from selmix.report import geometry as module
from selmix.report.geometry import class_geometry


def naive_votes(bank, labels, judged, neighbours):
    """Vote sample by sample: a neighbour weighs one over the others of its class."""
    centred = bank - bank.mean(0)
    rows = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    counts = np.bincount(labels)
    votes = []
    for query in range(judged):
        similarity = rows @ rows[query]
        similarity[query] = -np.inf
        nearest = np.argsort(-similarity)[:neighbours]
        weight = {}
        for other in nearest:
            label = labels[other]
            weight[label] = weight.get(label, 0) + 1 / (counts[label] - (label == labels[query]))
        votes.append(max(weight, key=lambda label: weight[label]))
    return np.array(votes)


def test_recall_and_mistakes_are_those_of_a_naive_vote():
    splits = gaussian_splits([120, 40, 9], seed=3, spread=0.8, per_class=30)
    found = class_geometry(splits["train"], splits["val"], 3)
    bank = torch.cat([splits["val"].features, splits["train"].features]).double().numpy()
    truth = splits["val"].labels.numpy()
    votes = naive_votes(bank, np.concatenate([truth, splits["train"].labels.numpy()]), 90, 10)
    assert found.judged.tolist() == [30, 30, 30]
    for label in range(3):
        own = votes[truth == label]
        assert float(found.recall[label]) == pytest.approx((own == label).mean())
        wrong = np.bincount(own[own != label], minlength=3)
        assert wrong[int(found.mistaken_for[label])] == wrong.max() > 0
    assert 0.4 < float(found.recall.mean()) < 1


def test_means_and_spread_by_hand():
    # class means (0, 0), (4, 0), (0, 10); the judged samples of class 0 are 1 away from theirs
    val = LabeledFeatures(torch.tensor([[0.0, 1], [0, -1], [4, 2], [0, 10]]), torch.tensor([0, 0, 1, 2]))
    train = LabeledFeatures(torch.tensor([[1.0, 0], [-1, 0], [4, -2], [0, 10]]), torch.tensor([0, 0, 1, 2]))
    found = class_geometry(train, val, 3)
    assert found.nearest.tolist() == [1, 0, 0]
    assert found.separation.tolist() == pytest.approx([4, 2, float("inf")])


def test_a_class_without_validation_samples_has_no_figure_and_train_is_not_judged():
    splits = gaussian_splits([20, 20], seed=0, per_class=5)
    val = splits["val"].subset((splits["val"].labels == 0).nonzero()[:, 0])
    found = class_geometry(splits["train"], val, 2)
    assert found.judged.tolist() == [5, 0]
    assert torch.isnan(found.recall).tolist() == [False, True]
    assert torch.isnan(found.separation).tolist() == [False, True]


def test_large_classes_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(module, "_SAMPLES", 12)
    monkeypatch.setattr(module, "_A_CLASS", 2)
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 4)
    assert module._evenly(labels, 4).tolist() == [0, 3, 5, 8, 10, 11, 12, 13, 14, 15, 16]
    splits = gaussian_splits([50, 50], seed=0, per_class=9)
    assert class_geometry(splits["train"], splits["val"], 2).judged.tolist() == [6, 6]
