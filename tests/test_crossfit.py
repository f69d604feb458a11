"""Who learns from what and who judges what; and that nothing of a judged sample reaches its judge."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import cross_fit, gaussian_splits, without_feedback
from scipy import stats

from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.features.labeled import LabeledFeatures
from selmix.features.pool import Pool
from selmix.features.rows import StackedRows, gather
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.metrics import METRICS, Metric
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.refine import refine
from selmix.stage2.settings import RefineSettings
from selmix.stage2.starts import starting_heads

# class 2 has one sample in train and none in val; class 3 one in each
TRAIN_COUNTS, VAL_COUNTS = [9, 14, 1, 1, 5], [11, 2, 0, 1, 12]
COUNT = sum(TRAIN_COUNTS) + sum(VAL_COUNTS)
FOLDS = [2, 3, 5, 12]


def labels_of(counts: list[int], seed: int) -> torch.Tensor:
    """Return shuffled labels, so that positions and classes have nothing to do with each other."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def splits_of(val_counts: list[int] = VAL_COUNTS, *, seed: int = 0, groups: int = 0) -> dict[str, LabeledFeatures]:
    """Return random features; with `groups` every sample has one of so many groups."""
    generator, splits = torch.Generator().manual_seed(seed), {}
    for name, counts in (("train", TRAIN_COUNTS), ("val", val_counts)):
        labels = labels_of(counts, seed + len(splits))
        group = torch.randint(groups, labels.shape, generator=generator) if groups else None
        splits[name] = LabeledFeatures(torch.randn(len(labels), 3, generator=generator), labels, group)
    return splits


def folds_of(plan: CrossFit) -> list[int]:
    """Return the head that judges each sample, -1 where none does; fail if one has several."""
    judges = [[] for _ in range(len(plan.labels))]
    for head, positions in enumerate(plan.judged):
        for position in positions.tolist():
            judges[position].append(head)
    assert all(len(own) <= 1 for own in judges)
    return [own[0] if own else -1 for own in judges]


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("folds", FOLDS)
def test_every_sample_is_judged_once_by_a_head_that_has_not_learnt_it_but_the_only_one_of_its_row(folds, groups):
    splits = splits_of(groups=groups)
    plan = cross_fit(splits, folds)
    labels = splits["train"].labels.tolist() + splits["val"].labels.tolist()
    group = splits["train"].groups.tolist() + splits["val"].groups.tolist() if groups else [0] * COUNT
    rows = [label * (groups or 1) + own for label, own in zip(labels, group, strict=True)]
    assert plan.labels.tolist() == labels
    assert plan.rows.tolist() == rows
    assert (plan.num_train, plan.num_classes, plan.groups) == (30, 5, groups or 1)
    assert torch.equal(
        gather(plan.features, torch.arange(COUNT)), torch.cat([splits["train"].features, splits["val"].features])
    )
    assert len(plan.members) == folds + 1
    assert len(plan.judged) == folds
    fold = folds_of(plan)
    for head, members in enumerate(plan.members):
        learnt = members.order.tolist()
        assert len(set(learnt)) == len(learnt)
        assert set(learnt) == {position for position in range(COUNT) if fold[position] != head}
    for position in range(COUNT):
        assert (fold[position] == -1) == (rows.count(rows[position]) == 1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("folds", FOLDS)
def test_folds_are_even_within_a_row_in_train_in_val_and_together(folds, groups, seed):
    plan = cross_fit(splits_of(seed=seed, groups=groups), folds, seed=seed)
    fold, train = torch.tensor(folds_of(plan)), torch.arange(COUNT) < plan.num_train
    for row in plan.rows.unique():
        for part in (train, ~train, train | ~train):
            own = fold[part & (plan.rows == row)]
            if len(own) and (own >= 0).all():
                sizes = torch.bincount(own, minlength=folds)
                assert int(sizes.max() - sizes.min()) <= 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("folds", FOLDS)
def test_every_head_has_a_member_of_every_class_even_of_one_train_and_one_val_sample(folds, seed):
    plan = cross_fit(splits_of(seed=seed), folds, seed=seed)
    for members in plan.members:
        assert (members.counts > 0).all()
    # class 3: two heads lack one of its two samples, another each
    own = [set(members.order[plan.labels[members.order] == 3].tolist()) for members in plan.members]
    assert sorted(map(len, own)) == [1, 1] + [2] * (folds - 1)
    assert set.union(*own) == {position for position in range(COUNT) if plan.labels[position] == 3}


@pytest.mark.parametrize("groups", [0, 2])
def test_members_are_drawn_from_the_own_class_of_what_a_head_may_learn(groups):
    plan = cross_fit(splits_of(groups=groups), 3)
    classes = torch.arange(5).repeat(400)
    assert len(plan.class_members) == 4
    for members, by_row in zip(plan.class_members, plan.members, strict=True):
        drawn = members.draw(classes, generator=torch.Generator().manual_seed(0))
        assert torch.equal(plan.labels[drawn], classes)
        assert set(drawn.tolist()) == set(by_row.order.tolist())
        rows = plan.rows.unique()
        assert torch.equal(plan.rows[by_row.draw(rows, generator=torch.Generator().manual_seed(0))], rows)


def test_groups_count_only_if_both_splits_have_them():
    splits = splits_of(groups=2)
    splits["val"] = replace(splits["val"], groups=None)
    assert cross_fit(splits).groups == 1
    # a group that only val knows has rows too
    splits = splits_of(groups=2)
    splits["val"].groups[0] = 4
    plan = cross_fit(splits)
    assert plan.groups == 5
    assert plan.rows[plan.num_train] == 5 * splits["val"].labels[0] + 4


def test_the_deal_is_random_and_follows_the_generator():
    splits = splits_of()
    folds = [folds_of(cross_fit(splits, 5, seed=seed)) for seed in (1, 1, 2)]
    assert folds[0] == folds[1] != folds[2]
    # each sample that is judged, of a small class or a large one, gets every fold equally often
    dealt = torch.tensor([folds_of(cross_fit(splits, 5, seed=seed)) for seed in range(400)])
    judged = [position for position in range(COUNT) if dealt[0, position] >= 0]
    pvalues = [stats.chisquare(torch.bincount(dealt[:, position], minlength=5)).pvalue for position in judged]
    assert min(pvalues) > 1e-3 / COUNT
    # of the 14 training samples of class 1 folds hold 3, 3, 3, 3 and 2: any two share one with probability 26/182
    largest = (splits["train"].labels == 1).nonzero()[:, 0]
    for other in (1, 5):
        together = int((dealt[:, largest[0]] == dealt[:, largest[other]]).sum())
        assert stats.binomtest(together, 400, 26 / 182).pvalue > 1e-3


def test_classes_of_two_samples_are_spread_over_the_folds():
    features = LabeledFeatures(torch.zeros(500, 1), torch.arange(500))
    sizes = [len(positions) for positions in cross_fit({"train": features, "val": features}, 5).judged]
    assert stats.chisquare(sizes).pvalue > 1e-3


@pytest.mark.parametrize("folds", FOLDS)
def test_each_validation_sample_is_predicted_by_its_judge(folds):
    splits = splits_of([1, 1, 0, 1, 1])
    # a sample that is the only one of its class, in val: its judge does not know the class
    splits["val"].labels[0], lonely = 2, 0
    splits["train"].labels[splits["train"].labels == 2] = 0
    plan, val = cross_fit(splits, folds), splits["val"]
    generator = torch.Generator().manual_seed(3)
    heads = [
        LinearHead(torch.randn(5, 3, generator=generator), torch.randn(5, generator=generator))
        for h in range(folds + 1)
    ]
    predictions, fold = plan.val_predictions(heads), folds_of(plan)[plan.num_train :]
    assert len(predictions.classes) == 4
    assert fold[lonely] >= 0
    for row, judge in enumerate(fold):
        expected = (heads[judge].weight @ val.features[row] + heads[judge].bias).softmax(0).max(0)
        assert predictions.classes[row] == expected.indices
        assert float(predictions.confidence[row]) == pytest.approx(float(expected.values), rel=1e-5)


def test_features_on_a_memory_map_are_tuned_to_the_same_bits(tmp_path):
    splits = splits_of()
    mapped = {}
    for name, split in splits.items():
        np.save(tmp_path / name, split.features.numpy())
        features = torch.from_numpy(np.load(tmp_path / f"{name}.npy", mmap_mode="c"))
        mapped[name] = LabeledFeatures(features, split.labels)
    plan = cross_fit(mapped)
    assert isinstance(plan.features, StackedRows)
    assert plan.features.parts[0].data_ptr() == mapped["train"].features.data_ptr()  # no copy
    one, two = (retrained(cross_fit(own), METRICS["accuracy"]) for own in (splits, mapped))
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(one, two, strict=True))
    zero, settings = LinearHead(torch.zeros(5, 3), torch.zeros(5)), RefineSettings(steps=20, refresh=10)
    one, two = (
        refine([zero] * 4, cross_fit(own), METRICS["min_recall"], settings, generator=torch.Generator().manual_seed(0))
        for own in (splits, mapped)
    )
    assert one.history == two.history
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(one.heads, two.heads, strict=True))


@pytest.mark.parametrize("val_counts", [[1, 1, 1, 1, 1], [1, 2, 1, 2, 0], VAL_COUNTS, [0, 0, 0, 0, 3]])
@pytest.mark.parametrize("groups", [0, 2])
def test_classes_of_none_one_or_two_validation_samples_work(val_counts, groups):
    splits = splits_of(val_counts, groups=groups)
    plan = cross_fit(splits, 5)
    given, generator = LinearHead(torch.zeros(5, 3), torch.zeros(5)), torch.Generator().manual_seed(0)
    made = starting_heads(given, torch.tensor(TRAIN_COUNTS), plan, smoothing=0.3, steps=40, generator=generator)
    starts = made["balanced"]
    settings = RefineSettings(steps=40, refresh=10)
    for metric in ("min_recall", "geometric_mean", "macro_f1"):
        refined = refine(starts, plan, METRICS[metric], settings, generator=generator)
        assert refined.steps == 40
        assert len(refined.heads) == 6
        assert all(head.weight.isfinite().all() and head.bias.isfinite().all() for head in refined.heads)
        assert plan.val_predictions(refined.heads).confidence.isfinite().all()


def retrained(plan: CrossFit, _: Metric) -> list[LinearHead]:
    generator, settings = torch.Generator().manual_seed(0), RetrainSettings(steps=100)
    return retrain_heads(plan.pool, plan.class_members, sampling_power=0, settings=settings, generator=generator)


def refined(plan: CrossFit, metric: Metric) -> list[LinearHead]:
    heads, generator = [LinearHead(torch.zeros(3, 8), torch.zeros(3))] * len(plan.members), torch.Generator()
    refined = refine(heads, plan, metric, RefineSettings(steps=60), generator=generator.manual_seed(0))
    assert refined.best_step == 60
    return refined.heads


SPLITS = gaussian_splits([40, 20, 8], seed=0, per_class=6)


@pytest.mark.parametrize("fit", [retrained, refined])
@pytest.mark.parametrize("fold", range(3))
def test_the_judge_of_a_sample_is_the_only_head_that_its_features_do_not_reach(monkeypatch, fit, fold):
    # what looks at all samples, labels unseen or by way of the metric, is fixed: the space, the gains, the best step
    plan, metric = cross_fit(SPLITS, 3), without_feedback(monkeypatch)
    space = FeatureSpace.fit(plan.features)
    monkeypatch.setattr(FeatureSpace, "fit", lambda features, **_: space)
    features = gather(plan.features, torch.arange(len(plan.labels)))
    features[plan.judged[fold]] += 100
    changed = replace(plan, pool=Pool(features))
    pairs = zip(fit(plan, metric), fit(changed, metric), strict=True)
    same = [torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) for a, b in pairs]
    assert same == [head == fold for head in range(4)]
