"""`selmix evaluate`: the figures of a run again, and those of a head on other labeled data."""

import json
import shutil

import numpy as np
import pytest
import torch
from builders import write_npz
from deployed import BACKBONE, CLASSES, COUNTS, REPLICATES, quick_finetune, run, tuned_run, write_striped
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, recall_score

from selmix.deploy import judging

pytestmark = pytest.mark.usefixtures("_few_replicates")


@pytest.fixture
def _few_replicates(monkeypatch):
    monkeypatch.setattr(judging, "REPLICATES", REPLICATES)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    tuned_run(folder)
    return folder


def evaluated(*words):
    code, stdout, stderr = run("evaluate", *words, "--json", "--quiet")
    assert (code, stderr) == (0, "")
    return json.loads(stdout)


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("words", [[], ["--data", "{data}"], ["--features", "{cache}"]])
def test_on_the_samples_of_the_run_the_figures_are_those_of_the_run(place, words):
    result = result_of(place / "run")
    places = {"data": place / "data", "cache": place / "cache"}
    document = evaluated(place / "run", *(word.format(**places) for word in words))
    assert document["after"] == result["after"]["test"]
    assert document["recall"] == {"after": result["recall"]["after"]["test"]}
    assert document["before"] is None  # a linear probe, which is not kept
    assert document["interval"]["after"] == result["interval"]["after"]["test"]
    figures = {name: document["calibration"][name] for name in ("plain", "calibrated")}
    for name, own in figures.items():
        assert own == pytest.approx(result["calibration"]["test"][name], rel=1e-6)
    assert document["support"] == list(COUNTS["test"])
    assert (document["optimistic"], document["left_out"], document["split"]) == (False, 0, "test")


def test_labels_that_the_head_has_learnt_make_it_optimistic(place):
    assert evaluated(place / "run", "--split", "val")["optimistic"] is True
    code, stdout, _ = run("evaluate", place / "run", "--split", "train")
    assert code == 0
    assert "optimistic: the head has learnt the labels of train" in stdout


def test_other_images_in_three_forms(place, tmp_path):
    data = write_striped(tmp_path / "new", {"test": (4, 6, 5)})
    by_split = evaluated(place / "run", "--data", data)
    by_class = evaluated(place / "run", "--data", data / "test")
    lines = [
        f"test/{name}/{index}.png,{name}"
        for name, count in zip(CLASSES, (4, 6, 5), strict=True)
        for index in range(count)
    ]
    (data / "m.csv").write_text("\n".join(["path,label", *lines[::-1]]) + "\n")
    by_manifest = evaluated(place / "run", "--data", data / "m.csv")
    assert by_split["after"] == by_class["after"]
    assert by_manifest["after"] == pytest.approx(by_class["after"])
    assert by_split["support"] == [4, 6, 5]
    assert not by_split["optimistic"]
    assert by_split["digests"]["data"] != result_of(place / "run")["digests"]["data"]
    # by scikit-learn, from what predict says of the same files
    code, stdout, _ = run("predict", place / "run", data / "test", "--json")
    rows = json.loads(stdout)["predictions"]
    truth, found = [row["path"].split("/")[-2] for row in rows], [row["class"] for row in rows]
    assert by_split["after"]["accuracy"] == pytest.approx(accuracy_score(truth, found))
    assert by_split["after"]["macro_f1"] == pytest.approx(f1_score(truth, found, average="macro", labels=CLASSES))
    assert by_split["recall"]["after"] == pytest.approx(recall_score(truth, found, average=None, labels=CLASSES))


def test_a_manifest_of_the_whole_data_is_known_to_be_the_run_s(place):
    rows = sorted((place / "data").rglob("*.png"))
    names = [path.relative_to(place / "data").as_posix() for path in rows]
    lines = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in names]
    (place / "data" / "all.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    on_test = evaluated(place / "run", "--data", place / "data" / "all.csv")
    assert on_test["after"] == result_of(place / "run")["after"]["test"]
    document = evaluated(place / "run", "--data", place / "data" / "all.csv", "--split", "val")
    assert document["support"] == list(COUNTS["val"])
    assert document["optimistic"] is True


def test_a_bad_image_is_refused_or_left_out(place, tmp_path):
    data = write_striped(tmp_path / "new", {"test": (4, 6, 5)})
    (data / "test" / "bee" / "2.png").write_bytes(b"no image")
    code, _, stderr = run("evaluate", place / "run", "--data", data, "--quiet")
    assert code == 3
    assert "unreadable image" in stderr
    document = evaluated(place / "run", "--data", data, "--on-bad-image", "skip")
    assert document["support"] == [4, 5, 5]
    assert document["left_out"] == 1


@pytest.fixture
def ready(tmp_path):
    """Return arrays of ready features with a head, and the run of a head tuned on them."""
    rng = np.random.default_rng(0)
    arrays = {"class_names": np.array(["x", "y", "z"])}
    for split, counts in (("train", (30, 20, 10)), ("val", (9, 9, 9)), ("test", (20, 20, 20))):
        labels = np.repeat(np.arange(3), counts)
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_features"] = (2 * np.eye(3, 5)[labels] + rng.normal(size=(len(labels), 5))).astype(np.float32)
    arrays |= {"head_weight": np.eye(3, 5, dtype=np.float32), "head_bias": np.array([1, 0, -1], dtype=np.float32)}
    path = write_npz(tmp_path / "f.npz", arrays)
    quick_finetune("--features", path, "--metric", "0.5*mean_recall + 0.5*recall[z]", "--out", tmp_path / "run")
    return arrays, tmp_path / "run"


def test_the_head_before_is_judged_where_it_is_known(ready):
    _, folder = ready
    result, document = result_of(folder), evaluated(folder)
    for head in ("before", "after"):
        assert document[head] == result[head]["test"]
    assert document["interval"]["change"] == result["interval"]["change"]["test"]
    code, stdout, _ = run("evaluate", folder)
    assert code == 0
    assert f"{100 * result['after']['test']['min_recall']:.1f}" in stdout


def test_classes_are_compared_by_name_not_by_position(ready, tmp_path):
    arrays, folder = ready
    turned = [2, 0, 1]
    mixed = dict(arrays)
    mixed["class_names"] = arrays["class_names"][turned]
    for split in ("train", "val", "test"):
        mixed[f"{split}_labels"] = np.argsort(turned)[arrays[f"{split}_labels"]]
    for part in ("weight", "bias"):
        mixed[f"head_{part}"] = arrays[f"head_{part}"][turned]
    document = evaluated(folder, "--features", write_npz(tmp_path / "mixed.npz", mixed))
    known = evaluated(folder)
    for head in ("before", "after"):
        assert document[head] == known[head]
        assert document["recall"][head] == known["recall"][head]
    assert document["class_names"] == ["x", "y", "z"]


def test_features_that_do_not_belong_are_one_line(ready, place, tmp_path):
    arrays, folder = ready
    wide = {name: np.pad(own, ((0, 0), (0, 1))) if own.ndim == 2 else own for name, own in arrays.items()}
    other = arrays | {"class_names": np.array(["x", "y", "Z"])}
    changed = arrays | {"test_features": arrays["test_features"] + 1}
    without = {name: own for name, own in arrays.items() if not name.startswith("test")}
    cases = [
        (wide, 3, "has features of width 6, the head of"),
        (other, 3, "it lacks z and adds Z (did you mean z?)"),
        (without, 2, "has no split test (it has train, val)"),
    ]
    for number, (own, code, said) in enumerate(cases):
        path = write_npz(tmp_path / f"{number}.npz", own)
        done = run("evaluate", folder, "--features", path, "--quiet")
        assert done[:2] == (code, "")
        assert said in done[2]
        assert done[2].count("\n") == 1
    write_npz(tmp_path / "f.npz", changed)
    assert "f.npz has changed since" in run("evaluate", folder, "--quiet")[2]
    (tmp_path / "f.npz").unlink()
    done = run("evaluate", folder, "--quiet")
    assert done[0] == 3
    assert "are no longer in" in done[2]
    code, _, stderr = run("predict", folder, place / "data", "--quiet")
    assert code == 2
    assert "was tuned on ready features" in stderr
    assert "selmix evaluate RUN --features F" in stderr


def test_other_classes_of_images_are_one_line(place, tmp_path):
    data = write_striped(tmp_path / "new", {"test": (2, 2, 2)})
    (data / "test" / "bee").rename(data / "test" / "Bee")
    done = run("evaluate", place / "run", "--data", data, "--quiet")
    assert done[0] == 3
    assert "'bee' and 'Bee' differ in case" in done[2]
    whole = write_striped(tmp_path / "whole", {"train": (2, 2, 2), "test": (2, 2, 2)})
    for split in ("train", "test"):
        (whole / split / "bee").rename(whole / split / "wasp")
    done = run("evaluate", place / "run", "--data", whole, "--quiet")
    assert done[0] == 3
    assert "it lacks bee and adds wasp" in done[2]
    assert run("evaluate", place / "run", "--data", place / "data", "--split", "val", "--features", "x")[0] == 2
    assert run("evaluate", place / "run", "--data", tmp_path / "nowhere")[0] == 3
    assert "go with --data" in run("evaluate", place / "run", "--backbone", BACKBONE)[2]


def test_a_run_that_is_damaged_or_old_or_another_is_one_line(place, tmp_path):
    def broken(name):
        return shutil.copytree(place / "run", tmp_path / name)

    (broken("torn") / "head.safetensors").write_bytes(b"torn")
    (broken("gone") / "head.safetensors").unlink()
    (broken("json") / "result.json").write_text("{")
    (broken("list") / "result.json").write_text("[]")
    old = broken("old") / "result.json"
    content = json.loads(old.read_text())
    old.write_text(json.dumps({name: value for name, value in content.items() if name != "calibration"}))
    (broken("table") / "result.json").write_text(json.dumps(content | {"class_names": ["ant", "bee", "cat"]}))
    from selmix.checkpoints import read_metadata, save_tensors

    metadata, state = read_metadata(place / "run" / "head.safetensors"), load_file(place / "run" / "head.safetensors")
    save_tensors({"weight": state["weight"]}, broken("half") / "head.safetensors", metadata)
    save_tensors(
        {"weight": state["weight"] * torch.nan, "bias": state["bias"]}, broken("nan") / "head.safetensors", metadata
    )
    for name, said in {
        "torn": "head.safetensors is damaged",
        "gone": "no such checkpoint",
        "json": "is damaged",
        "list": "is no result of selmix finetune",
        "old": "was written by an older selmix",
        "table": "have different class tables",
        "half": "holds no linear head",
        "nan": "has NaN or infinite values",
    }.items():
        done = run("evaluate", tmp_path / name, "--quiet")
        assert done[:2] == (3, ""), name
        assert said in done[2]
        assert done[2].count("\n") == 1


def test_other_folders_of_selmix_say_what_they_are(place, tmp_path):
    words = ("--features", place / "cache", "--metric", "accuracy")
    quick_finetune(*words, "--seeds", "0,1", "--out", tmp_path / "seeds")
    done = run("evaluate", tmp_path / "seeds", "--quiet")
    assert done[0] == 2
    assert f"holds a run for each of 2 seeds; name one of them: {tmp_path / 'seeds' / 'seed0'}" in done[2]
    # tuned on a cache, it knows the backbone all the same
    assert run("predict", tmp_path / "seeds" / "seed1", place / "data" / "test" / "ant", "--quiet") == (0, "", "")
    for file, said in (("manifest.json", "holds a backbone of `selmix train`"), ("compare.json", "holds a comparison")):
        (tmp_path / file[:3]).mkdir()
        (tmp_path / file[:3] / file).write_text("{}")
        assert said in run("evaluate", tmp_path / file[:3])[2].replace("\n", " ")


def test_another_backbone_is_refused_with_what_changed(place, tmp_path):
    words = ("predict", place / "run", place / "data" / "val", "--quiet", "--backbone")
    assert run(*words, BACKBONE)[0] == 0
    done = run(*words, "shipped:cifar10_lt_mislas")
    assert done[0] == 3
    assert "what changed: " in done[2]
    moved = json.loads((place / "run" / "result.json").read_text())
    shutil.copytree(place / "run", tmp_path / "run")
    moved["origin"]["overrides"]["mean"] = [0.5, 0.5, 0.5]
    (tmp_path / "run" / "result.json").write_text(json.dumps(moved))
    done = run("predict", tmp_path / "run", place / "data" / "val", "--quiet")
    assert "what changed: mean [0.299042, 0.299042, 0.299042] then, [0.5, 0.5, 0.5] now" in done[2]
    moved["origin"] = None
    (tmp_path / "run" / "result.json").write_text(json.dumps(moved))
    done = run("predict", tmp_path / "run", place / "data" / "val", "--quiet")
    assert done[0] == 2
    assert "does not say which backbone it belongs to; add --backbone" in done[2]
    assert run("predict", tmp_path / "run", place / "data" / "val", "--quiet", "--backbone", BACKBONE) == (0, "", "")
