"""Stage one from a recipe to a backbone that stage two can load."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import write_image_folder
from safetensors.torch import load_file
from typer.testing import CliRunner

import selmix.data.shipped_images
import selmix.training
from selmix.backbones import load_backbone, load_backbone_folder
from selmix.commands import app
from selmix.data.images import ImageData
from selmix.errors import DataError, UsageError

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
RECIPE = """
name = "tiny"
architecture = "cifar_resnet20"
data = "shipped:fashion_mnist_lt"
input_size = [28, 28]
[stage1]
epochs = 1
warmup_epochs = 0
batch_size = 32
"""


@pytest.fixture
def few_images(monkeypatch):
    """Train and evaluate on a few images a class, so that the test is quick."""
    whole = selmix.data.shipped_images.load_shipped_images("fashion_mnist_lt")

    def few(split, count):
        labels = torch.from_numpy(whole.splits[split].labels)
        chosen = torch.cat([(labels == label).nonzero()[:count, 0] for label in range(10)])
        return whole.splits[split].subset(chosen.numpy())

    data = ImageData(whole.class_names, {"train": few("train", 10), "val": few("val", 3), "test": few("test", 4)}, "d")
    monkeypatch.setattr("selmix.training.open_images", lambda spec: data)
    return data


def train(tmp_path, out, *more):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    return CliRunner().invoke(app, ["train", str(recipe), "--out", str(tmp_path / out), *more])


def test_train_writes_a_backbone_with_a_manifest_that_vouches_for_it(few_images, tmp_path):
    result = train(tmp_path, "a", "--json")
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)
    assert manifest == json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["class_counts"] == [10] * 10
    assert manifest["recipe"]["stage1"]["epochs"] == 1
    assert set(manifest["metrics"]) == {"val", "test"}
    assert manifest["epoch"] == 1
    backbone = load_backbone_folder(tmp_path / "a")
    assert backbone.head is not None
    assert backbone.head.weight.shape == (10, 64)
    # the weights say all that by themselves
    alone = load_backbone(str(tmp_path / "a" / "model.safetensors"))
    assert alone.digest == backbone.digest
    assert alone.class_names == few_images.class_names
    assert torch.equal(alone.head.weight, backbone.head.weight)
    # the same normalisation as NumPy computes, the same in every channel of a grey image
    images = few_images.splits["train"]
    grey = np.stack([np.asarray(images.images.open(position))[..., 0] for position in range(100)]) / 255
    assert manifest["mean"] == pytest.approx([grey.mean()] * 3, abs=1e-5)
    assert manifest["std"] == pytest.approx([grey.std()] * 3, abs=1e-5)


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(few_images, tmp_path):
    for out, words in (("a", ()), ("b", ()), ("c", ("seed=1",))):
        assert train(tmp_path, out, "--quiet", *words).exit_code == 0
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_a_loss_with_a_last_layer_of_its_own_repeats_with_the_seed(few_images, tmp_path):
    for out in "ab":
        torch.manual_seed(ord(out))
        assert train(tmp_path, out, "--quiet", "loss.name=ldam").exit_code == 0
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_what_a_classifier_has_learnt_stays_under_losses_that_change_the_last_layer(few_images, tmp_path):
    assert train(tmp_path, "a", "--quiet").exit_code == 0
    before = weights(tmp_path / "a")
    words = (f"start={tmp_path / 'a'}", "stage1.learning_rate=1e-9")
    assert train(tmp_path, "b", "--quiet", "loss.name=sigmoid", *words).exit_code == 0
    torch.testing.assert_close(weights(tmp_path / "b")["linear.bias"], before["linear.bias"])
    assert train(tmp_path, "c", "--quiet", "loss.name=ldam", *words).exit_code == 0
    directions = torch.nn.functional.normalize(before["linear.weight"])
    torch.testing.assert_close(weights(tmp_path / "c")["linear.weight"], 30 * directions)


def test_a_faulty_recipe_stops_before_the_data_are_opened(tmp_path, monkeypatch):
    def never(spec):
        raise AssertionError("opened")

    monkeypatch.setattr("selmix.training.open_images", never)
    for words, *messages in (
        (("stage1.epoch=3", "stage1.batch_size=0.5", "loss.name=ldamm"), "did you mean epochs?", "0.5", "mean ldam?"),
        (("stage1.epochs=0",), "[stage1] epochs must be >= 1"),
        (("sed=1",), "did you mean seed?"),
        (("loss.name=cdt", "loss.tau=1"), "[loss] unknown key tau"),
        (("loss.weights=class_balanced", "loss.weights_from=1"), "weights_from must be below epochs, got 1"),
        (("loss.name=ldam", "classifier.head_factor=1"), "[loss] ldam changes the last layer"),
        (("stage1.learning_rate=-1", "search.epochs=-3", "autobalance.tau=1"), "[stage1] learning_rate", "[search]"),
        (("search.epochs=3",), "[search] goes with [autobalance]"),
        (
            ("autobalance.tau=1.0", "loss.name=cdt"),
            "does not go with [autobalance]",
            "start_epoch must be below epochs",
        ),
        (("classifier.learn_head=false", "classifier.learn_scale=false"), "[classifier] learn_scale must be true"),
    ):
        result = train(tmp_path, "a", *words)
        assert result.exit_code == UsageError.exit_code
        assert len(result.stderr.splitlines()) == 1
        for message in messages:
            assert message in result.stderr
        assert not (tmp_path / "a").exists()


def weights(folder, name="model.safetensors"):
    return load_file(folder / name)


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[key], others[key]) for key in some)


def test_the_best_epoch_on_val_is_kept_and_the_last_beside_it(few_images, tmp_path, monkeypatch):
    scores = iter((0.2, 0.6, 0.6, 0.4))
    seen = []

    def judged(network, images, *, ranks):
        assert not network.training
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"mean_recall": next(scores)}

    monkeypatch.setattr("selmix.training.validate", judged)
    assert train(tmp_path, "a", "--quiet", "stage1.epochs=4").exit_code == 0
    assert same(weights(tmp_path / "a"), seen[1])
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["epoch"] == 2
    assert same(weights(tmp_path / "a", "best.safetensors"), seen[1])
    assert same(weights(tmp_path / "a", "last.safetensors"), seen[3])
    log = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [row["val_mean_recall"] for row in log] == [0.2, 0.6, 0.6, 0.4]
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]


def test_without_val_the_last_epoch_is_kept_and_val_can_be_set_aside(few_images, tmp_path, monkeypatch):
    del few_images.splits["val"]
    assert train(tmp_path, "a", "--quiet").exit_code == 0
    assert same(weights(tmp_path / "a"), weights(tmp_path / "a", "last.safetensors"))
    assert not (tmp_path / "a" / "best.safetensors").exists()
    assert not (tmp_path / "a" / "splits.json").exists()

    assert train(tmp_path, "b", "--quiet", "val_fraction=0.2").exit_code == 0
    splits = json.loads((tmp_path / "b" / "splits.json").read_text())["splits"]
    assert (len(splits["train"]), len(splits["val"])) == (80, 20)
    assert sorted(splits["train"] + splits["val"]) == sorted(few_images.splits["train"].ids)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["class_counts"] == [8] * 10
    assert (tmp_path / "b" / "best.safetensors").exists()


def test_the_test_images_choose_nothing(few_images, tmp_path):
    assert train(tmp_path, "a", "--quiet", "stage1.epochs=3").exit_code == 0
    test = few_images.splits["test"]
    few_images.splits["test"] = replace(test, labels=(test.labels + 1) % 10)
    assert train(tmp_path, "b", "--quiet", "stage1.epochs=3").exit_code == 0
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    first, second = (json.loads((tmp_path / out / "manifest.json").read_text())["metrics"] for out in "ab")
    assert first["val"] == second["val"]
    assert first["test"] != second["test"]


def test_an_interrupted_training_is_resumed_and_nothing_else_is(few_images, tmp_path, monkeypatch):
    assert train(tmp_path, "whole", "--quiet", "stage1.epochs=3").exit_code == 0

    def stop_after(epochs):
        real = selmix.training.EpochLog.__call__

        def logged(log, record):
            if record["epoch"] > epochs:
                raise KeyboardInterrupt
            real(log, record)

        monkeypatch.setattr(selmix.training.EpochLog, "__call__", logged)

    real = selmix.training.EpochLog.__call__
    stop_after(0)  # before the first checkpoint: nothing is left
    assert train(tmp_path, "a", "--quiet", "stage1.epochs=3").exit_code == 130
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(selmix.training.EpochLog, "__call__", real)
    stop_after(1)
    assert train(tmp_path, "a", "--quiet", "stage1.epochs=3").exit_code == 130
    monkeypatch.setattr(selmix.training.EpochLog, "__call__", real)

    for words, message in (
        (("stage1.epochs=3",), "holds an unfinished training; add --resume"),
        (("stage1.epochs=4", "--resume"), "the training of another recipe: stage1.epochs differ"),
    ):
        result = train(tmp_path, "a", *words)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
    assert train(tmp_path, "a", "--quiet", "stage1.epochs=3", "--resume").exit_code == 0
    for name in ("model.safetensors", "best.safetensors", "last.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 3

    result = train(tmp_path, "a", "stage1.epochs=3", "--resume")
    assert result.exit_code == 2
    assert "holds a trained backbone" in result.stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    result = train(tmp_path, "other")
    assert result.exit_code == 2
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_not_finite_has_its_own_exit_code_and_names_step_and_checkpoint(few_images, tmp_path):
    result = train(tmp_path, "a", "stage1.learning_rate=1e30")
    assert result.exit_code == 5
    message = " ".join(result.stderr.split())
    assert "the loss of epoch 1, step 2 is not finite" in message
    assert "there is no checkpoint yet" in message


def test_a_classifier_is_learnt_again_on_the_network_of_an_earlier_run(few_images, tmp_path):
    assert train(tmp_path, "a", "--quiet").exit_code == 0
    words = (f"start={tmp_path / 'a'}", "loss.name=label_aware_smoothing", "stage1.sampler=class_aware")
    assert train(tmp_path, "b", "--quiet", *words, "classifier.head_factor=0.5").exit_code == 0
    before, after = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"linear.weight", "linear.bias"}
    # the preprocessing is that of the weights
    manifests = [json.loads((tmp_path / out / "manifest.json").read_text()) for out in "ab"]
    assert manifests[0]["mean"] == manifests[1]["mean"]

    # a few modules alone
    assert train(tmp_path, "c", "--quiet", words[0], 'trains=["layer3.2", "linear"]').exit_code == 0
    after = weights(tmp_path / "c")
    changed = {key for key in before if key in after and not torch.equal(before[key], after[key])}
    assert {key.split(".")[0] for key in changed} == {"layer3", "linear"}
    assert all(key.startswith(("layer3.2.", "linear.")) for key in changed)
    # what was trained further is no more than a start: its own classifier came with it
    few_images.class_names[0] = "unknown here"
    result = train(tmp_path, "d", *words, "classifier.head_factor=0.5")
    assert result.exit_code == 2
    assert "has none of the classes" in " ".join(result.stderr.split())
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (RuntimeError("KeyboardInterrupt: <EMPTY MESSAGE>"), 130), (RuntimeError("bug"), 1)],
)
def test_ctrl_c_is_no_fault_even_where_torch_wraps_it(few_images, tmp_path, monkeypatch, error, code):
    def interrupted(*arguments, **options):
        raise error

    monkeypatch.setattr("selmix.training.train_supervised", interrupted)
    assert train(tmp_path, "a").exit_code == code
    assert not (tmp_path / "a").exists()


def test_an_empty_table_counts(few_images, tmp_path):
    assert train(tmp_path, "a", "--quiet").exit_code == 0
    before = weights(tmp_path / "a")
    assert train(tmp_path, "b", "--quiet", f"start={tmp_path / 'a'}", "classifier={}").exit_code == 0
    assert torch.equal(weights(tmp_path / "b")["conv1.weight"], before["conv1.weight"])
    result = train(tmp_path, "c", "autobalance={}")
    assert result.exit_code == 2
    assert "start_epoch must be below epochs" in result.stderr


def test_faults_that_come_late_lose_nothing(few_images, tmp_path, monkeypatch):
    for words, message in (
        (("std=[2,2,2]",), "std must be three numbers in (0, 1]"),
        (("mean=[0.5,0.5,2]",), "mean must be three numbers in [0, 1]"),
    ):
        result = train(tmp_path, "a", *words)
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "a").exists()

    # an image of test that cannot be read is met after the last epoch
    def unreadable(*arguments, **options):
        raise DataError("unreadable image")

    with monkeypatch.context() as patch:
        patch.setattr("selmix.manifest.extract_features", unreadable)
        result = train(tmp_path, "a")
    assert result.exit_code == 3
    checkpoint = (tmp_path / "a" / "checkpoint.pt").read_bytes()
    assert train(tmp_path, "a", "--quiet", "--resume").exit_code == 0
    assert (tmp_path / "a" / "checkpoint.pt").read_bytes() == checkpoint


def test_a_training_goes_on_with_the_data_that_it_began_with(few_images, tmp_path):
    assert train(tmp_path, "a", "--quiet").exit_code == 0
    (tmp_path / "a" / "manifest.json").unlink()
    result = CliRunner().invoke(
        app, ["finetune", "--backbone", str(tmp_path / "a"), "--data", "shipped:fashion_mnist_lt",
              "--metric", "accuracy", "--out", str(tmp_path / "f")],
    )  # fmt: skip
    assert result.exit_code == 3
    assert "holds an unfinished training" in " ".join(result.stderr.split())
    (tmp_path / "a" / "splits.json").write_text("kept")
    object.__setattr__(few_images, "digest", "other")
    result = train(tmp_path, "a", "--resume")
    assert result.exit_code == 3
    assert (tmp_path / "a" / "splits.json").read_text() == "kept"
    assert "is of other data" in " ".join(result.stderr.split())


def test_a_backbone_that_knows_the_images_that_stand_in_for_val_is_told_of(few_images, tmp_path, monkeypatch, caplog):
    del few_images.splits["val"]
    assert train(tmp_path, "a", "--quiet").exit_code == 0
    monkeypatch.setattr("selmix.extraction.open_images", lambda spec: few_images)
    words = ["finetune", "--backbone", str(tmp_path / "a"), "--data", "x", "--metric", "accuracy"]
    short = ["steps=10", "start_steps=10"]
    monkeypatch.setenv("SELMIX_CACHE", str(tmp_path / "cache"))
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path / "f"), *short]).exit_code == 0
    assert "was trained on these very images" in caplog.text
    caplog.clear()
    words[2] = str(tmp_path / "a" / "model.safetensors")
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path / "h"), *short]).exit_code == 0
    assert "was trained on these very images" in caplog.text
    caplog.clear()
    few_images.splits["val"] = few_images.splits["test"]
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path / "g"), *short]).exit_code == 0
    assert "was trained on" not in caplog.text


def test_weights_of_another_architecture_are_refused(few_images, tmp_path):
    assert train(tmp_path, "a", "--quiet").exit_code == 0
    result = train(tmp_path, "b", f"start={tmp_path / 'a'}", "architecture=cifar_resnet32")
    assert result.exit_code == 3
    assert "are not those of CifarResNet" in result.stderr
    result = train(tmp_path, "b", "trains=['layr3']")
    assert result.exit_code == 2
    assert "did you mean layer3" in result.stderr


def test_a_loss_is_searched_on_val_and_the_network_then_learns_from_all_of_train(few_images, tmp_path):
    del few_images.splits["val"]
    search = ("val_fraction=0.3", "search.epochs=2", "autobalance.start_epoch=1", "autobalance.interval=1")
    assert train(tmp_path, "a", "--quiet", *search).exit_code == 0
    found = json.loads((tmp_path / "a" / "search" / "loss.json").read_text())
    assert set(found["tables"]) == {"scale", "offset", "weight", "noise"}
    # all classes are alike: logit adjustment starts from equal offsets, and a step on the loss has moved them
    offsets = torch.tensor(found["tables"]["offset"])[:, 0]
    assert 0 < (offsets - math.log(0.1)).abs().max() < 0.1
    assert len((tmp_path / "a" / "search" / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["class_counts"] == [10] * 10
    assert not (tmp_path / "a" / "splits.json").exists()  # nobody may take the val of the search for a new one

    # an interrupted training finds the search done, and takes its loss from there
    again = tmp_path / "b"
    shutil.copytree(tmp_path / "a", again)
    for name in ("manifest.json", "model.safetensors", "last.safetensors", "checkpoint.pt", "metrics.jsonl"):
        (again / name).unlink()
    assert train(tmp_path, "b", "--quiet", "--resume", *search).exit_code == 0
    assert same(weights(again), weights(tmp_path / "a"))
    found["tables"]["offset"] = [[float(label)] for label in range(10)]
    (again / "search" / "loss.json").write_text(json.dumps(found))
    for name in ("manifest.json", "checkpoint.pt"):
        (again / name).unlink()
    assert train(tmp_path, "b", "--quiet", "--resume", *search).exit_code == 0
    assert not same(weights(again), weights(tmp_path / "a"))

    result = train(tmp_path, "d", *search, "stage1.learning_rate=1e30")
    assert result.exit_code == 5
    assert "there is no checkpoint yet" in " ".join(result.stderr.split())
    assert not (tmp_path / "d").exists()

    result = train(tmp_path, "c", *search[1:])
    assert result.exit_code == 2
    assert "set val_fraction" in " ".join(result.stderr.split())


def test_epochs_are_logged_for_tensorboard_where_that_is_wanted(few_images, tmp_path):
    assert train(tmp_path, "a", "--quiet", "--tensorboard").exit_code == 0
    assert list((tmp_path / "a" / "tensorboard").glob("events*"))
    assert train(tmp_path, "b", "--quiet").exit_code == 0
    assert not (tmp_path / "b" / "tensorboard").exists()


def test_a_killed_command_goes_on_to_the_same_weights(tmp_path):
    """kill -9 in the middle of an epoch, then --resume."""
    data = write_image_folder(tmp_path / "data", {"train": {"a": 24, "b": 12}, "val": {"a": 4, "b": 4}})
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.replace("shipped:fashion_mnist_lt", str(data)).replace("[28, 28]", "[16, 16]"))
    command = [sys.executable, "-m", "selmix", "train", recipe, "--quiet", "stage1.epochs=30", "stage1.batch_size=4"]
    whole = subprocess.run([*command, "--out", tmp_path / "whole"], env=ENVIRONMENT, check=False)
    assert whole.returncode == 0
    process = subprocess.Popen([*command, "--out", tmp_path / "killed"], env=ENVIRONMENT)
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    while not checkpoint.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    done = subprocess.run([*command, "--out", tmp_path / "killed", "--resume"], env=ENVIRONMENT, check=False)
    assert done.returncode == 0
    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
