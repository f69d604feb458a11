"""The SelMix loop on Gaussian classes: it raises the metric on held-out data, repeats itself, knows when to stop."""

import pytest
import torch
from builders import cross_fit, gaussian_splits
from sklearn.metrics import recall_score

from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.confusion import confusion_counts
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import METRICS
from selmix.pairs import ClassMembers
from selmix.stage2.refine import Refined, RefineSettings, refine, score

COUNTS = [500, 150, 50, 20, 10]
SHORT = RefineSettings(steps=1000)


def probe(splits: dict[str, LabeledFeatures]) -> LinearHead:
    """Return the plain linear probe, which neglects the rare classes."""
    train, generator = splits["train"], torch.Generator().manual_seed(0)
    members = [ClassMembers.from_labels(train.labels, len(COUNTS))]
    settings = RetrainSettings(steps=500)
    return retrain_heads(train, members, sampling_power=1, settings=settings, generator=generator)[0]


def tuned(
    head: LinearHead,
    splits: dict[str, LabeledFeatures],
    metric: str,
    settings: RefineSettings = SHORT,
    seed: int = 0,
    folds: int = 0,
) -> Refined:
    plan, generator = cross_fit(splits, folds), torch.Generator().manual_seed(seed)
    return refine([head] * len(plan.members), plan, splits["val"], METRICS[metric], settings, generator=generator)


def recalls(head: LinearHead, split: LabeledFeatures) -> list[float]:
    return recall_score(split.labels, head.predict(split.features), average=None).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_min_recall_rises_on_held_out_data(seed):
    splits = gaussian_splits(COUNTS, seed=seed, spread=0.8, per_class=300)
    head = probe(splits)
    refined = tuned(head, splits, "min_recall")
    before, after = min(recalls(head, splits["test"])), min(recalls(refined.heads[-1], splits["test"]))
    assert before < 0.3
    assert after > before + 0.3


@pytest.mark.parametrize("metric", ["min_recall", "geometric_mean", "harmonic_mean"])
def test_a_class_that_was_never_predicted_is_found(metric):
    splits = gaussian_splits(COUNTS, seed=0, per_class=100)
    head = probe(splits)
    blind = LinearHead(head.weight, head.bias - 30 * (torch.arange(5) == 3))
    assert recalls(blind, splits["val"])[3] == 0
    refined = tuned(blind, splits, metric)
    assert refined.history[0]["metric"] == 0
    assert min(recalls(refined.heads[-1], splits["val"])) > 0.3
    assert min(recalls(refined.heads[-1], splits["test"])) > 0.2


@pytest.mark.parametrize("folds", [0, 3])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("violence", [{}, {"learning_rate": 100.0, "mix_low": 0.0, "averaging": 0.0}])
def test_no_head_is_worse_on_validation_than_the_start(metric, seed, violence, folds):
    splits = gaussian_splits(COUNTS, seed=seed, spread=0.8, per_class=50)
    head, val = probe(splits), splits["val"]
    settings = RefineSettings(steps=150, refresh=10, **violence)
    refined, plan = tuned(head, splits, metric, settings, folds=folds), cross_fit(splits, folds)

    def rank(own: list[LinearHead]) -> tuple[float, float]:
        predictions = plan.logits(own, val).argmax(1)
        return score(confusion_counts(val.labels, predictions, 5), METRICS[metric], settings)

    assert rank(refined.heads) >= rank([head] * len(refined.heads))
    seen = {record["step"]: record["metric"] for record in refined.history}
    assert rank(refined.heads)[0] == pytest.approx(seen[refined.best_step], abs=1e-12)
    assert seen[refined.best_step] >= seen[0]
    if refined.best_step == 0:
        assert all(torch.allclose(own.weight, head.weight) for own in refined.heads)


@pytest.mark.parametrize("folds", [0, 5])
def test_the_same_seed_gives_the_same_bits(folds):
    splits = gaussian_splits(COUNTS, seed=0, per_class=50)
    head = probe(splits)
    settings = RefineSettings(steps=200)
    first, again, other = (tuned(head, splits, "min_recall", settings, seed, folds) for seed in (1, 1, 2))
    for one, two in zip(first.heads, again.heads, strict=True):
        assert torch.equal(one.weight, two.weight)
        assert torch.equal(one.bias, two.bias)
    assert first.history == again.history
    assert first.best_step > 0
    assert not torch.equal(first.heads[-1].weight, other.heads[-1].weight)


@pytest.mark.parametrize("folds", [0, 5])
def test_the_start_and_the_data_are_left_as_they_were(folds):
    splits = gaussian_splits(COUNTS, seed=0, per_class=50)
    head = probe(splits)
    tensors = [head.weight, head.bias, splits["train"].features, splits["val"].features]
    before = [tensor.clone() for tensor in tensors]
    tuned(head, splits, "min_recall", RefineSettings(steps=100), folds=folds)
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))


@pytest.mark.parametrize(("scale", "shift"), [(1000, 0), (1e-3, 0), (1, 20), (0.1, -3)])
def test_scale_and_place_of_the_features_do_not_matter(scale, shift):
    splits = gaussian_splits(COUNTS, seed=1, per_class=100)
    moved = {name: LabeledFeatures(scale * split.features + shift, split.labels) for name, split in splits.items()}
    head = probe(splits)
    # W x + b = (W / scale) (scale x + shift) + b - (W / scale) shift
    moved_head = LinearHead(head.weight / scale, head.bias - head.weight.sum(1) / scale * shift)
    settings = RefineSettings(steps=200)
    plain, other = tuned(head, splits, "min_recall", settings), tuned(moved_head, moved, "min_recall", settings)
    expected = plain.heads[-1].predict(splits["val"].features)
    actual = other.heads[-1].predict(moved["val"].features)
    assert float((expected != head.predict(splits["val"].features)).double().mean()) > 0.05
    assert float((actual == expected).double().mean()) > 0.98
