"""The SelMix loop on Gaussian classes: it raises the metric on held-out data, repeats itself, knows when to stop."""

import pytest
import torch
from builders import gaussian_splits
from sklearn.metrics import recall_score

from selmix.baselines.retrain import RetrainSettings, retrain_head
from selmix.confusion import confusion_counts
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import METRICS
from selmix.stage2.refine import Refined, RefineSettings, refine, score

COUNTS = [500, 150, 50, 20, 10]
SHORT = RefineSettings(steps=1000)


def probe(splits: dict[str, LabeledFeatures]) -> LinearHead:
    """Return the plain linear probe, which neglects the rare classes."""
    return retrain_head(
        splits["train"],
        len(COUNTS),
        sampling_power=1,
        settings=RetrainSettings(steps=500),
        generator=torch.Generator().manual_seed(0),
    )


def tuned(
    head: LinearHead, splits: dict[str, LabeledFeatures], metric: str, settings: RefineSettings = SHORT, seed: int = 0
) -> Refined:
    generator = torch.Generator().manual_seed(seed)
    return refine(head, splits["train"], splits["val"], METRICS[metric], settings, generator=generator)


def recalls(head: LinearHead, split: LabeledFeatures) -> list[float]:
    return recall_score(split.labels, head.predict(split.features), average=None).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_min_recall_rises_on_held_out_data(seed):
    splits = gaussian_splits(COUNTS, seed=seed, spread=0.8, per_class=300)
    head = probe(splits)
    refined = tuned(head, splits, "min_recall")
    before, after = min(recalls(head, splits["test"])), min(recalls(refined.head, splits["test"]))
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
    assert min(recalls(refined.head, splits["val"])) > 0.3
    assert min(recalls(refined.head, splits["test"])) > 0.2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("violence", [{}, {"learning_rate": 100.0, "mix_low": 0.0, "averaging": 0.0}])
def test_no_head_is_worse_on_validation_than_the_start(metric, seed, violence):
    splits = gaussian_splits(COUNTS, seed=seed, spread=0.8, per_class=50)
    head, val = probe(splits), splits["val"]
    settings = RefineSettings(steps=150, refresh=10, **violence)
    refined = tuned(head, splits, metric, settings)

    def rank(own: LinearHead) -> tuple[float, float]:
        return score(confusion_counts(val.labels, own.predict(val.features), 5), METRICS[metric], settings)

    assert rank(refined.head) >= rank(head)
    assert rank(refined.head)[0] == pytest.approx(max(record["metric"] for record in refined.history), abs=1e-12)
    best = {record["step"]: record["metric"] for record in refined.history}
    assert best[refined.best_step] == max(best.values())
    if refined.best_step == 0:
        torch.testing.assert_close(refined.head.weight, head.weight)


def test_the_same_seed_gives_the_same_bits():
    splits = gaussian_splits(COUNTS, seed=0, per_class=50)
    head = probe(splits)
    first, again, other = (tuned(head, splits, "min_recall", RefineSettings(steps=200), seed) for seed in (1, 1, 2))
    assert torch.equal(first.head.weight, again.head.weight)
    assert torch.equal(first.head.bias, again.head.bias)
    assert first.history == again.history
    assert first.best_step > 0
    assert not torch.equal(first.head.weight, other.head.weight)


def test_the_start_and_the_data_are_left_as_they_were():
    splits = gaussian_splits(COUNTS, seed=0, per_class=50)
    head = probe(splits)
    tensors = [head.weight, head.bias, splits["train"].features, splits["val"].features]
    before = [tensor.clone() for tensor in tensors]
    tuned(head, splits, "min_recall", RefineSettings(steps=100))
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
    expected = plain.head.predict(splits["val"].features)
    actual = other.head.predict(moved["val"].features)
    assert float((expected != head.predict(splits["val"].features)).double().mean()) > 0.05
    assert float((actual == expected).double().mean()) > 0.98
