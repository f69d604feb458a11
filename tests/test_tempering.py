"""The temperature of a tuned head: fitted out of fold, told honestly."""

import numpy as np
import pytest
import torch
from builders import cross_fit, gaussian_splits
from scipy.special import softmax
from sklearn.metrics import log_loss

from selmix.calibration import expected_calibration_error, fit_temperature
from selmix.heads import LinearHead
from selmix.stage2 import tempering
from selmix.stage2.tempering import calibrate


@pytest.fixture(scope="module")
def case():
    """Return the plan of three folds, heads that all differ and are too sure of themselves, and the splits."""
    splits = gaussian_splits([40, 20, 10], seed=0, val=30, per_class=50)
    plan = cross_fit(splits)
    generator = torch.Generator().manual_seed(1)
    means = torch.stack([splits["test"].features[splits["test"].labels == label].mean(0) for label in range(3)])
    heads = [
        LinearHead(3 * (means + 0.3 * torch.randn(means.shape, generator=generator)), -1.5 * means.square().sum(1))
        for _ in plan.members
    ]
    return plan, heads, splits


def figures(logits, labels, rel=1e-9):
    probabilities = torch.from_numpy(softmax(logits.double().numpy(), axis=1))
    confidence, predicted = probabilities.max(1)
    ece = expected_calibration_error(confidence, predicted == labels)
    return {"nll": pytest.approx(log_loss(labels, probabilities), rel=rel), "ece": pytest.approx(ece, rel=rel)}


def test_every_validation_sample_is_judged_by_the_head_that_has_not_learnt_it(case):
    plan, heads, splits = case
    val, fold = splits["val"], torch.full((90,), -1)
    logits = torch.zeros(90, 3)
    for number, positions in enumerate(plan.judged):
        for position in (positions[positions >= 70] - 70).tolist():  # 70 train samples stand before them
            fold[position] = number
            logits[position] = heads[number].weight @ val.features[position] + heads[number].bias
    calibration = calibrate(heads, plan, splits["test"])
    assert calibration.samples == 90
    assert calibration.temperature == pytest.approx(fit_temperature(logits, val.labels), rel=1e-5)
    assert calibration.temperature > 1.2
    assert calibration.figures["val"]["plain"] == figures(logits, val.labels, rel=1e-5)
    tempered = logits.double()
    for number in range(3):
        others = fold != number
        tempered[~others] /= fit_temperature(logits[others], val.labels[others])
    assert calibration.figures["val"]["calibrated"] == figures(tempered, val.labels, rel=1e-4)
    assert calibration.figures["val"]["calibrated"]["nll"] < calibration.figures["val"]["plain"]["nll"]


def test_on_test_the_last_head_is_judged_at_the_temperature(case):
    plan, heads, splits = case
    calibration, test = calibrate(heads, plan, splits["test"]), splits["test"]
    logits = heads[-1].logits(test.features)
    assert calibration.figures["test"] == {
        "plain": figures(logits, test.labels),
        "calibrated": figures(logits.double() / calibration.temperature, test.labels),
    }
    assert set(calibrate(heads, plan, None).figures) == {"val"}


def test_of_many_validation_samples_some_are_taken(case, monkeypatch):
    plan, heads, splits = case
    monkeypatch.setattr(tempering, "_CELLS", 3 * 45)
    monkeypatch.setattr(tempering, "_FEWEST", 1)
    calibration = calibrate(heads, plan, None)
    assert calibration.samples == sum(-(-int((own >= 70).sum()) // 2) for own in plan.judged)
    assert calibration.temperature == pytest.approx(calibrate_all(heads, plan), rel=0.5)


def calibrate_all(heads, plan):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempering, "_CELLS", 1 << 20)
        return calibrate(heads, plan, None).temperature


def test_a_single_validation_sample_is_no_fault():
    splits = gaussian_splits([9, 9], seed=0, val=1)
    splits["val"] = splits["val"].subset(torch.tensor([0]))
    plan = cross_fit(splits)
    calibration = calibrate([LinearHead(torch.eye(2, 8), torch.zeros(2))] * 4, plan, None)
    assert calibration.samples == 1
    assert np.isfinite([*calibration.figures["val"]["calibrated"].values(), calibration.temperature]).all()
