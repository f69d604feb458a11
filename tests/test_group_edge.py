"""Groups of samples from the features file to the result."""

import json

import numpy as np
import pytest
import torch
from builders import write_npz
from sklearn import metrics as sk
from test_commands import run
from test_feature_file import ready

from selmix import result
from selmix.bootstrap import resampled_counts
from selmix.errors import DataError
from selmix.evaluation import evaluate
from selmix.features.file import load_features
from selmix.metrics.groups import ClassGroups
from selmix.predictions import Predictions

pytestmark = pytest.mark.usefixtures("_quick_retraining")


@pytest.fixture(autouse=True)
def _fewer_replicates(monkeypatch):
    monkeypatch.setattr(result, "REPLICATES", 200)


CELLS = ["lb-land", "lb-sea", "wb-land", "wb-sea"]  # land birds and water birds


def birds(seed, *, minority=0.06):
    """Return two classes of birds; the background is easy to see and nearly always goes with the class.

    Groups are the four cells, so worst_group_recall is the worst-group accuracy. In test the cells are of equal size.
    """
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count, share in (("train", 400, minority), ("val", 300, 0.15), ("test", 500, 0.5)):
        labels = np.repeat([0, 1], count)
        odd = np.tile(np.arange(count) < share * count, 2)
        background = labels ^ odd
        core = 1.0 * (2 * labels - 1) + rng.normal(size=2 * count)
        seen = 1.5 * (2 * background - 1) + 0.7 * rng.normal(size=2 * count)
        arrays[f"{split}_features"] = np.stack([core, seen, *rng.normal(size=(4, 2 * count))], 1).astype(np.float32)
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_groups"] = np.array(CELLS)[2 * labels + background]
    return arrays | {"class_names": np.array(["landbird", "waterbird"])}


def tuned(path, out, metric, *more):
    code, stdout, _ = run("finetune", "--features", path, "--metric", metric, "--out", out, "steps=600", *more)
    assert code == 0
    return json.loads((out / "result.json").read_text()), stdout


def test_tuning_for_the_worst_group_beats_tuning_for_the_mean_there(tmp_path):
    gains = []
    for seed in range(3):
        path = write_npz(tmp_path / f"{seed}.npz", birds(seed))
        worst, mean = (
            tuned(path, tmp_path / f"{metric}{seed}", metric, "--quiet")[0]["after"]["test"]["worst_group_recall"]
            for metric in ("worst_group_recall", "mean_recall")
        )
        gains.append(worst - mean)
    assert min(gains) > 0.03, gains


def test_the_result_has_support_recall_and_intervals_of_the_groups(tmp_path):
    arrays = birds(0)
    document, stdout = tuned(write_npz(tmp_path / "f.npz", arrays), tmp_path / "run", "worst_group_recall")
    groups = document["groups"]
    assert groups["names"] == CELLS
    assert groups["support"] == {
        "train": [[376, 24, 0, 0], [0, 0, 24, 376]],
        "val": [[255, 45, 0, 0], [0, 0, 45, 255]],
        "test": [[250, 250, 0, 0], [0, 0, 250, 250]],
    }
    recall = groups["recall"]["after"]["test"]
    assert [value is None for value in recall[0] + recall[1]] == [False, False, True, True, True, True, False, False]
    worst = document["after"]["test"]["worst_group_recall"]
    assert worst == pytest.approx(min(value for row in recall for value in row if value is not None))
    assert document["recall"]["after"]["test"] == pytest.approx([np.mean(recall[0][:2]), np.mean(recall[1][2:])])
    low, high = document["interval"]["after"]["test"]["worst_group_recall"]
    assert low < worst + 0.01
    assert worst - 0.01 < high < low + 0.2
    line = next(line for line in stdout.splitlines() if "lb-sea" in line)
    assert [word for word in line.replace("│", " ").split() if word.isdigit()] == ["24", "250"]
    assert f"{100 * recall[0][1]:.1f}" in line


def test_without_groups_the_key_is_null_and_the_metric_is_refused(tmp_path):
    arrays = {key: array for key, array in birds(0).items() if not key.endswith("groups")}
    path = write_npz(tmp_path / "f.npz", arrays)
    assert tuned(path, tmp_path / "run", "mean_recall")[0]["groups"] is None
    words = ("finetune", "--features", path, "--metric", "worst_group_recall", "--out", tmp_path / "no")
    code, _, stderr = run(*words)
    assert code == 3
    assert "have none" in stderr


def test_a_constraint_may_speak_of_the_worst_group(tmp_path):
    path = write_npz(tmp_path / "f.npz", birds(1))
    document, _ = tuned(path, tmp_path / "run", "accuracy", "--subject-to", "worst_group_recall >= 0.7")
    (report,) = document["constraints"]
    assert report["val"] >= 0.7
    assert report["test"] == pytest.approx(document["after"]["test"]["worst_group_recall"])


def test_compare_leaves_groups_aside_and_says_so(tmp_path):
    path = write_npz(tmp_path / "f.npz", birds(0))
    words = ("--methods", "ncm,selmix", "--seeds", "0", "steps=100", "--out", tmp_path / "run")
    code, _, stderr = run("compare", "--features", path, "--metric", "mean_recall", *words)
    assert code == 0
    assert "the groups of samples are left aside" in stderr


GROUPS = {"train": np.arange(9) % 2, "val": np.array([0, 0, 0, 1, 1, 1]), "test": np.array([1, 0, 0])}


def with_groups(**changes):
    return ready(**{f"{split}_groups": array for split, array in GROUPS.items()} | changes)


@pytest.mark.parametrize("kind", ["uint8", "int64", "U3", ">i4"])
def test_groups_are_numbered_in_order_and_keep_their_names(tmp_path, kind):
    names = np.array([7, 19]).astype(kind) if kind[0] != "U" else np.array(["lab", "sea"])
    arrays = with_groups(**{f"{split}_groups": names[array] for split, array in GROUPS.items()})
    data = load_features(write_npz(tmp_path / "f.npz", arrays))
    assert data.group_names == ([str(name) for name in names])
    assert data.num_groups == 2
    for split, array in GROUPS.items():
        assert data.splits[split].groups.tolist() == array.tolist()
        assert data.splits[split].rows(2).tolist() == (2 * data.splits[split].labels + torch.from_numpy(array)).tolist()
    assert load_features(write_npz(tmp_path / "g.npz", ready())).num_groups == 1


FAULTS = {
    "no val groups": ({"val_groups": None}, ["lacks val_groups"]),
    "groups of test alone": ({"train_groups": None, "val_groups": None}, ["lacks train_groups, val_groups"]),
    "groups without a split": ({"test_features": None, "test_labels": None}, ["lacks test_features, test_labels"]),
    "float groups": ({"train_groups": np.zeros(9)}, ["train_groups must hold integers or strings", ".astype(int)"]),
    "short": ({"val_groups": np.zeros(5, int)}, ["val_groups has 5 rows, val_features has 6"]),
    "a column": ({"test_groups": np.zeros((3, 1), int)}, ["test_groups must be", "1 dimension"]),
    "mixed": ({"val_groups": np.array(list("aabbab"))}, ["integers in every split, or strings in every split"]),
    "new in test": ({"test_groups": np.array([1, 0, 5])}, ["test_groups has 5, which is no group of train or val"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_groups_is_named(tmp_path, fault):
    changes, fragments = FAULTS[fault]
    with pytest.raises(DataError) as caught:
        load_features(write_npz(tmp_path / "f.npz", with_groups(**changes)))
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_sample_numbers_are_no_groups(tmp_path):
    arrays = {"train_features": np.zeros((5001, 1), np.float32), "train_labels": np.arange(5001) % 2}
    path = write_npz(tmp_path / "f.npz", arrays | {"train_groups": np.arange(5001)})
    with pytest.raises(DataError, match="2 classes times 5001 groups are more than 10000"):
        load_features(path)


def test_evaluate_agrees_with_scikit_learn_in_every_cell():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(3, size=400), rng.integers(2, size=400)
    groups[labels == 1] = 0
    logits = torch.from_numpy(rng.normal(size=(400, 3)) + np.eye(3)[labels])
    predictions = logits.argmax(1).numpy()
    rows = torch.from_numpy(labels * 2 + groups)
    counts = ClassGroups.from_counts(torch.tensor([500, 50, 5]))
    done = evaluate(Predictions.of_logits(logits), rows, counts, num_classes=3, num_groups=2)
    assert done.group_recall[1][1] is None
    worst = []
    for group in range(2):
        inside = groups == group
        present = sorted(set(labels[inside]))
        own = sk.recall_score(labels[inside], predictions[inside], labels=present, average=None)
        assert [done.group_recall[label][group] for label in present] == pytest.approx(list(own))
        worst.append(own.mean())
    assert done.metrics["worst_group_recall"] == pytest.approx(min(worst))
    assert done.recall == pytest.approx(list(sk.recall_score(labels, predictions, average=None)))
    assert done.metrics["accuracy"] == pytest.approx((predictions == labels).mean())


def test_every_cell_keeps_its_size_in_the_bootstrap():
    rows = torch.tensor([0, 0, 3, 3, 3, 2, 5])
    predictions = torch.tensor([0, 1, 1, 1, 0, 2, 2])
    generator = torch.Generator().manual_seed(0)
    drawn = [own for (own,) in resampled_counts(rows, [predictions], 3, replicates=40, generator=generator, groups=2)]
    assert all(counts.shape == (6, 3) for counts in drawn)
    assert all(counts.sum(1).tolist() == [2, 0, 1, 3, 0, 1] for counts in drawn)
    assert len({counts[3, 1].item() for counts in drawn}) > 2
