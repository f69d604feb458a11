"""Augmented views: who draws them, how often, and that they never cross a fold."""

from dataclasses import replace

import pytest
import torch
from builders import cross_fit, gaussian_splits
from scipy import stats
from threads import in_ranks, shards

from selmix.baselines import retrain as retrain_module
from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.features.labeled import FeatureData, LabeledFeatures, UnlabeledFeatures
from selmix.features.pool import Pool
from selmix.features.rows import StackedRows, dense
from selmix.features.space import FeatureSpace
from selmix.pairs import ClassMembers
from selmix.stage2.batches import PairBatches
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.evidence import Evidence

SPLITS = gaussian_splits([30, 12, 6], seed=0, per_class=5, width=3)
TRAIN, VAL = SPLITS["train"], SPLITS["val"]
# view v of sample i is sample i moved by 1000 v, so that a number tells what it is a view of
VIEWS = torch.cat([TRAIN.features + 1000 * view for view in (1, 2)])
VIEWED = replace(TRAIN, views=VIEWS)
PLAN = cross_fit({"train": VIEWED, "val": VAL}, 3)
AS_IT_IS = FeatureSpace(torch.zeros(3), 1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_version_of_a_train_sample_is_drawn_equally_often_and_val_has_one():
    positions = torch.tensor([0, 47, 48, 62]).repeat(6000)
    drawn = PLAN.pool.any_version(positions, generator=generator())
    versions = {0: [0, 48 + 15, 48 + 15 + 48], 47: [47, 48 + 15 + 47, 48 + 15 + 48 + 47]}
    for position, expected in versions.items():
        counts = torch.bincount(drawn[positions == position], minlength=63 + 96)
        assert int(counts.sum() - counts[expected].sum()) == 0
        assert stats.chisquare(counts[expected]).pvalue > 1e-3
    for position in (48, 62):
        assert (drawn[positions == position] == position).all()
    # versions do not follow each other
    own = drawn[positions == 0] // 48
    table = torch.bincount(own[:-1].unique(return_inverse=True)[1] * 3 + own[1:].unique(return_inverse=True)[1])
    assert stats.chi2_contingency(table.view(3, 3)).pvalue > 1e-3


def test_a_version_is_that_of_the_sample():
    positions = torch.arange(63)
    drawn = PLAN.pool.any_version(positions, generator=generator(1))
    rows = PLAN.pool.encoded(AS_IT_IS, drawn)[:, :-1]
    clean = torch.cat([TRAIN.features, VAL.features])
    moved = (rows - clean).mean(1).div(1000).round()
    assert set(moved[:48].tolist()) == {0, 1, 2}
    assert (moved[48:] == 0).all()
    torch.testing.assert_close(rows - 1000 * moved[:, None], clean, rtol=0, atol=1e-3)


def test_versions_of_the_pool_are_drawn_like_those_of_train():
    clean = torch.randn(7, 3, generator=generator(8))
    unlabeled = UnlabeledFeatures(clean, torch.cat([clean + 1000 * view for view in (1, 2)]))
    plan = CrossFit.plan(VIEWED, VAL, 3, folds=3, generator=generator(), unlabeled=unlabeled)
    everything = torch.cat([TRAIN.features, VAL.features, clean])
    positions = torch.arange(70).repeat(3000)
    drawn = plan.pool.any_version(positions, generator=generator(9))
    assert (drawn[drawn != positions] >= 70).all()  # views lie beyond the clean rows
    rows = plan.pool.encoded(AS_IT_IS, drawn)[:, :-1]
    moved = (rows - everything[positions]).mean(1).div(1000).round()
    torch.testing.assert_close(rows - 1000 * moved[:, None], everything[positions], rtol=0, atol=1e-3)
    assert (moved[(positions >= 48) & (positions < 63)] == 0).all()
    for part in (moved[positions < 48], moved[positions >= 63]):
        assert stats.chisquare(torch.bincount(part.long(), minlength=3)).pvalue > 1e-3
    # a pool without views stands as it is
    plain = CrossFit.plan(VIEWED, VAL, 3, folds=3, generator=generator(), unlabeled=UnlabeledFeatures(clean))
    drawn = plain.pool.any_version(positions, generator=generator(9))
    assert torch.equal(drawn[positions >= 63], positions[positions >= 63])
    rows = plain.pool.encoded(AS_IT_IS, drawn)[:, :-1]
    assert ((rows - everything[positions]).mean(1)[positions < 48] > 900).double().mean() > 0.6


def test_without_views_nothing_more_is_drawn():
    plain, source = cross_fit({"train": TRAIN, "val": VAL}, 3), generator(2)
    before = source.get_state()
    assert torch.equal(plain.pool.any_version(torch.arange(63), generator=source), torch.arange(63))
    assert torch.equal(source.get_state(), before)
    law = torch.full((3, 3), 1 / 9, dtype=torch.float64)
    streams = []
    for plan in (plain, PLAN):
        source = generator(3)
        batches = PairBatches(plan.pool, AS_IT_IS, plan.members, 16, 0.6, source, torch.zeros(3))
        streams.append(torch.stack([targets for _, targets in batches.draw(law, 5)]))
    assert torch.equal(*streams)  # pairs come before versions


def learnt(features: torch.Tensor) -> set[int]:
    """Return the train samples of which some version is among encoded rows [..., d + 1]."""
    rows = features[..., :-1].reshape(-1, 3)
    versions = torch.cat([TRAIN.features, VIEWS])
    distance, nearest = torch.cdist(rows, versions, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return {int(own) % 48 for own, far in zip(nearest, distance, strict=True) if far < 1e-2}


def test_no_version_of_a_judged_sample_reaches_its_judge(monkeypatch):
    seen = {"loop": [], "retrained": []}
    law = torch.full((3, 3), 1 / 9, dtype=torch.float64)
    # coefficient 1: the mixture is the kept sample
    batches = PairBatches(PLAN.pool, AS_IT_IS, PLAN.members, 64, 1.0, generator(), torch.zeros(3))
    seen["loop"] = [features for features, _ in batches.draw(law, 60)]
    monkeypatch.setattr(FeatureSpace, "fit", lambda *_, **__: AS_IT_IS)
    monkeypatch.setattr(
        retrain_module, "cross_entropy_step_", lambda _, features, *args, **named: seen["retrained"].append(features)
    )
    settings = RetrainSettings(steps=60)
    own_pool = replace(PLAN.pool)  # with a space of its own
    retrain_heads(own_pool, PLAN.class_members, sampling_power=0, settings=settings, generator=generator())
    for batch in seen.values():
        batch = torch.stack(batch)
        assert float(batch[..., :-1].max()) > 1500  # views are there
        for head, judged in enumerate(PLAN.judged):
            judged_train = set(judged[judged < 48].tolist())
            assert learnt(batch[:, head]) == set(range(48)) - judged_train
        assert learnt(batch[:, 3]) == set(range(48))


def test_space_and_evidence_know_clean_features_alone():
    plain = cross_fit({"train": TRAIN, "val": VAL}, 3)
    spaces = [plan.pool.space for plan in (plain, PLAN)]
    assert torch.equal(spaces[0].centre, spaces[1].centre)
    assert spaces[0].scale == spaces[1].scale
    weights = torch.randn(4, 3, 4, generator=generator())
    means = [Evidence.gather(plan, spaces[0], weights, generator=generator()).row_means() for plan in (plain, PLAN)]
    assert torch.equal(*means)


@pytest.mark.parametrize("form", [lambda views: views, lambda views: StackedRows([views[:50], views[50:]])])
def test_a_part_of_the_samples_keeps_its_views(form):
    chosen = torch.tensor([40, 3, 7])
    part = replace(TRAIN, views=form(VIEWS)).subset(chosen)
    expected = torch.cat([TRAIN.features[chosen] + 1000, TRAIN.features[chosen] + 2000])
    assert torch.equal(dense(part.views), expected)


def test_ranks_draw_the_versions_of_one_process():
    data = FeatureData(["a", "b", "c"], {"train": VIEWED}, {"train": [""] * 48})
    sizes, classes = {"train": [20, 0, 28]}, torch.randint(3, (400,), generator=generator(5))
    none = LabeledFeatures(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    everything = ClassMembers.from_labels(TRAIN.labels, 3)

    def drawn(pool: Pool, members: ClassMembers) -> torch.Tensor:
        source = generator(6)
        return pool.encoded(AS_IT_IS, pool.any_version(members.draw(classes, generator=source), generator=source))

    def work(ranks):
        plan = CrossFit.plan(shards(data, sizes)(ranks).splits["train"], none, 3, folds=2, generator=generator(), ranks=ranks)  # fmt: skip  # noqa: E501
        own = ClassMembers.from_labels(plan.labels, 3)
        return drawn(plan.pool, own.among_others(*ranks.shares(own.counts)))

    whole = Pool(StackedRows([TRAIN.features]), VIEWS, 2, [range(48)])
    assert torch.equal(sum(in_ranks(3, work)), drawn(whole, everything))
