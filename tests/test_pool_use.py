"""A pool of unlabeled samples in the tuning: used where it helps, and as if it were not there where it does not."""

import logging
from dataclasses import replace

import pytest
import torch
from builders import gaussian_splits, pool_of, pooled
from sklearn.metrics import recall_score

from selmix import pipeline as pipeline_module
from selmix.constraints import bind_constraints, parse_constraint
from selmix.errors import UsageError
from selmix.features.labeled import FeatureData, UnlabeledFeatures
from selmix.features.rows import dense
from selmix.finetuning import check_request
from selmix.heads import LinearHead
from selmix.metrics import METRICS, MetricContext
from selmix.pipeline import Tuning, tune
from selmix.pseudo.settings import PseudoSettings
from selmix.ranks import Ranks
from selmix.recipe import FinetuneRecipe
from selmix.stage2 import pool_use as use_module
from selmix.stage2.pool_labels import PoolLabeler
from selmix.stage2.pool_use import label_pool, room
from selmix.stage2.refine import Refined
from selmix.stage2.settings import RefineSettings

SPLITS = gaussian_splits([30, 12, 6], seed=0, spread=1.0, per_class=60, val=10)
QUICK = RefineSettings(folds=3, steps=100, start_steps=100, batch_size=32)
POOL = pool_of(SPLITS["test"], [30, 30, 30])


def tuned(pool: UnlabeledFeatures | None, settings: RefineSettings = QUICK, **pseudo: object) -> Tuning:
    data = FeatureData(["ant", "bee", "cat"], SPLITS, {name: [] for name in SPLITS}, unlabeled=pool)
    return tune(data, METRICS["mean_recall"], settings, seed=1, pseudo=PseudoSettings(**pseudo))


def context() -> MetricContext:
    return MetricContext(["ant", "bee", "cat"], torch.tensor([30, 12, 6]), 1)


def use_whatever_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MARGIN", "WORTHWHILE"):
        monkeypatch.setattr(use_module, name, float("-inf"))


def same(first: Refined, second: Refined) -> bool:
    heads = zip(first.heads, second.heads, strict=True)
    return first.history == second.history and all(
        torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias) for one, other in heads
    )


def test_a_pool_that_does_not_help_leaves_no_trace(monkeypatch):
    plain = tuned(None)
    assert plain.pool is None
    empty = tuned(UnlabeledFeatures(torch.zeros(0, 8)))
    assert empty.pool is None
    assert same(empty.refined, plain.refined)
    monkeypatch.setattr(use_module, "MARGIN", float("inf"))
    left = tuned(POOL)
    assert not left.pool.helps
    assert left.pool.heads is not None
    assert left.start == plain.start
    assert same(left.refined, plain.refined)
    use_whatever_comes_out(monkeypatch)
    used = tuned(POOL)
    assert used.pool.helps
    assert used.start == "pseudo_labeled"
    assert not same(used.refined, plain.refined)


def test_nothing_to_trust_is_nothing_to_use(caplog):
    with caplog.at_level(logging.INFO, logger="selmix"):
        left = tuned(POOL, bound=1.0, threshold=1.0)
    assert not left.pool.helps
    assert left.pool.heads is None
    assert all((classes == -1).all() for classes in left.pool.labels.of_head)
    assert "draw labeled samples alone: ant, bee, cat" in caplog.text


def test_audit_labels_change_nothing(monkeypatch):
    use_whatever_comes_out(monkeypatch)
    with_audit, without, wrong = (tuned(replace(POOL, audit=audit)) for audit in (POOL.audit, None, 2 - POOL.audit))
    assert with_audit.pool.helps
    for other in (without, wrong):
        assert same(with_audit.refined, other.refined)
        for first, second in zip(with_audit.pool.labels.of_head, other.pool.labels.of_head, strict=True):
            assert torch.equal(first, second)


def test_the_pool_has_heads_of_its_own_beside_a_start_that_beat_the_balanced_one(monkeypatch):
    monkeypatch.setattr(pipeline_module, "best_start", lambda *_, **__: "given")
    asked = []

    def judged(use, *_, knows_train):
        asked.append(knows_train)
        return replace(use, helps=len(asked) == 1)

    monkeypatch.setattr(use_module.PoolUse, "judged", judged)
    assert tuned(POOL).start == "pseudo_labeled"
    assert tuned(POOL).start == "given"
    assert tuned(POOL, replace(QUICK, start="balanced")).start == "balanced"
    assert asked == [True, True, False]  # the given head has learnt the train split


def test_a_pool_of_clear_clusters_makes_a_better_head():
    settings, metric, gains = RefineSettings(folds=3, steps=200, start_steps=200), METRICS["mean_recall"], []
    for seed in (5, 6):
        splits = gaussian_splits([8, 6, 4, 4], seed=seed, spread=0.6, width=24, per_class=300, val=8)
        pool = pool_of(splits["test"], [150] * 4)
        splits["test"] = splits["test"].subset(torch.arange(1200).view(4, 300)[:, 150:].flatten())
        data = FeatureData(list("abcd"), splits, {name: [] for name in splits}, unlabeled=pool)
        used = tune(data, metric, settings, seed=0)
        plain = tune(replace(data, unlabeled=None), metric, settings, seed=0)
        assert used.pool.helps
        assert used.pool.difference > used.pool.standard_error
        test = [
            recall_score(splits["test"].labels, own.head.predict(splits["test"].features), average="macro")
            for own in (used, plain)
        ]
        gains.append(test[0] - test[1])
        assert float((used.pool.labels.found.classes == pool.audit).double().mean()) > 0.85
    # 600 test samples: a standard error of about 0.015 each
    assert sum(gains) / 2 > 0.04


@pytest.mark.parametrize("draws", ["partner", "both"])
def test_the_pool_is_labeled_anew_with_the_heads_as_they_become(monkeypatch, draws):
    use_whatever_comes_out(monkeypatch)
    given, label = [], PoolLabeler.label
    monkeypatch.setattr(PoolLabeler, "label", lambda self, heads: given.append(heads.clone()) or label(self, heads))
    settings = replace(QUICK, steps=250, refresh=50)
    result = tuned(POOL, settings, source="corrected", refresh=100, draws=draws, threshold=0.0, bound=0.0)
    # to begin with; at steps 0, 100 and 200; at the end, unless both loops kept the same start
    assert len(given) == 4 + result.pool.helps
    assert not torch.equal(given[2], given[1])
    assert not torch.equal(given[3], given[2])
    space = result.pool.labeler.plan.pool.space
    if draws == "both":
        assert torch.equal(given[4], torch.stack([space.encode_head(head) for head in result.refined.heads]))
    assert result.start == ("balanced" if draws == "partner" else "pseudo_labeled")


def head_of(classes: int) -> LinearHead:
    return LinearHead(torch.zeros(3, 8), torch.eye(3)[classes])


def test_room_is_what_the_head_gains_on_what_it_has_learnt():
    splits = gaussian_splits([30, 12, 6], seed=0, spread=8.0, per_class=20, val=10)
    plan, _ = pooled(splits, [3, 3, 3])
    labels = splits["test"].labels
    means = torch.stack([splits["test"].features[labels == label].mean(0) for label in range(3)])
    right = LinearHead(means, -means.square().sum(1) / 2)
    blind = 3 * [head_of(0)]
    assert room(plan, [*blind, right], METRICS["mean_recall"]) == pytest.approx(2 / 3)
    assert room(plan, [*blind, right], METRICS["min_recall"]) == 1
    assert room(plan, 3 * [right] + [head_of(0)], METRICS["mean_recall"]) == 0
    # a class that val lacks is left out; a metric without a value leaves no room
    lacking = splits | {"val": splits["val"].subset((splits["val"].labels < 2).nonzero()[:, 0])}
    plan, _ = pooled(lacking, [3, 3, 3])
    assert room(plan, [*blind, right], METRICS["mean_recall"]) == pytest.approx(1 / 2)
    nothing = replace(METRICS["mean_recall"], value=lambda confusion: confusion.sum() * float("nan"))
    assert room(plan, [*blind, right], nothing) == 0


def test_classes_that_are_not_trusted_are_named(caplog):
    plan, _ = pooled(SPLITS, [20, 20, 20])
    heads = [LinearHead(torch.zeros(3, 8), torch.tensor([0.0, 0.0, -1e4]))] * 4
    settings = PseudoSettings(source="corrected", draws="partner", bound=0.0, threshold=0.0)
    with caplog.at_level(logging.INFO, logger="selmix"):
        use = label_pool(plan, heads, QUICK, settings, class_names=["ant", "bee", "cat"], seed=0)
    assert "cat" in caplog.text.splitlines()[-1]
    assert not (use.labels.of_head[-1] == 2).any()


@pytest.mark.parametrize("source", ["agreement", "neighbours", "propagation"])
def test_several_processes_ask_no_neighbours(source):
    recipe = FinetuneRecipe(metric="mean_recall", features="f.npz", pseudo={"source": source})
    check_request(recipe)
    with pytest.raises(UsageError, match=f"^pseudo.source={source} asks neighbours, .* started 2; take corrected or"):
        check_request(recipe, Ranks(0, 2))
    check_request(FinetuneRecipe(metric="mean_recall", features="f.npz"), Ranks(0, 2))


def test_the_pool_is_used_only_where_what_comes_out_is_better_and_keeps_the_constraints(monkeypatch):
    result = tuned(POOL)
    use, plan = result.pool, result.pool.labeler.plan
    labels = plan.labels
    means = torch.stack([dense(plan.pool.spanning)[labels == label].mean(0) for label in range(3)])
    right = [LinearHead(means, -means.square().sum(1) / 2)] * len(plan.members)
    blind = [head_of(0)] * len(plan.members)
    floor = bind_constraints([parse_constraint("recall[cat] >= 0.5")], context())
    ceiling = bind_constraints([parse_constraint("coverage[ant] >= 0.9")], context())

    def helps(new, old, constraints=()):
        return use.judged(new, old, METRICS["mean_recall"], QUICK, constraints).helps

    assert helps(right, blind)
    assert not helps(blind, right)
    assert not helps(right, right)
    assert helps(right, blind, floor)
    assert not helps(right, blind, ceiling)
    # one that brings much where labels are few, and nothing strange, must not be worse
    for changes, taken in (
        ({}, True),
        ({"relief": 0.79}, False),
        ({"strangers": 0.1}, False),
        ({"strangers": None}, False),
    ):
        welcome = replace(use, **{"relief": 0.81, "strangers": 0.0} | changes)
        assert welcome.judged(right, right, METRICS["mean_recall"], QUICK, ()).helps == taken
        assert not welcome.judged(blind, right, METRICS["mean_recall"], QUICK, ()).helps
        assert not welcome.judged(right, blind, METRICS["mean_recall"], QUICK, ceiling).helps
    # where a loss would hide in the noise it must be seen to be better
    welcome = replace(use, relief=0.81, strangers=0.0)
    monkeypatch.setattr(use_module, "SHARP", -1.0)
    assert not welcome.judged(right, right, METRICS["mean_recall"], QUICK, ()).helps
    monkeypatch.setattr(use_module, "WORTHWHILE", 1.0)
    assert not helps(right, blind)  # better, but not by so much
    judged = use.judged(right, blind, METRICS["mean_recall"], QUICK, ())
    told = use.labeler.evidence.judge(torch.stack([plan.pool.space.encode_head(head) for head in right]))
    recalls = use.labeler.evidence.confusion(told).double()
    expected = float((recalls.diagonal() / recalls.sum(1)).mean()) - 1 / 3
    assert judged.difference == pytest.approx(expected, abs=0.1)  # pseudo-counts pull both towards the middle
    assert judged.standard_error > 0
    # heads that know train are judged by validation samples alone
    evidence = use.labeler.evidence
    assert not evidence.is_val.all()
    told, before = (
        evidence.judge(torch.stack([plan.pool.space.encode_head(head) for head in heads]))[evidence.is_val]
        for heads in (right, blind)
    )
    labels = evidence.rows[evidence.is_val]
    recalls = [[float((own[labels == label] == label).double().mean()) for label in range(3)] for own in (told, before)]
    judged = use.judged(right, blind, METRICS["mean_recall"], replace(QUICK, pseudo_count=1e-9), (), knows_train=True)
    assert judged.difference == pytest.approx((sum(recalls[0]) - sum(recalls[1])) / 3, abs=1e-6)


def test_settings_of_pseudo_labels_are_refused_by_table_and_name():
    for values, said in (
        ({"threshold": 2.0}, r"^\[pseudo\] threshold must be in \[0, 1\], got 2.0$"),
        ({"bond": 1}, "bound"),
    ):
        with pytest.raises(UsageError, match=said):
            check_request(FinetuneRecipe(metric="mean_recall", features="f.npz", pseudo=values))
