import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from selmix.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)


def naive_error(confidence: list[float], correct: list[bool], bins: int) -> float:
    """Loop over bins closed on the right; weight |accuracy - mean confidence| by the bin's share."""
    total = 0.0
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        members = [n for n, c in enumerate(confidence) if low < c <= high or (index == 0 and c == 0)]
        if members:
            accuracy = np.mean([correct[n] for n in members])
            total += abs(accuracy - np.mean([confidence[n] for n in members])) * len(members) / len(confidence)
    return total


def test_oracle_of_the_specification():
    # specs/stage1.md F.4; bins 1, 3, 3, 15, 15, 10: (.05 + |1 - .4| + |2 - 1.95| + .6666667) / 6 = .2277778
    confidence = torch.tensor([0.05, 0.2, 0.2, 0.95, 1, 0.6666666666666666], dtype=torch.float64)
    correct = torch.tensor([0, 1, 0, 1, 1, 0], dtype=torch.bool)
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.2277778, abs=5e-8)


def test_reliability_by_hand():
    # bins (0, 1/2] and (1/2, 1]: 0.2 and 0.5, one of two right; 0.6, 0.8 and 1, two of three right
    confidence = torch.tensor([0.2, 0.6, 0.5, 0.8, 1.0], dtype=torch.float64)
    found = reliability(confidence, torch.tensor([True, True, False, False, True]), bins=2)
    assert found.samples.tolist() == [2, 3]
    assert found.confidence.tolist() == pytest.approx([0.35, 0.8])
    assert found.accuracy.tolist() == pytest.approx([0.5, 2 / 3])
    empty = reliability(confidence[:1], torch.tensor([True]), bins=2)
    assert empty.accuracy.isnan().tolist() == [False, True]


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_error_is_the_mean_gap_of_the_bins(bins):
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(200, generator=generator, dtype=torch.float64)
    correct = torch.rand(200, generator=generator) < confidence
    found = reliability(confidence, correct, bins=bins)
    gaps = (found.accuracy - found.confidence).abs().nan_to_num() * found.samples / 200
    assert float(gaps.sum()) == pytest.approx(expected_calibration_error(confidence, correct, bins=bins), abs=1e-12)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("confidence", [0.1, 0.55, 0.99, 1.0])
def test_all_correct_with_one_confidence_misses_by_the_doubt(confidence, bins):
    error = expected_calibration_error(
        torch.full((7,), confidence, dtype=torch.float64), torch.ones(7, dtype=torch.bool), bins=bins
    )
    assert error == pytest.approx(1 - confidence, abs=1e-12)


def test_confidence_that_tells_the_accuracy_has_no_error():
    # three of four right at .75, one of five right at .2
    confidence = torch.tensor([0.75] * 4 + [0.2] * 5, dtype=torch.float64)
    correct = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0, 0], dtype=torch.bool)
    assert expected_calibration_error(confidence, correct) == pytest.approx(0, abs=1e-12)


def test_opposite_errors_cancel_within_a_bin_only():
    # right at .6 and wrong at .4: one bin sees accuracy .5 at confidence .5, two bins see two errors of .4
    confidence, correct = torch.tensor([0.6, 0.4], dtype=torch.float64), torch.tensor([True, False])
    assert expected_calibration_error(confidence, correct, bins=1) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.4, abs=1e-12)


def test_confidence_of_zero_falls_in_the_first_bin():
    confidence, correct = torch.tensor([0.0, 0.05], dtype=torch.float64), torch.tensor([False, True])
    # one bin: |1 - .05| / 2; a bin of its own for the zero would give the same, so the last bin must not get it:
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.475, abs=1e-12)
    both_ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    # apart: |1 - 0| / 2 + |0 - 1| / 2; together they would cancel to 0
    assert expected_calibration_error(both_ends, torch.tensor([True, False]), bins=2) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("bins", [2, 3, 5, 10, 15, 20])
def test_bin_edges_belong_to_the_bin_below(bins):
    # an edge and a point just above it, in different bins, with opposite errors that a shared bin would cancel
    for index in range(1, bins):
        confidence = [index / bins, index / bins + 0.01]
        for correct in ([True, False], [False, True]):
            actual = expected_calibration_error(
                torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct), bins=bins
            )
            assert actual == pytest.approx(naive_error(confidence, correct, bins), abs=1e-12)


@pytest.mark.parametrize("bins", [1, 4, 15, 50])
def test_error_agrees_with_the_loop_over_bins(bins):
    generator = torch.Generator().manual_seed(bins)
    confidence = torch.rand(300, generator=generator, dtype=torch.float64)
    correct = torch.rand(300, generator=generator) < confidence**2
    expected = naive_error(confidence.tolist(), correct.tolist(), bins)
    assert expected_calibration_error(confidence, correct, bins=bins) == pytest.approx(expected, abs=1e-12)
    assert expected > 0.05


def test_there_are_fifteen_bins_unless_somebody_wants_others():
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(100, generator=generator, dtype=torch.float64)
    correct = torch.rand(100, generator=generator) < confidence
    expected = naive_error(confidence.tolist(), correct.tolist(), 15)
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)
    assert len(reliability(confidence, correct).samples) == 15


def drawn_logits(seed: int, *, count: int = 400, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits whose labels are drawn from softmax(logits / 2)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(count, classes, generator=generator)
    return logits, (logits / 2).softmax(1).multinomial(1, generator=generator)[:, 0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stretch", [0.25, 1.0, 5.0])
def test_the_temperature_is_what_another_optimiser_finds(seed, stretch):
    logits, labels = drawn_logits(seed)
    logits = stretch * logits

    def mean_loss(log_temperature: float) -> float:
        return log_loss(labels, softmax(logits.double().numpy() / np.exp(log_temperature), axis=1))

    found = minimize_scalar(mean_loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(np.exp(found.x), rel=1e-5)
    assert mean_loss(np.log(temperature)) <= found.fun + 1e-12
    assert temperature == pytest.approx(2 * stretch, rel=0.25)  # what they were drawn with


def test_the_loss_is_that_of_scikit_learn():
    logits, labels = drawn_logits(7)
    expected = log_loss(labels, softmax(logits.double().numpy(), axis=1))
    assert float(negative_log_likelihood(logits, labels).mean()) == pytest.approx(expected, rel=1e-12)
    far = torch.tensor([[0.0, 1e4]])
    assert negative_log_likelihood(far, torch.tensor([0])).tolist() == [1e4]


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([[3.0, 0.0], [0.0, 2.0]], [0, 1], 1.0),  # all right: the sharper the better, without end
        ([[3.0, 0.0], [0.0, 2.0]], [1, 0], 20.0),  # all wrong: the flatter the better
        ([[1.0, 1.0], [2.0, 2.0]], [0, 1], 1.0),  # no temperature changes anything
        ([[1.0, 0.0]] * 4, [0, 0, 0, 1], 1 / np.log(3)),  # sigmoid(u) = 3 / 4
    ],
)
def test_temperatures_at_the_ends_and_by_hand(logits, labels, expected):
    assert fit_temperature(torch.tensor(logits), torch.tensor(labels)) == pytest.approx(expected, rel=1e-9)


def test_logits_far_apart_do_no_harm():
    logits = torch.tensor([[1e6, 0.0], [0.0, 1e6], [1e6, 0.0]])
    assert fit_temperature(logits, torch.tensor([0, 1, 1])) == pytest.approx(20)


def test_a_start_changes_the_steps_and_not_the_answer(monkeypatch):
    logits, labels = drawn_logits(3, count=20_000, classes=10)
    expected, steps, softmax_of = fit_temperature(logits, labels), [], torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda own, axis: steps.append(axis) or softmax_of(own, axis))
    for start in (1.01 * expected, 0.1, 10.0):
        steps.clear()
        assert fit_temperature(logits, labels, start=start) == pytest.approx(expected, rel=1e-8)
        assert len(steps) <= (5 if start == 1.01 * expected else 20)
