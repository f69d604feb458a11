"""What is wrong with the words of a command is one line and exit code 2; what is odd about the data is said."""

import json
import sys

import numpy as np
import pytest
from builders import write_image_folder
from test_commands import features, finetune, run

import selmix
from selmix.commands import main
from selmix.commands.class_tables import class_table
from selmix.commands.show import _costs
from selmix.data.sources import open_images
from selmix.errors import DataError
from selmix.evaluation import UNDEFINED, ClassGroups, count_statistics
from selmix.metrics.names import REPORTED

pytestmark = pytest.mark.usefixtures("_quick_retraining")

HUGE = np.full((2, 8), 3e38, dtype=np.float32)
TWINS = np.array(["cat", "cat"])


def words(monkeypatch, capsys, *typed):
    """Run `selmix TYPED` as the console script does; return exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["selmix", *typed])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["finetun"], "finetune"),
        (["finetune", "--metrc", "x"], "--metrc"),
        (["finetune", "--metric"], "--metric"),
        (["finetune", "--metric", "min_recall"], "--out"),
        (["demo", "--seed", "x"], "--seed"),
        (["demo", "--seed", "-1"], "'--seed': it must be at least 0, got -1"),
        (["run", "r.toml", "--out", "r", "--seed", "-1"], "'--seed': it must be at least 0, got -1"),
        (["predict", "r", "x", "--top", "0"], "'--top': it must be at least 1, got 0"),
        (["evaluate", "r", "data"], "labeled images go with --data"),
        (["demo", "--device", "gpu"], "cuda"),
        (["metrics", "foo"], "foo"),
    ],
)
def test_unknown_words_are_one_line(monkeypatch, capsys, typed, message):
    code, out, err = words(monkeypatch, capsys, *typed)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert err.rstrip().endswith("--help")


def test_no_word_is_a_call_for_help_and_the_version_is_the_packages(monkeypatch, capsys):
    code, out, _ = words(monkeypatch, capsys)
    assert code == 0
    assert "finetune" in out
    assert words(monkeypatch, capsys, "--version") == (0, f"{selmix.__version__}\n", "")


def test_a_typed_error_keeps_its_code_through_the_console_script(monkeypatch, capsys, tmp_path):
    typed = ["finetune", "--metric", "min_recall", "--out", str(tmp_path / "r"), "--features", str(tmp_path / "no.npz")]
    code, _, err = words(monkeypatch, capsys, *typed)
    assert code == 3
    assert "no such file" in err


@pytest.mark.parametrize(("wrong", "right"), [("validation", "val"), ("Valid", "val"), ("testing", "test")])
def test_a_split_under_another_name_is_refused(tmp_path, wrong, right):
    write_image_folder(tmp_path, {"train": {"a": 1, "b": 1}, wrong: {"a": 1, "b": 1}})
    with pytest.raises(DataError, match=f"{wrong} would be left out; did you mean {right}"):
        open_images(str(tmp_path))


def test_what_is_ignored_in_a_folder_is_said(tmp_path, caplog):
    write_image_folder(tmp_path, {"train": {"a": 2, "b": 1}, "docs": {"x": 1}})
    (tmp_path / "train" / "a" / "notes.txt").write_text("")
    (tmp_path / "train" / "a" / "0.png").rename(tmp_path / "train" / "loose.png")
    data = open_images(str(tmp_path))
    assert len(data.splits["train"].ids) == 2
    said = " | ".join(record.getMessage() for record in caplog.records)
    assert "docs" in said
    assert "ignored 1 file(s)" in said
    assert "notes.txt" in said
    assert "ignored 1 image(s)" in said


@pytest.mark.parametrize(
    ("counts", "spoil", "message"),
    [
        ({"train": (20,), "val": (5,)}, lambda arrays: None, "one class"),
        ({"train": (20, 5), "val": (5, 5)}, lambda arrays: arrays["train_features"].fill(1.5), "are the same"),
        ({"train": (20, 5), "val": (5, 5)}, lambda arrays: arrays["train_labels"].__iadd__(1), "start at 0"),
        ({"train": (20, 5), "val": (5, 5)}, lambda arrays: arrays.update(head_weight=HUGE), "logits beyond 1e30"),
        ({"train": (20, 5), "val": (5, 5)}, lambda arrays: arrays.update(class_names=TWINS), "must be different"),
    ],
)
def test_degenerate_data_are_refused(tmp_path, counts, spoil, message):
    arrays = features(counts)
    spoil(arrays)
    np.savez(tmp_path / "f.npz", **arrays)
    code, _, err = finetune(tmp_path / "f.npz", tmp_path / "run")
    assert code == 3
    assert message in err
    assert err.count("\n") == 1


def test_few_validation_samples_and_a_missing_split_are_said(tmp_path):
    np.savez(tmp_path / "f.npz", **features({"train": (100, 50, 10), "test": (20, 20, 20)}))
    code, _, err = finetune(tmp_path / "f.npz", tmp_path / "run")
    assert code == 0
    said = " ".join(err.split())
    # a fifth of 100, 50, 10
    assert "32 of 160 training samples set aside" in said
    assert "class 2 has 2 validation sample(s)" in said


def test_an_empty_pool_is_said_once(tmp_path):
    arrays = features({"train": (30, 20, 10), "val": (20, 20, 20), "test": (20, 20, 20)})
    width = arrays["train_features"].shape[1]
    np.savez(tmp_path / "f.npz", **arrays, unlabeled_features=np.zeros((0, width), np.float32))
    code, _, err = finetune(tmp_path / "f.npz", tmp_path / "run")
    assert code == 0
    assert err.count("the unlabeled pool is empty: it is left aside") == 1


@pytest.mark.parametrize(
    "typed",
    [
        ("evaluate", "{run}"),
        ("predict", "{run}", "images"),
        ("export", "{run}", "--format", "head", "--out", "head.safetensors"),
        ("report", "{run}"),
    ],
)
def test_what_is_no_run_is_the_same_to_every_verb(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "both" / "stage2").mkdir(parents=True)
    (tmp_path / "both" / "stage2" / "result.json").write_text("{}")
    for folder, cause in (
        ("nowhere", "nowhere does not exist; name a folder that `selmix "),
        ("file", "file is a file; name a folder that `selmix "),
        ("empty", "empty holds no finished run (no result.json"),
        ("both", "both holds both stages of `selmix run`; name both/stage2"),
    ):
        code, out, err = run(*(word.format(run=folder) for word in typed))
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {cause}")
        assert err.count("\n") == 1


def test_every_reported_metric_is_explained(tmp_path):
    code, stdout, _ = run("metrics")
    assert code == 0
    np.savez(tmp_path / "f.npz", **features({"train": (200, 50, 10), "val": (20, 20, 20), "test": (20, 20, 20)}))
    finetune(tmp_path / "f.npz", tmp_path / "run", "--quiet")
    reported = json.loads((tmp_path / "run" / "result.json").read_text())["after"]["test"]
    listed = {row["name"] for row in json.loads(run("metrics", "--json")[1])}
    assert set(reported) == listed - {"worst_group_recall"} | set(REPORTED)
    for name in REPORTED:
        assert name in stdout


def test_groups_without_a_class_are_undefined_for_a_stated_reason():
    import torch

    counts = torch.eye(2, dtype=torch.float64)
    for class_counts in ([500, 400], [50, 60], [5, 6]):
        values = count_statistics(counts, ClassGroups.from_counts(torch.tensor(class_counts)))
        assert {name for name, value in values.items() if value is None} <= set(UNDEFINED)


def test_a_class_that_a_split_lacks_has_a_dash_in_the_table_and_no_part_in_the_costs():
    recall = {"before": {"val": [0.5, None]}, "balanced": {"val": [0.7, None]}, "after": {"val": [0.4, None]}}
    document = {"recall": recall, "class_names": ["cat", "owl"], "support": {"train": [9, 1]}}
    columns = [list(column.cells) for column in class_table(document, "val").columns]
    assert [cells[1] for cells in columns] == ["owl", "1", "-", "-", "-", "-"]
    assert columns[4][0] == "40.0"
    assert _costs(document, "val") == "paid for with recall of: cat -10.0"
