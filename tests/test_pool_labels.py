"""Pseudo-labels of a cross-fit: right, told by nobody who may not know, given up where they are wrong too often."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from builders import gaussian_splits, nearest_mean_heads, pool_of, pooled
from scipy import stats
from threads import in_ranks

from selmix.features.labeled import LabeledFeatures, UnlabeledFeatures
from selmix.pseudo import voting
from selmix.pseudo.opinion import Opinion
from selmix.pseudo.settings import ASKS_NEIGHBOURS, PseudoSettings
from selmix.stage2 import crossfit as crossfit_module
from selmix.stage2 import evidence as evidence_module
from selmix.stage2 import pool_labels as labels_module
from selmix.stage2.batches import PairBatches
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.evidence import Evidence
from selmix.stage2.pool_labels import PoolLabeler

SOURCES = ["head", "corrected", "neighbours", "propagation", "agreement"]
SPLITS = gaussian_splits([60, 20, 8], seed=0, spread=1.0, per_class=200, val=20)
EVERYTHING = PseudoSettings(threshold=0.0, bound=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labeler_of(plan: CrossFit, weights: torch.Tensor, settings: PseudoSettings) -> PoolLabeler:
    return PoolLabeler(plan, Evidence.gather(plan, plan.pool.space, weights, generator=generator(1)), settings)


@pytest.mark.parametrize("source", SOURCES)
def test_a_head_is_told_nothing_by_the_labels_that_it_judges(monkeypatch, source):
    # what everybody's labels have a part in: the worth of train samples, the centre of the neighbours, and the guard
    monkeypatch.setattr(evidence_module, "training_worth", lambda *_: torch.full((3,), 0.5).double())
    fit = voting.UnitSpace.__init__
    monkeypatch.setattr(
        voting.UnitSpace, "__init__", lambda self, rows, labels, k: fit(self, rows, torch.zeros_like(labels), k)
    )
    if source in ASKS_NEIGHBOURS:
        # neighbours tell of other folds, too, from which these few numbers come; heads are given here
        opinion = Opinion(torch.ones(2 if source == "agreement" else 1).double(), torch.zeros(3).double())
        monkeypatch.setattr(labels_module, "fit_opinion", lambda *_: opinion)
        monkeypatch.setattr(labels_module, "estimate_prior", lambda *_, **__: torch.tensor([0.5, 0.3, 0.2]).double())
    plan, _ = pooled(SPLITS, [200, 60, 20])
    weights = nearest_mean_heads(plan, SPLITS["test"])
    first = labeler_of(plan, weights, replace(EVERYTHING, source=source)).label(weights)
    for fold, judged in enumerate(plan.judged):
        own = judged[judged >= plan.num_train]
        labels = plan.labels.clone()
        labels[own] = labels[own[torch.randperm(len(own), generator=generator(fold))]]
        assert not torch.equal(labels, plan.labels)
        other = replace(plan, labels=labels, rows=labels)
        second = labeler_of(other, weights, replace(EVERYTHING, source=source)).label(weights)
        assert torch.equal(first.trusted, second.trusted)
        assert torch.equal(first.of_head[fold], second.of_head[fold])
        assert (first.of_head[fold] >= 0).any()
        # the last head, which judges nobody, hears of it
        if source != "head":
            assert not torch.equal(first.found.confidence, second.found.confidence)


def test_labels_of_several_processes_are_those_of_one_and_so_are_members(monkeypatch):
    pool = pool_of(SPLITS["test"], [60, 60, 20])
    everything = torch.arange(148) % 3
    of_rank = {1: [everything], 3: [everything[:50], everything[:0], everything[50:]]}
    monkeypatch.setattr(crossfit_module, "_deal", lambda *given: of_rank[given[-1].count][given[-1].rank])
    sizes = {"train": [50, 0, 38], "val": [0, 0, 60], "pool": [0, 100, 40]}
    weights = None

    def labeled(train, val, unlabeled, **ranks):
        plan = CrossFit.plan(train, val, 3, folds=3, generator=generator(), unlabeled=unlabeled, **ranks)
        heads = nearest_mean_heads(plan, SPLITS["test"]) if weights is None else weights
        labeler = labeler_of(plan, heads, PseudoSettings(source="auto" if ranks else "corrected"))
        found = labeler.label(heads)
        classes = torch.randint(3, (3000,), generator=generator(2))
        kept, _ = labeler.members(found)
        rows = [plan.pool.encoded(plan.pool.space, own.draw(classes, generator=generator(3))) for own in kept]
        return plan, labeler.source, heads, found, torch.stack(rows)

    _, _, weights, expected, rows = labeled(SPLITS["train"], SPLITS["val"], pool)

    def work(ranks):
        def part(name, count):
            start = sum(sizes[name][: ranks.rank])
            assert sum(sizes[name]) == count
            return torch.arange(start, start + sizes[name][ranks.rank])

        own = [SPLITS[name].subset(part(name, len(SPLITS[name].labels))) for name in ("train", "val")]
        return labeled(*own, pool.subset(part("pool", 140)), ranks=ranks)

    results = in_ranks(3, work)
    for head, classes in enumerate(expected.of_head):
        assert torch.equal(torch.cat([found.of_head[head] for *_, found, _ in results]), classes)
    for _, source, _, found, _ in results:
        assert source == "corrected"
        torch.testing.assert_close(found.prior, expected.prior, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.confusion, expected.confusion)
        torch.testing.assert_close(found.precision.estimate, expected.precision.estimate, rtol=1e-4, atol=1e-5)
    # which member a number stands for depends on the order of the ranks: the same ones, as often, but for chance
    summed = sum(own for *_, own in results)
    torch.testing.assert_close(summed.mean((0, 1)), rows.mean((0, 1)), rtol=0, atol=0.05)
    assert (summed[..., -1] == 1).all()  # somebody holds each


def twins(per_class: int) -> dict[str, LabeledFeatures]:
    """Return three classes of which the last two are the same."""
    centres = torch.tensor([[4.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    labels = torch.arange(3).repeat_interleave(per_class)
    return {
        name: LabeledFeatures(centres[labels] + torch.randn(len(labels), 2, generator=generator(seed)), labels)
        for seed, name in enumerate(("train", "val", "test"))
    }


@pytest.mark.parametrize("source", ["corrected", "agreement"])
def test_classes_whose_pseudo_labels_are_wrong_half_of_the_time_draw_labeled_samples(source):
    splits = twins(80)
    plan, truth = pooled(splits, [80, 80, 80])
    weights = nearest_mean_heads(plan, splits["test"])
    settings = PseudoSettings(source=source, threshold=0, bound=0.75, draws="partner")
    labeler = labeler_of(plan, weights, settings)
    labels = labeler.label(weights)
    assert labels.trusted.tolist() == [True, False, False]
    assert labels.precision.estimate[1:].tolist() == pytest.approx([0.5, 0.5], abs=0.25)
    for classes in labels.of_head:
        assert set(classes.tolist()) == {-1, 0}
        assert (truth[classes == 0] == 0).double().mean() > 0.9
    kept, partners = labeler.members(labels)
    unlabeled = torch.tensor(plan.unlabeled)
    for own, others, known, classes in zip(kept, partners, plan.members, labels.of_head, strict=True):
        assert torch.equal(own.order, known.order)
        by_class = [set(part.tolist()) for part in others.order.split(others.counts.tolist())]
        assert by_class[0] == set(unlabeled[classes == 0].tolist())
        for label in (1, 2):
            assert by_class[label] == set(known.order[plan.labels[known.order] == label].tolist())
    # a bound that they keep
    assert labeler_of(plan, weights, replace(settings, bound=0.2)).label(weights).trusted.all()


def test_of_partners_kept_samples_are_labeled_and_partners_pseudo_labeled():
    plan, _ = pooled(SPLITS, [200, 60, 20])
    weights = nearest_mean_heads(plan, SPLITS["test"])
    labeler = labeler_of(plan, weights, PseudoSettings(source="corrected", draws="partner"))
    labels = labeler.label(weights)
    assert all(set(classes.tolist()) >= {0, 1, 2} for classes in labels.of_head)
    kept, partners = labeler.members(labels)
    batches = PairBatches(plan.pool, None, kept, 64, 0.6, generator(), torch.zeros(3), partners=partners)
    pairs = torch.randint(3, (2, 50, 64), generator=generator(4))
    for head in range(len(plan.members)):
        own, others = batches._drawn(pairs, head)
        assert (own < len(plan.labels)).all()
        assert (others >= len(plan.labels)).all()
        assert torch.equal(plan.labels[own], pairs[0])
        assert torch.equal(labels.of_head[head][others - len(plan.labels)], pairs[1])
        if head < len(plan.judged):
            assert not set(own.flatten().tolist()) & set(plan.judged[head].tolist())


@pytest.mark.parametrize("weight", [1, 4])
def test_of_both_a_labeled_sample_is_drawn_as_often_as_so_many_pseudo_labeled_ones(weight):
    plan, _ = pooled(SPLITS, [200, 60, 20])
    weights = nearest_mean_heads(plan, SPLITS["test"])
    labeler = labeler_of(plan, weights, PseudoSettings(source="corrected", label_weight=weight))
    labels = labeler.label(weights)
    kept, partners = labeler.members(labels)
    assert kept is partners
    for head in (0, 3):
        drawn = kept[head].draw(torch.full((40000,), 1), generator=generator(5))
        known = plan.members[head].order[plan.labels[plan.members[head].order] == 1]
        pseudo = (labels.of_head[head] == 1).nonzero()[:, 0] + len(plan.labels)
        assert len(known) > 10 < len(pseudo)
        seen = torch.bincount(drawn, minlength=len(plan.features))
        shares = torch.cat([torch.full((len(known),), float(weight)), torch.ones(len(pseudo))]).double()
        found = seen[torch.cat([known, pseudo])]
        assert int(found.sum()) == 40000  # nobody else
        assert stats.chisquare(found, 40000 * shares / shares.sum()).pvalue > 1e-3


@pytest.mark.parametrize("source", ["corrected", "agreement"])
@pytest.mark.parametrize("counts", [[100, 100, 100], [20, 60, 200], [200, 60, 20]])
def test_the_prior_of_the_pool_is_found_whatever_it_is(source, counts):
    splits = gaussian_splits([300, 100, 30], seed=2, spread=1.0, per_class=200, val=60)
    plan, truth = pooled(splits, counts)
    weights = nearest_mean_heads(plan, splits["val"])
    labels = labeler_of(plan, weights, PseudoSettings(source=source)).label(weights)
    expected = torch.tensor(counts) / sum(counts)
    assert float((labels.prior - expected).abs().sum() / 2) < 0.08  # total variation
    assert float(labels.predicted.sum()) == sum(counts)
    # and so they are right more often than by the head, which takes all classes for alike
    told = labeler_of(plan, weights, replace(EVERYTHING, source="head")).label(weights)
    assert told.prior.tolist() == pytest.approx([1 / 3] * 3)
    right = [float((own.found.classes == truth).double().mean()) for own in (labels, told)]
    assert right[0] > right[1] - (0.03 if len(set(counts)) == 1 else 0)


def test_precision_and_confidence_are_what_the_truth_says():
    differences, surplus = [], []
    for seed in range(4):
        splits = gaussian_splits([300, 100, 30], seed=seed, spread=0.7, per_class=400, val=100)
        plan, truth = pooled(splits, [60, 60, 200])
        others = splits["test"].subset(torch.arange(1200).view(3, 400)[:, 200:].flatten())
        weights = nearest_mean_heads(plan, others)
        labels = labeler_of(plan, weights, EVERYTHING).label(weights)
        classes = labels.of_head[-1]
        found = [float((truth[classes == label] == label).double().mean()) for label in range(3)]
        differences += [own - float(labels.precision.estimate[label]) for label, own in enumerate(found)]
        surplus.append(float(labels.found.confidence.mean()) - float((labels.found.classes == truth).double().mean()))
    assert np.mean(differences) == pytest.approx(0, abs=0.06)
    assert np.mean(surplus) == pytest.approx(0, abs=0.06)


CASES = {
    "five samples a class": lambda: pooled(gaussian_splits([5, 5, 5], seed=1, per_class=40, val=5), [9, 9, 9]),
    "a pool of one": lambda: pooled(SPLITS, [1, 0, 0]),
    "two classes": lambda: pooled(gaussian_splits([20, 6], seed=1, per_class=40, val=5), [9, 9]),
    "a class without validation": lambda: pooled(
        SPLITS | {"val": SPLITS["val"].subset((SPLITS["val"].labels < 2).nonzero()[:, 0])}, [9, 9, 9]
    ),
    "a class of one sample": lambda: pooled(
        gaussian_splits([30, 10, 1], seed=1, per_class=40, val=5)
        | {"val": SPLITS["val"].subset((SPLITS["val"].labels < 2).nonzero()[:, 0])},
        [9, 9, 9],
    ),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("case", CASES)
def test_small_and_lopsided_data(case, source):
    plan, truth = CASES[case]()
    weights = torch.randn(4, plan.num_classes, 9, generator=generator(6))
    labeler = labeler_of(plan, weights, PseudoSettings(source=source, threshold=0.3, bound=0.2, quota=3.0, cap=2.0))
    labels = labeler.label(weights)
    assert len(labels.of_head) == 4
    for classes in labels.of_head:
        assert classes.shape == truth.shape
        assert classes.dtype == torch.int64
        assert -1 <= int(classes.min()) <= int(classes.max()) < plan.num_classes
    assert float(labels.prior.sum()) == pytest.approx(1)
    assert (labels.prior > 0).all()
    for own, others in zip(*labeler.members(labels), strict=True):
        known = plan.members[0].counts > 0
        assert (own.counts[known] > 0).all()
        assert (others.counts[known] > 0).all()
    for classes in labeler.told(weights[-1]).values():
        assert classes.shape == truth.shape


@pytest.mark.parametrize("source", SOURCES)
def test_half_precision_rows_on_disk_are_labeled_as_in_memory(tmp_path, source):
    pool = SPLITS["test"].features[::7].half()
    stored = np.memmap(tmp_path / "pool", dtype=np.float16, mode="w+", shape=tuple(pool.shape))
    stored[:] = pool.numpy()
    found = []
    for features in (torch.from_numpy(stored), pool.float()):
        unlabeled = UnlabeledFeatures(features)
        plan = CrossFit.plan(SPLITS["train"], SPLITS["val"], 3, folds=3, generator=generator(), unlabeled=unlabeled)
        weights = nearest_mean_heads(plan, SPLITS["val"])
        found.append(labeler_of(plan, weights, PseudoSettings(source=source)).label(weights))
    for first, second in zip(found[0].of_head, found[1].of_head, strict=True):
        assert torch.equal(first, second)


def test_a_class_that_no_head_predicts():
    plan, _ = pooled(SPLITS, [60, 60, 60])
    weights = nearest_mean_heads(plan, SPLITS["test"])
    expected = labeler_of(plan, weights, PseudoSettings(source="corrected")).label(weights)
    # what held it back is taken off
    weights[:, 2, -1] -= 8
    logits = plan.pool.space.encode(plan.pool.features.parts[-1]) @ weights[-1].T
    assert int((logits.argmax(1) == 2).sum()) <= 1
    labels = labeler_of(plan, weights, PseudoSettings(source="corrected")).label(weights)
    assert float((labels.found.classes == expected.found.classes).double().mean()) > 0.9
    # or it is done without
    weights[:, 2, -1] -= 1e4
    labels = labeler_of(plan, weights, PseudoSettings(source="corrected")).label(weights)
    assert not labels.trusted[2]
    assert all(not (classes == 2).any() for classes in labels.of_head)


def test_a_sample_of_which_no_source_speaks_has_no_pseudo_label():
    splits = gaussian_splits([60, 20, 8], seed=0, spread=5.0, per_class=200, val=20)
    labels = splits["test"].labels
    means = torch.stack([splits["test"].features[labels == label].mean(0) for label in range(3)])
    elsewhere = torch.linalg.svd(means - means.mean(0)).Vh[-1]  # at right angles to all classes
    far = means.mean(0) + 30 * elsewhere + 0.1 * torch.randn(40, 8, generator=generator(7))
    near = pool_of(splits["test"], [30, 30, 30]).features
    unlabeled = UnlabeledFeatures(torch.cat([near, far]))
    plan = CrossFit.plan(splits["train"], splits["val"], 3, folds=3, generator=generator(), unlabeled=unlabeled)
    weights = nearest_mean_heads(plan, splits["test"])
    labeler = labeler_of(plan, weights, replace(EVERYTHING, source="propagation"))
    labels, told = labeler.label(weights), labeler.told(weights[-1])
    assert set(told) == {"graph"}
    for classes in (labels.found.classes, told["graph"], *labels.of_head):
        assert (classes[90:] == -1).all()
    assert (labels.found.classes[:90] >= 0).double().mean() > 0.9
    assert float(labels.predicted.sum()) == int((labels.found.classes >= 0).sum())


def test_a_pool_too_large_for_a_graph_is_voted_on(monkeypatch):
    plan, truth = pooled(SPLITS, [60, 60, 60])
    weights = nearest_mean_heads(plan, SPLITS["test"])
    for most, name in ((len(plan.features), "graph"), (len(plan.features) - 1, "votes")):
        monkeypatch.setattr(labels_module, "GRAPH_MOST", most)
        told = labeler_of(plan, weights, PseudoSettings()).told(weights[-1])
        assert set(told) == {"head", name}
        logits = plan.pool.space.encode(plan.pool.features.parts[-1]) @ weights[-1].T
        assert torch.equal(told["head"], logits.argmax(1))
        assert float((told[name] == truth).double().mean()) > 0.7


def test_more_is_selected_as_rules_are_loosened():
    plan, _ = pooled(SPLITS, [60, 60, 60])
    weights = nearest_mean_heads(plan, SPLITS["test"])
    used = [
        int((labeler_of(plan, weights, PseudoSettings(threshold=least, bound=0)).label(weights).of_head[-1] >= 0).sum())
        for least in (0.999, 0.9, 0.5, 0.0)
    ]
    assert all(few < many for few, many in pairwise(used))
    assert used[-1] == 180
