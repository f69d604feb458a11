"""Extremes through the public ways: what comes out is finite and ordered, or is refused or warned of in one line."""

import logging

import numpy as np
import pytest
import torch
from builders import write_npz
from sklearn.metrics import precision_recall_fscore_support, recall_score
from typer.testing import CliRunner

from selmix import SelMixClassifier
from selmix.commands import app
from selmix.confusion import confusion_counts, joint_confusion
from selmix.errors import DataError
from selmix.gains import gain_matrix
from selmix.metrics import METRICS
from selmix.pairs import pair_distribution

STEPS = 20


def blobs(counts, width, *, seed=0, spread=3.0):
    """Return unit-variance Gaussian classes around the same centres for every seed: float32 [n, d], and labels."""
    rng = np.random.default_rng(seed)
    centres = spread * np.random.default_rng(99).normal(size=(len(counts), width))
    labels = np.repeat(np.arange(len(counts)), counts)
    return (centres[labels] + rng.normal(size=(len(labels), width))).astype(np.float32), labels


def fitted(X, y, X_val=None, y_val=None, *, metric="min_recall", steps=STEPS, head=None, **settings):
    """Fit, and check what holds of every classifier."""
    model = SelMixClassifier(metric, steps=steps, random_state=0, settings=settings)
    model.fit(X, y, X_val, y_val, head=head)
    probabilities = model.predict_proba(X)
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.intercept_).all()
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert probabilities.min() >= 0
    assert set(model.predict(X)) <= set(model.classes_)
    for figures in model.val_metrics_.values():
        assert all(-1 <= value <= 1 for value in figures.values() if value is not None)
        assert figures["min_recall"] <= figures["harmonic_mean"] + 1e-12
        # minimum, harmonic, geometric and arithmetic mean of the same recalls
        assert figures["harmonic_mean"] <= figures["geometric_mean"] + 1e-12
        assert figures["geometric_mean"] <= figures["mean_recall"] + 1e-12
    assert all(np.isfinite(value) for record in model.history_ for value in record.values())
    return model


@pytest.mark.parametrize("num_classes", [2, 3, 300])
def test_few_and_many_classes(num_classes):
    X, y = blobs([4] * num_classes, 8, spread=20)
    model = fitted(X, y, metric="mean_recall", steps=STEPS if num_classes < 100 else 4, pseudo_count=1e-9)
    assert model.coef_.shape == (1 if num_classes == 2 else num_classes, 8)
    start, best = (next(own for own in model.history_ if own["step"] == step) for step in (0, model.best_step_))
    assert best["metric"] >= start["metric"]  # no head is elected that is worse out of fold than the start


def test_five_thousand_classes_give_what_scikit_learn_gives():
    rng = np.random.default_rng(0)
    num_classes = 5000
    labels = rng.permutation(np.repeat(np.arange(num_classes), 4))
    predictions = np.where(rng.random(len(labels)) < 0.7, labels, rng.integers(num_classes, size=len(labels)))
    counts = confusion_counts(torch.from_numpy(labels), torch.from_numpy(predictions), num_classes)
    confusion = joint_confusion(counts)
    _, recalls, f1, _ = precision_recall_fscore_support(labels, predictions, zero_division=0)
    for name, expected in {"mean_recall": recalls.mean(), "min_recall": recalls.min(), "macro_f1": f1.mean()}.items():
        assert float(METRICS[name](confusion)) == pytest.approx(expected, abs=1e-9), name


def test_the_law_over_the_pairs_of_five_thousand_classes_is_one():
    gains = torch.zeros(5000, 5000)
    gains[17, 4999], gains[3, 4] = 2e-30, 1e-30
    law = pair_distribution(gains, inverse_temperature=10)
    # exp(10 (1 - 1)) and exp(10 (0.5 - 1)), normalised
    assert float(law[17, 4999]) == pytest.approx(1 / (1 + np.exp(-5)))
    assert float(law[3, 4]) == pytest.approx(np.exp(-5) / (1 + np.exp(-5)))
    assert int((law > 0).sum()) == 2


def test_one_feature():
    y = np.repeat([0, 1, 2], [40, 20, 10])
    model = fitted(y[:, None] * np.float32(10) - 5, y)
    np.testing.assert_array_equal(model.predict([[-5], [5], [15]]), [0, 1, 2])


def test_four_thousand_features():
    X, y = blobs([20, 10, 5], 4096)
    model = fitted(X, y, steps=5)
    other, truth = blobs([5, 5, 5], 4096, seed=1)
    # centres are 3 sqrt(2 * 4096) = 270 standard deviations apart
    np.testing.assert_array_equal(model.predict(other), truth)


def test_half_precision_is_the_same_numbers_in_single_precision():
    X, y = blobs([40, 20, 10], 8)
    half = X.astype(np.float16)
    np.testing.assert_array_equal(fitted(half, y).coef_, fitted(half.astype(np.float32), y).coef_)


def test_features_that_are_all_the_same_are_refused():
    X, y = blobs([40, 20, 10], 3)
    with pytest.raises(DataError, match="all training features are the same"):
        fitted(np.full_like(X, 7.3), y)


@pytest.mark.parametrize("constant", [0.0, 1.0, -1e6])
def test_a_constant_feature_has_no_weight_and_changes_nothing(constant):
    X, y = blobs([40, 20, 10], 3)
    padded = np.hstack([X, np.full((len(X), 1), constant, np.float32)])
    plain, model = fitted(X, y), fitted(padded, y)
    # centred it is 0, so that no gradient ever moves its weight from 0
    assert np.abs(model.coef_[:, -1]).max() < 1e-6
    np.testing.assert_array_equal(model.predict(padded), plain.predict(X))


def test_of_two_classes_that_are_the_same_samples_one_is_right_where_the_other_is_wrong():
    X, y = blobs([50, 50, 50], 4)
    X[y == 1] = X[y == 0]
    model = fitted(X, y)
    recalls = recall_score(y, model.predict(X), average=None)
    assert recalls[0] + recalls[1] <= 1
    assert model.score(X, y) <= 0.5


def test_gains_of_duplicate_means_by_hand():
    # one mean z for both classes, a head of zeros: p = 1/2, and a step for class i moves all logits alike
    means = torch.ones(2, 3, dtype=torch.float64)
    gradient = torch.tensor([[0.3, -0.3], [-0.2, 0.2]], dtype=torch.float64)
    gains = gain_matrix(means, torch.zeros(2, 3), torch.zeros(2), gradient, mix=0.8)
    # (z . z + 1) sum_m M_m . (e_i - p), with sum_m M_m = (0.1, -0.1)
    expected = torch.tensor([[0.4, 0.4], [-0.4, -0.4]], dtype=torch.float64)
    torch.testing.assert_close(gains, expected)


def test_one_sample_a_class_is_refused_without_validation_and_learnt_with_it(caplog):
    X, y = blobs([1] * 5, 4, spread=30)
    with pytest.raises(DataError, match="no class has two samples"):
        fitted(X, y)
    X_val, y_val = blobs([1] * 5, 4, seed=1, spread=30)
    with caplog.at_level(logging.WARNING, logger="selmix"):
        model = fitted(X, y, X_val, y_val)
    np.testing.assert_array_equal(model.predict(X_val), y_val)
    assert "class 0 (like 4 more with fewer than 10) has 1 validation sample(s)" in caplog.text


def test_classes_that_nobody_judges_are_counted(caplog):
    X, y = blobs([50, 1, 1, 1], 4, spread=10)
    with caplog.at_level(logging.WARNING, logger="selmix"):
        fitted(X, y)
    assert "class 1 (like 2 more) has no validation sample" in caplog.text


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e4, 1e19, 1e25, 1e37])
def test_the_scale_of_features_changes_no_prediction(scale):
    X, y = blobs([40, 20, 10], 3, spread=1)
    own = (X.astype(np.float64) * scale).astype(np.float32)
    plain, model = fitted(X, y), fitted(own, y)
    assert model.start_ == plain.start_
    for head in ("before", "balanced", "after"):
        assert model.val_metrics_[head]["accuracy"] == pytest.approx(plain.val_metrics_[head]["accuracy"], abs=0.1)
    assert (model.predict(own) == plain.predict(X)).mean() > 0.95  # last bits differ, and SGD makes more of them


@pytest.mark.parametrize("start", ["given", "best"])
@pytest.mark.parametrize("size", [1e4, 1e20])
def test_logits_of_a_given_head_may_be_huge(size, start):
    X, y = blobs([60, 20, 10], 3, spread=1)
    plain = fitted(X, y)
    model = fitted(X, y, head=(plain.coef_ * size, plain.intercept_ * size), start=start)
    assert model.val_metrics_["after"]["min_recall"] > 0
    if start == "given" and model.best_step_ == 0:  # the given head itself: the same borders
        np.testing.assert_array_equal(model.predict(X), plain.predict(X))


def test_logits_that_no_arithmetic_holds_are_refused():
    X, y = blobs([60, 20, 10], 3)
    with pytest.raises(DataError, match="logits beyond 1e30"):
        fitted(X, y, head=(np.full((3, 3), 1e37), np.zeros(3)))


def test_gains_at_logits_of_ten_thousand():
    generator = torch.Generator().manual_seed(0)
    means, gradient = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    weight = 1e4 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
    gains = gain_matrix(means, weight, None, gradient, mix=0.7)
    assert gains.isfinite().all()
    # mixed with its own mean a class has a one-hot softmax, at its top logit: sum_m z_m . z_i M_m . (e_i - e_top)
    top = (means @ weight.T).argmax(1)
    slopes = gradient - gradient[:, top]
    torch.testing.assert_close(gains.diagonal(), ((means @ means.T) * slopes).sum(0))


def test_an_imbalance_of_one_hundred_thousand():
    X, y = blobs([100_000, 100, 2], 2, spread=1)
    X_val, y_val = blobs([50, 50, 50], 2, seed=1, spread=1)
    model = fitted(X, y, X_val, y_val, metric="mean_recall", pseudo_count=1e-9)
    assert model.class_count_.tolist() == [100_000, 100, 2]
    start, best = (next(own for own in model.history_ if own["step"] == step) for step in (0, model.best_step_))
    assert best["metric"] >= start["metric"]
    # a linear probe of such data says class 0 nearly always: recalls of 1, 0 and 0
    assert model.val_metrics_["after"]["mean_recall"] > model.val_metrics_["before"]["mean_recall"]


def test_the_command_line_takes_half_precision_one_sample_a_class_and_a_constant_feature(tmp_path):
    arrays = {}
    for seed, (split, count) in enumerate({"train": 1, "val": 3}.items()):
        X, y = blobs([count] * 4, 2, seed=seed, spread=10)
        arrays[f"{split}_features"] = np.hstack([X, np.ones((len(X), 1), np.float32)]).astype(np.float16)
        arrays[f"{split}_labels"] = y
    path = write_npz(tmp_path / "x.npz", arrays)
    words = ["finetune", "--features", path, "--metric", "min_recall", "--out", tmp_path / "run", "steps=10"]
    result = CliRunner().invoke(app, [*map(str, words), "start_steps=20"])
    assert result.exit_code == 0, result.output
    assert "class 0 (like 3 more with fewer than 10) has 3 validation sample(s)" in " ".join(result.output.split())
