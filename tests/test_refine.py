"""The SelMix loop on Gaussian classes: it raises the metric on held-out data, repeats itself, knows when to stop."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from builders import cross_fit, gaussian_splits
from sklearn.metrics import accuracy_score, recall_score

from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.constraints import bind_constraints, parse_constraint
from selmix.errors import DivergedError
from selmix.features.labeled import LabeledFeatures
from selmix.features.pool import Pool
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.metrics import METRICS, MetricContext, soft_minimum
from selmix.pairs import ClassMembers
from selmix.stage2.evidence import Evidence
from selmix.stage2.refine import Refined, refine
from selmix.stage2.settings import RefineSettings

COUNTS = [500, 150, 50, 20, 10]
SHORT = RefineSettings(steps=1000)


def probe(splits: dict[str, LabeledFeatures]) -> LinearHead:
    """Return the plain linear probe, which neglects the rare classes."""
    train, generator = splits["train"], torch.Generator().manual_seed(0)
    members = [ClassMembers.from_labels(train.labels, len(COUNTS))]
    settings = RetrainSettings(steps=500)
    return retrain_heads(Pool(train.features), members, sampling_power=1, settings=settings, generator=generator)[0]


def tuned(
    head: LinearHead,
    splits: dict[str, LabeledFeatures],
    metric: str,
    settings: RefineSettings = SHORT,
    seed: int = 0,
    constraints: tuple[str, ...] = (),
) -> Refined:
    plan, generator = cross_fit(splits), torch.Generator().manual_seed(seed)
    bound = bind_constraints(
        [parse_constraint(text) for text in constraints], MetricContext("abcde", torch.tensor(COUNTS))
    )
    heads = [head] * len(plan.members)
    return refine(heads, plan, METRICS[metric], settings, constraints=bound, generator=generator)


def halves(counts: list[int], *, seed: int, spread: float = 0.6) -> dict[str, LabeledFeatures]:
    """Return a train and a val split that are equally imbalanced."""
    both = gaussian_splits(counts, seed=seed, spread=spread)["train"]
    return {name: both.subset(torch.arange(first, len(both.labels), 2)) for first, name in enumerate(("train", "val"))}


def recalls(head: LinearHead, split: LabeledFeatures) -> list[float]:
    return recall_score(split.labels, head.predict(split.features), average=None).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_min_recall_rises_on_held_out_data(seed):
    splits = gaussian_splits(COUNTS, seed=seed, spread=0.8, per_class=300)
    head = probe(splits)
    refined = tuned(head, splits, "min_recall")
    before, after = min(recalls(head, splits["test"])), min(recalls(refined.heads[-1], splits["test"]))
    assert before < 0.35
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


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("violence", [{}, {"learning_rate": 100.0, "mix_low": 0.0, "averaging": 0.0}])
def test_no_head_is_worse_than_the_start_by_the_rounded_metric_out_of_fold(metric, violence):
    splits = gaussian_splits(COUNTS, seed=0, spread=0.8, per_class=50)
    head, settings = probe(splits), RefineSettings(steps=150, refresh=10, **violence)
    refined, plan = tuned(head, splits, metric, settings), cross_fit(splits)

    # the evidence once more, from the start, and with it both heads
    space = FeatureSpace.fit(plan.features)
    start, after = (torch.stack([space.encode_head(own) for own in heads]) for heads in ([head] * 4, refined.heads))
    evidence = Evidence.gather(plan, space, start, generator=torch.Generator())
    rounded = METRICS[metric].objective(evidence.support, partial(soft_minimum, sharpness=settings.sharpness))

    def value(weights: torch.Tensor) -> float:
        return float(rounded(evidence.confusion(evidence.judge(weights), pseudo_count=settings.pseudo_count)))

    assert value(after) >= value(start)
    seen = {record["step"]: record["metric"] for record in refined.history}
    confusion = evidence.confusion(evidence.judge(after))
    assert float(METRICS[metric](confusion)) == pytest.approx(seen[refined.best_step], abs=1e-12)
    # elected are the start and the last quarter: from 112.5 on
    assert refined.best_step in {0, 120, 130, 140, 150}
    if refined.best_step == 0:
        assert all(torch.allclose(own.weight, head.weight) for own in refined.heads)


def test_the_same_seed_gives_the_same_bits():
    splits = gaussian_splits(COUNTS, seed=0, per_class=50)
    head = probe(splits)
    settings = RefineSettings(steps=200)
    first, again, other = (tuned(head, splits, "min_recall", settings, seed) for seed in (1, 1, 2))
    for one, two in zip(first.heads, again.heads, strict=True):
        assert torch.equal(one.weight, two.weight)
        assert torch.equal(one.bias, two.bias)
    assert first.history == again.history
    assert first.best_step > 0
    assert not torch.equal(first.heads[-1].weight, other.heads[-1].weight)


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
    expected = plain.heads[-1].predict(splits["val"].features)
    actual = other.heads[-1].predict(moved["val"].features)
    assert float((expected != head.predict(splits["val"].features)).double().mean()) > 0.05
    assert float((actual == expected).double().mean()) > 0.98


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_tuned_to_the_prior_of_an_imbalanced_validation_split(seed):
    # val and test are as imbalanced as train; a class-balanced head neglects the frequent classes
    splits = halves([800, 200, 80, 40, 20], seed=seed)
    plan = cross_fit(splits)
    settings, generator = RetrainSettings(steps=500), torch.Generator().manual_seed(seed)
    balanced = retrain_heads(plan.pool, plan.class_members, sampling_power=0, settings=settings, generator=generator)
    refined = refine(balanced, plan, METRICS["accuracy"], SHORT, generator=generator)
    labels = splits["val"].labels
    before, after = (accuracy_score(labels, plan.val_predictions(heads).classes) for heads in (balanced, refined.heads))
    assert after > before + 0.03


@pytest.mark.parametrize(("spread", "seed"), [(0.6, 1), (1.0, 0), (1.0, 2)])
def test_a_coverage_floor_that_the_free_run_breaks_is_kept(spread, seed):
    # accuracy on an imbalanced validation split has little use for the rarest class, 80 of 1100
    splits, floor = halves([400, 300, 200, 120, 80], seed=seed, spread=spread), 0.1
    head, settings, val = probe(splits), RefineSettings(steps=2000), splits["val"]
    free = tuned(head, splits, "accuracy", settings)
    kept = tuned(head, splits, "accuracy", settings, constraints=(f"coverage >= {floor}",))
    plan = cross_fit(splits)
    before, after = (
        torch.bincount(plan.val_predictions(refined.heads).classes, minlength=5) / len(val.labels)
        for refined in (free, kept)
    )
    assert float(before.min()) < 0.08
    # the evidence, which keeps the floor, counts train as well: val may miss it by its standard error
    assert float(after.min()) > floor - (floor * (1 - floor) / len(val.labels)) ** 0.5
    seen = {record["step"]: record for record in kept.history}
    assert seen[0]["violation"] > 0.02
    assert seen[kept.best_step]["violation"] <= 1e-9
    assert max(record["largest_multiplier"] for record in kept.history) > 0
    assert "violation" not in free.history[0]


def test_of_an_infeasible_constraint_the_least_violating_head_is_returned():
    splits = gaussian_splits(COUNTS, seed=0, spread=0.6, per_class=60)
    refined = tuned(probe(splits), splits, "accuracy", SHORT, constraints=("recall >= 0.99",))
    last = [record for record in refined.history if record["step"] == 0 or record["step"] >= 750]
    assert min(record["violation"] for record in last) > 0.1
    chosen = next(record for record in last if record["step"] == refined.best_step)
    assert chosen["violation"] == min(record["violation"] for record in last)
    assert chosen["violation"] < last[0]["violation"]
    multipliers = [record["largest_multiplier"] for record in refined.history]
    assert multipliers == sorted(multipliers)
    assert multipliers[0] == 0 < multipliers[-1]


def test_the_metric_is_climbed_on_either_side_of_one_validation_sample():
    # of the two rare classes val has one sample and none; their train samples stand for them
    splits = gaussian_splits([300, 100, 40], seed=1, spread=0.8, per_class=100)
    labels = splits["val"].labels
    few = torch.cat([(labels == 0).nonzero()[:, 0], (labels == 1).nonzero()[:1, 0]])
    splits["val"] = splits["val"].subset(few)
    plan, generator = cross_fit(splits), torch.Generator().manual_seed(0)
    train = splits["train"]
    members = [ClassMembers.from_labels(train.labels, 3)]
    (head,) = retrain_heads(
        Pool(train.features), members, sampling_power=1, settings=RetrainSettings(steps=500), generator=generator
    )
    refined = refine([head] * 4, plan, METRICS["min_recall"], SHORT, generator=generator)
    assert refined.best_step > 0
    assert min(recalls(refined.heads[-1], splits["test"])) > min(recalls(head, splits["test"])) + 0.1


@pytest.mark.parametrize("rate", [1e5, 1e6])
def test_a_head_that_grows_beyond_all_bounds_is_told_with_the_remedy(rate):
    splits = gaussian_splits(COUNTS, seed=0, spread=0.6)
    settings = replace(SHORT, learning_rate=rate)
    with pytest.raises(DivergedError, match=re.escape(f"lower learning_rate, which is {rate:g}")) as caught:
        tuned(probe(splits), splits, "min_recall", settings)
    assert caught.value.exit_code == 5
