"""The rungs of the ladder, each against an oracle of its own."""

import math
import sys

import numpy as np
import pytest
import torch
from builders import gaussian_splits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from selmix.baselines.logistic import (
    STRENGTHS,
    balanced_log_loss,
    cross_fitted_logistic,
    logistic_head,
    train_logistic,
)
from selmix.baselines.logit_adjustment import logit_adjusted, tuned_logit_adjustment
from selmix.baselines.methods import METHODS, Method, out_of_fold
from selmix.baselines.mislas import MislasSettings, mislas_head
from selmix.baselines.nearest_mean import nearest_mean_head
from selmix.baselines.neighbours import NeighbourVote
from selmix.baselines.problem import FOLDS, Problem, deal
from selmix.baselines.tau_norm import EXPONENTS, tau_normalised, tuned_tau_norm
from selmix.baselines.weight_scaling import scaled_head
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.losses.smoothing import label_aware_smoothing, smoothed_targets
from selmix.metrics import METRICS

pytestmark = pytest.mark.usefixtures("_quick_retraining")

IMBALANCED = [200, 60, 20, 10]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def splits():
    return gaussian_splits(IMBALANCED, seed=0, spread=0.8, per_class=50, val=13)


@pytest.fixture(scope="module")
def problem(splits):
    return Problem.pose(splits["train"], splits["val"], None, 4, generator=generator())


def recalls(predictions, labels):
    return [float((predictions[labels == label] == label).float().mean()) for label in labels.unique()]


# --- logistic regression ---


@pytest.mark.parametrize("counts", [[100, 30], [100, 40, 15]])
@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_logistic_probabilities_are_scikit_learns(counts, strength):
    train, test = (gaussian_splits(counts, seed=1)[name] for name in ("train", "test"))
    centred = train.features.double().numpy()
    centre = centred.mean(0)
    scale = np.sqrt(((centred - centre) ** 2).sum(1).mean())
    theirs = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, tol=1e-8)
    theirs.fit((centred - centre) / scale, train.labels.numpy())
    expected = theirs.predict_proba((test.features.numpy() - centre) / scale)
    actual = logistic_head(train, len(counts), strength=strength).logits(test.features).softmax(1)
    np.testing.assert_allclose(actual, expected, atol=0.03)


def test_balanced_log_loss_is_the_weighted_log_loss():
    logits = torch.randn(30, 4, generator=generator())
    labels = torch.tensor([0] * 20 + [1] * 7 + [3] * 3)
    weights = 1 / torch.bincount(labels)[labels]
    expected = log_loss(labels, logits.double().softmax(1), sample_weight=weights, labels=range(4))
    assert balanced_log_loss(logits, labels) == pytest.approx(expected)


def test_the_strength_is_the_one_that_validation_likes_best(splits):
    train, val = splits["train"], splits["val"]
    losses = {}
    for strength in STRENGTHS:
        head = logistic_head(train, 4, strength=strength)
        losses[balanced_log_loss(head.logits(val.features), val.labels)] = head
    chosen = train_logistic(train, val, 4)
    assert torch.equal(chosen.weight, losses[min(losses)].weight)
    assert len({tuple(head.bias.tolist()) for head in losses.values()}) == len(STRENGTHS)


def test_out_of_fold_logits_come_from_heads_without_the_fold(splits, monkeypatch):
    monkeypatch.setattr("selmix.baselines.logistic.STRENGTHS", (1.0,))
    train, val = splits["train"], splits["val"]
    fold = torch.arange(len(val.labels)) % 3
    fitted = cross_fitted_logistic(train, val, fold, 4)
    for part in range(3):
        known = val.subset((fold != part).nonzero()[:, 0])
        pool = LabeledFeatures(torch.cat([train.features, known.features]), torch.cat([train.labels, known.labels]))
        expected = logistic_head(pool, 4, strength=1.0).logits(val.features[fold == part])
        torch.testing.assert_close(fitted.val_logits[fold == part], expected)
    assert not torch.allclose(fitted.head.logits(val.features), fitted.val_logits, atol=1e-3)


# --- post-hoc changes of a head ---


def test_tau_norm_by_hand():
    head = LinearHead(torch.tensor([[3.0, 4], [0, 1], [0.6, 0.8]]), torch.tensor([5.0, 6, 7]))
    ones = torch.ones(1, 2)
    # norms 5, 1, 1
    for exponent, expected in {
        0: [7, 1, 1.4],
        0.5: [7 / math.sqrt(5), 1, 1.4],
        1: [1.4, 1, 1.4],
        2: [0.28, 1, 1.4],
    }.items():
        torch.testing.assert_close(
            tau_normalised(head, exponent=exponent).logits(ones), torch.tensor([expected]).float()
        )
    kept = tau_normalised(head, exponent=1, keep_bias=True).logits(ones)
    torch.testing.assert_close(kept, torch.tensor([[2.4, 7, 8.4]]))
    assert tau_normalised(LinearHead(torch.zeros(2, 2), torch.zeros(2)), exponent=2).weight.isfinite().all()


@pytest.mark.parametrize("name", ["min_recall", "accuracy"])
def test_no_other_exponent_or_strength_is_better_on_validation(splits, problem, name):
    val, head = splits["val"], problem.source
    counts = torch.tensor(IMBALANCED)

    def value(candidate):
        hits = recalls(candidate.predict(val.features), val.labels)
        return (
            min(hits) if name == "min_recall" else float((candidate.predict(val.features) == val.labels).float().mean())
        )

    best_tau = value(tuned_tau_norm(head, val, METRICS[name]))
    assert best_tau == pytest.approx(
        max(value(tau_normalised(head, exponent=tau, keep_bias=keep)) for tau in EXPONENTS for keep in (False, True))
    )
    adjusted = value(tuned_logit_adjustment(head, counts, val, METRICS[name]))
    tried = [value(logit_adjusted(head, counts, strength=strength)) for strength in np.arange(0, 3.01, 0.05)]
    assert adjusted == pytest.approx(max(tried))
    assert adjusted > value(head)


def test_scales_are_where_the_gradient_vanishes(splits, problem):
    data, head, decay = splits["train"], problem.source, 5e-4
    scaled = scaled_head(head, data, decay=decay)
    factors = (scaled.weight / head.weight).double().mean(1)
    torch.testing.assert_close(scaled.weight, head.weight * factors.float().unsqueeze(1))
    torch.testing.assert_close(scaled.bias, head.bias * factors.float())
    # d/ds_k of the mean over classes of the mean loss in the class: sum_i w_i (p_ik - y_ik) f_ik
    logits = head.logits(data.features).double().numpy()
    exponentials = np.exp(logits * factors.numpy())
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    labels = data.labels.numpy()
    weights = 1 / (4 * np.bincount(labels)[labels])
    gradient = (weights[:, None] * (probabilities - np.eye(4)[labels]) * logits).sum(0) + decay * factors.numpy()
    assert np.abs(gradient).max() < 1e-4
    assert factors.std() > 0.01


# --- nearest ---


def test_the_nearest_mean_is_scikit_learns(splits):
    train, test = splits["train"], splits["test"]
    far = LabeledFeatures(train.features + 100, train.labels)
    theirs = NearestCentroid().fit(far.features.double().numpy(), far.labels.numpy())
    ours = nearest_mean_head(far, 4).predict(test.features + 100)
    assert (ours.numpy() == theirs.predict(test.features.double().numpy() + 100)).all()


@pytest.mark.parametrize("with_faiss", [True, False])
def test_neighbours_are_scikit_learns_with_votes_by_class(splits, monkeypatch, with_faiss):
    if not with_faiss:
        monkeypatch.setitem(sys.modules, "faiss", None)
    train, test = splits["train"], splits["test"]
    theirs = KNeighborsClassifier(20).fit(train.features.numpy(), train.labels.numpy())
    votes = theirs.predict_proba(test.features.numpy()) / np.array(IMBALANCED)
    ours = NeighbourVote.fit(train, 4).logits(test.features).exp()
    np.testing.assert_allclose(ours, votes / votes.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("with_faiss", [True, False])
def test_missing_neighbours_do_not_vote(monkeypatch, with_faiss):
    if not with_faiss:
        monkeypatch.setitem(sys.modules, "faiss", None)
    data = LabeledFeatures(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0, 1, 1]))
    # votes 1 and 2 * 1/2
    torch.testing.assert_close(NeighbourVote.fit(data, 2).logits(data.features).exp(), torch.full((3, 2), 0.5).double())


# --- MiSLAS ---


def test_smoothed_targets_by_hand():
    # eps of the middle class: 0.1 + 0.3 sin(pi/2 * 9/99) = 0.142694; rows are (1 - eps) one_hot + eps / 3
    eps = label_aware_smoothing(torch.tensor([100, 10, 1]), head=0.4, tail=0.1)
    targets = smoothed_targets(torch.arange(3), eps)
    torch.testing.assert_close(targets.sum(1), torch.ones(3).double())
    for label, smoothing in enumerate([0.4, 0.142694, 0.1]):
        assert float(targets[label, label]) == pytest.approx(1 - smoothing * 2 / 3, abs=1e-6)
        assert float(targets[label, label - 1]) == pytest.approx(smoothing / 3, abs=1e-6)
    equal = smoothed_targets(torch.arange(2), label_aware_smoothing(torch.tensor([7, 7]), head=0.4, tail=0.1))
    torch.testing.assert_close(equal, torch.tensor([[0.8, 0.2], [0.2, 0.8]]).double())


def test_one_step_of_mislas_is_a_gradient_step_on_head_and_scale():
    # one sample a class, so the classes drawn are the batch; centred and of unit mean square already
    data = LabeledFeatures(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
    head = LinearHead(torch.tensor([[0.5], [-0.25]]), torch.tensor([0.1, 0.3]))
    settings = MislasSettings(steps=1, batch_size=8, head_smoothing=0.2, weight_decay=0.01)
    drawn = torch.randint(2, (1, 8), generator=generator(3))[0].numpy()
    z = np.array([[1.0, 1], [-1, 1]])[drawn]
    weight = np.array([[0.5, 0.1], [-0.25, 0.3]])
    targets = np.array([[0.9, 0.1], [0.1, 0.9]])[drawn]  # equal counts: both smoothed by 0.2
    logits = z @ weight.T
    residual = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - targets
    new_weight = weight - 0.05 * (residual.T @ z / 8 + 0.01 * weight)
    new_scale = 1 - 0.1 * ((residual * logits).mean(0) + 0.01)
    tuned = mislas_head(head, data, settings, generator=generator(3))
    np.testing.assert_allclose(
        torch.cat([tuned.weight, tuned.bias.unsqueeze(1)], 1), new_scale[:, None] * new_weight, rtol=1e-5
    )


# --- the common interface ---


def test_folds_are_dealt_evenly_overall_and_within_classes():
    labels = torch.tensor([0] * 11 + [1] * 3 + [2] * 8)
    fold = deal(labels, generator=generator())
    assert {int(count) for count in torch.bincount(fold, minlength=FOLDS)} == {4, 5}
    for label in range(3):
        counts = torch.bincount(fold[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert not torch.equal(fold, deal(labels, generator=generator(1)))
    assert deal(torch.tensor([0, 1]), generator=generator()).unique().numel() == 2


@pytest.mark.parametrize("name", METHODS)
def test_every_method_solves_an_easy_problem_and_repeats_itself(name):
    splits = gaussian_splits([60, 20, 10], seed=2, spread=3.0, per_class=30, val=10)
    posed = Problem.pose(splits["train"], splits["val"], None, 3, generator=generator())
    first, again = (METHODS[name].fit(posed, METRICS["min_recall"], generator=generator(5)) for _ in range(2))
    logits = first.logits(splits["test"].features)
    assert logits.shape == (90, 3)
    assert torch.equal(logits, again.logits(splits["test"].features))
    assert min(recalls(logits.argmax(1), splits["test"].labels)) > 0.8


@pytest.mark.parametrize("name", METHODS)
def test_validation_labels_reach_the_classifier_only_where_the_table_says_so(name):
    splits = gaussian_splits([60, 20, 10], seed=3, spread=0.5, per_class=30, val=10)
    val = splits["val"]
    posed = Problem.pose(splits["train"], val, None, 3, generator=generator())
    other = Problem(posed.train, LabeledFeatures(val.features, (val.labels + 1) % 3), 3, posed.source, posed.fold)
    method = METHODS[name]
    one, two = (
        method.fit(problem, METRICS["mean_recall"], generator=generator(5)).logits(splits["test"].features)
        for problem in (posed, other)
    )
    assert torch.equal(one, two) != method.learns_val


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.tuned])
def test_methods_that_ignore_the_metric_say_so(problem, splits, name):
    one, two = (
        METHODS[name].fit(problem, METRICS[metric], generator=generator(5)).logits(splits["test"].features)
        for metric in ("min_recall", "accuracy")
    )
    assert torch.equal(one, two)


def test_out_of_fold_predictions_do_not_know_their_own_labels(problem):
    seen = []

    def memorise(known, metric, *, generator):
        seen.append(known)
        return NeighbourVote(*_bank(known))

    predictions = out_of_fold(problem, Method(memorise, "", ""), METRICS["accuracy"], generator=generator())
    assert len(seen) == FOLDS
    rows = {tuple(row.tolist()): index for index, row in enumerate(problem.val.features)}
    judged = [set(rows.values()) - {rows[tuple(row.tolist())] for row in known.val.features} for known in seen]
    assert sorted(index for part in judged for index in part) == list(range(len(rows)))
    # a single neighbour: were its own label known, every prediction would be right
    assert (predictions != problem.val.labels).any()


def _bank(known):
    vote = NeighbourVote.fit(known.val, 4)
    return vote.space, vote.bank, vote.labels, 4, 1
