"""`selmix compare`: what it runs, what it writes, what it refuses, and whether its verdict is true."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import gaussian_splits
from sklearn.metrics import recall_score
from test_commands import features, run

from selmix.baselines.methods import METHODS
from selmix.compare import ABOUT, LOOPS, chosen_methods, run_ladder, seeded_validation
from selmix.data.splits import draw_per_class
from selmix.errors import DataError, UsageError
from selmix.features.labeled import FeatureData
from selmix.metrics import METRICS
from selmix.option_words import parse_seeds
from selmix.pipeline import tune
from selmix.stage2.settings import RefineSettings
from selmix.verdict import Scores, summarise

pytestmark = pytest.mark.usefixtures("_quick_retraining")

ROOT = Path(__file__).parent.parent
QUICK = RefineSettings(steps=200, folds=2)


def data(*, val: int = 20, without: tuple[str, ...] = ()) -> FeatureData:
    splits = gaussian_splits([120, 30, 12], seed=0, spread=0.7, per_class=40, val=val)
    kept = {name: split for name, split in splits.items() if name not in without}
    return FeatureData(["a", "b", "c"], kept, {name: [str(i) for i in range(999)] for name in kept})


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "f.npz", **features({"train": (120, 40, 12), "val": (20, 20, 20), "test": (40, 40, 40)}))
    return tmp_path / "f.npz"


@pytest.fixture
def _few_replicates(monkeypatch):
    monkeypatch.setattr("selmix.verdict.REPLICATES", 50)


def compare(npz, out, *more):
    return run("compare", "--features", npz, "--out", out, *more)


# --- the command ---


@pytest.mark.usefixtures("_few_replicates")
def test_compare_writes_a_row_for_each_method_metric_and_seed(npz, tmp_path):
    words = (
        "--metric",
        "min_recall,balanced_accuracy",
        "--methods",
        "crt,bias,selmix",
        "--seeds",
        "0..1",
        "steps=200",
        "folds=2",
    )
    code, stdout, stderr = compare(npz, tmp_path / "run", *words)
    assert (code, stderr) == (0, "")
    document = json.loads((tmp_path / "run" / "compare.json").read_text())
    keys = [(row["method"], row["metric"], row["seed"]) for row in document["rows"]]
    assert sorted(keys) == sorted(itertools.product(["crt", "bias", "selmix"], ["min_recall", "mean_recall"], [0, 1]))
    assert all(0 <= row[split] <= 1 for row in document["rows"] for split in ("val", "test"))
    # crt does not depend on the metric: fitted once, one time for both
    times = {row["seconds"] for row in document["rows"] if row["method"] == "crt"}
    assert len(times) == 2
    for name, summary in document["summary"].items():
        for method in ("crt", "bias", "selmix"):
            values = [row["test"] for row in document["rows"] if (row["method"], row["metric"]) == (method, name)]
            assert summary["methods"][method]["test"]["mean"] == pytest.approx(np.mean(values))
            assert summary["methods"][method]["test"]["std"] == pytest.approx(np.std(values, ddof=1))
    for summary in document["summary"].values():
        assert summary["verdict"] in stdout


def test_json_is_the_file_and_a_finished_comparison_is_kept(npz, tmp_path):
    words = ("--metric", "min_recall", "--methods", "ncm", "--seeds", "0")
    code, stdout, stderr = compare(npz, tmp_path / "run", *words, "--json")
    assert (code, stderr) == (0, "")
    assert stdout == (tmp_path / "run" / "compare.json").read_text()
    code, _, stderr = compare(npz, tmp_path / "run", *words)
    assert code == 2
    assert "--overwrite" in stderr
    assert compare(npz, tmp_path / "run", *words, "--overwrite", "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--metric", "min_recal"], ["min_recal", "did you mean min_recall"]),
        (["--metric", "min_recall", "--methods", "selmix,tau_nrm"], ["tau_nrm", "did you mean tau_norm"]),
        (["--metric", "min_recall", "--seeds", "0-4"], ["0..4", "0-4"]),
        (["--metric", "min_recall", "--seeds", "4..0"], ["4..0"]),
        (["--metric", "min_recall", "--seeds", "1,1"], ["each seed >= 0 and once"]),
        (["--metric", "min_recall", "--val-per-class", "0"], ["val_per_class", "greater than or equal to 1"]),
        (["--metric", "min_recall", "stps=3"], ["stps", "did you mean steps"]),
        (["--metric", "min_recall", "--backbone", "x"], ["either --features, or"]),
    ],
)
def test_a_faulty_request_is_one_line_before_anything_is_loaded(tmp_path, words, messages):
    code, stdout, stderr = compare(tmp_path / "missing.npz", tmp_path / "run", *words)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    for message in messages:
        assert message in stderr
    assert not (tmp_path / "run").exists()


def test_a_comparison_needs_a_test_split_and_two_classes(tmp_path):
    np.savez(tmp_path / "f.npz", **features({"train": (60, 20), "val": (20, 20)}))
    code, _, stderr = compare(tmp_path / "f.npz", tmp_path / "run", "--metric", "min_recall")
    assert code == 3
    assert "test split" in stderr
    np.savez(tmp_path / "f.npz", **features({"train": (60,), "val": (20,), "test": (20,)}))
    code, _, stderr = compare(tmp_path / "f.npz", tmp_path / "run", "--metric", "min_recall")
    assert code == 3
    assert "one class" in stderr


def test_the_given_head_is_left_out_where_there_is_none():
    document = run_ladder(data(), [METRICS["accuracy"]], ["given", "ncm"], [0], QUICK)
    assert list(document["methods"]) == ["ncm"]
    assert "no head" in document["left_out"]["given"]
    with pytest.raises(DataError, match="no head"):
        run_ladder(data(), [METRICS["accuracy"]], ["given"], [0], QUICK)


@pytest.mark.usefixtures("_few_replicates")
def test_what_is_odd_is_said_once(caplog):
    run_ladder(data(val=3), [METRICS["min_recall"]], ["selmix"], [0, 1], QUICK)
    assert sum("validation sample(s)" in record.getMessage() for record in caplog.records) == 1


# --- methods and seeds ---


@pytest.mark.usefixtures("_few_replicates")
def test_every_method_runs_and_has_a_line_in_the_docs(monkeypatch):
    monkeypatch.setattr("selmix.baselines.problem.FOLDS", 2)
    monkeypatch.setattr("selmix.baselines.plug_in.STEPS", 10)
    document = run_ladder(data(), [METRICS["min_recall"]], [*METHODS, "selmix"], [0], QUICK)
    assert [row["method"] for row in document["rows"]] == [*METHODS, "selmix"][1:]  # no head was given
    assert set(ABOUT) == {*METHODS, *LOOPS}
    listed = re.findall(r"^\| `(\w+)` \| (.*?) \|", (ROOT / "docs" / "ladder.md").read_text(), flags=re.MULTILINE)
    assert dict(listed) == ABOUT


def test_methods_come_in_the_order_of_the_table_and_all_by_default():
    assert chosen_methods([]) == list(ABOUT)
    assert chosen_methods(["selmix", "crt"]) == ["crt", "selmix"]
    with pytest.raises(UsageError, match="did you mean greedy"):
        chosen_methods(["gredy"])


def test_selmix_is_what_finetune_does():
    content, metric = data(without=("val",)), METRICS["min_recall"]
    document = run_ladder(content, [metric], ["selmix"], [3], QUICK)
    evaluations = tune(content, metric, QUICK, seed=3).evaluations
    (row,) = document["rows"]
    assert row["val"] == evaluations["val"]["after"].metrics["min_recall"]
    assert row["test"] == evaluations["test"]["after"].metrics["min_recall"]


def test_the_loops_differ_from_selmix():
    content = data()
    weights = {}
    for name, (changes, _) in LOOPS.items():
        settings = RefineSettings(steps=100, folds=2, start="given", **changes)
        weights[name] = tune(content, METRICS["min_recall"], settings, seed=0).head.weight
    for one, two in itertools.combinations(weights, 2):
        assert not torch.equal(weights[one], weights[two]), (one, two)


def test_a_seed_draws_its_own_validation_samples():
    content = data()
    first, again, other = (seeded_validation(content, seed, 5).splits["val"] for seed in (0, 0, 1))
    assert torch.bincount(first.labels).tolist() == [5, 5, 5]
    assert torch.equal(first.features, again.features)
    assert not torch.equal(first.features, other.features)
    whole = {tuple(row.tolist()) for row in content.splits["val"].features}
    assert {tuple(row.tolist()) for row in first.features} < whole
    assert seeded_validation(content, 0, None).splits["val"] is content.splits["val"]


def test_without_a_validation_split_a_seed_holds_out_its_own():
    content = data(without=("val",))
    one, two = (seeded_validation(content, seed, None).splits for seed in (0, 1))
    # a fifth of 120, 30, 12
    assert torch.bincount(one["val"].labels).tolist() == [24, 6, 2]
    assert torch.bincount(one["train"].labels).tolist() == [96, 24, 10]
    assert not torch.equal(one["val"].features, two["val"].features)


def test_draws_are_without_replacement_and_take_all_of_a_small_class():
    labels = np.array([0] * 10 + [1] * 3)
    drawn = draw_per_class(labels, 5, generator=np.random.default_rng(0))
    assert len(set(drawn)) == len(drawn) == 8
    assert np.bincount(labels[drawn]).tolist() == [5, 3]


@pytest.mark.parametrize(("text", "seeds"), [("0..4", [0, 1, 2, 3, 4]), ("3..3", [3]), ("5,1", [5, 1]), ("7", [7])])
def test_seeds_are_a_range_or_a_list(text, seeds):
    assert parse_seeds(text) == seeds


# --- the verdict ---


def scored(hits: dict[str, list[list[float]]], *, per_class: int = 200) -> tuple[Scores, list[str], list[int]]:
    """Return scores of methods on three classes: method -> for each seed, the share of right samples in each class."""
    labels = torch.arange(3).repeat_interleave(per_class)
    rows, predictions = [], {}
    for name, seeds in hits.items():
        for seed, shares in enumerate(seeds):
            right = torch.cat([torch.arange(per_class) < share * per_class for share in shares])
            predictions[name, "min_recall", seed] = torch.where(right, labels, (labels + 1) % 3)
            value = recall_score(labels, predictions[name, "min_recall", seed], average=None).min()
            rows.append(
                {"method": name, "metric": "min_recall", "seed": seed, "val": 0.5, "test": value, "seconds": 1.0}
            )
    return Scores(rows, predictions, labels, 3), list(hits), list(range(len(next(iter(hits.values())))))


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ([[0.9] * 3, [0.8] * 3], [[0.6] * 3, [0.5] * 3], "SelMix is the best of 3 methods, 85.0 against 55.0 of other"),
        ([[0.6] * 3, [0.5] * 3], [[0.9] * 3, [0.8] * 3], "SelMix is NOT the best, 55.0 against 85.0 of other"),
        ([[0.8] * 3, [0.8] * 3], [[0.8] * 3, [0.79] * 3], "do not tell the two apart"),
        ([[0.8] * 3, [0.8] * 3], [[0.8] * 3, [0.81] * 3], "NOT the best, 80.0 against 80.5 of other"),
    ],
)
def test_the_verdict_is_plain(ours, theirs, words):
    scores, names, seeds = scored({"worse": [[0.3] * 3, [0.3] * 3], "other": theirs, "selmix": ours})
    summary = summarise(scores, METRICS["min_recall"], names, seeds)
    assert words in summary["verdict"]
    difference = np.mean(ours) - np.mean(theirs)
    assert summary["best_other"] == "other"
    assert summary["best"] == ("selmix" if difference > 0 else "other")
    assert summary["difference"]["mean"] == pytest.approx(difference)
    low, high = summary["difference"]["interval"]
    assert ("tell the two apart" in summary["verdict"]) == (low <= 0 <= high)


def test_the_interval_is_that_of_paired_test_samples():
    # the same predictions but for 20 samples of class 0, the worst, that SelMix alone has right: with the others
    # far better, the difference is that of the recall of class 0, whose bootstrap law is binomial(200, 0.1) / 200
    scores, names, seeds = scored({"other": [[0.5, 1, 1]] * 2, "selmix": [[0.6, 1, 1]] * 2})
    low, high = summarise(scores, METRICS["min_recall"], names, seeds)["difference"]["interval"]
    deviation = np.sqrt(0.1 * 0.9 / 200)
    assert low == pytest.approx(0.1 - 1.96 * deviation, abs=0.008)
    assert high == pytest.approx(0.1 + 1.96 * deviation, abs=0.008)


def test_without_selmix_or_without_a_rival_there_is_no_difference():
    scores, names, seeds = scored({"one": [[0.5] * 3], "other": [[0.6] * 3]})
    summary = summarise(scores, METRICS["min_recall"], names, seeds)
    assert "difference" not in summary
    assert summary["verdict"] == "min_recall: the best is other; SelMix did not run"
    assert summary["methods"]["one"]["test"]["std"] is None
    scores, names, seeds = scored({"selmix": [[0.5] * 3]})
    assert summarise(scores, METRICS["min_recall"], names, seeds)["verdict"].endswith("SelMix ran alone")
