"""The command line as a user meets it: output, exit codes, one-line errors."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from selmix.commands import app
from selmix.metrics import DEFINITIONS

pytestmark = pytest.mark.usefixtures("_quick_retraining")

RESULT_KEYS = {
    "schema", "command", "metric", "subject_to", "num_classes", "class_names", "support", "before", "after", "recall",
    "interval", "constraints", "optimistic", "seed", "steps", "best_step", "seconds", "versions", "digests",
}  # fmt: skip
METRIC_KEYS = {
    "accuracy", "mean_recall", "min_recall", "geometric_mean", "harmonic_mean", "q_mean", "macro_f1", "micro_f1", "mcc",
    "kappa", "min_coverage",    "head_recall", "medium_recall", "tail_recall", "min_head_tail_recall", "ece",
}  # fmt: skip


def run(*words):
    """Run the command line; return exit code, stdout and stderr."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def features(counts_of_split, *, seed=0, width=8):
    """Return overlapping Gaussian classes as the arrays of a features file."""
    rng = np.random.default_rng(seed)
    centres = 1.2 * rng.normal(size=(len(next(iter(counts_of_split.values()))), width))
    arrays = {}
    for split, counts in counts_of_split.items():
        labels = np.repeat(np.arange(len(counts)), counts)
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_features"] = (centres[labels] + rng.normal(size=(len(labels), width))).astype(np.float32)
    return arrays


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "features.npz"
    np.savez(path, **features({"train": (300, 60, 12), "val": (40, 40, 40), "test": (100, 100, 100)}))
    return path


def finetune(npz, out, *more):
    return run("finetune", "--features", npz, "--metric", "min_recall", "--out", out, *more)


def test_finetune_on_features_writes_a_complete_run(npz, tmp_path):
    out = tmp_path / "run"
    code, stdout, stderr = finetune(npz, out, "--json", "steps=500")
    assert (code, stderr) == (0, "")
    document = json.loads(stdout)
    assert document == json.loads((out / "result.json").read_text())
    assert set(document) >= RESULT_KEYS
    for head in ("before", "balanced", "after"):
        assert set(document[head]) == {"val", "test"}
        assert all(set(metrics) == METRIC_KEYS for metrics in document[head].values())
    assert document["support"] == {
        "train": [300, 60, 12], "val": [40, 40, 40], "test": [100, 100, 100], "unlabeled": 0,
    }  # fmt: skip
    assert document["steps"] == 500
    assert document["optimistic"] is False
    assert document["before_is"] == "linear probe"
    low, high = document["interval"]["change"]["test"]["min_recall"]
    change = document["after"]["test"]["min_recall"] - document["before"]["test"]["min_recall"]
    assert low <= change <= high
    with safe_open(out / "head.safetensors", "pt") as head:
        assert head.get_tensor("weight").shape == (3, 8)
        assert json.loads(head.metadata()["selmix"])["class_names"] == ["0", "1", "2"]
    assert {path.name for path in out.iterdir()} == {
        "result.json", "head.safetensors", "splits.json", "metrics.jsonl", "recipe.toml", "record.npz", "samples.json",
        "report.html",
    }  # fmt: skip


def test_the_written_head_gives_the_reported_recalls(npz, tmp_path):
    finetune(npz, tmp_path / "run")
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    with np.load(npz) as archive:
        arrays = dict(archive)
    with safe_open(tmp_path / "run" / "head.safetensors", "np") as head:
        logits = arrays["test_features"] @ head.get_tensor("weight").T + head.get_tensor("bias")
    correct = logits.argmax(1) == arrays["test_labels"]
    recalls = [correct[arrays["test_labels"] == label].mean() for label in range(3)]
    assert document["recall"]["after"]["test"] == pytest.approx(recalls)
    assert document["after"]["test"]["min_recall"] == pytest.approx(min(recalls))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(npz, tmp_path):
    documents = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert finetune(npz, tmp_path / name, "--seed", seed)[0] == 0
        documents.append(json.loads((tmp_path / name / "result.json").read_text()))
        assert set(documents[-1].pop("seconds")) == {"tune"}
    assert documents[0] == documents[1]
    heads = [(tmp_path / name / "head.safetensors").read_bytes() for name in "abc"]
    assert heads[0] == heads[1] != heads[2]


def test_without_val_a_part_of_train_is_set_aside_and_without_test_the_result_is_optimistic(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, **features({"train": (300, 60, 10)}))
    code, stdout, _ = finetune(path, tmp_path / "run")
    assert code == 0
    assert "optimistic" in stdout
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    # a fifth of 300, 60, 10
    assert document["support"] == {"train": [240, 48, 8], "val": [60, 12, 2], "unlabeled": 0}
    assert document["optimistic"] is True
    assert document["interval"] == {}
    ids = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert sorted(map(int, ids["train"] + ids["val"])) == list(range(370))


def test_the_table_shows_every_class_every_metric_and_the_cost(npz, tmp_path):
    code, stdout, _ = finetune(npz, tmp_path / "run")
    assert code == 0
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    for name in METRIC_KEYS:
        # once for validation, once for test
        assert stdout.count(f" {name} ") >= 2
    for recall in document["recall"]["after"]["test"]:
        assert f"{100 * recall:.1f}" in stdout
    assert "min_recall on test" in stdout
    assert "the linear probe" in stdout
    assert "the head retrained with class-balanced sampling on the same labels" in stdout
    falls = [
        name
        for name, *pair in zip("012", *(document["recall"][head]["test"] for head in ("before", "after")), strict=True)
        if pair[0] - pair[1] > 0.005
    ]
    cost = stdout.split("paid for with recall of: ")[1].splitlines()[0] if falls else ""
    assert sorted(part.split()[0] for part in cost.split(", ") if part) == falls


def test_quiet_prints_nothing(npz, tmp_path):
    assert finetune(npz, tmp_path / "run", "--quiet") == (0, "", "")


def test_undefined_metrics_are_null_with_a_reason(npz, tmp_path):
    code, stdout, _ = finetune(npz, tmp_path / "run", "--json")
    assert code == 0
    document = json.loads(stdout)
    assert document["after"]["test"]["tail_recall"] is not None
    np.savez(npz, **features({"train": (300, 200, 150), "val": (40, 40, 40), "test": (100, 100, 100)}))
    document = json.loads(finetune(npz, tmp_path / "run2", "--json")[1])
    nulls = {name for name, value in document["after"]["test"].items() if value is None}
    assert nulls == {"medium_recall", "tail_recall", "min_head_tail_recall"} == set(document["undefined"])


def broken(arrays, **changes):
    return {key: value for key, value in (arrays | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None}, "lacks train_labels"),
        ({"features": np.zeros((2, 2))}, "unknown keys features"),
        ({"val_features": np.zeros((120, 5), np.float32)}, "val_features has 5 columns, train_features has 8"),
        ({"test_features": np.full((300, 8), np.nan, np.float32)}, "test_features has NaN"),
        ({"val_labels": np.full(120, 3)}, "val_labels must lie in 0..2, got 3..3"),
        ({"val_labels": np.repeat([0, 1], 60)}, "val has no sample of class 2"),
    ],
)
def test_faulty_features_are_one_line_and_exit_code_3(npz, tmp_path, changes, message):
    np.savez(npz, **broken(dict(np.load(npz)), **changes))
    code, stdout, stderr = finetune(npz, tmp_path / "run")
    assert (code, stdout) == (3, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("error: ")
    assert message in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--metric", "min_recal"), "did you mean min_recall?"),
        (("--metric", "min_recall", "stps=3"), "unknown key stps: did you mean steps?"),
        (("--metric", "min_recall", "--data", "x"), "either --features, or --backbone and --data"),
    ],
)
def test_a_faulty_request_is_one_line_and_exit_code_2(npz, tmp_path, words, message):
    code, _, stderr = run("finetune", "--features", npz, "--out", tmp_path / "run", *words)
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_trace(npz, tmp_path):
    _, _, stderr = run("finetune", "--features", npz, "--out", tmp_path / "r", "--metric", "no", "--debug")
    assert "Traceback" in stderr


def test_a_finished_run_and_foreign_files_are_kept(npz, tmp_path):
    out = tmp_path / "run"
    assert finetune(npz, out)[0] == 0
    before = (out / "result.json").read_bytes()
    code, _, stderr = finetune(npz, out, "--seed", 1)
    assert code == 2
    assert "--overwrite" in stderr
    assert (out / "result.json").read_bytes() == before
    assert finetune(npz, out, "--seed", 1, "--overwrite")[0] == 0
    assert json.loads((out / "result.json").read_text())["seed"] == 1
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("text")
    code, _, stderr = finetune(npz, foreign, "--overwrite")
    assert code == 2
    assert "no run of selmix" in stderr
    assert [path.name for path in foreign.iterdir()] == ["chapter1.tex"]


@pytest.fixture
def image_folder(tmp_path):
    """Three kinds of stripes, noisy: a folder that a tiny backbone can tell apart a little."""
    rng = np.random.default_rng(0)
    for split, counts in {"train": (30, 12, 6), "val": (12, 12, 12), "test": (10, 10, 10)}.items():
        for label, (name, count) in enumerate(zip(("across", "down", "plain"), counts, strict=True)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = 90 * rng.normal(size=(28, 28)) + 128
                pixels[:: 4 if label == 0 else 28] += 80
                pixels[:, :: 4 if label == 1 else 28] += 80
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "images"


def finetune_images(folder, out, backbone="shipped:fashion_resnet32", *more):
    return run("finetune", "--backbone", backbone, "--data", folder, "--metric", "mean_recall", "--out", out, *more)


def test_finetune_on_an_image_folder_with_the_shipped_backbone(image_folder, tmp_path):
    code, stdout, stderr = finetune_images(image_folder, tmp_path / "run", "shipped:fashion_resnet32", "--json")
    assert code == 0
    assert "114 images" in stderr  # what their features take on disk, and where
    document = json.loads(stdout)
    assert document["class_names"] == ["across", "down", "plain"]
    assert document["before_is"] == "linear probe"
    assert set(document["digests"]) == {"data", "backbone"}
    ids = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert ids["val"][0] == "val/across/0.png"
    assert len(ids["train"]) == 48


def empty_class(folder):
    for path in (folder / "val" / "plain").iterdir():
        path.unlink()


def extra_class(folder):
    (folder / "test" / "extra").mkdir()


@pytest.mark.parametrize(
    ("spoil", "data", "backbone", "message"),
    [
        (None, "nowhere", "shipped:fashion_resnet32", "no such folder"),
        (None, "images", "timm:resnet10t@nowhere", "no such checkpoint"),
        (empty_class, "images", "shipped:fashion_resnet32", "plain has no images"),
        (extra_class, "images", "shipped:fashion_resnet32", "adds extra"),
    ],
)
def test_faulty_folders_and_checkpoints_are_one_line_and_exit_code_3(
    image_folder, tmp_path, spoil, data, backbone, message
):
    if spoil:
        spoil(image_folder)
    code, _, stderr = finetune_images(tmp_path / data, tmp_path / "run", backbone)
    assert code == 3
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_is_named(image_folder, tmp_path):
    bad = image_folder / "test" / "down" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    code, _, stderr = finetune_images(image_folder, tmp_path / "run")
    assert code == 3
    assert str(bad) in stderr
    assert not (tmp_path / "run").exists()


def test_metrics_lists_every_metric():
    code, stdout, _ = run("metrics")
    assert code == 0
    rows = json.loads(run("metrics", "--json")[1])
    assert [row["name"] for row in rows] == list(DEFINITIONS)
    for row in rows:
        assert row["name"] in stdout
    assert {"balanced_accuracy", "f1_macro"} <= {alias for row in rows for alias in row["aliases"]}


@pytest.mark.parametrize(
    "words", [("--help",), ("finetune", "-h"), ("demo", "-h"), ("train", "-h"), ("metrics", "-h"), ("report", "-h")]
)
def test_help_helps(words):
    code, stdout, _ = run(*words)
    assert code == 0
    assert "Usage" in stdout


@pytest.mark.parametrize("words", [("finetun",), ("finetune", "--metrc", "x"), ("demo", "--seed", "x")])
def test_words_the_command_line_does_not_know_are_exit_code_2(words):
    assert run(*words)[0] == 2


def test_the_test_split_steers_nothing(npz, tmp_path):
    arrays = dict(np.load(npz))
    assert finetune(npz, tmp_path / "a")[0] == 0
    rng = np.random.default_rng(1)
    arrays["test_features"] = rng.normal(size=arrays["test_features"].shape).astype(np.float32)
    arrays["test_labels"] = arrays["test_labels"][::-1]
    np.savez(npz, **arrays)
    assert finetune(npz, tmp_path / "b")[0] == 0
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in "ab"]
    assert results[0]["after"]["test"] != results[1]["after"]["test"]
    assert results[0]["after"]["val"] == results[1]["after"]["val"]
    heads = []
    for name in "ab":
        with safe_open(tmp_path / name / "head.safetensors", "np") as head:
            heads.append((head.get_tensor("weight").tobytes(), head.get_tensor("bias").tobytes()))
    assert heads[0] == heads[1]
