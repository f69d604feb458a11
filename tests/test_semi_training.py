"""Stage one with unlabeled images from a recipe to a backbone, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import selmix.data.shipped_images
from selmix.backbones import load_backbone_folder
from selmix.commands import app
from selmix.data.images import ImageData
from selmix.recipe import load_recipe
from selmix.semi.fixmatch import FixMatch, FixMatchSettings
from selmix.semi.methods import METHODS
from selmix.train_recipe import TrainRecipe, semi_settings
from selmix.training import train_backbone

RECIPE = """
name = "tiny"
architecture = "wrn_28_2"
data = "some/data"
input_size = [8, 8]
[stage1]
epochs = 2
warmup_epochs = 0
batch_size = 4
schedule = "cosine_7_16"
average_decay = 0.9
[semi]
steps_per_epoch = 2
threshold = 0.2
"""


@pytest.fixture
def data(monkeypatch):
    """Train on a few images a class, and as many unlabeled ones."""
    whole = selmix.data.shipped_images.load_shipped_images("fashion_mnist_lt")

    def few(split, count, begin=0):
        labels = torch.from_numpy(whole.splits[split].labels)
        chosen = torch.cat([(labels == label).nonzero()[begin : begin + count, 0] for label in range(10)])
        return whole.splits[split].subset(chosen.numpy())

    unlabeled = replace(few("train", 3, begin=2), labels=None)
    splits = {"train": few("train", 2), "val": few("val", 1), "test": few("test", 1), "unlabeled": unlabeled}
    data = ImageData(whole.class_names, splits, "d")
    monkeypatch.setattr("selmix.training.open_images", lambda spec: data)
    return data


def train(tmp_path, out, *more, drop_threshold=False):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.replace("threshold = 0.2", "") if drop_threshold else RECIPE)
    return CliRunner().invoke(app, ["train", str(recipe), "--out", str(tmp_path / out), *more])


def log(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_recipe_trains_a_backbone_and_no_label_of_the_pool_is_looked_at(data, tmp_path):
    result = train(tmp_path, "a", "--quiet", "loss.name=logit_adjustment")
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["recipe"]["semi"] == {
        "method": "fixmatch", "unlabeled_ratio": 2, "threshold": 0.2, "unlabeled_weight": 1.0, "steps_per_epoch": 2,
    }  # fmt: skip
    assert manifest["class_counts"] == [2] * 10
    assert set(manifest["metrics"]) == {"val", "test"}
    backbone = load_backbone_folder(tmp_path / "a")
    assert backbone.head.weight.shape == (10, 128)
    rows = log(tmp_path / "a")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(
        {"pseudo_label_share", "labeled_loss", "unlabeled_loss", "val_mean_recall"} <= row.keys() for row in rows
    )

    data.splits["unlabeled"] = replace(data.splits["unlabeled"], labels=np.arange(30) % 10)
    assert train(tmp_path, "b", "--quiet", "loss.name=logit_adjustment").exit_code == 0
    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    data.splits["unlabeled"] = data.splits["unlabeled"].subset(np.arange(29))
    assert train(tmp_path, "c", "--quiet", "loss.name=logit_adjustment").exit_code == 0
    assert (tmp_path / "a" / "last.safetensors").read_bytes() != (tmp_path / "c" / "last.safetensors").read_bytes()


def test_the_average_is_kept_and_training_goes_on_after_an_interruption(data, tmp_path, monkeypatch):
    kept = []
    real = selmix.training.EpochLog.__call__

    def noted(network, images, *, ranks):
        kept.append({name: tensor.clone() for name, tensor in network.backbone.state_dict().items()})
        return {"mean_recall": float(len(kept))}

    monkeypatch.setattr("selmix.training.validate", noted)
    assert train(tmp_path, "a", "--quiet").exit_code == 0
    weights = load_file(tmp_path / "a" / "model.safetensors")
    assert weights.keys() == kept[1].keys()
    assert all(torch.equal(tensor, kept[1][name]) for name, tensor in weights.items())
    checkpoint = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    assert not torch.equal(checkpoint["model"]["backbone.fc.weight"], weights["fc.weight"])
    assert torch.equal(checkpoint["model"]["backbone.bn1.running_mean"], weights["bn1.running_mean"])

    def stopped(own, record):
        if record["epoch"] > 1:
            raise KeyboardInterrupt
        real(own, record)

    monkeypatch.setattr(selmix.training.EpochLog, "__call__", stopped)
    assert train(tmp_path, "b", "--quiet").exit_code == 130
    monkeypatch.setattr(selmix.training.EpochLog, "__call__", real)
    assert train(tmp_path, "b", "--quiet", "--resume").exit_code == 0
    assert (tmp_path / "a" / "last.safetensors").read_bytes() == (tmp_path / "b" / "last.safetensors").read_bytes()
    for mine, theirs in zip(log(tmp_path / "a"), log(tmp_path / "b"), strict=True):
        assert {**mine, "images_per_second": 0, "val_mean_recall": 0} == {
            **theirs, "images_per_second": 0, "val_mean_recall": 0,
        }  # fmt: skip


def test_progress_counts_labeled_and_unlabeled_images(data, tmp_path):
    recipe, lines, taken = tmp_path / "tiny.toml", [], []
    recipe.write_text(RECIPE)

    def bar(description, images, done):
        lines.append((description, images, done))
        return taken.append

    train_backbone(load_recipe(recipe, TrainRecipe, {}), tmp_path / "a", device=torch.device("cpu"), bar=bar)
    # two epochs of two steps of 4 + 8
    assert lines == [("training", 48, 0.0)]
    assert taken == [12] * 4


@pytest.mark.parametrize("pool", ["none", "empty"])
def test_data_without_unlabeled_images_are_refused(data, tmp_path, pool):
    if pool == "none":
        del data.splits["unlabeled"]
    else:
        data.splits["unlabeled"] = data.splits["unlabeled"].subset(np.array([], dtype=np.int64))
    result = train(tmp_path, "a")
    assert result.exit_code == 2
    message = " ".join(result.stderr.split())
    assert "[semi] learns from unlabeled images, and some/data has none; add a split `unlabeled`" in message
    assert not (tmp_path / "a").exists()


def test_what_does_not_go_together_stops_before_the_data_are_opened(tmp_path, monkeypatch):
    def never(spec):
        raise AssertionError("opened")

    monkeypatch.setattr("selmix.training.open_images", never)
    for words, *messages in (
        (("semi.method=fixmtch",), "[semi] method: there is no method 'fixmtch'", "did you mean fixmatch?"),
        (("semi.thresold=0.9",), "[semi] unknown key thresold", "did you mean threshold?"),
        (("semi.threshold=-1",), "[semi] threshold must be >= 0, got -1"),
        (
            ("semi.unlabeled_ratio=0", "semi.unlabeled_weight=-1", "semi.steps_per_epoch=0"),
            "unlabeled_ratio must be >= 1", "unlabeled_weight must be >= 0", "steps_per_epoch must be >= 1",
        ),
        (("stage1.mixup_alpha=1.5",), "mixup_alpha must be 0, got 1.5"),
        (("stage1.accumulation=2",), "accumulation must be 1, got 2"),
        (("classifier={}",), "[semi] does not go with [classifier]"),
        (("autobalance.tau=1.0",), "[semi] does not go with [autobalance]"),
        *(((f"loss.name={name}",), f"the loss {name} has none") for name in ("ldam", "sigmoid", "sigmoid_focal")),
    ):  # fmt: skip
        result = train(tmp_path, "a", *words)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        for message in messages:
            assert message in result.stderr
        assert not (tmp_path / "a").exists()


def test_a_method_that_learns_from_the_average_needs_one(data, tmp_path, monkeypatch):
    class Looking(FixMatch):
        wants_average = True

        def end_epoch(self, ended):
            seen.append((ended.epoch, int(ended.confusion().sum())))

    seen = []
    monkeypatch.setattr("selmix.semi.fixmatch.FixMatch", Looking)
    result = train(tmp_path, "a", "stage1.average_decay=0")
    assert result.exit_code == 2
    assert "set stage1.average_decay, e.g. to 0.999" in " ".join(result.stderr.split())
    assert not (tmp_path / "a").exists()
    assert train(tmp_path, "b", "--quiet").exit_code == 0
    assert seen == [(0, 10), (1, 10)]  # images of val


def test_a_table_without_keys_is_fixmatch():
    assert semi_settings({}) == FixMatchSettings()
    assert all(kind.method == name for name, kind in METHODS.items())
