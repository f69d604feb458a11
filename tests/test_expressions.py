"""Arithmetic on metrics: what it means, and that nothing but arithmetic gets through."""

import warnings

import numpy as np
import pytest
import torch
from oracles import count_confusions, numeric_gradient, random_confusion, random_labels
from sklearn import metrics as sk

from selmix.confusion import joint_confusion
from selmix.errors import DataError, SelmixError, UsageError
from selmix.metrics import ALIASES, DEFINITIONS, MetricContext, get_metric, metric_gradient, parse_metric
from selmix.metrics.names import REPORTED

NAMES = ["cat", "dog", "T-shirt/top", "owl"]
CONTEXT = MetricContext(NAMES, torch.tensor([500, 50, 30, 5]))


def bound(text, context=CONTEXT):
    return parse_metric(text).bind(context)


@pytest.fixture(scope="module")
def sample():
    labels, predictions = random_labels(4, seed=3)
    confusion = joint_confusion(count_confusions(labels, predictions, 4))
    pair = labels.numpy(), predictions.numpy()
    numbers = {
        "recall": sk.recall_score(*pair, average=None),
        "precision": sk.precision_score(*pair, average=None),
        "coverage": np.bincount(pair[1]) / len(pair[1]),
        "accuracy": sk.accuracy_score(*pair),
        "f1": sk.f1_score(*pair, average="macro"),
    }
    return confusion, numbers


EXPRESSIONS = {
    "0.5*mean_recall + 0.5*min_recall": lambda s: (s["recall"].mean() + s["recall"].min()) / 2,
    "recall[cat]": lambda s: s["recall"][0],
    "recall['T-shirt/top'] - precision[3]": lambda s: s["recall"][2] - s["precision"][3],
    "coverage[dog] * k": lambda s: s["coverage"][1] * 4,
    "min(recall[cat], recall[dog], 0.9) / 2": lambda s: min(s["recall"][0], s["recall"][1], 0.9) / 2,
    "max(precision[0], precision[1])": lambda s: max(s["precision"][:2]),
    "-(accuracy - 1) ** 2": lambda s: -((s["accuracy"] - 1) ** 2),
    "f1_macro ** 0.5 + 1e-3": lambda s: s["f1"] ** 0.5 + 1e-3,
    "balanced_accuracy ** (1/3)": lambda s: s["recall"].mean() ** (1 / 3),
    "1 / (1/(recall[0] + 0.01) + 1/(recall[1] + 0.01))": lambda s: (
        1 / (1 / (s["recall"][0] + 0.01) + 1 / (s["recall"][1] + 0.01))
    ),
    "2 + 3 * accuracy - 8 / 4 / 2": lambda s: 2 + 3 * s["accuracy"] - 1,
    "min(\n  accuracy,\n  min_recall)": lambda s: min(s["accuracy"], s["recall"].min()),
    "+accuracy": lambda s: s["accuracy"],
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_value_agrees_with_scikit_learn(text, sample):
    confusion, numbers = sample
    metric = bound(text)
    assert metric.name == text
    assert metric(confusion).shape == ()
    assert float(metric(confusion)) == pytest.approx(EXPRESSIONS[text](numbers), rel=1e-12)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_gradient_agrees_with_finite_differences(text):
    confusion = random_confusion(8, 4)
    expected = numeric_gradient(bound(text), confusion, step=1e-7)
    torch.testing.assert_close(metric_gradient(bound(text), confusion), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*DEFINITIONS, *ALIASES])
def test_a_name_or_an_alias_is_a_term_and_by_itself_the_metric(name):
    request = parse_metric(f"  {name} ")
    assert request.name == ALIASES.get(name, name)
    context = MetricContext(NAMES, CONTEXT.class_counts, num_groups=2)
    rows = random_confusion(1, 8).view(8, 4, 2).sum(2)
    twice = bound(f"2 * {name}", context)
    assert float(twice(rows)) == pytest.approx(2 * float(request.bind(context)(rows)), rel=1e-12)


def test_without_data_a_class_has_a_number_and_no_name():
    confusion = random_confusion(2, 3)
    assert float(get_metric("recall[1]")(confusion)) == pytest.approx(float(confusion[1, 1] / confusion[1].sum()))
    assert float(get_metric("k * accuracy")(confusion)) == pytest.approx(3 * float(confusion.trace()))
    with pytest.raises(UsageError, match="cat needs the class names"):
        get_metric("recall[cat]")
    with pytest.raises(UsageError, match="no class number 3: they go from 0 to 2"):
        get_metric("recall[3]")(confusion)
    for name in ("min_head_tail_recall", "worst_group_recall"):
        with pytest.raises(UsageError, match=f"{name} needs .*bind"):
            get_metric(f"1 - {name}")


def test_a_number_that_is_also_a_name_must_be_quoted():
    context = MetricContext(["10", "2", "1"], torch.tensor([5, 5, 5]))
    confusion = random_confusion(2, 3)
    recalls = confusion.diagonal() / confusion.sum(1)
    with pytest.raises(UsageError, match=r'\["2"\] or \["1"\]'):
        bound("recall[2]", context)
    assert float(bound('recall["2"]', context)(confusion)) == pytest.approx(float(recalls[1]))
    assert float(bound("recall[0]", context)(confusion)) == pytest.approx(float(recalls[0]))


def test_letters_that_a_file_system_takes_apart_are_the_same_class():
    context = MetricContext(["gro\u00dfer Ka\u0308fer", "Ka\u0308fer"], torch.tensor([5, 5]))
    confusion = random_confusion(2, 2)
    recalls = confusion.diagonal() / confusion.sum(1)
    for text, label in (("recall[K\u00e4fer]", 1), ('recall["gro\u00dfer K\u00e4fer"]', 0)):
        assert float(bound(text, context)(confusion)) == pytest.approx(float(recalls[label]))


def test_a_misspelt_metric_lists_all_that_tables_show_and_what_they_need():
    with pytest.raises(UsageError) as caught:
        parse_metric("min_recal")
    said = str(caught.value)
    assert "did you mean min_recall? there are: accuracy, " in said
    for name in (*DEFINITIONS, *REPORTED, "recall[CLASS]", "precision[CLASS]", "coverage[CLASS]"):
        assert name in said
    assert "worst_group_recall (needs groups of samples)" in said
    assert "min_head_tail_recall (needs head and tail classes)" in said


def test_precision_of_a_class_that_is_never_predicted_is_0_and_recall_without_samples_an_error():
    counts = torch.tensor([[3.0, 0, 1], [0, 0, 0], [1, 0, 2]], dtype=torch.float64)
    confusion = joint_confusion(counts)
    assert float(get_metric("precision[1]")(confusion)) == 0
    assert torch.isfinite(metric_gradient(get_metric("precision[1]"), confusion)).all()
    with pytest.raises(DataError, match="class number 1 has no samples"):
        get_metric("recall[1]")(confusion)


AT_ONCE = {
    "mean_recal": "did you mean mean_recall",
    "0.5*mean_recal": "did you mean mean_recall",
    "recal[cat]": "did you mean recall",
    "mean_recall[cat]": "unknown",
    "recall": "one number for each class",
    "0.5": "names no metric",
    "k": "names no metric",
    "min(1, k)": "names no metric",
    "": "no expression",
    "mean recall": "no expression",
    "recall[T-shirt]": "needs quotes",
    "recall[T shirt]": r'needs quotes: recall\["T shirt"\]; in a shell put single quotes around the whole',
    "0.5*accuracy + min(recall[ großer Käfer ], k)": r'needs quotes: recall\["großer Käfer"\]',
    "precision[class]": r'needs quotes: precision\["class"\]',
    "tail_recall": "it is reported, and cannot be asked for; take min_head_tail_recall",
    "recall[-1]": "number from 0",
    "recall[1.5]": "number from 0",
    "recall[True]": "number from 0",
    "recall[0:2]": "number from 0",
    "recall[cat, dog]": "number from 0",
    "recall[cat][dog]": "not understood",
    "min_recall >= 0.3": "a constraint",
    "accuracy.real": "not understood",
    "().__class__": "not understood",
    "__import__('os').system('true')": "only functions",
    "exec('1')": "only functions",
    "sum(accuracy, accuracy)": "only functions",
    "min(accuracy)": "only functions",
    "min(accuracy, accuracy, key=accuracy)": "only functions",
    "min(*accuracy, 1)": "not understood",
    "lambda: accuracy": "not understood",
    "[accuracy]": "not understood",
    "accuracy if accuracy else 1": "not understood",
    "accuracy and 1": "not understood",
    "not accuracy": "not understood",
    "~accuracy": "not understood",
    "accuracy // 2": "not understood",
    "accuracy % 2": "not understood",
    "accuracy @ accuracy": "not understood",
    "(a := accuracy)": "not understood",
    "f'{accuracy}'": "not understood",
    "'accuracy' * accuracy": "plain number",
    "True * accuracy": "plain number",
    "1j * accuracy": "plain number",
    "None * accuracy": "plain number",
    "... * accuracy": "plain number",
    "1e999 * accuracy": "too large",
    "1" + "0" * 400 + " * accuracy": "too large",
    "1" + "0" * 1999: "too large",
    "accuracy ** 17": "powers go from",
    "accuracy ** -17": "powers go from",
    "accuracy ** 10 ** 10": "plain number",
    "9 ** 9 ** 9 ** accuracy": "plain number",
    "2 ** accuracy": "plain number",
    "accuracy ** (1/0)": "plain number",
    "1if accuracy else 2": "no expression",
    "accuracy\0": "no expression",
    "accuracy; accuracy": "no expression",
    "accuracy\naccuracy": "no expression",
    "x = accuracy": "no expression",
    "#": "no expression",
    "-" * 60 + "accuracy": "nested more than",
    "-" * 1900 + "accuracy": "nested",
    "(" * 900 + "accuracy" + ")" * 900: "no expression|nested",
    "min(1," * 60 + "accuracy" + ")" * 60: "nested more than",
    "min(1," * 250 + "accuracy" + ")" * 250: "no expression|nested",
    "recall[" * 240 + "0" + "]" * 240: "no expression|nested|number from 0",
    " + ".join(["accuracy"] * 100): "nested more than",
    "accuracy + " * 300 + "1": "characters",
    "a" * 1900: "unknown metric",
}


@pytest.mark.parametrize("text", AT_ONCE, ids=lambda text: text[:30].encode("unicode_escape").decode())
def test_what_is_wrong_without_data_is_refused_at_once_in_a_short_line(text):
    with pytest.raises(UsageError, match=AT_ONCE[text]) as caught:
        parse_metric(text)
    assert len(str(caught.value)) < 500


def test_a_slip_that_python_only_warns_of_is_refused_and_not_printed():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(UsageError, match="no expression: invalid decimal literal"):
            parse_metric("1if accuracy else 2")
    assert not caught


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recall[ct]", "unknown class ct: did you mean cat"),
        ("1 - recall['t-shirt/top']", "did you mean T-shirt/top"),
        ("min(accuracy, coverage[4])", "no class number 4: they go from 0 to 3"),
        ("worst_group_recall", "have none"),
        ("2 * worst_group_recall", "have none"),
        ("1 / recall[cat]", "is inf for predictions that are all"),
        ("accuracy / 0", "is inf"),
        ("(accuracy - 1) / (1 - accuracy)", "is nan for perfect predictions"),
        ("(accuracy - 2) ** 0.5", "is nan for a random"),
        ("min_recall ** -1", "is inf"),
    ],
)
def test_what_is_wrong_with_these_data_is_refused_when_they_are_known(text, message):
    request = parse_metric(text)
    with pytest.raises(SelmixError, match=message):
        request.bind(CONTEXT)


def test_head_and_tail_classes_must_exist():
    with pytest.raises(DataError, match=r"more than 100 .* fewer than 20; here they have 30 to 500"):
        bound("accuracy + min_head_tail_recall", MetricContext("ab", torch.tensor([500, 30])))
    with pytest.raises(DataError, match=r"here they have 5 to 100"):
        bound("min_head_tail_recall", MetricContext("ab", torch.tensor([100, 5])))


def test_many_class_names_are_not_all_listed():
    context = MetricContext([f"class{index}" for index in range(100)], torch.ones(100))
    with pytest.raises(UsageError, match="did you mean class1") as caught:
        bound("recall[clas1]", context)
    assert "class50" not in str(caught.value)
