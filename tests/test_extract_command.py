"""`selmix extract`, and the verbs that take their features from a cache."""

import json

import numpy as np
import pytest
from builders import noise_image, write_image_folder
from typer.testing import CliRunner

import selmix.compare
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
    return run("finetune", "--metric", "mean_recall", "--out", out, "--json", *more, "steps=100", "start_steps=100")


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


def write_pool(folder):
    for name, seeds in (("bee", range(90, 94)), ("moth", range(94, 96))):
        (folder / name).mkdir(parents=True)
        for seed in seeds:
            noise_image(seed, (32, 32)).save(folder / name / f"{seed}.png")


def test_the_pool_is_extracted_shown_and_counted_and_changes_no_figure(folder, tmp_path):
    images = ("--backbone", BACKBONE, "--data", folder, "--dtype", "float32")
    code, without, _ = finetune(tmp_path / "a", *images)
    write_pool(folder / "unlabeled")
    code, stdout, _ = extract(folder, tmp_path / "features", "--dtype", "float32")
    assert (code, "unlabeled" in stdout) == (0, True)
    code, stdout, _ = extract(folder, tmp_path / "features", "--dtype", "float32", "--json")
    assert json.loads(stdout)["rows"] == {"train": 23, "val": 23, "test": 23, "unlabeled": 6}
    runs = {
        "own": images,
        "cache": ("--features", tmp_path / "features"),
        "none": (*images, "--unlabeled", "none"),
        "cache, none": ("--features", tmp_path / "features", "--unlabeled", "none"),
        "elsewhere": (*images, "--unlabeled", folder / "unlabeled" / "moth"),
    }
    for name, words in runs.items():
        code, stdout, _ = finetune(tmp_path / name, *words)
        assert code == 0
        document = json.loads(stdout)
        count = {"elsewhere": 2, "own": 6, "cache": 6}.get(name, 0)
        assert document["support"]["unlabeled"] == count
        assert len(json.loads((tmp_path / name / "splits.json").read_text()).get("unlabeled", [])) == count
        before = json.loads(without)
        assert [document[head] for head in ("before", "after")] == [before[head] for head in ("before", "after")]
        assert (document["digests"] == before["digests"]) == (name == "none")


def test_another_pool_leaves_the_features_of_the_data_as_they_are(folder, tmp_path):
    images = ("--backbone", BACKBONE, "--data", folder, "--dtype", "float32")
    code, first, _ = finetune(tmp_path / "a", *images)
    assert code == 0
    cache = json.loads(first)["features"]["folder"]
    write_pool(tmp_path / "pool")
    of_test = sorted((folder / "test").rglob("*.png"))[0]
    (tmp_path / "pool" / "moth" / "seen.png").write_bytes(of_test.read_bytes())
    words = (*images, "--unlabeled", tmp_path / "pool")
    code, apart, stderr = finetune(tmp_path / "b", *words)
    assert code == 0
    assert f"features reused from {cache}" in stderr
    assert "features of 7 images" in stderr  # nothing but the pool goes through the backbone
    assert "of test are in train and val and unlabeled, too" in stderr  # leaks are looked for across both
    code, together, _ = finetune(tmp_path / "c", *words, "--cache", tmp_path / "all")
    assert code == 0
    apart, together = json.loads(apart), json.loads(together)
    for key in ("before", "after", "support", "pseudo_labels", "interval"):
        assert apart[key] == together[key], key
    assert apart["digests"].keys() == {"data", "backbone", "unlabeled"}
    assert apart["digests"]["data"] == json.loads(first)["digests"]["data"]
    assert "features of" not in finetune(tmp_path / "d", *words)[2]


def test_a_wrong_pool_is_refused_before_anything_is_extracted(folder, tmp_path):
    code, stdout, stderr = extract(folder, tmp_path / "cache", "--unlabeled", tmp_path / "nowhere")
    assert (code, stdout, stderr.count("\n")) == (3, "", 1)
    assert "no such folder" in stderr
    assert not (tmp_path / "cache").exists()


def test_an_empty_pool_that_is_named_is_a_warning(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    code, stdout, stderr = extract(folder, tmp_path / "cache", "--unlabeled", tmp_path / "empty", "--json")
    assert code == 0
    assert json.loads(stdout)["rows"]["unlabeled"] == 0
    assert f"WARNING: {tmp_path / 'empty'} has no images" in stderr
    assert extract(folder, tmp_path / "cache", "--unlabeled", tmp_path / "empty")[0] == 0  # the table, too


def test_ready_features_take_a_pool_of_ready_features(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"train_features": rng.standard_normal((40, 4)).astype(np.float32), "train_labels": np.arange(40) % 2}
    np.savez(tmp_path / "f.npz", **arrays)
    np.savez(tmp_path / "p.npz", unlabeled_features=rng.standard_normal((7, 4)).astype(np.float32))
    words = ("--features", tmp_path / "f.npz", "--unlabeled")
    code, stdout, _ = finetune(tmp_path / "run", *words, tmp_path / "p.npz")
    assert (code, json.loads(stdout)["support"]["unlabeled"]) == (0, 7)
    code, _, stderr = finetune(tmp_path / "b", *words, "photos")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "--unlabeled beside --features is none, or an .npz; got photos" in stderr
    code, _, stderr = finetune(tmp_path / "b", *words, tmp_path / "gone.npz")
    assert (code, stderr.count("\n")) == (3, 1)


def test_a_comparison_shares_the_cache_of_finetune_and_leaves_the_pool_aside(folder, tmp_path, monkeypatch):
    compared, ladder = [], selmix.compare.run_ladder
    monkeypatch.setattr(
        selmix.compare, "run_ladder", lambda data, *words, **more: compared.append(data) or ladder(data, *words, **more)
    )
    write_pool(folder / "unlabeled")
    images = ("--backbone", BACKBONE, "--data", folder, "--dtype", "float32")
    assert finetune(tmp_path / "a", *images)[0] == 0
    words = ("--metric", "mean_recall", "--methods", "ncm,given", "--seeds", "0", "--out", tmp_path / "b")
    code, _, stderr = run("compare", *images, *words)
    assert code == 0
    assert compared[0].unlabeled is None
    assert "features reused from" in stderr
