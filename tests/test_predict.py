"""`selmix predict` on real files: what is predicted, how it is written, and what is said of bad input."""

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from deployed import CLASSES, COUNTS, quick_finetune, run, tuned_run, write_striped

from selmix.deploy.images import named_images
from selmix.deploy.sheets import Layout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    tuned_run(folder)
    return folder


@pytest.fixture
def result(place):
    return json.loads((place / "run" / "result.json").read_text())


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_test_folder_gives_the_figures_of_the_run_exactly(place, result, tmp_path):
    out = tmp_path / "p.csv"
    code, stdout, stderr = run("predict", place / "run", place / "data" / "test", "--out", out)
    assert (code, stderr) == (0, "")
    rows = rows_of(out)
    assert len(rows) == sum(COUNTS["test"])
    truth = [row["path"].split("/")[-2] for row in rows]
    assert truth == [name for name, count in zip(CLASSES, COUNTS["test"], strict=True) for _ in range(count)]
    right = np.array([row["class"] == own for row, own in zip(rows, truth, strict=True)])
    assert right.mean() == pytest.approx(result["after"]["test"]["accuracy"], abs=1e-12)
    recalls = [right[np.array(truth) == name].mean() for name in CLASSES]
    assert recalls == pytest.approx(result["recall"]["after"]["test"], abs=1e-12)
    assert 0.4 < right.mean() < 1
    for row in rows:
        probabilities = [float(row[f"p_{name}"]) for name in CLASSES]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert float(row["probability"]) == max(probabilities)
        assert CLASSES[int(np.argmax(probabilities))] == row["class"]
    confidence = np.mean([float(row["probability"]) for row in rows])
    assert abs(confidence - right.mean()) <= result["after"]["test"]["ece"] + 1e-5  # the mean gap is at most the ECE
    assert f"{len(rows)} image(s)" in stdout
    assert f"written: {out}" in stdout.replace("\n", "")


def test_calibrated_probabilities_are_those_of_the_temperature(place, result, tmp_path):
    for name, more in (("plain", []), ("calibrated", ["--calibrated"])):
        words = ("predict", place / "run", place / "data" / "test", "--out", tmp_path / f"{name}.parquet", *more)
        assert run(*words)[0] == 0
    plain, calibrated = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("plain", "calibrated"))
    assert plain.column_names == ["path", "class", "probability", *(f"p_{name}" for name in CLASSES)]
    assert plain["class"] == calibrated["class"]
    ours, theirs = (
        torch.from_numpy(np.stack([table[f"p_{name}"].to_numpy() for name in CLASSES], 1))
        for table in (plain, calibrated)
    )
    temperature = result["calibration"]["temperature"]
    torch.testing.assert_close((ours.double().log() / temperature).softmax(1).float(), theirs, rtol=1e-4, atol=1e-6)


def test_files_folders_globs_and_manifests_name_the_same_images(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place / "data")
    folder = named_images(["test/bee"])
    files = [f"test/bee/{index}.png" for index in range(COUNTS["test"][1])]
    assert folder.ids == sorted(files)
    assert named_images(files).ids == files
    assert named_images(["test/b*/[0-9]*.png"]).ids == named_images(["test/**/bee/*"]).ids == sorted(files)
    table = pa.table({"path": files, "weight": range(len(files))})
    pq.write_table(table, place / "data" / "m.parquet")
    pyarrow.csv.write_csv(table, place / "data" / "m.csv")
    monkeypatch.chdir(tmp_path)
    for ending in ("csv", "parquet"):
        images = named_images([str(place / "data" / f"m.{ending}")])
        assert images.ids == files  # as they stand in it
        assert images.images.open(3).size == (31, 40)
    both = named_images([str(place / "data" / "m.csv"), str(place / "data" / "test" / "bee" / "0.png")])
    assert len(both.ids) == len(files) + 1


def test_top_names_the_likeliest_classes(place, tmp_path):
    for top in (1, 2, 9):
        assert (
            run("predict", place / "run", place / "data" / "val", "--top", top, "--out", tmp_path / f"{top}.csv")[0]
            == 0
        )
    one, two, all_of_them = (rows_of(tmp_path / f"{top}.csv") for top in (1, 2, 9))
    assert list(one[0]) == ["path", "class", "probability"]
    assert list(two[0]) == ["path", "class", "probability", "class_2", "probability_2"]
    assert list(all_of_them[0])[-2:] == ["class_3", "probability_3"]
    for row in all_of_them:
        assert {row["class"], row["class_2"], row["class_3"]} == set(CLASSES)
        chances = [float(row[name]) for name in ("probability", "probability_2", "probability_3")]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1, abs=1e-5)


def test_json_is_one_document_with_all_rows_unless_a_file_has_them(place, tmp_path):
    code, stdout, stderr = run("predict", place / "run", place / "data" / "val", "--json")
    assert (code, stderr) == (0, "")
    document = json.loads(stdout)
    assert document["count"] == len(document["predictions"]) == 24
    assert sum(document["classes"].values()) == 24
    row = document["predictions"][0]
    assert list(row) == ["path", "class", "probability", *(f"p_{name}" for name in CLASSES)]
    code, stdout, _ = run("predict", place / "run", place / "data" / "val", "--json", "--out", tmp_path / "p.csv")
    assert code == 0
    document = json.loads(stdout)
    assert "predictions" not in document
    assert document["out"] == str(tmp_path / "p.csv")


def test_a_bad_image_is_refused_or_named_and_left_out(place, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(place / "data" / "val" / "bee", folder)
    (folder / "3.png").write_bytes(b"no image")
    out = tmp_path / "p.csv"
    code, stdout, stderr = run("predict", place / "run", folder, "--out", out, "--quiet")
    assert (code, stdout) == (3, "")
    assert stderr.count("\n") == 1
    for words in (str(folder / "3.png"), "--on-bad-image skip"):
        assert words in stderr
    assert list(tmp_path.iterdir()) == [folder]  # nothing is left of the file
    code, stdout, stderr = run("predict", place / "run", folder, "--out", out, "--on-bad-image", "skip")
    assert code == 0
    assert f"WARNING: left out: unreadable image {folder / '3.png'}" in stderr
    assert "left out: 1 image(s)" in stdout
    assert [row["path"] for row in rows_of(out)] == [str(folder / f"{n}.png") for n in (0, 1, 2, 4, 5, 6, 7)]
    code, stdout, _ = run("predict", place / "run", folder, "--json", "--quiet", "--on-bad-image", "skip")
    assert list(json.loads(stdout)["left_out"]) == [str(folder / "3.png")]


def test_a_file_that_a_manifest_names_may_be_missing_if_bad_images_are_left_out(place, tmp_path):
    shutil.copy(place / "data" / "val" / "ant" / "0.png", tmp_path)
    (tmp_path / "list.csv").write_text("path\n0.png\ngone.png\n")
    code, stdout, _ = run(
        "predict", place / "run", tmp_path / "list.csv", "--on-bad-image", "skip", "--json", "--quiet"
    )
    assert code == 0
    document = json.loads(stdout)
    assert [row["path"] for row in document["predictions"]] == ["0.png"]
    assert list(document["left_out"]) == ["gone.png"]


def test_all_images_bad_is_an_empty_sheet(place, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    words = ("predict", place / "run", tmp_path / "a.png", "--on-bad-image", "skip", "--quiet")
    for ending in ("csv", "parquet"):
        assert run(*words, "--out", tmp_path / f"p.{ending}")[0] == 0
    assert rows_of(tmp_path / "p.csv") == []
    assert len(pq.read_table(tmp_path / "p.parquet")) == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{run}", "nowhere"], 3, "no such file or folder: nowhere"),
        (["{run}", "*.gif"], 2, "*.gif matches nothing"),
        (["{run}", "*.txt"], 2, "*.txt matches 1 name(s), none of them an image"),
        (["{run}", "empty"], 3, "empty has no images"),
        (["{run}", "shipped:fashion_mnist_lt"], 2, "is a data set in memory"),
        (["{run}", "lost.csv"], 3, "no such file, the first is not_here.png"),
        (["{run}", "bare.csv"], 3, "lacks the column path"),
        (["{run}", "rows.csv"], 3, "rows.csv has no rows"),
        (["{run}", "notes.txt"], 3, "unreadable image notes.txt"),
        (["{run}", "{val}", "--out", "p.xlsx"], 2, "--out must end in .csv or .parquet, got p.xlsx"),
        (["{run}", "{val}", "--out", "there.csv"], 2, "--out there.csv is there already; name a new file or add"),
        (["{run}", "{val}", "--out", "no/p.csv"], 2, "no/p.csv lies in no folder that exists"),
        (["{run}", "{val}", "--out", "folder.csv"], 2, "folder.csv is a folder"),
        (["{run}", "{val}", "--backbone", "shipped:nothing"], 2, "nothing called 'nothing' ships"),
        (["nowhere", "{val}"], 2, "nowhere does not exist"),
        (["notes.txt", "{val}"], 2, "notes.txt is a file"),
        (["empty", "{val}"], 2, "empty holds no finished run"),
        (["{cache}", "{val}"], 2, "holds features, no tuned head; tune one: selmix finetune --features"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(place, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "folder.csv"):
        (tmp_path / folder).mkdir()
    for name, text in (
        ("notes.txt", "words"), ("there.csv", "mine"), ("lost.csv", "path\nnot_here.png\n"),
        ("bare.csv", "label\ncat\n"), ("rows.csv", "path\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
    places = {"run": place / "run", "val": place / "data" / "val", "cache": place / "cache"}
    done = run("predict", *(word.format(**places) for word in words), "--quiet")
    assert done[:2] == (code, "")
    assert said in done[2]
    assert done[2].count("\n") == 1
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_overwrite_replaces_a_file(place, tmp_path):
    (tmp_path / "p.csv").write_text("mine")
    words = ("predict", place / "run", place / "data" / "val", "--out", tmp_path / "p.csv", "--quiet")
    assert run(*words, "--overwrite") == (0, "", "")
    assert len(rows_of(tmp_path / "p.csv")) == 24


def test_names_that_are_no_utf8_come_back_byte_for_byte(place, tmp_path):
    name = b"\xff.png".decode("utf-8", "surrogateescape")
    shutil.copy(place / "data" / "val" / "ant" / "0.png", tmp_path / name)
    assert run("predict", place / "run", tmp_path, "--out", tmp_path / "p.csv")[0] == 0
    assert b"\xff.png" in (tmp_path / "p.csv").read_bytes()
    assert run("predict", place / "run", tmp_path, "--out", tmp_path / "p.parquet", "--quiet")[0] == 0
    assert pq.read_table(tmp_path / "p.parquet")["path"].to_pylist() == [f"{tmp_path}/\\udcff.png"]
    assert json.loads(run("predict", place / "run", tmp_path, "--json")[1])["count"] == 1


def test_parquet_is_written_in_groups(monkeypatch, tmp_path):
    from selmix.deploy import sheets

    monkeypatch.setattr(sheets, "_GROUP", 15)
    layout = Layout(["a", "b"])
    with sheets.new_sheet(tmp_path / "p.parquet", layout) as sheet:
        for start in range(0, 10, 2):
            sheet.add([[str(number), "a", 0.5, 0.5, 0.5] for number in range(start, start + 2)])
    assert (
        pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 3
    )  # of 4, 4 and 2 rows: 3 is the least, 2 come at once
    assert pq.read_table(tmp_path / "p.parquet")["path"].to_pylist() == list(map(str, range(10)))


def test_memory_does_not_grow_with_the_number_of_images(place, monkeypatch):
    """No more than a few batches are alive at a time."""
    import weakref

    from selmix.deploy.opening import backbone_of, open_run
    from selmix.deploy.predicting import Predictor

    opened = open_run(place / "run")
    predictor = Predictor(backbone_of(opened), opened.head, torch.device("cpu"))
    images = named_images([str(place / "data" / "test" / "ant" / "0.png")] * 500)
    alive, most = weakref.WeakSet(), 0
    with torch.inference_mode():
        for names, probabilities in predictor.predict(images):
            alive.add(probabilities)
            most = max(most, len(alive))
            assert len(names) <= 128
    assert most <= 2


def test_predictions_do_not_depend_on_the_working_directory(place, tmp_path, monkeypatch):
    data = write_striped(tmp_path / "data", {"train": (6, 5, 4), "val": (3, 3, 3), "test": (3, 3, 3)})
    monkeypatch.chdir(tmp_path)
    words = ("--backbone", "model.safetensors", "--arch", "cifar_resnet32", "--data", "data", "--cache", "cache")
    import selmix.shipped

    shutil.copy(selmix.shipped.shipped_folder("fashion_resnet32", "model.safetensors") / "model.safetensors", tmp_path)
    quick_finetune(*words, "--metric", "accuracy", "--out", "run")
    monkeypatch.chdir(data)
    assert run("predict", "../run", "test", "--quiet") == (0, "", "")
    (tmp_path / "model.safetensors").rename(tmp_path / "moved.safetensors")
    code, _, stderr = run("predict", "../run", "test", "--quiet")
    assert code == 3
    assert f"no such checkpoint or folder: {tmp_path / 'model.safetensors'}" in stderr
    assert "add --backbone" in stderr
    assert run("predict", "../run", "test", "--quiet", "--backbone", "../moved.safetensors") == (0, "", "")
