"""Constraints: what the words mean, what cannot be met, dual ascent to a known optimum, ranking and report."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import random_confusion, random_labels
from sklearn import metrics as sk

from selmix.bootstrap import resampled_counts
from selmix.confusion import joint_confusion
from selmix.constraints import (
    ascend_multipliers,
    bind_constraints,
    feasibility,
    joint_slack,
    joint_smooth_slack,
    lagrangian,
    parse_constraint,
    rank_key,
)
from selmix.errors import SelmixError, UsageError
from selmix.metrics import METRICS, MetricContext, get_metric, metric_gradient

NAMES = ["cat", "dog", "T-shirt/top", "owl"]
CONTEXT = MetricContext(NAMES, torch.tensor([500, 50, 30, 5]))


def bound(*texts, context=CONTEXT):
    return bind_constraints([parse_constraint(text) for text in texts], context)


@pytest.fixture(scope="module")
def sample():
    labels, predictions = random_labels(4, seed=3)
    numbers = {
        "recall": sk.recall_score(labels, predictions, average=None),
        "precision": sk.precision_score(labels, predictions, average=None),
        "coverage": np.bincount(predictions, minlength=4) / len(predictions),
    }
    return torch.tensor(sk.confusion_matrix(labels, predictions)).double(), numbers


WORDS = {
    "coverage >= 0.95/k": lambda s: s["coverage"] - 0.95 / 4,
    "coverage[cat] >= 0.05": lambda s: s["coverage"][:1] - 0.05,
    "recall['T-shirt/top'] >= 0.6": lambda s: s["recall"][2:3] - 0.6,
    "precision[3] >= 0.8": lambda s: s["precision"][3:] - 0.8,
    " recall>=0.3 ": lambda s: s["recall"] - 0.3,
    "precision >= 2*(0.3 - 0.2)": lambda s: s["precision"] - 0.2,
    "coverage <= 2/k": lambda s: 0.5 - s["coverage"],
    "balanced_accuracy >= 0.8": lambda s: [s["recall"].mean() - 0.8],
    "min_recall <= 0.3": lambda s: [0.3 - s["recall"].min()],
    "0.5*recall[cat] + 0.5*precision[cat] >= 0.4": lambda s: [(s["recall"][0] + s["precision"][0]) / 2 - 0.4],
    "recall[cat] - recall[owl] <= -(-0.1)": lambda s: [0.1 - s["recall"][0] + s["recall"][3]],
}


@pytest.mark.parametrize("text", WORDS)
def test_slack_agrees_with_scikit_learn(text, sample):
    (constraint,) = bound(text)
    counts, numbers = sample
    slack = constraint.slack(joint_confusion(counts))
    assert slack.tolist() == pytest.approx(list(WORDS[text](numbers)), abs=1e-12)
    assert len(constraint.items) == len(slack)
    values = constraint.values(joint_confusion(counts))
    assert (slack if constraint.at_least else -slack).tolist() == pytest.approx((values - constraint.bound).tolist())
    assert constraint.text == text.strip()


def test_items_have_names():
    (every, single, whole) = bound("recall >= 0.1", "precision[1] >= 0.1", "mean_recall >= 0.1")
    assert every.items == [f"recall[{name}]" for name in NAMES]
    assert single.items == ["precision[dog]"]
    assert whole.items == ["mean_recall"]


def test_a_class_never_predicted_has_precision_0_and_one_without_samples_has_no_recall():
    confusion = joint_confusion(torch.tensor([[3.0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 2], [0, 0, 0, 4]]))
    precision, recall, one = bound("precision >= 0.2", "recall >= 0.5", "recall[dog] >= 0.5")
    assert precision.values(confusion).tolist() == pytest.approx([3 / 4, 0, 0, 4 / 7])
    assert recall.slack(confusion).tolist() == pytest.approx([0.25, 0, -0.5, 0.5])
    assert recall.values(confusion).isnan().tolist() == [False, True, False, False]
    assert one.slack(confusion).tolist() == [0]
    for constraint in (precision, recall, one):
        gradient = metric_gradient(lambda c, constraint=constraint: constraint.slack(c).sum(), confusion)
        assert torch.isfinite(gradient).all()


AT_ONCE = {
    "recall[cat]": "no >= or <=",
    "": "no expression",
    "recall => 0.3": "no expression",
    "recall = 0.3": "no expression",
    "recall == 0.3": "has >= or <=",
    "recall > 0.3": "has >= or <=",
    "recall in k": "has >= or <=",
    "0.1 <= coverage <= 0.3": "compares more than once",
    "recall >= mean_recall": "must be numbers and k",
    "0.3 <= recall": "must be numbers and k; write recall >= 0.3",
    "recall >= cat": "must be numbers and k",
    "recall >= f(2)": "must be numbers and k",
    "recall >= 'high'": "plain number",
    "k >= 3": "names no metric",
    "recal >= 0.3": "did you mean recall",
    "recal[cat] >= 0.3": "did you mean recall",
    "mean_recal >= 0.3": "did you mean mean_recall",
    "recall + precision >= 0.3": "one number for each class",
    "recall[T-shirt] >= 0.3": "needs quotes",
    "recall.real >= 0.3": "not understood",
    "recall >= 0.3 and precision >= 0.2": "no >= or <=",
    "recall >= (1).real": "not understood",
}


@pytest.mark.parametrize("text", AT_ONCE)
def test_what_is_wrong_without_data_is_refused_at_once(text):
    with pytest.raises(UsageError, match=AT_ONCE[text]):
        parse_constraint(text)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["recall[ct] >= 0.3"], "unknown class ct: did you mean cat"),
        (["recall[4] >= 0.3"], "no class number 4: they go from 0 to 3"),
        (["recall >= 1.2"], "cannot be met: recall is at most 1, the bound is 1.2"),
        (["recall >= 95"], "is at most 1, the bound is 95; it is a share, did you mean 0.95"),
        (["recall[cat] >= 60"], "at most 1"),
        (["balanced_accuracy >= 80"], "at most 1"),
        (["precision <= -0.1"], "at least 0"),
        (["kappa <= -1.5"], "at least -1"),
        (["coverage >= 1.1/k"], "floors sum to 1.1"),
        (["coverage <= 0.9/k"], "ceilings sum to 0.9"),
        (["coverage[cat] >= 0.6", "coverage['dog'] >= 0.6"], "floors sum to 1.2"),
        (["coverage >= 0.8/k", "coverage[0] >= 0.5"], "floors sum to 1.1"),
        (["coverage[0] >= 0.5", "coverage >= 0.8/k"], "floors sum to 1.1"),
        (["coverage <= 0.29", "coverage[0] <= 0.1"], "ceilings sum to 0.97"),
        (["coverage[0] <= 0.1", "coverage <= 0.29"], "ceilings sum to 0.97"),
        (["recall[cat] >= 0.6", "recall[0] <= 0.5"], r"recall\[cat\] must be at least 0.6 and at most 0.5"),
        (["mean_recall >= 0.6", "mean_recall <= 0.5"], "it cannot be both"),
        (["recall >= 1/0"], "not a finite number"),
        (["1/recall[cat] >= 0.2"], "is inf"),
        (["worst_group_recall >= 0.2"], "have none"),
    ],
)
def test_what_cannot_be_met_is_refused_when_the_classes_are_known(texts, message):
    requests = [parse_constraint(text) for text in texts]
    with pytest.raises(SelmixError, match=message):
        bind_constraints(requests, CONTEXT)


@pytest.mark.parametrize("texts", [["coverage >= 1/k", "coverage <= 1/k"], ["recall >= 1"], ["kappa <= -0.5"], []])
def test_what_can_just_be_met_is_not_refused(texts):
    assert len(bound(*texts)) == len(texts)


def test_uniform_coverage_is_met_at_one_kth_in_floating_point():
    context = MetricContext([str(index) for index in range(10)], torch.ones(10))
    (constraint, _) = bound("coverage >= 1/k", "coverage <= 1/k", context=context)
    counts = torch.ones(10, 10, dtype=torch.float64)  # shares of 0.01 ten times fall short of 0.1
    assert feasibility([constraint], counts, [counts])[0].met
    assert rank_key(0.5, constraint.slack(joint_confusion(counts)))[0]


def curve(a):
    """Return the confusion of recalls (a, 1 - a^2) at the prior (.9, .1): a concave trade between two classes."""
    return torch.stack([torch.stack([0.9 * a, 0.9 * (1 - a)]), torch.stack([0.1 * a**2, 0.1 * (1 - a**2)])])


def test_dual_ascent_converges_to_the_constrained_optimum():
    # maximise .9 a + .1 (1 - a^2) subject to 1 - a^2 >= .6: a = sqrt(.4), and .9 - .2 a = 2 a lambda
    context = MetricContext(["many", "few"], torch.tensor([90, 10]))
    constraints = bound("recall[few] >= 0.6", "recall[many] >= 0.2", context=context)
    point, multipliers = torch.tensor(0.99, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    points, history = [], []
    for _ in range(3000):
        tuned = lagrangian(METRICS["accuracy"], lambda confusion: joint_slack(constraints, confusion), multipliers)
        a = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(tuned(curve(a)), a)
        point = (point + 0.02 * slope).clamp(0.01, 1)
        multipliers = ascend_multipliers(multipliers, joint_slack(constraints, curve(point)), rate=0.05)
        points.append(float(point))
        history.append(multipliers.tolist())
    assert points[-1] == pytest.approx(math.sqrt(0.4), abs=1e-3)
    assert history[-1][0] == pytest.approx((0.9 - 0.2 * math.sqrt(0.4)) / (2 * math.sqrt(0.4)), abs=1e-2)
    # unconstrained the optimum is the end of the curve; at first the violation persists and the multiplier grows
    assert all(later[0] > earlier[0] for earlier, later in zip(history[:10], history[1:11], strict=True))
    # the other constraint has room throughout
    assert all(row[1] == 0 for row in history)


def test_multipliers_remember_grow_with_violation_and_fall_to_zero_with_room():
    # -.2, -.2, +.1, +.5 at rate 10: 2, 4, 3, 0
    multipliers, seen = torch.zeros(1), []
    for slack in (-0.2, -0.2, 0.1, 0.5):
        multipliers = ascend_multipliers(multipliers, torch.tensor([slack], requires_grad=True), rate=10)
        assert not multipliers.requires_grad
        seen.append(float(multipliers))
    assert seen == pytest.approx([2, 4, 3, 0], abs=1e-6)
    capped = ascend_multipliers(torch.tensor([4.0]), torch.tensor([-0.9]), rate=10, largest=5)
    assert float(capped) == 5


def test_the_lagrangian_by_hand():
    confusion = torch.tensor([[0.4, 0.1], [0.3, 0.2]], dtype=torch.float64)
    constraints = bound("coverage >= 0.8/k", "recall[1] <= 0.5", context=MetricContext("ab", torch.ones(2)))
    # slacks .7 - .4, .3 - .4, .5 - .4
    assert joint_slack(constraints, confusion).tolist() == pytest.approx([0.3, -0.1, 0.1])
    tuned = lagrangian(METRICS["accuracy"], lambda c: joint_slack(constraints, c), torch.tensor([1.0, 5, 4]))
    assert float(tuned(confusion)) == pytest.approx(0.6 + 0.3 - 0.5 + 0.4)


def test_minima_in_constraints_are_rounded_for_tuning():
    constraints = bound("min_recall >= 0.3", "coverage >= 0.5/k", "min(recall[0], recall[1]) <= 0.9")
    confusion, support = random_confusion(2, 4), torch.tensor([20.0, 20, 10, 10])
    seen = []

    def midpoint(values, errors):
        seen.append((len(values), errors.requires_grad))
        return values.mean()

    recalls = confusion.diagonal() / confusion.sum(1)
    expected = [recalls.mean() - 0.3, *(confusion.sum(0) - 0.125), 0.9 - recalls[:2].mean()]
    slack = joint_smooth_slack(constraints, support, midpoint)(confusion)
    assert slack.tolist() == pytest.approx([float(value) for value in expected])
    assert seen == [(4, False), (2, False)]
    hard = joint_slack(constraints, confusion)
    assert hard.tolist() == pytest.approx(
        [float(recalls.amin() - 0.3), *(confusion.sum(0) - 0.125).tolist(), float(0.9 - recalls[:2].amin())]
    )


candidates = st.lists(
    st.tuples(st.floats(0, 1), st.lists(st.floats(-1, 1), min_size=2, max_size=2)), min_size=1, max_size=6
)


@given(candidates)
def test_the_best_candidate_is_feasible_if_any_is(rows):
    ranked = sorted(rows, key=lambda row: rank_key(row[0], torch.tensor(row[1], dtype=torch.float64)))
    metric, slack = ranked[-1]
    feasible = [own for own, slacks in rows if min(slacks) >= -1e-9]
    if feasible:
        assert min(slack) >= -1e-9
        assert metric == max(feasible)
    else:
        violation = sum(max(0, -value) for value in slack)
        assert violation == pytest.approx(min(sum(max(0, -value) for value in own) for _, own in rows), abs=1e-12)


def test_without_constraints_candidates_are_ranked_by_the_metric():
    assert rank_key(0.6, torch.zeros(0)) > rank_key(0.5, torch.zeros(0))


def test_the_report_has_the_worst_item_and_its_bootstrap_interval(sample):
    labels, predictions = random_labels(4, seed=3)
    counts, numbers = sample
    constraints = bound("recall >= 0.6", "coverage <= 2/k", "mean_recall >= 0.1")
    generator = torch.Generator().manual_seed(0)
    resampled = [own for (own,) in resampled_counts(labels, [predictions], 4, replicates=400, generator=generator)]
    recall, coverage, mean = feasibility(constraints, counts, iter(resampled))
    worst = int(numbers["recall"].argmin())
    assert (recall.worst_item, recall.bound) == (f"recall[{NAMES[worst]}]", 0.6)
    assert recall.value == pytest.approx(numbers["recall"][worst])
    assert recall.met == bool(numbers["recall"].min() >= 0.6)
    values = [float(own[worst, worst] / own[worst].sum()) for own in resampled]
    assert recall.interval == pytest.approx(np.quantile(values, [0.025, 0.975]))
    most = int(numbers["coverage"].argmax())
    assert (coverage.worst_item, coverage.value) == (
        f"coverage[{NAMES[most]}]",
        pytest.approx(numbers["coverage"][most]),
    )
    assert coverage.interval[0] < coverage.value < coverage.interval[1]
    assert (mean.worst_item, mean.met) == ("mean_recall", True)


def test_the_worst_item_is_one_with_samples():
    counts = torch.tensor([[3.0, 0, 1], [0, 0, 0], [0, 0, 4]], dtype=torch.float64)
    constraints = bound("recall >= 0.5", context=MetricContext("abc", torch.ones(3)))
    (report,) = feasibility(constraints, counts, [counts])
    assert (report.worst_item, report.value, report.interval, report.met) == ("recall[a]", 0.75, [0.75, 0.75], True)


def test_a_constraint_on_a_users_own_expression_follows_the_metric(sample):
    counts, _ = sample
    confusion = joint_confusion(counts)
    (constraint,) = bound("q_mean - kappa/2 >= 0.1")
    assert float(constraint.values(confusion)) == pytest.approx(float(get_metric("q_mean - kappa/2")(confusion)))
