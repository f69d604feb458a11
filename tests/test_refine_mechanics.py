"""The mechanics of the SelMix loop: rounds, rates, averaging, stopping, and settings that are refused."""

import math
from dataclasses import replace

import pytest
import torch
from builders import cross_fit, gaussian_splits, without_feedback

from selmix.errors import UsageError
from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.metrics import METRICS, Metric
from selmix.stage2 import refine as refine_module
from selmix.stage2.evidence import Evidence
from selmix.stage2.refine import Refined, refine
from selmix.stage2.settings import RefineSettings

SPLITS = gaussian_splits([60, 20, 8], seed=0, per_class=30)
PLAN = cross_fit(SPLITS)
HEAD = LinearHead(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) / 10, torch.zeros(3))


def tuned(metric: Metric = METRICS["min_recall"], **settings: float) -> Refined:
    generator = torch.Generator().manual_seed(0)
    return refine([HEAD] * 4, PLAN, metric, RefineSettings(**settings), generator=generator)


@pytest.mark.parametrize("calls_before", [0, 2])
def test_it_stops_when_no_pair_has_a_positive_gain(monkeypatch, calls_before):
    calls, gain_matrix = [], refine_module.gain_matrix

    def exhausted(*arguments, **options):
        calls.append(1)
        gains = gain_matrix(*arguments, **options)
        return gains if len(calls) <= calls_before else -gains.abs()

    monkeypatch.setattr(refine_module, "gain_matrix", exhausted)
    refined = tuned(steps=500, refresh=20)
    assert refined.steps == 20 * calls_before
    assert [record["step"] for record in refined.history] == [0, 20, 40][: calls_before + 1]
    if calls_before == 0:
        assert refined.best_step == 0
        for head in refined.heads:
            torch.testing.assert_close(head.weight, HEAD.weight)
            torch.testing.assert_close(head.bias, HEAD.bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "refresh", "expected"), [(130, 50, [0, 50, 100, 130]), (40, 50, [0, 40]), (100, 50, [0, 50, 100])]
)
def test_the_last_round_is_cut_to_the_steps(steps, refresh, expected):
    refined = tuned(steps=steps, refresh=refresh)
    assert [record["step"] for record in refined.history] == expected
    assert refined.steps == steps


@pytest.mark.parametrize(("averaging", "moved"), [(0.0, 4), (0.5, 3.0625), (0.9, 0.9049)])
def test_rates_and_average_by_hand(monkeypatch, averaging, moved):
    rates = []

    def move_by_one(weights, features, targets, *, rate, decay, total):
        assert (decay, total) == (0.01, None)
        rates.append(rate)
        weights.add_(1)

    monkeypatch.setattr(refine_module, "cross_entropy_step_", move_by_one)
    metric = without_feedback(monkeypatch)
    refined = tuned(metric, steps=4, refresh=1, learning_rate=2.0, weight_decay=0.01, averaging=averaging)
    assert refined.best_step == 4
    # half a cosine from 2 to 0, at 0, 1/4, 1/2 and 3/4 of the way
    assert rates == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])
    # the weight moves to 1, 2, 3, 4 and the average a <- averaging a + (1 - averaging) w:
    # 1/2, 5/4, 17/8, 49/16 at averaging 1/2; 0.1, 0.29, 0.561, 0.9049 at 9/10
    space = FeatureSpace.fit(torch.cat([SPLITS["train"].features, SPLITS["val"].features]))
    assert len(refined.heads) == 4
    for head in refined.heads:
        change = space.encode_head(head) - space.encode_head(HEAD)
        torch.testing.assert_close(change, torch.full((3, 9), float(moved)), rtol=1e-4, atol=1e-4)


def test_the_law_is_refreshed_after_every_round(monkeypatch):
    laws, distribution = [], refine_module.pair_distribution

    def recording(gains, **options):
        laws.append((options["inverse_temperature"], options["exploration"]))
        return distribution(gains, **options)

    monkeypatch.setattr(refine_module, "pair_distribution", recording)
    tuned(steps=70, refresh=20, inverse_temperature=3.0, exploration=0.25)
    assert laws == [(3.0, 0.25)] * 4


def test_gains_are_those_of_the_last_head_and_of_the_weighed_confusion_of_the_judges(monkeypatch):
    seen, generator = [], torch.Generator().manual_seed(1)
    heads = [LinearHead(torch.randn(3, 8, generator=generator), torch.zeros(3)) for _ in range(4)]
    monkeypatch.setattr(refine_module, "gain_matrix", lambda *arguments, **options: -seen.append((arguments, options)))
    monkeypatch.setattr(refine_module, "logit_gradient", lambda objective, confusion: seen.append(confusion))
    settings = RefineSettings(pseudo_count=2.0, mix_low=0.4)
    with pytest.raises(TypeError):  # the loop need not go on
        refine(heads, PLAN, METRICS["min_recall"], settings, generator=generator)
    confusion, ((means, weight, bias, _), options) = seen
    space = FeatureSpace.fit(PLAN.features)
    torch.testing.assert_close(weight, space.encode_head(heads[-1]))
    assert bias is None
    # the mean coefficient of a mixture
    assert options["mix"] == pytest.approx(0.7)
    # label-aware, by all that the pool has of a class
    counts = torch.bincount(PLAN.labels).double()
    place = (counts - counts.min()) / (counts.max() - counts.min())
    torch.testing.assert_close(options["smoothing"], 0.3 * (place * math.pi / 2).sin())
    weights = torch.stack([space.encode_head(head) for head in heads])
    evidence = Evidence.gather(PLAN, space, weights, generator=generator)
    torch.testing.assert_close(means, evidence.row_means())
    softened = evidence.soft_confusion(weights, temperature=refine_module.TEMPERATURE, pseudo_count=2.0)
    torch.testing.assert_close(confusion, softened)


def test_rows_that_have_no_sample_are_neither_kept_nor_mixed_in(monkeypatch):
    # two groups; of class 2 only the first has samples. The gains of its other row would be the largest
    splits = {
        name: LabeledFeatures(split.features, split.labels, torch.arange(len(split.labels)) % 2 * (split.labels < 2))
        for name, split in SPLITS.items()
    }
    laws, distribution = [], refine_module.pair_distribution

    def recording(gains, **options):
        laws.append(distribution(gains, **options))
        return laws[-1]

    def gains(means, *arguments, **options):
        values = torch.ones(6, 6, dtype=torch.float64)
        values[5] = values[:, 5] = 9
        return values

    monkeypatch.setattr(refine_module, "gain_matrix", gains)
    monkeypatch.setattr(refine_module, "pair_distribution", recording)
    plan, generator = cross_fit(splits), torch.Generator().manual_seed(0)
    settings = RefineSettings(steps=20, refresh=10, exploration=0.3)
    refine([HEAD] * 4, plan, METRICS["min_recall"], settings, generator=generator)
    expected = torch.zeros(6, 6, dtype=torch.float64)
    expected[:5, :5] = 1 / 25
    for law in laws:
        torch.testing.assert_close(law, expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # eight rounds of ten steps; those after 60 stand for election, beside the start
        ([0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.6, 0.7, 0.65], 70),
        ([0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.6, 0.6, 0.6], 60),
        ([0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.4, 0.3, 0.49], 0),
        ([0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.5], 0),
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.1, 0.2, 0.6], 80),
    ],
)
def test_the_start_and_the_last_quarter_stand_for_election(monkeypatch, values, expected):
    # only the rounds that stand for election are ranked; every round is recorded
    gradient = torch.zeros(3, 3, dtype=torch.float64)
    monkeypatch.setattr(refine_module, "gain_matrix", lambda *_, **__: torch.ones(3, 3, dtype=torch.float64))
    monkeypatch.setattr(refine_module, "logit_gradient", lambda *_, **__: gradient)
    asked = [0, 0, 1, 2, 3, 4, 5, *[index for late in (6, 7, 8) for index in (late, late)]]
    calls = iter(asked)
    metric = replace(
        METRICS["accuracy"], value=lambda confusion: torch.tensor(values[next(calls)], dtype=torch.float64)
    )
    monkeypatch.setattr(refine_module._Ascent, "beats", lambda *_: True)
    seen, judge = [], Evidence.judge

    def judging(self, weights):
        seen.append(weights.clone())
        return judge(self, weights)

    monkeypatch.setattr(Evidence, "judge", judging)
    refined = tuned(metric, steps=80, refresh=10, learning_rate=10.0)
    assert refined.best_step == expected
    assert [record["metric"] for record in refined.history] == pytest.approx(values)
    assert next(calls, None) is None
    # the heads are those of that step; the evidence asks once before the start is judged
    space = FeatureSpace.fit(PLAN.features)
    for head, weight in zip(refined.heads, seen[1 + expected // 10], strict=True):
        torch.testing.assert_close(space.encode_head(head), weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("lead", "expected"), [(0.9, 0), (1.1, 40)])
def test_who_does_not_beat_the_start_by_the_margin_is_not_elected(monkeypatch, lead, expected):
    # the rank rises from round to round, but only the difference counts against the start
    ranks = iter(range(100))
    monkeypatch.setattr(refine_module._Ascent, "rank", lambda *_: (True, 0.0, float(next(ranks))))
    margin = refine_module.MARGIN
    monkeypatch.setattr(Evidence, "difference", lambda *_, **__: (lead * margin * 0.02, 0.02))
    assert tuned(steps=40, refresh=10).best_step == expected


def test_among_heads_that_meet_the_constraints_which_the_start_does_not_the_best_is_elected(monkeypatch):
    # rounds at 30 and 40 of 40 stand for election; the start has the best metric and is infeasible
    ranks = iter([(False, -0.1, 0.9), (True, 0.0, 0.4), (True, 0.0, 0.6)])
    monkeypatch.setattr(refine_module._Ascent, "rank", lambda *_: next(ranks))
    monkeypatch.setattr(Evidence, "difference", lambda *_, **__: (-1.0, 0.1))
    assert tuned(steps=40, refresh=10).best_step == 40


def test_heads_of_an_early_stop_stand_for_election(monkeypatch):
    # long before the last quarter no pair has a positive gain any more, and the metric has risen
    calls, gain_matrix = [], refine_module.gain_matrix

    def exhausted(*arguments, **options):
        calls.append(1)
        gains = gain_matrix(*arguments, **options)
        return gains if len(calls) <= 3 else -gains.abs()

    monkeypatch.setattr(refine_module, "gain_matrix", exhausted)
    refined = tuned(METRICS["mean_recall"], steps=5000, refresh=50, learning_rate=1.0)
    metric = [record["metric"] for record in refined.history]
    assert metric[-1] > metric[0] + 0.1
    assert refined.steps == refined.best_step == 150


@pytest.mark.parametrize(("batch_size", "expected"), [(None, 64), (7, 7)])
def test_the_batch_size_is_chosen_by_the_number_of_classes_unless_it_is_given(monkeypatch, batch_size, expected):
    sizes, step = [], refine_module.cross_entropy_step_

    def recording(weights, features, targets, **options):
        sizes.append(tuple(features.shape))
        step(weights, features, targets, **options)

    monkeypatch.setattr(refine_module, "cross_entropy_step_", recording)
    tuned(steps=2, batch_size=batch_size)
    assert sizes == [(4, expected, 9)] * 2
    chosen = [RefineSettings(batch_size=batch_size).batch_size_for(count) for count in (2, 32, 33, 500, 512, 10_000)]
    assert chosen == ([64, 64, 66, 1000, 1024, 1024] if batch_size is None else [7] * 6)


BAD = {
    "folds": 1,
    "start": "random", "steps": 0, "refresh": 0, "batch_size": 0, "learning_rate": 0.0, "weight_decay": -1e-9,
    "inverse_temperature": -1.0, "exploration": 1.0, "mix_low": 1.5, "sharpness": 0.0, "pseudo_count": 0.0,
    "averaging": 1.0, "multiplier_rate": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("names", [*([name] for name in BAD), ["steps", "mix_low"], list(BAD)], ids="-".join)
def test_settings_without_meaning_are_refused_all_at_once(names):
    with pytest.raises(UsageError) as caught:
        RefineSettings(**{name: BAD[name] for name in names})
    assert caught.value.exit_code == 2
    faults = str(caught.value).split("; ")
    assert [fault.split(" must be ")[0] for fault in faults] == names
    assert all(fault.endswith(f"got {BAD[name]}") for fault, name in zip(faults, names, strict=True))


@pytest.mark.parametrize("name", [name for name in BAD if name != "start"])
def test_not_a_number_is_refused(name):
    with pytest.raises(UsageError, match=f"{name} must be"):
        RefineSettings(**{name: float("nan")})


@pytest.mark.parametrize("folds", [-1, 0, 1])
def test_fewer_than_two_folds_are_refused(folds):
    with pytest.raises(UsageError, match=f"folds must be >= 2, got {folds}"):
        RefineSettings(folds=folds)
    assert [RefineSettings(folds=accepted).folds for accepted in (2, 10)] == [2, 10]


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
def test_rates_that_float32_could_not_hold_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} must be .* <= 1e6, got 1e\\+300"):
        RefineSettings(**{name: 1e300})
    assert getattr(RefineSettings(**{name: 1e6}), name) == 1e6
