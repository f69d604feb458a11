"""Several heads tuned at once: what they share, what is their own, and what cross-fitting is worth."""

import pytest
import torch
from builders import cross_fit, gaussian_splits, without_feedback
from sklearn.metrics import recall_score

from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.features.pool import Pool
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.metrics import METRICS
from selmix.pairs import ClassMembers
from selmix.pipeline import tune
from selmix.seeding import torch_generator
from selmix.stage2.batches import PairBatches
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.refine import refine
from selmix.stage2.settings import RefineSettings

COUNTS = [500, 150, 50, 20, 10]


def balanced(plan: CrossFit, members: list[ClassMembers], *, steps: int = 300, power: float = 0) -> list[LinearHead]:
    generator, settings = torch.Generator().manual_seed(0), RetrainSettings(steps=steps)
    return retrain_heads(plan.pool, members, sampling_power=power, settings=settings, generator=generator)


def recalls(predictions: torch.Tensor, labels: torch.Tensor) -> list[float]:
    return recall_score(labels, predictions, average=None).tolist()


def test_heads_share_classes_and_coefficients_and_mix_members_of_their_own():
    # sample n is the n-th unit vector, so a mixture shows its samples and its coefficient
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    own = [torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4, 5])]
    features = torch.eye(6, dtype=torch.float64)
    members = [ClassMembers.from_labels(labels, 2, among=among) for among in own]
    law = torch.tensor([[0.0, 0.3], [0.7, 0.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    space = FeatureSpace(torch.zeros(6), 1.0)
    drawn = list(PairBatches(Pool(features), space, members, 40, 0.6, generator, torch.zeros(2)).draw(law, 3))
    assert len(drawn) == 3
    for mixed, targets in drawn:
        assert mixed.shape == (3, 40, 7)
        # each head has one sample of each class, so its mixture is (lam, 1 - lam) on its own two coordinates
        parts = torch.stack([mixed[head][:, among] for head, among in enumerate(own)])
        torch.testing.assert_close(parts.sum(2), torch.ones(3, 40, dtype=torch.float64))
        assert torch.equal(parts, parts[:1].expand_as(parts))
        assert torch.equal(parts[0].argmax(1), targets.argmax(1))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_head_is_the_same_whatever_heads_are_trained_after_it(count):
    # members are drawn head after head, so the first `count` heads of 6 are those of a run of `count`
    plan = cross_fit(gaussian_splits(COUNTS, seed=0, per_class=10), 5)
    together, fewer = balanced(plan, plan.members), balanced(plan, plan.members[:count])
    for head, own in zip(together, fewer, strict=False):
        torch.testing.assert_close(head.weight, own.weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(head.bias, own.bias, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together[0].weight, together[-1].weight, rtol=1e-2)


@pytest.mark.parametrize("power", [0, 1])
def test_heads_in_lock_step_are_heads_alone_on_the_same_draws(monkeypatch, power):
    plan = cross_fit(gaussian_splits(COUNTS, seed=0, per_class=10), 3)
    drawn, draw = [], ClassMembers.draw

    def recording(self, classes, *, generator):
        drawn.append(draw(self, classes, generator=generator))
        return drawn[-1]

    monkeypatch.setattr(ClassMembers, "draw", recording)
    together = balanced(plan, plan.members, power=power)
    assert len(drawn) == 4
    assert all(torch.equal(plan.labels[own], plan.labels[drawn[0]]) for own in drawn)
    for head, own in zip(together, list(drawn), strict=True):
        # the class law is that of the last head, so it names the classes again; the members are handed out as drawn
        monkeypatch.setattr(ClassMembers, "draw", lambda self, classes, *, generator, own=own: own)
        (alone,) = balanced(plan, [plan.members[-1]], power=power)
        torch.testing.assert_close(head.weight, alone.weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(head.bias, alone.bias, rtol=1e-5, atol=1e-6)


def noise(seed: int) -> dict[str, LabeledFeatures]:
    """Return features that tell nothing of the 4 classes, of which there are 20 (train) and 30 (val) samples each."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LabeledFeatures(torch.randn(4 * count, 40, generator=generator), torch.arange(4).repeat(count))
        for name, count in (("train", 20), ("val", 30))
    }


def test_of_noise_nothing_is_learnt_out_of_fold_but_much_in_sample(monkeypatch):
    # equal gains and the last step: neither pairs nor step are chosen by the labels that are judged
    metric = without_feedback(monkeypatch)
    outside, inside = [], []
    for seed in range(20):
        splits = noise(seed)
        plan, val = cross_fit(splits, 5, seed=seed), splits["val"]
        generator = torch.Generator().manual_seed(seed)
        settings = RefineSettings(steps=300)
        start = balanced(plan, plan.members)
        refined = refine(start, plan, metric, settings, generator=generator)
        assert refined.best_step == 300
        heads = refined.heads
        outside.extend(recalls(plan.val_predictions(heads).classes, val.labels))
        inside.extend(recalls(heads[-1].predict(val.features), val.labels))
    # 20 x 120 predictions at chance 1/4
    error = (0.25 * 0.75 / 2400) ** 0.5
    assert sum(outside) / len(outside) == pytest.approx(0.25, abs=3 * error)
    assert sum(inside) / len(inside) > 0.5


@pytest.mark.usefixtures("_quick_retraining")
def test_reported_figures_are_out_of_fold_on_val_and_of_the_last_head_on_test():
    splits = gaussian_splits([60, 20, 8], seed=0, spread=0.5, per_class=30)
    data = FeatureData(["a", "b", "c"], splits, {name: [] for name in splits})
    tuning = tune(data, METRICS["min_recall"], RefineSettings(folds=3, steps=100), seed=4)
    generator = torch_generator(4, "folds")
    plan = CrossFit.plan(splits["train"], splits["val"], 3, folds=3, generator=generator)
    heads = tuning.refined.heads
    assert tuning.head is heads[-1]
    assert len(heads) == 4
    reported = tuning.evaluations["val"]["after"]
    for judged, head in zip(plan.judged, heads, strict=False):
        rows = judged[judged >= plan.num_train] - plan.num_train
        assert torch.equal(reported.predictions[rows], head.predict(splits["val"].features[rows]))
    test = tuning.evaluations["test"]["after"]
    assert torch.equal(test.predictions, tuning.head.predict(splits["test"].features))
