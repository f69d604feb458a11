"""Who learns from what and who judges what; and that nothing of a judged sample reaches its judge."""

from dataclasses import replace

import pytest
import torch
from builders import cross_fit, gaussian_splits, without_feedback
from scipy import stats

from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.metrics import METRICS, Metric
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.settings import RefineSettings, refine
from selmix.stage2.starts import starting_heads

TRAIN_COUNTS, VAL_COUNTS = [9, 5, 1, 2], [1, 2, 7, 10]
FOLDS = [0, 2, 3, 5]


def labels_of(counts: list[int], seed: int) -> torch.Tensor:
    """Return shuffled labels, so that positions and classes have nothing to do with each other."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def splits_of(val_counts: list[int] = VAL_COUNTS, *, seed: int = 0) -> dict[str, LabeledFeatures]:
    generator = torch.Generator().manual_seed(seed)
    labels = {"train": labels_of(TRAIN_COUNTS, seed), "val": labels_of(val_counts, seed + 1)}
    return {name: LabeledFeatures(torch.randn(len(own), 3, generator=generator), own) for name, own in labels.items()}


def folds_of(plan: CrossFit, count: int) -> list[int]:
    """Return the head that judges each of `count` validation samples; fail if one has no judge or several."""
    judges: dict[int, list[int]] = {}
    for head, rows in enumerate(plan.judged):
        for row in rows.tolist():
            judges.setdefault(row, []).append(head)
    assert sorted(judges) == list(range(count))
    assert all(len(own) == 1 for own in judges.values())
    return [judges[row][0] for row in range(count)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [2, 3, 5, 12])
def test_every_sample_has_one_judge_and_folds_are_even_within_a_class(folds, seed):
    splits = splits_of(seed=seed)
    labels = splits["val"].labels.tolist()
    plan = cross_fit(splits, folds, seed=seed)
    fold = folds_of(plan, len(labels))
    assert len(plan.members) == len(plan.judged) == folds + 1
    for label in range(4):
        own = [fold[row] for row in range(len(labels)) if labels[row] == label]
        sizes = [own.count(number) for number in range(folds)]
        assert sum(sizes) == VAL_COUNTS[label]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("folds", FOLDS)
def test_no_head_learns_from_what_it_judges_and_the_last_learns_from_all(folds):
    splits = splits_of()
    train_count, val_count = len(splits["train"].labels), len(splits["val"].labels)
    plan = cross_fit(splits, folds)
    assert torch.equal(plan.pool.features, torch.cat([splits["train"].features, splits["val"].features]))
    assert plan.pool.labels.tolist() == splits["train"].labels.tolist() + splits["val"].labels.tolist()
    for members, judged in zip(plan.members, plan.judged, strict=True):
        learnt, seen = members.order.tolist(), {train_count + row for row in judged.tolist()}
        assert len(set(learnt)) == len(learnt)
        assert not seen & set(learnt)
        assert seen | set(learnt) == set(range(train_count + val_count))
    assert len(plan.judged[-1]) == (0 if folds else val_count)
    assert len(plan.members[-1].order) == train_count + (val_count if folds else 0)


@pytest.mark.parametrize("folds", FOLDS)
def test_members_are_drawn_from_the_own_class_of_what_a_head_may_learn(folds):
    plan = cross_fit(splits_of(), folds)
    classes = torch.arange(4).repeat(300)
    for members in plan.members:
        drawn = members.draw(classes, generator=torch.Generator().manual_seed(0))
        assert torch.equal(plan.pool.labels[drawn], classes)
        assert set(drawn.tolist()) == set(members.order.tolist())


def test_the_deal_is_random_and_follows_the_generator():
    splits = splits_of()
    folds = [folds_of(cross_fit(splits, 5, seed=seed), 20) for seed in (1, 1, 2)]
    assert folds[0] == folds[1] != folds[2]
    # each sample, of a small class or a large one, gets every fold equally often
    dealt = torch.tensor([folds_of(cross_fit(splits, 5, seed=seed), 20) for seed in range(400)])
    pvalues = [stats.chisquare(torch.bincount(dealt[:, row], minlength=5)).pvalue for row in range(20)]
    assert min(pvalues) > 1e-3 / 20
    # of the ten samples of class 3 any two share a fold of two with probability 1/9
    largest = (splits["val"].labels == 3).nonzero()[:, 0]
    for other in (1, 5):
        together = int((dealt[:, largest[0]] == dealt[:, largest[other]]).sum())
        assert stats.binomtest(together, 400, 1 / 9).pvalue > 1e-3


def test_classes_of_one_sample_are_spread_over_the_folds():
    labels = torch.arange(500)
    features = LabeledFeatures(torch.zeros(500, 1), labels)
    sizes = [len(rows) for rows in cross_fit({"train": features, "val": features}, 5).judged]
    assert sizes[-1] == 0
    assert stats.chisquare(sizes[:-1]).pvalue > 1e-3


@pytest.mark.parametrize("folds", FOLDS)
def test_each_row_of_logits_comes_from_its_judge(folds):
    splits = splits_of()
    plan, val = cross_fit(splits, folds), splits["val"]
    generator = torch.Generator().manual_seed(3)
    heads = [LinearHead(torch.randn(4, 3, generator=generator), torch.full((4,), 10.0 * h)) for h in range(6)]
    heads = heads[: len(plan.members)]
    logits = plan.logits(heads, val)
    assert logits.shape == (20, 4)
    for row, judge in enumerate(folds_of(plan, 20)):
        expected = heads[judge].weight @ val.features[row] + heads[judge].bias
        torch.testing.assert_close(logits[row], expected)


@pytest.mark.parametrize("val_counts", [[1, 1, 1, 1], [1, 2, 1, 2]])
def test_a_class_with_one_or_two_validation_samples_works(val_counts):
    splits = splits_of(val_counts)
    plan = cross_fit(splits, 5)
    starts = starting_heads(
        LinearHead(torch.zeros(4, 3), torch.zeros(4)),
        torch.tensor(TRAIN_COUNTS),
        plan,
        generator=torch.Generator().manual_seed(0),
    )["balanced"]
    settings = RefineSettings(steps=40, refresh=10)
    refined = refine(
        starts, plan, splits["val"], METRICS["min_recall"], settings, generator=torch.Generator().manual_seed(0)
    )
    assert len(refined.heads) == 6
    assert all(head.weight.isfinite().all() for head in refined.heads)
    assert plan.logits(refined.heads, splits["val"]).isfinite().all()


def test_starts_have_a_head_for_each_of_the_plan_and_adjust_by_the_counts_that_trained():
    plan = cross_fit(splits_of(), 3)
    given = LinearHead(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.ones(4))
    starts = starting_heads(given, torch.tensor([10, 10, 20, 60]), plan, generator=torch.Generator().manual_seed(1))
    assert {name: len(heads) for name, heads in starts.items()} == {"given": 4, "logit_adjusted": 4, "balanced": 4}
    for head, adjusted in zip(starts["given"], starts["logit_adjusted"], strict=True):
        assert torch.equal(head.weight, given.weight)
        assert torch.equal(head.bias, given.bias)
        # priors 0.1, 0.1, 0.2 and 0.6
        torch.testing.assert_close(adjusted.bias, 1 - torch.tensor([0.1, 0.1, 0.2, 0.6]).log())
    assert len({tuple(head.bias.tolist()) for head in starts["balanced"]}) == 4


def retrained(plan: CrossFit, _: Metric) -> list[LinearHead]:
    generator = torch.Generator().manual_seed(0)
    settings = RetrainSettings(steps=100)
    return retrain_heads(plan.pool, plan.members, sampling_power=0, settings=settings, generator=generator)


def refined(plan: CrossFit, metric: Metric) -> list[LinearHead]:
    """Tune by a plan whose pool has changed; steered by the validation split as it was."""
    heads, val = [LinearHead(torch.zeros(3, 8), torch.zeros(3))] * len(plan.members), SPLITS["val"]
    generator = torch.Generator().manual_seed(0)
    return refine(heads, plan, val, metric, RefineSettings(steps=60), generator=generator).heads


SPLITS = gaussian_splits([40, 20, 8], seed=0, per_class=6)


@pytest.mark.parametrize("fit", [retrained, refined])
@pytest.mark.parametrize("fold", range(3))
def test_the_judge_of_a_sample_is_the_only_head_that_its_features_do_not_reach(monkeypatch, fit, fold):
    # what looks at all samples, labels unseen or by way of the metric, is fixed: the space, the gains, the best step
    space, metric = FeatureSpace.fit(SPLITS["train"].features), without_feedback(monkeypatch)
    monkeypatch.setattr(FeatureSpace, "fit", lambda features: space)
    plan = cross_fit(SPLITS, 3)
    features = plan.pool.features.clone()
    features[len(SPLITS["train"].labels) + plan.judged[fold]] += 100
    changed = replace(plan, pool=LabeledFeatures(features, plan.pool.labels))
    pairs = zip(fit(plan, metric), fit(changed, metric), strict=True)
    same = [torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) for a, b in pairs]
    assert same == [head == fold for head in range(4)]
