"""Several metrics and seeds from one load of the features: the runs, the tables, the front, the figure."""

import csv
import itertools
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_commands import features, run

from selmix.errors import UsageError
from selmix.option_words import parse_metrics
from selmix.pareto import non_dominated
from selmix.sweep import metric_folder

OWN = "0.5*mean_recall + 0.5*min(recall[0], recall[2])"
METRICS = ["min_recall", OWN, "accuracy"]
QUICK = ("steps=200", "refresh=50", "start_steps=50")


@pytest.fixture(autouse=True, scope="module")
def _few_replicates():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selmix.result.REPLICATES", 40)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Features with a pool that is worth labeling, and a user's own metric."""
    folder = tmp_path_factory.mktemp("sweep")
    arrays = features({"train": (300, 60, 12), "val": (40, 40, 40), "test": (100, 80, 60), "unlabeled": (80, 60, 40)})
    del arrays["unlabeled_labels"]
    np.savez(folder / "f.npz", **arrays)
    (folder / "own.py").write_text("def psi(confusion):\n    return confusion.diagonal().sum()\n")
    return folder


@pytest.fixture(scope="module")
def swept(folder):
    """The folder of a sweep over three metrics and two seeds, its document, and what was printed."""
    words = (
        "finetune",
        "--features",
        "f.npz",
        "--metric",
        ",".join(METRICS),
        "--seeds",
        "3..4",
        "--out",
        "runs",
        *QUICK,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, stdout, stderr = run(*words)
    assert code == 0, stderr
    return folder / "runs", json.loads((folder / "runs" / "sweep.json").read_text()), stdout


def test_each_run_is_complete_and_equals_the_single_run_to_the_bit(folder, swept, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    out, _, _ = swept
    for metric, seed in ((OWN, 3), ("accuracy", 4)):
        alone, own = tmp_path / f"alone{seed}", out / metric_folder(metric) / f"seed{seed}"
        words = ("finetune", "--features", "f.npz", "--metric", metric, "--seed", seed, "--out", alone, *QUICK)
        assert run(*words)[0] == 0
        assert {path.name for path in own.iterdir()} == {path.name for path in alone.iterdir()}
        for path in alone.iterdir():
            if path.name not in ("result.json", "report.html"):  # these say how long it took
                assert path.read_bytes() == (own / path.name).read_bytes(), path.name
        results = [json.loads((place / "result.json").read_text()) for place in (alone, own)]
        for result in results:
            assert result.pop("seconds")["tune"] > 0
        assert results[0] == results[1]
        assert results[0]["pseudo_labels"] is not None


def test_every_head_has_every_metric_as_scikit_learn_and_numpy_count_it(folder, swept):
    out, document, _ = swept
    with np.load(folder / "f.npz") as archive:
        points, labels = archive["test_features"], archive["test_labels"]
    expected = {name: [] for name in METRICS}
    for tuned, seed in itertools.product(METRICS, (3, 4)):
        head = load_file(out / metric_folder(tuned) / f"seed{seed}" / "head.safetensors")
        right = (points @ head["weight"].T + head["bias"]).argmax(1) == labels
        recall = [right[labels == label].mean() for label in range(3)]
        own = 0.5 * np.mean(recall) + 0.5 * min(recall[0], recall[2])
        expected[tuned].append({"accuracy": right.mean(), "min_recall": min(recall), OWN: own})
    assert [head["head"] for head in document["heads"]] == ["before", "balanced", *METRICS]
    for head in document["heads"][2:]:
        for name in METRICS:
            values = [values[name] for values in expected[head["head"]]]
            figures = head["test"][name]
            assert figures["mean"] == pytest.approx(np.mean(values))
            assert figures["std"] == pytest.approx(np.std(values, ddof=1))
    for name in ("before", "balanced"):
        single = json.loads((out / "min_recall" / "seed3" / "result.json").read_text())
        (row,) = (row for row in document["rows"] if (row["head"], row["seed"]) == (name, 3))
        for split in ("val", "test"):
            assert {key: row[split][key] for key in single[name][split]} == single[name][split]
            assert 0 < row[split][OWN] < 1


def test_the_table_lists_each_value_of_each_seed(swept):
    out, document, _ = swept
    with (out / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 * 2 * len(document["heads"][0]["test"])
    (line,) = (line for line in lines if (line["head"], line["split"], line["metric"]) == (OWN, "val", "mcc"))
    values = [row["val"]["mcc"] for row in document["rows"] if row["head"] == OWN]
    assert [float(line["seed3"]), float(line["seed4"])] == values
    assert float(line["mean"]) == pytest.approx(np.mean(values))
    assert int(line["pareto"]) == (OWN in document["pareto"]["val"])


def test_the_front_is_that_of_the_definition_and_is_printed(swept):
    _, document, stdout = swept
    names = ("mean_recall", "min_recall", "accuracy")
    for split in ("val", "test"):
        points = {head["head"]: np.array([head[split][name]["mean"] for name in names]) for head in document["heads"]}
        front = [
            name
            for name, own in points.items()
            if not any((other >= own).all() and (other > own).any() for other in points.values())
        ]
        assert document["pareto"][split] == front
    assert f"Pareto-optimal on test: {', '.join(document['pareto']['test'])}" in stdout
    for head in document["heads"]:
        figures = head["test"]["min_recall"]
        assert f"{100 * figures['mean']:.1f}" in stdout


def test_points_that_are_equal_do_not_beat_each_other():
    assert non_dominated({"a": (1, 0), "b": (1, 0), "c": (0, 0)}) == ["a", "b"]


def test_the_figure_says_in_words_what_it_shows(swept):
    out, document, _ = swept
    root = ElementTree.parse(out / "pareto.svg").getroot()
    title, description = (root.find(f"{{http://www.w3.org/2000/svg}}{tag}").text for tag in ("title", "desc"))
    assert "min_recall" in title
    texts = " ".join(root.itertext())
    for number, head in enumerate(document["heads"], 1):
        assert f"{number} {head['head']}: mean_recall {100 * head['test']['mean_recall']['mean']:.1f} %" in description
        assert f"{number}  {head['head'][:20]}" in texts
    assert description.count("Pareto-optimal") == len(document["pareto"]["test"])


def test_json_prints_the_document_and_one_seed_has_no_spread(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    metric = "min_recall, own.py:psi"
    code, stdout, _ = run(
        "finetune", "--features", "f.npz", "--metric", metric, "--out", tmp_path / "r", "--json", *QUICK
    )
    assert code == 0
    document = json.loads(stdout)
    assert document == json.loads((tmp_path / "r" / "sweep.json").read_text())
    assert document["seeds"] == [0]
    own = document["heads"][-1]
    assert own["test"]["own.py:psi"] == own["test"]["accuracy"]
    assert own["test"]["accuracy"]["std"] is None
    assert (tmp_path / "r" / own["folder"] / "seed0" / "result.json").is_file()


def test_a_constraint_that_is_not_met_is_exit_code_4_after_everything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    code, stdout, stderr = run(
        "finetune", "--features", "f.npz", "--metric", "mean_recall,accuracy", "--subject-to", "recall >= 0.999",
        "--out", tmp_path / "r", *QUICK,
    )  # fmt: skip
    assert code == 4
    assert "recall >= 0.999 for 1 of 1 seeds of mean_recall" in stderr
    assert "accuracy subject to recall >= 0.999: met for 0 of 1 seeds on val" in stdout
    assert (tmp_path / "r" / "sweep.json").is_file()


@pytest.mark.parametrize(
    ("metric", "message"),
    [("min_recall,acuracy", "did you mean accuracy?"), ("min_recall,,accuracy", "several with commas between them")],
)
def test_a_faulty_metric_stops_the_sweep_before_it_begins(folder, tmp_path, monkeypatch, metric, message):
    monkeypatch.chdir(folder)
    code, _, stderr = run("finetune", "--features", "f.npz", "--metric", metric, "--out", tmp_path / "r")
    assert code == 2
    assert message in stderr
    assert not (tmp_path / "r").exists()


def test_a_finished_sweep_is_kept(folder, swept, monkeypatch):
    monkeypatch.chdir(folder)
    code, _, stderr = run("finetune", "--features", "f.npz", "--metric", "accuracy,mcc", "--out", "runs")
    assert code == 2
    assert "--overwrite" in stderr


def test_commas_inside_a_metric_do_not_part_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = "min(recall[0], recall['a,b'])"
    assert parse_metrics(f"accuracy,{both} , balanced_accuracy,mean_recall") == ["accuracy", both, "mean_recall"]
    (tmp_path / "a,b.py").write_text("def psi(confusion):\n    return confusion.sum()\n")
    assert parse_metrics("a,b.py:psi") == ["a,b.py:psi"]
    with pytest.raises(UsageError):
        parse_metrics("min(accuracy, mcc")


def test_one_metric_by_two_names_is_a_single_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    metric = "mean_recall,balanced_accuracy"
    assert run("finetune", "--features", "f.npz", "--metric", metric, "--out", tmp_path / "r", *QUICK)[0] == 0
    assert json.loads((tmp_path / "r" / "result.json").read_text())["metric"] == "mean_recall"


def test_folders_of_metrics_are_safe_and_distinct():
    names = [
        "min_recall",
        "min_recall*1",
        "min_recall/1",
        "a/b.py:f",
        "a_b.py:f",
        "Recall[x]",
        "recall[x]",
        "../up",
        "é" * 90,
    ]
    folders = [metric_folder(name) for name in names]
    assert len({folder.lower() for folder in folders}) == len(names)
    assert folders[0] == "min_recall"
    for folder in folders:
        assert folder.isascii()
        assert not set(folder) & set('/\\:*?"<>|')
        assert not folder.startswith(".")
        assert len(folder) < 60
