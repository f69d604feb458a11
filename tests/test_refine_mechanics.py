"""The mechanics of the SelMix loop: rounds, rates, averaging, stopping, and settings that are refused."""

import math

import pytest
import torch
from builders import gaussian_splits

from selmix.errors import UsageError
from selmix.features.space import FeatureSpace
from selmix.heads import LinearHead
from selmix.metrics import METRICS
from selmix.stage2 import refine as refine_module
from selmix.stage2.refine import Refined, RefineSettings, refine, score

SPLITS = gaussian_splits([60, 20, 8], seed=0, per_class=30)
HEAD = LinearHead(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) / 10, torch.zeros(3))


def tuned(**settings: float) -> Refined:
    generator = torch.Generator().manual_seed(0)
    own = RefineSettings(**settings)
    return refine(HEAD, SPLITS["train"], SPLITS["val"], METRICS["min_recall"], own, generator=generator)


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
        torch.testing.assert_close(refined.head.weight, HEAD.weight)
        torch.testing.assert_close(refined.head.bias, HEAD.bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "refresh", "expected"), [(130, 50, [0, 50, 100, 130]), (40, 50, [0, 40]), (100, 50, [0, 50, 100])]
)
def test_the_last_round_is_cut_to_the_steps(steps, refresh, expected):
    refined = tuned(steps=steps, refresh=refresh)
    assert [record["step"] for record in refined.history] == expected
    assert refined.steps == steps


@pytest.mark.parametrize(("averaging", "moved"), [(0.0, 4), (0.5, 3.0625), (0.9, 0.9049)])
def test_rates_and_average_by_hand(monkeypatch, averaging, moved):
    rates, scores = [], iter(range(100))

    def move_by_one(weight, features, targets, *, rate, decay):
        assert decay == 0.01
        rates.append(rate)
        weight.add_(1)

    monkeypatch.setattr(refine_module, "cross_entropy_step_", move_by_one)
    monkeypatch.setattr(refine_module, "score", lambda *arguments: (float(next(scores)), 0.0))
    refined = tuned(steps=4, refresh=1, learning_rate=2.0, weight_decay=0.01, averaging=averaging)
    assert refined.best_step == 4
    # half a cosine from 2 to 0, at 0, 1/4, 1/2 and 3/4 of the way
    assert rates == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])
    # the weight moves to 1, 2, 3, 4 and the average a <- averaging a + (1 - averaging) w:
    # 1/2, 5/4, 17/8, 49/16 at averaging 1/2; 0.1, 0.29, 0.561, 0.9049 at 9/10
    space = FeatureSpace.fit(SPLITS["train"].features)
    change = space.encode_head(refined.head) - space.encode_head(HEAD)
    torch.testing.assert_close(change, torch.full((3, 9), float(moved)), rtol=1e-4, atol=1e-4)


def test_the_law_is_refreshed_after_every_round(monkeypatch):
    laws, distribution = [], refine_module.pair_distribution

    def recording(gains, *, inverse_temperature, exploration):
        laws.append((inverse_temperature, exploration))
        return distribution(gains, inverse_temperature=inverse_temperature, exploration=exploration)

    monkeypatch.setattr(refine_module, "pair_distribution", recording)
    tuned(steps=70, refresh=20, inverse_temperature=3.0, exploration=0.25)
    assert laws == [(3.0, 0.25)] * 4


def test_scores_rank_by_the_metric_and_then_by_its_smooth_form():
    # both have min_recall 1/2; in the second the other class is better
    worse, better = torch.tensor([[5.0, 5], [5, 5]]).double(), torch.tensor([[5.0, 5], [1, 9]]).double()
    metric, settings = METRICS["min_recall"], RefineSettings()
    assert score(worse, metric, settings)[0] == score(better, metric, settings)[0] == 0.5
    assert score(worse, metric, settings) < score(better, metric, settings)


BAD = {
    "start": "random", "steps": 0, "refresh": 0, "batch_size": 0, "learning_rate": 0.0, "weight_decay": -1e-9,
    "inverse_temperature": -1.0, "exploration": 1.0, "mix_low": 1.5, "sharpness": 0.0, "pseudo_count": 0.0,
    "averaging": 1.0,
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
