import math

import pytest
import torch
from imblearn.metrics import geometric_mean_score
from oracles import numeric_gradient, random_confusion, random_labels, soft_objective
from scipy import stats
from sklearn import metrics as sk

from selmix.confusion import confusion_counts, coverage, joint_confusion
from selmix.errors import UsageError
from selmix.metrics import ALIASES, DEFINITIONS, METRICS, get_metric, logit_gradient, metric_gradient

# priors (.5, .5), recalls (.8, .4), coverages (.7, .3)
HAND = torch.tensor([[0.4, 0.1], [0.3, 0.2]], dtype=torch.float64)
HAND_VALUES = {
    "accuracy": 0.4 + 0.2,
    "mean_recall": (0.8 + 0.4) / 2,
    "min_recall": 0.4,
    "geometric_mean": math.sqrt(0.8 * 0.4),
    "harmonic_mean": 2 * 0.8 * 0.4 / (0.8 + 0.4),
    "q_mean": 1 - math.sqrt((0.2**2 + 0.6**2) / 2),
    "macro_f1": (2 * 0.4 / (0.5 + 0.7) + 2 * 0.2 / (0.5 + 0.3)) / 2,
    "micro_f1": 0.6,
    # two classes: (TP TN - FP FN) / sqrt of the product of the margins
    "mcc": (0.4 * 0.2 - 0.1 * 0.3) / math.sqrt(0.5 * 0.5 * 0.7 * 0.3),
    # chance is right at .5 x .7 + .5 x .3
    "kappa": (0.6 - 0.5) / (1 - 0.5),
}
REFERENCES = {
    "accuracy": sk.accuracy_score,
    "mean_recall": sk.balanced_accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "recall_macro": lambda y, p: sk.recall_score(y, p, average="macro"),
    "min_recall": lambda y, p: sk.recall_score(y, p, average=None).min(),
    "geometric_mean": geometric_mean_score,
    "harmonic_mean": lambda y, p: stats.hmean(sk.recall_score(y, p, average=None)),
    "q_mean": lambda y, p: 1 - math.sqrt(((1 - sk.recall_score(y, p, average=None)) ** 2).mean()),
    "macro_f1": lambda y, p: sk.f1_score(y, p, average="macro"),
    "f1_macro": lambda y, p: sk.f1_score(y, p, average="macro"),
    "micro_f1": lambda y, p: sk.f1_score(y, p, average="micro"),
    "f1_micro": lambda y, p: sk.f1_score(y, p, average="micro"),
    "mcc": sk.matthews_corrcoef,
    "matthews_corrcoef": sk.matthews_corrcoef,
    "kappa": sk.cohen_kappa_score,
    "cohen_kappa": sk.cohen_kappa_score,
}
RECALL_METRICS = ["mean_recall", "min_recall", "geometric_mean", "harmonic_mean", "q_mean"]


def test_the_hand_case_and_the_references_name_every_metric():
    assert set(HAND_VALUES) == set(METRICS)
    assert set(REFERENCES) == set(METRICS) | set(ALIASES)


@pytest.mark.parametrize("name", METRICS)
def test_value_by_hand(name):
    value = get_metric(name)(HAND)
    assert value.shape == ()
    assert float(value) == pytest.approx(HAND_VALUES[name], rel=1e-14)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", REFERENCES)
def test_value_agrees_with_scikit_learn(name, seed):
    num_classes = (2, 7, 20)[seed]
    labels, predictions = random_labels(num_classes, seed=seed)
    confusion = joint_confusion(confusion_counts(labels, predictions, num_classes))
    expected = REFERENCES[name](labels.numpy(), predictions.numpy())
    assert float(get_metric(name)(confusion)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_value_without_samples_of_a_class_agrees_with_scikit_learn_on_the_others(name):
    # class 1 is predicted but never true
    labels, predictions = [0, 0, 0, 2, 2, 0, 2], [0, 1, 2, 2, 1, 0, 2]
    confusion = joint_confusion(confusion_counts(torch.tensor(labels), torch.tensor(predictions), 3))
    recalls = sk.recall_score(labels, predictions, labels=[0, 2], average=None)
    expected = {
        "accuracy": sk.accuracy_score(labels, predictions),
        "mean_recall": recalls.mean(),
        "min_recall": recalls.min(),
        "geometric_mean": stats.gmean(recalls),
        "harmonic_mean": stats.hmean(recalls),
        "q_mean": 1 - math.sqrt(((1 - recalls) ** 2).mean()),
        "macro_f1": sk.f1_score(labels, predictions, labels=[0, 2], average="macro"),
        "micro_f1": sk.f1_score(labels, predictions, average="micro"),
        "mcc": sk.matthews_corrcoef(labels, predictions),
        "kappa": sk.cohen_kappa_score(labels, predictions),
    }
    assert float(get_metric(name)(confusion)) == pytest.approx(expected[name], rel=1e-12)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_are_names_that_scikit_learn_knows(alias):
    assert alias in sk.get_scorer_names() or hasattr(sk, f"{alias}_score")
    assert get_metric(alias) is METRICS[ALIASES[alias]]


@pytest.mark.parametrize(
    ("typed", "near"),
    [("mean_recal", "mean_recall"), ("harmonic", "harmonic_mean"), ("balanced_acuracy", "balanced_accuracy")],
)
def test_unknown_metric_names_the_nearest(typed, near):
    with pytest.raises(UsageError, match=f"{typed}.*did you mean {near}") as caught:
        get_metric(typed)
    assert caught.value.exit_code == 2
    assert all(name in str(caught.value) for name in DEFINITIONS)


def test_unknown_metric_far_from_all_names_gets_no_guess():
    with pytest.raises(UsageError) as caught:
        get_metric("zzz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", METRICS)
def test_value_ignores_the_order_of_classes(name):
    confusion = random_confusion(3)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert float(get_metric(name)(confusion[order][:, order])) == pytest.approx(float(get_metric(name)(confusion)))


@pytest.mark.parametrize("name", RECALL_METRICS)
def test_recall_metrics_ignore_the_prior(name):
    confusion = random_confusion(4)
    other_prior = confusion * torch.tensor([[3.0], [1], [1], [9], [0.1]], dtype=torch.float64)
    other_prior /= other_prior.sum()
    assert float(get_metric(name)(other_prior)) == pytest.approx(float(get_metric(name)(confusion)))


@pytest.mark.parametrize("name", METRICS)
def test_one_class_scores_one_unless_there_is_no_better_than_chance(name):
    confusion = torch.ones(1, 1, dtype=torch.float64)
    assert float(get_metric(name)(confusion)) == (0 if name in {"mcc", "kappa"} else 1)
    assert torch.equal(logit_gradient(get_metric(name), confusion), torch.zeros(1, 1, dtype=torch.float64))


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("name", ["harmonic_mean", "geometric_mean", "min_recall"])
def test_zero_recall_gives_exactly_zero_and_a_finite_gradient(name, empty):
    confusion = torch.tensor([[0.3, 0.2, 0], [0.1, 0, 0.1], [0, 0, 0.3]], dtype=torch.float64)
    if empty:
        confusion[0] = 0
        confusion /= confusion.sum()
    assert float(get_metric(name)(confusion)) == 0
    assert torch.isfinite(metric_gradient(get_metric(name), confusion)).all()
    assert torch.isfinite(logit_gradient(get_metric(name), confusion)).all()


@pytest.mark.parametrize("name", ["geometric_mean", "harmonic_mean"])
def test_values_tend_to_zero_with_the_recall(name):
    # recalls (r, 1): sqrt(r) and 2 r / (1 + r), both continuous at 0
    for rate, value in ((1e-8, {"geometric_mean": 1e-4, "harmonic_mean": 2e-8 / (1 + 1e-8)}[name]), (0.0, 0.0)):
        confusion = torch.tensor([[rate, 1 - rate], [0, 1]], dtype=torch.float64) / 2
        assert float(get_metric(name)(confusion)) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", [name for name in METRICS if name != "min_recall"])
def test_objective_of_a_smooth_metric_is_the_metric(name):
    assert float(soft_objective(get_metric(name), 50)(HAND)) == pytest.approx(HAND_VALUES[name], rel=1e-14)


def test_metric_gradient_by_hand():
    # d/dC_ij of the sum of squares of C, in float64 also for a float32 matrix
    gradient = metric_gradient(lambda confusion: confusion.square().sum(), HAND.float())
    assert gradient.dtype == torch.float64
    torch.testing.assert_close(gradient, 2 * HAND, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", METRICS)
def test_metric_gradient_agrees_with_finite_differences(name):
    confusion = random_confusion(6)
    expected = numeric_gradient(get_metric(name), confusion, step=1e-7)
    torch.testing.assert_close(metric_gradient(get_metric(name), confusion), expected, rtol=1e-6, atol=1e-7)


def test_coverage_is_a_metric_too():
    gradient = metric_gradient(lambda confusion: coverage(confusion)[1], HAND)
    assert torch.equal(gradient, torch.tensor([[0, 1], [0, 1]], dtype=torch.float64))


def test_soft_minimum_multipliers_by_hand():
    # recalls .9 and .8 at sharpness 50: softmax(-45, -40) = (.0067, .9933); M_kk = lambda_k r_k (1 - r_k)
    confusion = torch.tensor([[0.45, 0.05], [0.1, 0.4]], dtype=torch.float64)
    multipliers = logit_gradient(soft_objective(get_metric("min_recall"), 50), confusion).diagonal() / torch.tensor(
        [0.09, 0.16]
    )
    torch.testing.assert_close(multipliers, torch.tensor([0.0067, 0.9933], dtype=torch.float64), rtol=0, atol=5e-5)


def test_soft_minimum_of_equal_recalls_has_the_gradient_of_their_mean():
    confusion = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0, 0.4, 0.6]], dtype=torch.float64)
    confusion *= torch.tensor([[0.7], [0.2], [0.1]], dtype=torch.float64)
    soft = logit_gradient(soft_objective(get_metric("min_recall"), 50), confusion)
    torch.testing.assert_close(soft, logit_gradient(get_metric("mean_recall"), confusion))
