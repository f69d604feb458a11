"""`selmix extract`, and the verbs that take their features from a cache."""

import json

import numpy as np
import pytest
from builders import write_image_folder
from typer.testing import CliRunner

from selmix.commands import app
from selmix.features.disk import shown_bytes

pytestmark = pytest.mark.usefixtures("_quick_retraining")

COUNTS = {split: {"ant": 12, "bee": 11} for split in ("train", "val", "test")}
BACKBONE = "shipped:fashion_resnet32"


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path):
    return write_image_folder(tmp_path / "data", COUNTS)


def extract(folder, out, *more):
    return run("extract", "--backbone", BACKBONE, "--data", folder, "--out", out, *more)


def finetune(out, *more):
    return run("finetune", "--metric", "mean_recall", "--out", out, "--json", *more, "steps=100")


def test_extract_says_what_it_needs_and_what_came_out(folder, tmp_path):
    code, stdout, stderr = extract(folder, tmp_path / "cache", "--dtype", "float16", "--views", 2)
    assert code == 0
    # 69 images and 2 views of 23; 64 numbers of 2 bytes, and 160 bytes for its record
    assert f"features of 115 images need {shown_bytes(115 * (64 * 2 + 160))} (115 x 64 x 2 bytes" in stderr
    for line in ("d = 64, float16", "train.view2", "extracted 115 images in", f"features: {tmp_path / 'cache'}"):
        assert line in stdout
    code, stdout, stderr = extract(folder, tmp_path / "cache", "--dtype", "float16", "--views", 2, "--json")
    assert code == 0
    assert stderr == f"INFO: features reused from {tmp_path / 'cache'}\n"
    document = json.loads(stdout)
    assert document["rows"] == {"train": 23, "val": 23, "test": 23, "train.view1": 23, "train.view2": 23}
    assert (document["extracted"], document["width"], document["dtype"]) == (0, 64, "float16")
    assert document["bytes"] == 115 * 64 * 2
    code, stdout, stderr = extract(folder, tmp_path / "cache", "--quiet", "--dtype", "float16", "--views", 2)
    assert (code, stdout, stderr) == (0, "", "")


def test_other_features_in_the_folder_are_exit_code_3_and_one_line(folder, tmp_path):
    assert extract(folder, tmp_path / "cache", "--dtype", "float32")[0] == 0
    code, stdout, stderr = extract(folder, tmp_path / "cache", "--dtype", "bfloat16", "--quiet")
    assert (code, stdout, stderr.count("\n")) == (3, "", 1)
    assert "what differs: dtype (float32 there, bfloat16 asked for)" in stderr


def test_finetune_takes_a_cache_as_it_takes_images(folder, tmp_path):
    images = ("--backbone", BACKBONE, "--data", folder, "--dtype", "float32")
    code, first, stderr = finetune(tmp_path / "a", *images)
    assert code == 0
    assert "features of 69 images need" in stderr
    code, second, stderr = finetune(tmp_path / "b", *images)
    assert code == 0
    assert "features reused from" in stderr
    assert extract(folder, tmp_path / "cache", "--dtype", "float32")[0] == 0
    code, third, stderr = finetune(tmp_path / "c", "--features", tmp_path / "cache")
    assert code == 0
    documents = [json.loads(text) for text in (first, second, third)]
    assert [document["features"]["reused"] for document in documents] == [False, True, True]
    assert documents[2]["features"]["folder"] == str(tmp_path / "cache")
    for document in documents:
        assert document.pop("features")["bad_images"] == {}
        assert set(document.pop("seconds")) == {"extract", "tune"}
    assert documents[0] == documents[1] == documents[2]


def test_bad_images_are_counted_in_the_result(folder, tmp_path):
    (folder / "train" / "bee" / "3.png").write_bytes(b"")
    images = ("--backbone", BACKBONE, "--data", folder, "--cache", tmp_path / "cache")
    code, _, stderr = finetune(tmp_path / "a", *images, "--quiet")
    assert code == 3
    assert "row 16 of train, class bee" in stderr  # 10.png comes before 2.png
    code, stdout, stderr = finetune(tmp_path / "a", *images, "--on-bad-image", "skip")
    assert code == 0
    document = json.loads(stdout)
    assert document["features"]["bad_images"] == {"train": ["train/bee/3.png"]}
    assert document["support"]["train"] == [12, 10]


@pytest.mark.parametrize("more", [("--views", 1), ("--cache", "x")])
def test_ready_features_are_what_they_are(tmp_path, more):
    np.savez(tmp_path / "f.npz", train_features=np.eye(4, dtype=np.float32), train_labels=np.array([0, 0, 1, 1]))
    code, _, stderr = finetune(tmp_path / "run", "--features", tmp_path / "f.npz", *more)
    assert code == 2
    assert stderr.count("\n") == 1
