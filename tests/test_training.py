"""Stage one from a recipe to a backbone that stage two can load."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import selmix.data.shipped_images
from selmix.backbones import load_backbone, load_backbone_folder
from selmix.commands import app
from selmix.data.images import ImageData
from selmix.errors import UsageError

RECIPE = """
name = "tiny"
architecture = "cifar_resnet20"
data = "shipped:fashion_mnist_lt"
input_size = [28, 28]
[stage1]
epochs = 1
warmup_epochs = 0
batch_size = 32
bfloat16 = false
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


def test_a_faulty_recipe_stops_before_the_data_are_opened(tmp_path, monkeypatch):
    def never(spec):
        raise AssertionError("opened")

    monkeypatch.setattr("selmix.training.open_images", never)
    for words, message in (
        (("stage1.epoch=3",), "did you mean epochs?"),
        (("stage1.epochs=0",), "epochs must be >= 1"),
        (("sed=1",), "did you mean seed?"),
    ):
        result = train(tmp_path, "a", *words)
        assert result.exit_code == UsageError.exit_code
        assert message in result.stderr
