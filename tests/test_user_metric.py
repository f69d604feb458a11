"""A user's own function: what is refused before it can do harm, and what a good one gives."""

import json

import numpy as np
import pytest
import torch
from oracles import random_confusion
from test_commands import features, run

from selmix.errors import UsageError
from selmix.metrics import METRICS, MetricContext, get_metric, parse_metric
from selmix.metrics.request import request_of

pytestmark = pytest.mark.usefixtures("_quick_retraining")

CONTEXT = MetricContext("abcde", torch.tensor([500, 50, 30, 20, 5]), num_groups=1)

GOOD = {
    "mean_recall": "return (C.diagonal() / C.sum(1)).mean()",
    "accuracy": "return C.trace()",
    "min_recall": "return (C.diagonal() / C.sum(1)).min()",
    "kappa": "e = C.sum(0) @ C.sum(1); return (C.trace() - e) / (1 - e + 1e-300)",
}
BAD = {
    "return float(C.trace())": "got a float",
    "return None": "got a NoneType",
    "return C.diagonal()": r"0-d tensor of a real number, got torch.float64 \[5\]",
    "return (C.trace() > 0.5)": "torch.bool",
    "return C.trace().to(torch.complex128)": "complex",
    "return C.detach().trace()": "loses the gradient",
    "return torch.tensor(C.tolist()).trace()": "loses the gradient",
    "import numpy; return torch.tensor(numpy.trace(C.numpy()))": "Can't call numpy",
    "return torch.tensor(0.5)": "loses the gradient",
    "return C.trace() * C.detach().trace()": "detached, rounded",
    "return C.trace().float().mul(64).round().div(64) + 0 * C.sum()": "rounded|does not move",
    "return 0.0 * C.sum()": "does not move",
    "return C.sum()": "does not move",
    "return 1e6 * C.sum() + C.sum(1)[0]": "does not move",
    "return C.trace() + torch.rand(())": "random",
    "C /= C.sum(); return C.trace()": "changes the confusion|in-place",
    "C.data.mul_(2); return C.trace()": "changes the confusion",
    "C[0, 0] = 0; return C.trace()": "changes the confusion|in-place",
    "return C.trace() + (C[0, 0] - C[0, 0]).sqrt()": "gradient that is not finite",
    "return C.trace() / 0": "is inf for a random",
    "return C.diagonal().log().mean()": "is -inf for predictions that are all",
    "return 1 / (1 - C.trace())": "is inf for perfect predictions",
    "raise RuntimeError('bang')": "fails on a 5-class matrix: RuntimeError: bang",
    "return C[7, 7]": "IndexError",
    "raise SystemExit": "SystemExit",
}


def write(tmp_path, body):
    path = tmp_path / "own.py"
    path.write_text("import torch\ndef psi(C):\n    " + body + "\n")
    return f"{path}:psi"


@pytest.mark.parametrize("name", GOOD)
def test_a_good_function_is_the_metric(tmp_path, name):
    text = write(tmp_path, GOOD[name])
    metric = parse_metric(text).bind(CONTEXT)
    assert metric.name == text
    confusion = random_confusion(3)
    assert float(metric(confusion)) == pytest.approx(float(METRICS[name](confusion)), rel=1e-12)
    assert float(get_metric(text)(confusion)) == float(metric(confusion))
    assert float(metric.objective(torch.ones(5), torch.minimum)(confusion)) == float(metric(confusion))


def test_it_is_given_the_classes_and_not_the_groups(tmp_path):
    text = write(tmp_path, "assert C.shape == (5, 5); return C.trace()")
    metric = parse_metric(text).bind(MetricContext("abcde", CONTEXT.class_counts, num_groups=3))
    rows = random_confusion(1, 15).view(15, 5, 3).sum(2)
    assert float(metric(rows)) == pytest.approx(float(METRICS["accuracy"](rows)))


@pytest.mark.parametrize("body", BAD)
def test_a_function_that_cannot_steer_is_refused_when_the_classes_are_known(tmp_path, body):
    request = parse_metric(write(tmp_path, body))
    with pytest.raises(UsageError, match=BAD[body]) as caught:
        request.bind(CONTEXT)
    assert "own.py:psi" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "own.py cannot be read: No such file"),
        ("def psi(C:\n", "is no Python"),
        ("import torch\nraise ValueError('bang')\n", "fails when it is imported: ValueError: bang"),
        ("import sys\nsys.exit(3)\n", "fails when it is imported: SystemExit: 3"),
        ("import no_such_module\n", "fails when it is imported: ModuleNotFoundError"),
        ("def phi(C): return C.trace()\n", r"has no function psi: did you mean phi\?"),
        ("psi = 3\n", "has no function psi"),
        ("def psi(): return 1\n", "must take one argument"),
        ("def psi(C, prior): return 1\n", "must take one argument"),
        ("def psi(*, C): return 1\n", "must take one argument"),
        (b"\xff\xfe\x00", "is no Python"),
    ],
)
def test_a_file_without_such_a_function_is_refused_at_once(tmp_path, source, message):
    path = tmp_path / "own.py"
    if source is not None:
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(UsageError, match=message):
        parse_metric(f"{path}:psi")


def test_an_edited_file_is_read_again_and_leaves_nothing_behind(tmp_path):
    confusion = random_confusion(3)
    values = []
    for factor in "23":
        values.append(float(parse_metric(write(tmp_path, f"return {factor} * C.trace()")).bind(CONTEXT)(confusion)))
    assert values[1] == pytest.approx(1.5 * values[0])
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


def test_a_callable_object_and_optional_arguments_will_do(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("class Share:\n    def __call__(self, C, power=1): return C.trace() ** power\npsi = Share()\n")
    assert float(parse_metric(f"{path}:psi").bind(CONTEXT)(torch.eye(5).double() / 5)) == pytest.approx(1)


def finetune(tmp_path, metric):
    np.savez(tmp_path / "f.npz", **features({"train": (300, 60, 30), "val": (30, 30, 30), "test": (50, 50, 50)}))
    out = tmp_path / "run"
    return run("finetune", "--features", tmp_path / "f.npz", "--metric", metric, "--out", out, "--json", "steps=100")


@pytest.mark.parametrize("kind", ["expression", "function"])
def test_a_run_reports_the_users_metric_beside_the_listed_ones(tmp_path, kind):
    text = "min(recall['2'], 0.5*mean_recall + 0.1)"
    body = "r = C.diagonal() / C.sum(1); return torch.minimum(r[2], 0.5 * r.mean() + 0.1)"
    text = text if kind == "expression" else write(tmp_path, body)
    code, stdout, _ = finetune(tmp_path, text)
    assert code == 0
    document = json.loads(stdout)
    assert document["metric"] == text
    for head in ("before", "balanced", "after"):
        own, recalls = document[head]["test"], document["recall"][head]["test"]
        assert own[text] == pytest.approx(min(recalls[2], 0.5 * sum(recalls) / 3 + 0.1))
    low, high = document["interval"]["after"]["test"][text]
    assert low <= document["after"]["test"][text] <= high


@pytest.mark.parametrize(
    ("metric", "code", "message"),
    [
        ("recall[cat]", 2, "unknown class cat"),
        ("recall[0", 2, "no expression"),
        ("min_head_tail_recall", 3, "here they have 30 to 300"),
        ("worst_group_recall", 3, "have none"),
        ("none.py:psi", 2, "cannot be read"),
    ],
)
def test_a_run_refuses_a_faulty_metric_in_one_line_and_leaves_no_folder(tmp_path, metric, code, message):
    status, _, stderr = finetune(tmp_path, metric)
    assert status == code
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_brackets_in_a_metric_are_shown_as_typed(tmp_path):
    np.savez(tmp_path / "f.npz", **features({"train": (300, 60, 30), "val": (30, 30, 30), "test": (50, 50, 50)}))
    words = ("--features", tmp_path / "f.npz", "--out", tmp_path / "run", "--metric", 'recall["2"]', "steps=100")
    code, stdout, _ = run("finetune", *words)
    assert code == 0
    assert 'recall["2"] on test: ' in stdout
    assert stdout.count('│ recall["2"] ') == 2


def trace(confusion):
    """Return the accuracy."""
    return confusion.trace()


class Trace:
    """The same, as an object."""

    def __call__(self, confusion):
        """Return the accuracy."""
        return confusion.trace()


@pytest.mark.parametrize(("own", "name"), [(trace, "test_user_metric:trace"), (Trace(), "test_user_metric:Trace")])
def test_a_function_is_a_metric_that_is_called_by_its_module_and_name(own, name):
    request = request_of(own)
    metric = request.bind(CONTEXT)
    confusion = random_confusion(3)
    assert request.name == metric.name == name
    assert metric.formula == "a function of the user's"
    assert float(metric(confusion)) == pytest.approx(float(METRICS["accuracy"](confusion)), abs=1e-15)


def test_a_text_is_read_as_one_and_other_things_are_refused():
    assert request_of(" balanced_accuracy ").name == parse_metric("mean_recall").name == "mean_recall"
    with pytest.raises(UsageError, match=r"^metric must be a text or a function of the confusion matrix, got 0\.5$"):
        request_of(0.5)
