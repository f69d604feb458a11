"""Constraints from the command line to the exit code: `--subject-to`."""

import json
import tomllib

import numpy as np
import pytest
from safetensors import safe_open
from test_commands import features, run

from selmix import result

STEPS = "steps=400"

pytestmark = pytest.mark.usefixtures("_quick_retraining")


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("subject") / "features.npz"
    np.savez(path, **features({"train": (300, 60, 30), "val": (60, 60, 60), "test": (200, 200, 200)}, seed=3, width=2))
    return path


@pytest.fixture(autouse=True)
def _fewer_replicates(monkeypatch):
    monkeypatch.setattr(result, "REPLICATES", 300)


def constrained(npz, out, *limits, metric="mean_recall", more=()):
    words = [word for limit in limits for word in ("--subject-to", limit)]
    return run("finetune", "--features", npz, "--metric", metric, "--out", out, STEPS, *words, *more)


def test_constraints_are_reported_as_the_written_head_keeps_them(npz, tmp_path):
    limits = ["recall[2] >= 0.2", "coverage >= 0.3/k"]
    code, stdout, stderr = constrained(npz, tmp_path / "run", *limits, more=["--json"])
    assert (code, stderr) == (0, "")
    document = json.loads(stdout)
    assert document["subject_to"] == limits
    with np.load(npz) as archive:
        arrays = dict(archive)
    with safe_open(tmp_path / "run" / "head.safetensors", "np") as head:
        predictions = (arrays["test_features"] @ head.get_tensor("weight").T + head.get_tensor("bias")).argmax(1)
    recall = (predictions[arrays["test_labels"] == 2] == 2).mean()
    coverage = np.bincount(predictions, minlength=3) / len(predictions)
    own, every = document["constraints"]
    assert (own["expression"], own["bound"], own["met"], own["met_on_test"]) == (limits[0], 0.2, True, True)
    assert own["test"] == pytest.approx(recall)
    assert own["worst"] == {"val": "recall[2]", "test": "recall[2]"}
    assert every["bound"] == pytest.approx(0.1)
    assert every["test"] == pytest.approx(coverage.min())
    assert every["worst"]["test"] == f"coverage[{coverage.argmin()}]"
    for report in (own, every):
        for split in ("val", "test"):
            low, high = report["interval"][split]
            assert low < report[split] < high
    # 200 test samples of class 2; and at least its 60 validation samples, at most those and the 30 of train
    for split, counts in (("test", (200, 200)), ("val", (60, 90))):
        low, high = own["interval"][split]
        widths = [3.92 * (own[split] * (1 - own[split]) / count) ** 0.5 for count in counts]
        assert 0.8 * widths[1] < high - low < 1.2 * widths[0]
    recipe = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())
    assert recipe["subject_to"] == limits


def test_what_cannot_be_met_is_said_in_one_line_after_everything_was_written(npz, tmp_path):
    code, stdout, stderr = constrained(npz, tmp_path / "run", "recall >= 0.99", "coverage <= 0.9")
    assert code == 4
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "result.json", "head.safetensors", "splits.json", "metrics.jsonl", "recipe.toml", "record.npz", "samples.json",
        "report.html",
    }  # fmt: skip
    failed, kept = json.loads((tmp_path / "run" / "result.json").read_text())["constraints"]
    assert (failed["met"], kept["met"]) == (False, True)
    assert stderr.count("\n") == 1
    assert stderr.startswith("error: not met on validation: recall >= 0.99: recall[")
    assert f"is {failed['val']:.4g}, {0.99 - failed['val']:.3g} off" in stderr
    assert "coverage" not in stderr
    line = next(line for line in stdout.splitlines() if line.startswith("subject to recall >= 0.99"))
    assert "not met on val" in line
    assert "not met on test" in line
    assert "subject to coverage <= 0.9: met on val" in stdout
    assert "every metric on test" in stdout
    code, stdout, _ = constrained(npz, tmp_path / "json", "recall >= 0.99", more=["--json"])
    assert code == 4
    assert json.loads(stdout)["constraints"][0]["met"] is False


def test_the_floor_of_a_class_is_kept_where_the_metric_alone_would_not(npz, tmp_path):
    # accuracy on validation would trade classes; a floor under the class that it likes least must lift that class
    assert constrained(npz, tmp_path / "free", metric="accuracy")[0] == 0
    free = json.loads((tmp_path / "free" / "result.json").read_text())
    recalls = free["recall"]["after"]["val"]
    label = int(np.argmin(recalls))
    floor = round(recalls[label] + 0.1, 2)
    limit = f"recall[{label}] >= {floor}"
    code, _, _ = constrained(npz, tmp_path / "kept", limit, metric="accuracy", more=["refresh=10"])
    kept = json.loads((tmp_path / "kept" / "result.json").read_text())
    assert code == 0
    assert kept["constraints"][0]["val"] >= floor
    assert kept["recall"]["after"]["test"][label] > free["recall"]["after"]["test"][label] + 0.03


def test_validation_decides_whether_a_constraint_is_met(npz, tmp_path):
    with np.load(npz) as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "f.npz", **arrays | {"test_labels": (arrays["test_labels"] + 1) % 3})
    code, stdout, _ = constrained(tmp_path / "f.npz", tmp_path / "run", "recall >= 0.3")
    assert code == 0
    (report,) = json.loads((tmp_path / "run" / "result.json").read_text())["constraints"]
    assert (report["met"], report["met_on_test"]) == (True, False)
    assert report["test"] < 0.3 < report["val"]
    assert "subject to recall >= 0.3: met on val" in stdout
    assert ", not met on test" in stdout


def test_without_test_the_report_is_of_validation_alone(tmp_path):
    np.savez(tmp_path / "f.npz", **features({"train": (100, 60), "val": (30, 30)}))
    code, stdout, _ = constrained(tmp_path / "f.npz", tmp_path / "run", "recall >= 0.01")
    assert code == 0
    (report,) = json.loads((tmp_path / "run" / "result.json").read_text())["constraints"]
    assert (report["test"], report["met_on_test"]) == (None, None)
    assert set(report["interval"]) == {"val"}
    assert "met on test" not in stdout


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("recal >= 0.3", "did you mean recall"),
        ("recall > 0.3", ">= or <="),
        ("recall => 0.3", "the signs are >= and <="),
        ("recall >= 1.2", "cannot be met"),
    ],
)
def test_a_faulty_constraint_is_refused(npz, tmp_path, limit, message):
    code, _, stderr = constrained(npz, tmp_path / "run", limit)
    assert code == 2
    assert message in stderr
    assert not (tmp_path / "run").exists()


def test_a_constraint_is_read_before_the_data(tmp_path):
    code, _, stderr = constrained(tmp_path / "missing.npz", tmp_path / "run", "recal >= 0.3")
    assert code == 2
    assert "did you mean recall" in stderr
