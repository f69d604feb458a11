"""The mechanics of the SelMix loop: rounds, rates, averaging, stopping, and settings that are refused."""

import math
from dataclasses import replace

import pytest
import torch
from builders import cross_fit, gaussian_splits

from selmix.errors import UsageError
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.metrics import METRICS, Metric
from selmix.stage2 import refine as refine_module
from selmix.stage2.refine import Refined, RefineSettings, refine, score

SPLITS = gaussian_splits([60, 20, 8], seed=0, per_class=30)
PLANS = {folds: cross_fit(SPLITS, folds) for folds in (0, 3)}
HEAD = LinearHead(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) / 10, torch.zeros(3))


def tuned(metric: Metric = METRICS["min_recall"], *, folds: int = 0, **settings: float) -> Refined:
    generator = torch.Generator().manual_seed(0)
    own, plan = RefineSettings(**settings), PLANS[folds]
    return refine([HEAD] * len(plan.members), plan, SPLITS["val"], metric, own, generator=generator)


@pytest.mark.parametrize("folds", PLANS)
@pytest.mark.parametrize("calls_before", [0, 2])
def test_it_stops_when_no_pair_has_a_positive_gain(monkeypatch, calls_before, folds):
    calls, gain_matrix = [], refine_module.gain_matrix

    def exhausted(*arguments, **options):
        calls.append(1)
        gains = gain_matrix(*arguments, **options)
        return gains if len(calls) <= calls_before else -gains.abs()

    monkeypatch.setattr(refine_module, "gain_matrix", exhausted)
    refined = tuned(steps=500, refresh=20, folds=folds)
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


@pytest.mark.parametrize("folds", PLANS)
@pytest.mark.parametrize(("averaging", "moved"), [(0.0, 4), (0.5, 3.0625), (0.9, 0.9049)])
def test_rates_and_average_by_hand(monkeypatch, averaging, moved, folds):
    rates = []

    def move_by_one(weights, features, targets, *, rate, decay):
        assert decay == 0.01
        rates.append(rate)
        weights.add_(1)

    monkeypatch.setattr(refine_module, "cross_entropy_step_", move_by_one)
    monkeypatch.setattr(refine_module, "paired_difference", lambda *arguments, **options: (1.0, 0.0))
    refined = tuned(steps=4, refresh=1, learning_rate=2.0, weight_decay=0.01, averaging=averaging, folds=folds)
    assert refined.best_step == 4
    # half a cosine from 2 to 0, at 0, 1/4, 1/2 and 3/4 of the way
    assert rates == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])
    # the weight moves to 1, 2, 3, 4 and the average a <- averaging a + (1 - averaging) w:
    # 1/2, 5/4, 17/8, 49/16 at averaging 1/2; 0.1, 0.29, 0.561, 0.9049 at 9/10
    space = FeatureSpace.fit(torch.cat([SPLITS["train"].features, SPLITS["val"].features]))
    assert len(refined.heads) == {0: 1, 3: 4}[folds]
    for head in refined.heads:
        change = space.encode_head(head) - space.encode_head(HEAD)
        torch.testing.assert_close(change, torch.full((3, 9), float(moved)), rtol=1e-4, atol=1e-4)


def test_the_law_is_refreshed_after_every_round(monkeypatch):
    laws, distribution = [], refine_module.pair_distribution

    def recording(gains, *, inverse_temperature, exploration):
        laws.append((inverse_temperature, exploration))
        return distribution(gains, inverse_temperature=inverse_temperature, exploration=exploration)

    monkeypatch.setattr(refine_module, "pair_distribution", recording)
    tuned(steps=70, refresh=20, inverse_temperature=3.0, exploration=0.25)
    assert laws == [(3.0, 0.25)] * 4


def test_gains_are_those_of_the_last_head_and_of_the_confusion_of_the_judges(monkeypatch):
    plan, val, seen = PLANS[3], SPLITS["val"], []
    generator = torch.Generator().manual_seed(1)
    heads = [LinearHead(torch.randn(3, 8, generator=generator), torch.zeros(3)) for _ in range(4)]
    monkeypatch.setattr(refine_module, "gain_matrix", lambda means, weight, *_, **__: -seen.append(weight.clone()))
    monkeypatch.setattr(refine_module, "logit_gradient", lambda objective, confusion: seen.append(confusion))
    with pytest.raises(TypeError):  # the loop need not go on
        refine(heads, plan, val, METRICS["min_recall"], RefineSettings(pseudo_count=1e-9), generator=generator)
    confusion, weight = seen
    space = FeatureSpace.fit(plan.pool.features)
    torch.testing.assert_close(weight, space.encode_head(heads[-1]))
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for head, rows in zip(heads, plan.judged, strict=True):
        for row in rows.tolist():
            expected[val.labels[row], (head.weight @ val.features[row]).argmax()] += 1 / 90
    torch.testing.assert_close(confusion, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("folds", PLANS)
@pytest.mark.parametrize(
    ("caution", "differences", "expected"),
    [
        (1.0, [(0.3, 0.2), (0.1, 0.2), (0.5, 0.4), (0.4, 0.4)], [1, 1, 3, 3]),
        (2.0, [(0.3, 0.2), (0.1, 0.2), (0.5, 0.4), (0.9, 0.4)], [0, 0, 0, 4]),
        (0.0, [(0.3, 0.2), (0.1, 0.2), (0.0, 0.4), (-0.1, 0.0)], [1, 2, 2, 2]),
    ],
)
def test_a_step_is_kept_if_it_beats_the_best_by_more_than_the_caution(
    monkeypatch, caution, differences, expected, folds
):
    # the metric is the same throughout, so the differences alone decide; `expected` is the best step after each round
    calls = []

    def difference(objective, labels, candidate, incumbent, num_classes, *, pseudo_count):
        calls.append((candidate.tolist(), incumbent.tolist()))
        return differences[len(calls) - 1]

    monkeypatch.setattr(refine_module, "paired_difference", difference)
    constant = replace(METRICS["min_recall"], value=lambda confusion: torch.tensor(0.5))
    refined = tuned(constant, steps=40, refresh=10, learning_rate=10.0, caution=caution, folds=folds)
    assert refined.best_step == 10 * expected[-1]
    # a candidate is compared with the best step until then
    plan, val = PLANS[folds], SPLITS["val"]
    predictions = [HEAD.predict(val.features).tolist(), *(candidate for candidate, _ in calls)]
    assert len({tuple(own) for own in predictions}) == 5
    assert [incumbent for _, incumbent in calls] == [predictions[best] for best in [0, *expected[:-1]]]
    assert plan.logits(refined.heads, val).argmax(1).tolist() == predictions[expected[-1]]


def test_no_step_is_kept_that_lowers_the_metric_itself(monkeypatch):
    values = iter([0.5, 0.4, 0.6, 0.5, 0.6])
    monkeypatch.setattr(refine_module, "paired_difference", lambda *arguments, **options: (1.0, 0.0))
    metric = replace(METRICS["min_recall"], value=lambda confusion: torch.tensor(next(values), dtype=torch.float64))
    refined = tuned(metric, steps=40, refresh=10)
    assert [record["metric"] for record in refined.history] == [0.5, 0.4, 0.6, 0.5, 0.6]
    assert refined.best_step == 40
    values = iter([0.5, 0.4, 0.6, 0.5, 0.55])
    assert tuned(metric, steps=40, refresh=10).best_step == 20


def test_scores_rank_by_the_metric_and_then_by_its_smooth_form():
    # both have min_recall 1/2; in the second the other class is better
    worse, better = torch.tensor([[5.0, 5], [5, 5]]).double(), torch.tensor([[5.0, 5], [1, 9]]).double()
    metric, settings = METRICS["min_recall"], RefineSettings()
    assert score(worse, metric, settings)[0] == score(better, metric, settings)[0] == 0.5
    assert score(worse, metric, settings) < score(better, metric, settings)


BAD = {
    "folds": 1,
    "start": "random", "steps": 0, "refresh": 0, "batch_size": 0, "learning_rate": 0.0, "weight_decay": -1e-9,
    "inverse_temperature": -1.0, "exploration": 1.0, "mix_low": 1.5, "sharpness": 0.0, "pseudo_count": 0.0,
    "caution": -0.5, "averaging": 1.0,
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


@pytest.mark.parametrize("folds", [-1, 1])
def test_fewer_than_two_folds_are_none_or_refused(folds):
    with pytest.raises(UsageError, match=f"folds must be 0 or >= 2, got {folds}"):
        RefineSettings(folds=folds)
    assert [RefineSettings(folds=accepted).folds for accepted in (0, 2, 10)] == [0, 2, 10]
