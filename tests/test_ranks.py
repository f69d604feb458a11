"""Stage two over several ranks: the law, the statistics and the head of one process."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import cross_fit, gaussian_splits
from scipy import stats
from threads import errors_in_ranks, in_ranks, shards

from selmix.agreement import all_texts, together
from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.errors import DataError, UsageError
from selmix.features.labeled import FeatureData, LabeledFeatures, UnlabeledFeatures
from selmix.features.pool import Pool
from selmix.features.space import FeatureSpace
from selmix.features.statistics import class_means
from selmix.heads import LinearHead
from selmix.metrics import METRICS
from selmix.pipeline import tune
from selmix.preparation import check_tunable, with_validation
from selmix.ranks import ALONE, Ranks
from selmix.stage2 import crossfit as crossfit_module
from selmix.stage2 import evidence as evidence_module
from selmix.stage2.crossfit import CrossFit, members_of
from selmix.stage2.evidence import Evidence
from selmix.stage2.refine import refine
from selmix.stage2.settings import RefineSettings

COUNTS = [60, 25, 9]
SPLITS = gaussian_splits(COUNTS, seed=0, per_class=40, val=12, spread=0.7)
DATA = FeatureData(["a", "b", "c"], SPLITS, {name: [f"{name}{n}" for n in range(len(own.labels))] for name, own in SPLITS.items()})  # fmt: skip  # noqa: E501
# train is sorted by class: the first rank has class 0 alone, the last has classes 1 and 2 and all of val
SIZES = {"train": [50, 0, 44], "val": [0, 0, 36], "test": [1, 100, 19]}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(split: LabeledFeatures) -> LabeledFeatures:
    return replace(split, features=split.features.double())


@pytest.mark.parametrize("sizes", [[50, 0, 44], [94, 0, 0], [1, 93], [31, 31, 32]])
def test_statistics_are_those_of_one_process(sizes):
    train = double(SPLITS["train"])
    space, means = FeatureSpace.fit(train.features), class_means(train.features, train.labels, 3)
    own = shards(replace(DATA, splits={"train": train}), {"train": sizes})

    def work(ranks: Ranks):
        part = own(ranks).splits["train"]
        members = members_of(part.labels, 3, ranks=ranks)
        return FeatureSpace.fit(part.features, ranks=ranks), class_means(part.features, part.labels, 3, ranks=ranks), members.counts  # fmt: skip  # noqa: E501

    for own_space, own_means, counts in in_ranks(len(sizes), work):
        np.testing.assert_allclose(own_space.centre, space.centre, rtol=1e-12, atol=1e-14)
        assert own_space.scale == pytest.approx(space.scale, rel=1e-12)
        np.testing.assert_allclose(own_means, means, rtol=1e-12, atol=1e-14)
        assert counts.tolist() == COUNTS


def test_members_are_the_same_draw_as_in_one_process_and_each_is_held_by_one_rank():
    labels = torch.randint(4, (40,), generator=generator())
    classes = torch.randint(4, (5, 30), generator=generator(1))
    expected = members_of(labels, 4).draw(classes, generator=generator(2))
    parts = labels.split([7, 0, 20, 13])

    def work(ranks: Ranks):
        return members_of(parts[ranks.rank], 4, ranks=ranks).draw(classes, generator=generator(2))

    starts = [0, 7, 7, 27]
    found = torch.full_like(expected, -1)
    for start, drawn in zip(starts, in_ranks(4, work), strict=True):
        held = drawn >= 0
        assert (found[held] == -1).all()
        found[held] = drawn[held] + start
    assert torch.equal(found, expected)


@pytest.mark.parametrize("views", [False, True])
def test_heads_are_retrained_to_those_of_one_process(views):
    train, others = double(SPLITS["train"]), torch.randn(3, 94, 8, generator=generator(3), dtype=torch.float64)
    settings = RetrainSettings(steps=60, smoothing=0.2)

    def trained(part: LabeledFeatures, own_views: torch.Tensor, ranks: Ranks = ALONE) -> LinearHead:
        pool = Pool(part.features, ranks=ranks)
        if views:
            pool = replace(pool, views=own_views.flatten(0, 1), num_views=3, viewed=[range(len(part.labels))])
        members = [members_of(part.labels, 3, ranks=ranks)]
        (head,) = retrain_heads(pool, members, sampling_power=0, settings=settings, generator=generator())
        return head

    own = shards(replace(DATA, splits={"train": train}), {"train": [50, 0, 44]})
    parts = others.split([50, 0, 44], dim=1)
    expected = trained(train, others)
    for head in in_ranks(3, lambda ranks: trained(own(ranks).splits["train"], parts[ranks.rank], ranks)):
        torch.testing.assert_close(head.weight, expected.weight, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(head.bias, expected.bias, rtol=1e-9, atol=1e-9)


def test_the_loop_gives_the_heads_of_one_process_where_folds_and_evidence_are_the_same(monkeypatch):
    data = replace(DATA, splits={name: double(SPLITS[name]) for name in ("train", "val")})
    sizes = {"train": [50, 0, 44], "val": [0, 0, 36]}
    everything = torch.arange(130) % 3
    of_rank = {1: [everything], 3: [everything[:50], everything[:0], everything[50:]]}
    monkeypatch.setattr(crossfit_module, "_deal", lambda *given: of_rank[given[-1].count][given[-1].rank])
    monkeypatch.setattr(evidence_module, "_thin", lambda positions, *_: positions)
    start = [LinearHead(torch.zeros(3, 8).double(), torch.zeros(3).double())] * 4
    settings = RefineSettings(steps=120, refresh=30, averaging=0.9)

    def tuned(own: FeatureData):
        train, val = own.splits["train"], own.splits["val"]
        plan = CrossFit.plan(train, val, 3, folds=3, generator=generator(), ranks=own.ranks)
        refined = refine(start, plan, METRICS["min_recall"], settings, generator=generator(1))
        return refined, plan.val_predictions(refined.heads)

    (expected, predictions), own = tuned(data), shards(data, sizes)
    assert expected.best_step > 0
    for refined, own_predictions in in_ranks(3, lambda ranks: tuned(own(ranks))):
        assert refined.best_step == expected.best_step
        for head, other in zip(refined.heads, expected.heads, strict=True):
            torch.testing.assert_close(head.weight, other.weight, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(refined.confusion, expected.confusion, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(refined.support, expected.support, rtol=1e-12, atol=1e-14)
        assert torch.equal(own_predictions.classes, predictions.classes)
        torch.testing.assert_close(own_predictions.confidence, predictions.confidence)


def test_evidence_of_several_ranks_is_that_of_one():
    heads = [LinearHead(torch.randn(3, 8, generator=generator(5 + h)), torch.zeros(3)) for h in range(4)]
    own = shards(DATA, SIZES)

    def work(ranks: Ranks):
        part = own(ranks).splits
        plan = CrossFit.plan(part["train"], part["val"], 3, folds=3, generator=generator(), ranks=ranks)
        space = plan.pool.space
        weights = torch.stack([space.encode_head(head) for head in heads])
        evidence = Evidence.gather(plan, space, weights, generator=generator(1))
        positions = torch.cat(plan.judged)
        return evidence, weights, plan.pool.encoded(space, positions), plan.rows[positions]

    results = in_ranks(3, work)
    first, weights, *_ = results[0]
    assert len(first.rows) == 130
    shares, means, start = torch.zeros(3, 3).double(), torch.zeros(3, 9).double(), 0
    for evidence, _, encoded, rows in results:
        assert torch.equal(evidence.rows, first.rows)
        assert torch.equal(evidence.weights, first.weights)
        assert torch.equal(first.rows[start : start + len(rows)], rows)
        judges = torch.cat([torch.full((len(own),), head) for head, own in enumerate(evidence.features)])
        logits = torch.einsum("nd,nkd->nk", encoded, weights[judges])
        for logit, feature, row, weight in zip(logits, encoded, rows, evidence.weights[evidence.own], strict=True):
            shares[row] += weight * (logit / 0.3).softmax(0).double()
            means[row] += weight * feature.double()
        start += len(rows)
    support = shares.sum(1)
    expected = shares / support[:, None] * first.prior[:, None]
    found = in_ranks(3, lambda ranks: _again(results[ranks.rank], ranks))
    for soft, own_means, predictions in found:
        torch.testing.assert_close(soft, expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(own_means, means / support[:, None], rtol=1e-5, atol=1e-6)
        assert torch.equal(predictions, found[0][2])
        assert len(predictions) == 130


def _again(result, ranks: Ranks):
    evidence, weights = replace(result[0], ranks=ranks), result[1]
    return evidence.soft_confusion(weights, temperature=0.3), evidence.row_means(), evidence.judge(weights)


def plans(data: FeatureData, sizes: dict[str, list[int]], folds: int, seed: int) -> list[CrossFit]:
    own = shards(data, sizes)

    def work(ranks: Ranks) -> CrossFit:
        part = own(ranks).splits
        return CrossFit.plan(part["train"], part["val"], 4, folds=folds, generator=generator(seed), ranks=ranks)

    return in_ranks(len(sizes["train"]), work)


# class 2 has one sample in train and none in val; class 3 one in each
LABELS = {"train": [0] * 9 + [1] * 13 + [2, 3], "val": [0] * 5 + [1] * 8 + [3]}


def dealt(folds: int, seed: int) -> torch.Tensor:
    """Return the fold of each of the 24 train and 14 val samples, -1 for none."""
    shuffled = {name: torch.randperm(len(own), generator=generator(9)) for name, own in LABELS.items()}
    labels = {name: torch.tensor(own)[shuffled[name]] for name, own in LABELS.items()}
    splits = {name: LabeledFeatures(torch.randn(len(own), 2), own) for name, own in labels.items()}
    sizes = {"train": [10, 3, 11], "val": [6, 8, 0]}
    data = FeatureData(list("abcd"), splits, {name: [""] * len(own) for name, own in labels.items()})
    result = {name: torch.full((len(own),), -1) for name, own in labels.items()}
    starts = {"train": 0, "val": 0}
    for plan in plans(data, sizes, folds, seed):
        for fold, judged in enumerate(plan.judged):
            in_train = judged < plan.num_train
            result["train"][judged[in_train] + starts["train"]] = fold
            result["val"][judged[~in_train] - plan.num_train + starts["val"]] = fold
        assert plan.class_counts.tolist() == [14, 21, 1, 2]
        assert plan.val_counts.tolist() == [5, 8, 0, 1]
        starts = {"train": starts["train"] + plan.num_train, "val": starts["val"] + len(plan.labels) - plan.num_train}
    order = {name: shuffled[name].argsort() for name in labels}
    return torch.cat([result[name][order[name]] for name in ("train", "val")])


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_even_over_all_ranks_and_a_lone_sample_is_lone_on_all(folds):
    labels = torch.tensor(LABELS["train"] + LABELS["val"])
    in_train = torch.arange(len(labels)) < 24
    seen = []
    for seed in range(40):
        fold = dealt(folds, seed)
        seen.append(fold)
        assert (fold < 0).nonzero().flatten().tolist() == [22]
        for label in (0, 1, 3):
            for part in (in_train, ~in_train, in_train | ~in_train):
                sizes = torch.bincount(fold[part & (labels == label)], minlength=folds)
                assert int(sizes.max() - sizes.min()) <= 1
    # each sample gets every fold equally often
    seen = torch.stack(seen)
    pvalues = [stats.chisquare(torch.bincount(seen[:, n], minlength=folds)).pvalue for n in range(38) if n != 22]
    assert min(pvalues) > 1e-3 / 38


def test_thinned_evidence_is_as_much_as_one_process_keeps_and_favours_no_rank(monkeypatch):
    monkeypatch.setattr(evidence_module, "_JUDGED_TRAIN", 24)
    monkeypatch.setattr(evidence_module, "_JUDGED_VAL", 9)
    monkeypatch.setattr(evidence_module, "_AT_LEAST", 3)
    sizes = {"train": [20, 0, 74], "val": [30, 3, 3], "test": [120, 0, 0]}
    order = torch.randperm(94, generator=generator())
    splits = SPLITS | {"train": SPLITS["train"].subset(order)}
    own, kept = shards(replace(DATA, splits=splits), sizes), torch.zeros(94)
    for seed in range(150):
        plan = cross_fit(splits, 3)
        alone = torch.cat([evidence_module._thin(judged, plan, generator(seed)) for judged in plan.judged])

        def work(ranks: Ranks, seed: int = seed):
            part = own(ranks).splits
            plan = CrossFit.plan(part["train"], part["val"], 3, folds=3, generator=generator(seed), ranks=ranks)
            return [evidence_module._thin(judged, plan, generator(seed)) for judged in plan.judged], plan

        rows, start = [], 0
        for chosen, plan_of_rank in in_ranks(3, work):
            together_kept = torch.cat(chosen)
            assert len(together_kept.unique()) == len(together_kept)
            rows.append(plan_of_rank.rows[together_kept] + 3 * (together_kept >= plan_of_rank.num_train))
            of_train = together_kept[together_kept < plan_of_rank.num_train]
            kept[of_train + start] += 1
            start += plan_of_rank.num_train
        expected = torch.bincount(plan.rows[alone] + 3 * (alone >= plan.num_train), minlength=6)
        assert torch.bincount(torch.cat(rows), minlength=6).tolist() == expected.tolist()
    # samples of a class are kept equally often, wherever they lie
    for label in range(3):
        often = kept[splits["train"].labels == label]
        share = float(often.mean()) / 150
        # not quite independent: 150 draws of fixed size; the spread of a binomial is an upper bound
        assert float(often.var()) < 150 * share * (1 - share) * 1.6 + 1e-9
        on_first = kept[:20][splits["train"].labels[:20] == label]
        if len(on_first) and share < 1:
            error = (share * (1 - share) / (150 * len(on_first))) ** 0.5
            assert abs(float(on_first.mean()) / 150 - share) < 3.5 * error


def test_held_out_for_validation_as_many_as_one_process_takes():
    labels = torch.tensor([0] * 40 + [1] * 7 + [2] * 2 + [3])
    order = torch.randperm(50, generator=generator(4))
    data = FeatureData(
        list("abcd"), {"train": LabeledFeatures(torch.arange(50.0)[:, None], labels[order])}, {"train": list(range(50))}
    )
    own, held = shards(data, {"train": [25, 5, 20]}), []
    for seed in range(60):
        parts = in_ranks(3, lambda ranks, seed=seed: with_validation(own(ranks), seed))
        counts = {
            name: torch.bincount(torch.cat([part.splits[name].labels for part in parts]), minlength=4).tolist()
            for name in ("train", "val")
        }
        assert counts == {"train": [32, 6, 1, 1], "val": [8, 1, 1, 0]}
        for name in ("train", "val"):
            for part in parts:
                assert part.splits[name].features.flatten().tolist() == part.ids[name]
        ids = [name for part in parts for name in part.ids["train"] + part.ids["val"]]
        assert sorted(ids) == list(range(50))
        held += [name for part in parts for name in part.ids["val"]]
    often = torch.bincount(torch.tensor(held), minlength=50)[labels[order] == 0]
    assert stats.chisquare(often).pvalue > 1e-3


def test_every_rank_has_its_part_of_the_pool_and_all_know_how_large_it_is():
    rows = torch.arange(5.0)[:, None]
    pool = UnlabeledFeatures(rows, torch.cat([rows + 10, rows + 20]), torch.tensor([0, -1, 1, 1, 0]))
    data = replace(DATA, unlabeled=pool, ids={"unlabeled": list("abcde")})
    parts = in_ranks(3, lambda ranks: (own := data.shard(ranks), own.unlabeled_count))
    assert [count for _, count in parts] == [5, 5, 5]
    for rank, positions in enumerate([[0, 3], [1, 4], [2]]):
        own = parts[rank][0]
        assert own.unlabeled.features[:, 0].tolist() == positions
        assert own.unlabeled.views[:, 0].tolist() == [10 + at for at in positions] + [20 + at for at in positions]
        assert own.unlabeled.audit.tolist() == pool.audit[positions].tolist()
        assert own.ids == {"unlabeled": ["abcde"[at] for at in positions]}
        bare = own.without_pool()
        assert (bare.unlabeled, bare.ids, bare.splits) == (None, {}, own.splits)
    dense = data.dense().unlabeled
    assert (dense.features.tolist(), dense.views, dense.audit) == (rows.tolist(), None, pool.audit)
    assert data.shard(Ranks()).unlabeled.features.tolist() == rows.tolist()
    assert (DATA.shard(Ranks(0, 2)).unlabeled, DATA.unlabeled_count) == (None, 0)


SETTINGS = RefineSettings(folds=3, steps=200, start_steps=200)


@pytest.mark.parametrize("case", ["even", "sizes", "without val", "groups", "views"])
def test_tuning_tells_every_rank_the_same_and_ends_where_one_process_ends(case):
    data, metric = DATA, METRICS["mean_recall"]
    if case == "groups":
        group = {name: torch.randint(2, own.labels.shape, generator=generator(1)) for name, own in SPLITS.items()}
        splits = {name: replace(own, groups=group[name]) for name, own in SPLITS.items()}
        data = replace(DATA, splits=splits, group_names=["x", "y"])
    if case == "views":
        train = SPLITS["train"]
        noise = 0.1 * torch.randn(2, *train.features.shape, generator=generator(1))
        data = replace(DATA, splits=SPLITS | {"train": replace(train, views=(train.features + noise).flatten(0, 1))})
    if case == "without val":
        data = replace(DATA, splits={name: SPLITS[name] for name in ("train", "test")})
    own = shards(data, SIZES) if case == "sizes" else data.shard
    alone = [tune(data, metric, SETTINGS, seed=seed).evaluations["test"]["after"].metrics for seed in range(4)]
    tunings = in_ranks(3, lambda ranks: tune(own(ranks), metric, SETTINGS, seed=0))
    first = tunings[0]
    for tuning in tunings:
        assert torch.equal(tuning.head.weight, first.head.weight)
        assert tuning.start == first.start
        for split, of_split in tuning.evaluations.items():
            for name, evaluation in of_split.items():
                assert evaluation.metrics == first.evaluations[split][name].metrics
                assert len(evaluation.predictions) == len(tuning.rows[split]) == int(tuning.support[split].sum())
    whole = {name: torch.bincount(split.labels, minlength=3).tolist() for name, split in data.splits.items()}
    assert {name: own.sum(1).tolist() for name, own in first.support.items() if name in whole and "val" in whole} == (
        whole if "val" in whole else {}
    )
    # every sample of test is told once: the predictions are those of the head
    test = data.splits["test"]
    expected = torch.bincount(first.head.predict(test.features), minlength=3)
    predictions = first.evaluations["test"]["after"].predictions
    assert torch.bincount(predictions, minlength=3).tolist() == expected.tolist()
    values = [own["mean_recall"] for own in alone]
    value = first.evaluations["test"]["after"].metrics["mean_recall"]
    assert abs(value - np.mean(values)) < 0.02 + 4 * np.std(values, ddof=1)


def test_checks_end_all_ranks_alike():
    flat = replace(DATA, splits={"train": LabeledFeatures(torch.ones(94, 8), SPLITS["train"].labels)})
    errors = errors_in_ranks(3, lambda ranks: check_tunable(flat.shard(ranks)))
    assert [type(error) for error in errors] == [DataError] * 3
    assert "same" in str(errors[1])
    # the same on each rank, but not over ranks
    apart = torch.ones(94, 8)
    apart[1::2] = 2
    split = replace(DATA, splits={"train": LabeledFeatures(apart, SPLITS["train"].labels)})
    assert errors_in_ranks(2, lambda ranks: check_tunable(split.shard(ranks))) == [None, None]
    # a single sample of the last rank overflows
    far = SPLITS["train"].features.clone()
    far[93] = 1e30
    head = LinearHead(torch.ones(3, 8), torch.zeros(3))
    wild = replace(DATA, splits={"train": LabeledFeatures(far, SPLITS["train"].labels)}, head=head)
    own = shards(wild, {"train": [50, 0, 44]})
    assert ["1e30" in str(error) for error in errors_in_ranks(3, lambda ranks: check_tunable(own(ranks)))] == [True] * 3
    without = replace(DATA, class_names=["a", "b", "c", "d"])
    errors = errors_in_ranks(2, lambda ranks: check_tunable(without.shard(ranks)))
    assert ["class d has no training sample" in str(error) for error in errors] == [True] * 2
    ones = replace(DATA, splits={"train": SPLITS["train"].subset(torch.tensor([0, 60, 90]))})
    errors = errors_in_ranks(2, lambda ranks: with_validation(ones.shard(ranks), 0))
    assert ["no class has two samples" in str(error) for error in errors] == [True] * 2


def test_all_fail_together_with_the_words_of_the_first_that_failed():
    def work(ranks: Ranks) -> None:
        with together(ranks):
            if ranks.rank == 1:
                raise DataError("shard 1 ist zerrissen ✂")
            if ranks.rank == 2:
                raise UsageError("other")

    errors = errors_in_ranks(3, work)
    assert [(type(error), str(error)) for error in errors] == [(DataError, "shard 1 ist zerrissen ✂")] * 3
    with pytest.raises(UsageError, match="alone"), together(ALONE):
        raise UsageError("alone")
    assert in_ranks(2, lambda ranks: all_texts("äb" * ranks.rank, ranks)) == [["", "äb"]] * 2
