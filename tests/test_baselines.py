"""Head retraining and logit adjustment, against the class law, scikit-learn and hand-made numbers."""

import math

import numpy as np
import pytest
import torch
from builders import gaussian_splits
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from selmix.baselines.logit_adjustment import logit_adjusted
from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.features.labeled import LabeledFeatures
from selmix.features.pool import Pool
from selmix.heads import LinearHead
from selmix.pairs import ClassMembers

IMBALANCED = [1000, 370, 130, 50, 20]
SHORT = RetrainSettings(steps=1000)


def trained(train: LabeledFeatures, power: float, *, seed: int = 0, settings: RetrainSettings = SHORT) -> LinearHead:
    members = ClassMembers.from_labels(train.labels, int(train.labels.max()) + 1)
    generator = torch.Generator().manual_seed(seed)
    (head,) = retrain_heads(
        Pool(train.features), [members], sampling_power=power, settings=settings, generator=generator
    )
    return head


def balanced_accuracy(head: LinearHead, split: LabeledFeatures) -> float:
    return balanced_accuracy_score(split.labels, head.predict(split.features))


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_classes_are_drawn_in_proportion_to_a_power_of_their_counts(monkeypatch, power):
    drawn, draw = [], ClassMembers.draw

    def recording(self, classes, *, generator):
        members = draw(self, classes, generator=generator)
        drawn.extend(members.flatten().tolist())
        return members

    monkeypatch.setattr(ClassMembers, "draw", recording)
    counts = [400, 100, 25]
    train = gaussian_splits(counts, seed=0, per_class=1)["train"]
    trained(train, power, settings=RetrainSettings(steps=500, batch_size=40))
    assert len(drawn) == 20_000
    law = np.array(counts, dtype=float) ** power
    observed = np.bincount(train.labels[torch.tensor(drawn)], minlength=3)
    assert stats.chisquare(observed, 20_000 * law / law.sum()).pvalue > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_class_balanced_sampling_has_the_higher_balanced_accuracy(seed):
    splits = gaussian_splits(IMBALANCED, seed=seed, spread=0.7)
    probe, balanced = (balanced_accuracy(trained(splits["train"], power), splits["test"]) for power in (1, 0))
    assert balanced > probe + 0.08


@pytest.mark.parametrize(("power", "weights"), [(1, None), (0, "balanced")])
@pytest.mark.parametrize("seed", range(2))
def test_accuracy_agrees_with_logistic_regression(power, weights, seed):
    splits = gaussian_splits([300, 200, 100, 60, 60], seed=seed, spread=0.8)
    train, test = splits["train"], splits["test"]
    theirs = LogisticRegression(C=100, class_weight=weights, max_iter=2000)
    theirs.fit(train.features.numpy(), train.labels.numpy())
    expected = theirs.score(test.features.numpy(), test.labels.numpy())
    predictions = trained(train, power, settings=RetrainSettings(steps=3000)).predict(test.features)
    assert 0.4 < expected < 0.97
    assert float((predictions == test.labels).double().mean()) == pytest.approx(expected, abs=0.02)


def test_training_does_not_depend_on_the_scale_and_place_of_the_features():
    splits = gaussian_splits(IMBALANCED, seed=0)
    train, test = splits["train"], splits["test"]
    moved = LabeledFeatures(100 * train.features + 30, train.labels)
    expected = trained(train, 0).predict(test.features)
    actual = trained(moved, 0).predict(100 * test.features + 30)
    assert float((actual == expected).double().mean()) > 0.99


def test_the_head_follows_the_generator():
    train = gaussian_splits([60, 30], seed=0)["train"]
    first, again, other = (trained(train, 0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)
    assert not torch.equal(first.weight, other.weight)


def test_logit_adjustment_by_hand():
    # priors 3/4 and 1/4: the biases rise by log(4/3) and log(4)
    head = LinearHead(torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([0.5, -1]))
    adjusted = logit_adjusted(head, torch.tensor([300, 100]))
    assert torch.equal(adjusted.weight, head.weight)
    torch.testing.assert_close(adjusted.bias, torch.tensor([0.5 + math.log(4 / 3), -1 + math.log(4)]))
    half = logit_adjusted(head, torch.tensor([300, 100]), strength=0.5)
    torch.testing.assert_close(half.bias, torch.tensor([0.5 + math.log(4 / 3) / 2, -1 + math.log(4) / 2]))
    assert head.bias.tolist() == [0.5, -1]


def test_adjusted_probabilities_are_divided_by_the_prior():
    counts = torch.tensor([700, 200, 100])
    logits = torch.randn(3, generator=torch.Generator().manual_seed(0))
    head = LinearHead(torch.zeros(3, 1), logits)
    divided = logits.softmax(0) / (counts / 1000)
    adjusted = logit_adjusted(head, counts).logits(torch.zeros(1, 1)).softmax(1)[0]
    torch.testing.assert_close(adjusted, divided / divided.sum())


@pytest.mark.parametrize("strength", [0.0, 0.7, 2.0])
def test_adjusting_back_gives_the_head(strength):
    head, counts = LinearHead(torch.ones(3, 2), torch.tensor([0.1, -2, 5])), torch.tensor([900, 90, 10])
    there = logit_adjusted(head, counts, strength=strength)
    torch.testing.assert_close(logit_adjusted(there, counts, strength=-strength).bias, head.bias)
    assert torch.equal(there.bias, head.bias) == (strength == 0)


def test_equal_counts_change_no_prediction():
    head = LinearHead(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, -2, 5]))
    features = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    adjusted = logit_adjusted(head, torch.tensor([40, 40, 40]))
    torch.testing.assert_close(adjusted.logits(features).softmax(1), head.logits(features).softmax(1))
