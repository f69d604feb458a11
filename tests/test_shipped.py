"""What ships: the images are those of the public files, splits do not overlap, and a changed file is refused."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from selmix import shipped
from selmix.backbones import load_backbone
from selmix.data.arrays import digest_of_arrays, read_npz
from selmix.data.longtail import exponential_counts
from selmix.data.sources import open_images
from selmix.errors import DataError, UsageError
from selmix.recipe import load_recipe
from selmix.train_recipe import TrainRecipe, train_settings

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "pretrained" / "fashion_mnist_lt"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
PUBLIC = Path("/usr/share/datasets/fashion-mnist")
SPLITS = ["train", "unlabeled", "val", "test"]


@pytest.fixture(scope="module")
def arrays():
    return {split: read_npz(FOLDER / f"{split}.npz") for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_the_manifest_vouches_for_every_file(arrays, split):
    facts, content = MANIFEST["splits"][split], arrays[split]
    labels = content.get("labels", content.get("audit_labels"))
    assert digest_of_arrays(content) == facts["sha256"]
    assert facts["count"] == len(labels) == len(content["images"]) == len(content["ids"])
    assert np.bincount(labels).tolist() == facts["class_counts"]
    assert content["images"].shape[1:] == (28, 28)
    assert content["images"].dtype == np.uint8


def test_class_counts_are_those_of_the_protocol():
    expected = {
        "train": exponential_counts(1000, 100, 10),
        "unlabeled": exponential_counts(2000, 100, 10),
        "val": [100] * 10,
        "test": [1000] * 10,
    }
    assert {split: MANIFEST["splits"][split]["class_counts"] for split in SPLITS} == expected
    # the profile itself, by 1000 / 100^(i / 9) rounded down
    assert expected["train"] == [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10]


def test_no_image_is_in_two_splits(arrays):
    ids = np.concatenate([arrays[split]["ids"] for split in ("train", "unlabeled", "val")])
    assert len(np.unique(ids)) == len(ids) == sum(MANIFEST["splits"][s]["count"] for s in ("train", "unlabeled", "val"))
    assert arrays["test"]["ids"].tolist() == list(range(10_000))


def test_the_set_is_small_and_comes_with_its_licence():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 10_000_000
    assert "MIT" in (FOLDER / "LICENSE").read_text()


def test_loading_gives_labels_to_all_but_the_unlabeled_split(arrays):
    data = open_images("shipped:fashion_mnist_lt")
    assert data.class_names == MANIFEST["class_names"]
    assert list(data.splits) == SPLITS
    assert data.splits["unlabeled"].labels is None
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(data.splits[split].labels, arrays[split]["labels"])
    for split in SPLITS:
        own = data.splits[split]
        assert own.ids == [str(index) for index in arrays[split]["ids"]]
        image = own.images.open(7)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), np.repeat(arrays[split]["images"][7][:, :, None], 3, 2))


def test_rebuilding_from_the_public_files_gives_the_same_digests():
    if not PUBLIC.is_dir():
        pytest.skip(f"{PUBLIC} is not here (Debian: dataset-fashion-mnist)")
    spec = importlib.util.spec_from_file_location("build_fashion_mnist_lt", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    digests = {split: digest_of_arrays(content) for split, content in module.build(PUBLIC, 100).items()}
    assert digests == {split: MANIFEST["splits"][split]["sha256"] for split in SPLITS}
    assert list(module.CLASS_NAMES) == MANIFEST["class_names"]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Let selmix find a copy of the image set alone."""
    monkeypatch.setattr(shipped, "_ROOT", tmp_path)
    return shutil.copytree(FOLDER, tmp_path / "pretrained" / FOLDER.name)


def change_a_pixel(folder: Path) -> None:
    content = read_npz(folder / "val.npz")
    content["images"][3, 4, 5] ^= 1
    np.savez(folder / "val.npz", **content)


def change_a_label(folder: Path) -> None:
    content = read_npz(folder / "val.npz")
    content["labels"][0] += 1
    np.savez_compressed(folder / "val.npz", **content)


FAULTS = {
    "pixel": (change_a_pixel, r"val\.npz does not match"),
    "label": (change_a_label, r"val\.npz does not match"),
    "swapped": (lambda folder: shutil.copy(folder / "train.npz", folder / "val.npz"), r"val\.npz does not match"),
    "gone": (lambda folder: (folder / "val.npz").unlink(), r"val\.npz"),
    "manifest gone": (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json"),
    "manifest broken": (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_changed_file_is_refused_by_name(copy, fault):
    tamper, message = FAULTS[fault]
    tamper(copy)
    with pytest.raises(DataError, match=message) as caught:
        open_images("shipped:fashion_mnist_lt")
    assert str(copy) in str(caught.value)


def test_compression_is_no_change(copy):
    np.savez(copy / "val.npz", **read_npz(copy / "val.npz"))
    assert len(open_images("shipped:fashion_mnist_lt").splits["val"].ids) == 1000


@pytest.mark.parametrize("name", ["fashion_mnist", "no such thing", "../recipes", ""])
@pytest.mark.parametrize(("opener", "ships"), [(open_images, "fashion_mnist_lt"), (load_backbone, "fashion_resnet32")])
def test_an_unknown_name_lists_what_ships(opener, ships, name):
    with pytest.raises(UsageError, match=f"here are: .*{ships}") as caught:
        opener(f"shipped:{name}")
    assert repr(name) in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_near_name_is_suggested_and_a_backbone_is_no_image_set():
    with pytest.raises(UsageError, match=r"did you mean (shipped:)?fashion_mnist_lt\?"):
        open_images("shipped:fashion_mnist_tl")
    with pytest.raises(UsageError, match="here are: (shipped:)?fashion_mnist_lt$"):
        open_images("shipped:fashion_resnet32")


def test_the_shipped_backbone_belongs_to_the_shipped_images():
    backbone, data = load_backbone("shipped:fashion_resnet32"), open_images("shipped:fashion_mnist_lt")
    manifest = json.loads((ROOT / "pretrained" / "fashion_resnet32" / "manifest.json").read_text())
    assert backbone.class_names == data.class_names
    assert manifest["class_counts"] == MANIFEST["splits"]["train"]["class_counts"]
    assert manifest["data"] == {"name": "shipped:fashion_mnist_lt", "split": "train", "digest": data.digest}


def test_the_shipped_cifar_backbone_says_what_it_was_trained_with():
    backbone = load_backbone("shipped:cifar10_lt_mislas")
    manifest = json.loads((ROOT / "pretrained" / "cifar10_lt_mislas" / "manifest.json").read_text())
    assert backbone.head.weight.shape == (10, 64)
    assert manifest["class_counts"] == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # specs of CIFAR-10-LT
    for part, name in ((manifest, "mislas_stage2"), (manifest["start"], "mislas_stage1")):
        recipe = load_recipe(ROOT / "recipes" / "cifar10_lt_if100" / f"{name}.toml", TrainRecipe, {})
        request = recipe.model_dump() | train_settings(recipe).resolved()
        given = {key: value for key, value in request.items() if value is not None}
        # keys that are newer than the training had no say in it
        assert json.loads(json.dumps(given)) == {key: own for key, own in part["recipe"].items() if own is not None}


def test_no_image_stands_in_two_places():
    folder = shipped.shipped_folder("fashion_mnist_lt", "train.npz")
    images = [image.tobytes() for split in ("train", "val", "test", "unlabeled") for image in
              np.load(folder / f"{split}.npz")["images"]]  # fmt: skip
    assert len(set(images)) == len(images) == 2478 + 1000 + 10000 + 4958
