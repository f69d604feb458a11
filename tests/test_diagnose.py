"""The diagnostic: measured changes against a second formula, agreement against NumPy, and the files of a run."""

import json

import numpy as np
import pytest
import torch
from builders import cross_fit, gaussian_splits
from test_commands import features, run

from selmix import result
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import METRICS
from selmix.stage2 import diagnose as module
from selmix.stage2.diagnose import LARGE_RATE, agreement, diagnose
from selmix.stage2.refine import TEMPERATURE
from selmix.stage2.settings import RefineSettings


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_measured_changes_are_those_of_a_second_formula():
    # all samples of a class are alike and nothing is mixed in: the step of a pair is known without drawing
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 4))

    def split(counts):
        labels = np.repeat(np.arange(3), counts)
        return LabeledFeatures(torch.from_numpy(points[labels]).float(), torch.from_numpy(labels))

    splits = {"train": split([30, 20, 10]), "val": split([10, 10, 20])}
    head = LinearHead(torch.from_numpy(rng.normal(size=(3, 4))).float(), torch.zeros(3))
    settings = RefineSettings(folds=2, mix_low=1.0, smoothing=0.0)
    plan = cross_fit(splits, folds=2)
    done = diagnose([head] * 3, plan, METRICS["accuracy"], settings, generator=generator())
    assert sorted(zip(done.kept.tolist(), done.partner.tolist(), strict=True)) == [
        (kept, partner) for kept in range(3) for partner in range(3)
    ]

    every = torch.cat([splits["train"].features, splits["val"].features]).double()
    centred = torch.from_numpy(points) - every.mean(0)
    scale = (every - every.mean(0)).square().sum(1).mean().sqrt()
    means = torch.cat([centred / scale, torch.ones(3, 1)], 1)
    start = torch.cat([head.weight * scale, (head.weight.double() @ every.mean(0))[:, None]], 1).double()
    prior = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)

    def soft(weight):
        return (prior * (means @ weight.T / TEMPERATURE).softmax(1).diagonal()).sum()

    def hard(weight):
        right = (means @ weight.T).argmax(1) == torch.arange(3)
        # one imaginary sample, a third of it right; a row of n samples, all fare alike
        support = torch.bincount(plan.rows[plan.num_train :]).double() + worth
        return (prior * (right * support + 1 / 3) / (support + 1)).sum()

    worth = module.Evidence.gather(
        plan, module.FeatureSpace.fit(plan.features), start.float().repeat(3, 1, 1), generator=generator()
    ).support - torch.tensor([10, 10, 20])
    weight = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(soft(weight), weight)
    for index, kept in enumerate(done.kept.tolist()):
        target = torch.eye(3, dtype=torch.float64)[kept]
        step = torch.outer(target - (start @ means[kept]).softmax(0), means[kept])
        assert float(done.measured["soft"][index]) == pytest.approx(float((slope * step).sum()), rel=5e-3, abs=1e-5)
        change = float(hard(start + LARGE_RATE * step) - hard(start)) / LARGE_RATE
        assert float(done.measured["hard"][index]) == pytest.approx(change, abs=1e-9)
    assert len({round(float(value), 6) for value in done.measured["soft"]}) == 3
    assert (done.measured["hard"] != 0).any()


def test_the_gains_predict_small_steps_from_a_head_that_neglects_the_tail():
    splits = gaussian_splits([400, 60, 20, 20], seed=1, spread=0.8)
    plan = cross_fit(splits, folds=3)
    centres = torch.stack([splits["train"].features[splits["train"].labels == label].mean(0) for label in range(4)])
    neglect = LinearHead(centres, torch.tensor([4.0, 0, 0, 0]) - centres.square().sum(1) / 2)
    done = diagnose([neglect] * 4, plan, METRICS["mean_recall"], RefineSettings(folds=3), generator=generator())
    assert len(done.predicted) == 16
    found = agreement(done.predicted, done.measured["soft"])
    assert found["pearson"] > 0.7
    assert found["sign_agreement"] > 0.7
    # a wrong prediction would be told from a right one
    assert agreement(-done.predicted, done.measured["soft"])["pearson"] < -0.7


def test_agreement_by_hand_and_by_numpy():
    rng = np.random.default_rng(0)
    predicted, measured = rng.normal(size=50), rng.normal(size=50) ** 3
    measured += predicted
    found = agreement(torch.from_numpy(predicted), torch.from_numpy(measured))
    assert found["pearson"] == pytest.approx(np.corrcoef(predicted, measured)[0, 1])
    ranks = [values.argsort().argsort() for values in (predicted, measured)]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found["sign_agreement"] == pytest.approx(np.mean(np.sign(predicted) == np.sign(measured)))
    # 1, -1 agree in sign, 2 does not; 0 has no sign
    found = agreement(torch.tensor([1.0, -1, 2, 3]), torch.tensor([5.0, -5, -1, 0]))
    assert found["sign_agreement"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("predicted", "measured"), [([1.0, 2], [0.0, 0]), ([1.0, 1], [1.0, 2]), ([1.0], [1.0])])
def test_agreement_of_what_does_not_vary_is_none(predicted, measured):
    found = agreement(torch.tensor(predicted), torch.tensor(measured))
    assert (found["pearson"], found["spearman"]) == (None, None)
    assert (found["sign_agreement"] is None) == (not any(measured))


def test_pairs_come_from_all_ranks_of_drawable_rows():
    gains = torch.randn(20, 20, generator=generator(1), dtype=torch.float64)
    drawable = torch.arange(20) != 7
    kept, partner = module._over_all_ranks(gains, drawable, 30, generator())
    assert len(kept) == 30
    assert 7 not in kept
    assert 7 not in partner
    everything = gains[drawable][:, drawable].flatten().sort().values
    ranks = torch.searchsorted(everything, gains[kept, partner])
    assert (ranks * 30 // 361 - torch.arange(30)).abs().max() <= 1
    assert (ranks.diff() > 0).all()


@pytest.fixture
def npz(tmp_path, monkeypatch):
    monkeypatch.setattr(result, "REPLICATES", 50)
    np.savez(tmp_path / "f.npz", **features({"train": (200, 60, 25), "val": (40, 40, 40)}, width=3))
    return tmp_path / "f.npz"


def diagnosed(npz, out):
    return run("finetune", "--features", npz, "--metric", "min_recall", "--out", out, "--diagnose", "steps=100")


def test_a_run_writes_pairs_predictions_measurements_and_a_figure(npz, tmp_path):
    code, stdout, _ = diagnosed(npz, tmp_path / "run")
    assert code == 0
    document = json.loads((tmp_path / "run" / "diagnose.json").read_text())
    assert set(document["heads"]) == {"start", "tuned"}
    said = json.loads((tmp_path / "run" / "result.json").read_text())["diagnosis"]
    for name, own in document["heads"].items():
        assert len(own["pairs"]) == len(own["predicted"]) == 9
        for kind in ("soft", "hard"):
            expected = agreement(torch.tensor(own["predicted"]), torch.tensor(own["measured"][kind]))
            assert own["agreement"][kind] == said[name][kind]
            assert said[name][kind]["pearson"] == pytest.approx(expected["pearson"], abs=1e-4)
            assert f"gains at the {name} head" in stdout
        assert f"correlation {said[name]['soft']['pearson']:.2f}" in stdout
    assert (tmp_path / "run" / "diagnose.svg").read_text().count("<svg") == 1


def test_nothing_is_diagnosed_unasked(npz, tmp_path):
    words = ("--metric", "min_recall", "--out", tmp_path / "run", "--json", "steps=50")
    assert json.loads(run("finetune", "--features", npz, *words)[1])["diagnosis"] is None
    assert not (tmp_path / "run" / "diagnose.json").exists()
