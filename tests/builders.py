"""Small data sets, files and models that several test files need."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from selmix.backbones import build_model
from selmix.checkpoints import file_digest, save_tensors
from selmix.data.images import ArrayImages, ImageSplit
from selmix.features.labeled import LabeledFeatures, UnlabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import METRICS, Metric
from selmix.stage2 import refine as refine_module
from selmix.stage2.crossfit import CrossFit


def gaussian_splits(
    train_counts: list[int], *, seed: int, spread: float = 1.5, width: int = 8, per_class: int = 200, val: int = 0
) -> dict[str, LabeledFeatures]:
    """Return unit-variance Gaussian classes: an imbalanced train, and a balanced val and test of `per_class` each.

    With `val` the val split has so many a class instead.

    The centres are drawn with standard deviation `spread` per axis: below about 1 the classes overlap.
    """
    rng = np.random.default_rng(seed)
    centres = spread * rng.standard_normal((len(train_counts), width))

    def split(counts: list[int]) -> LabeledFeatures:
        labels = np.repeat(np.arange(len(counts)), counts)
        features = centres[labels] + rng.standard_normal((len(labels), width))
        return LabeledFeatures(torch.from_numpy(features).float(), torch.from_numpy(labels))

    balanced = [per_class] * len(train_counts)
    few = [val or per_class] * len(train_counts)
    return {"train": split(train_counts), "val": split(few), "test": split(balanced)}


def cross_fit(splits: dict[str, LabeledFeatures], folds: int = 3, *, seed: int = 0) -> CrossFit:
    """Return the plan of the train and val split."""
    num_classes = int(splits["train"].labels.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    return CrossFit.plan(splits["train"], splits["val"], num_classes, folds=folds, generator=generator)


def pooled(
    splits: dict[str, LabeledFeatures], counts: list[int], folds: int = 3, *, seed: int = 0
) -> tuple[CrossFit, torch.Tensor]:
    """Return the plan of train and val with a pool, the first `counts` of each class of test, and its true classes."""
    pool, num_classes = pool_of(splits["test"], counts), int(splits["train"].labels.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    plan = CrossFit.plan(splits["train"], splits["val"], num_classes, folds=folds, generator=generator, unlabeled=pool)
    return plan, pool.audit


def pool_of(split: LabeledFeatures, counts: list[int]) -> UnlabeledFeatures:
    """Return the first so many samples of each class as a pool, with audit labels."""
    chosen = torch.cat([(split.labels == label).nonzero()[:count, 0] for label, count in enumerate(counts)])
    return UnlabeledFeatures(split.features[chosen], audit=split.labels[chosen])


def nearest_mean_heads(plan: CrossFit, split: LabeledFeatures) -> torch.Tensor:
    """Return the same encoded head for each head of the plan: the class means of a split, for spherical classes."""
    means = torch.stack([split.features[split.labels == label].mean(0) for label in range(plan.num_classes)])
    head = plan.pool.space.encode_head(LinearHead(means, -means.square().sum(1) / 2))
    return head.expand(len(plan.members), -1, -1).clone()


def without_feedback(monkeypatch) -> Metric:
    """Keep the loop from steering by labels: all pairs are equally likely, the last step is elected.

    Return the metric to tune for, one that grows from call to call.
    """
    monkeypatch.setattr(refine_module, "gain_matrix", lambda means, weight, *_, **__: torch.ones(2 * (len(means),)))
    monkeypatch.setattr(refine_module, "logit_gradient", lambda objective, confusion: confusion)
    monkeypatch.setattr(refine_module._Ascent, "beats", lambda *_: True)
    calls = itertools.count(1)
    return replace(METRICS["accuracy"], value=lambda confusion: torch.tensor(float(next(calls))))


def noise_image(seed: int, size: tuple[int, int] = (6, 5)) -> Image.Image:
    """Return an RGB image of noise; size is (width, height)."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_images(folder: Path, count: int) -> None:
    """Write `count` small PNG files, 0.png, 1.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        noise_image(index).save(folder / f"{index}.png")


def write_image_folder(root: Path, counts: dict[str, dict[str, int]]) -> Path:
    """Write ROOT/SPLIT/CLASS/INDEX.png with the given number of images per split and class."""
    for split, classes in counts.items():
        for name, count in classes.items():
            write_images(root / split / name, count)
    return root


def write_photos(folder: Path, rng: np.random.Generator) -> None:
    """Write noise: my_images with cats and dogs in train, val and test; more_images and new_images without labels."""

    def write(path: Path, brightness: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.normal(brightness, 60, size=(32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)

    for split, counts in {"train": (12, 6), "val": (6, 6), "test": (6, 6)}.items():
        for name, count, brightness in zip(("cat", "dog"), counts, (90, 160), strict=True):
            for index in range(count):
                write(folder / "my_images" / split / name / f"{index:03}.jpg", brightness)
    for name in ("more_images", "new_images"):
        for index in range(10):
            write(folder / name / f"{index:03}.jpg", 80 + 10 * index)


def small_features(classes: list[str], *, seed: int = 0, spread: float = 1.2) -> dict[str, np.ndarray]:
    """Return overlapping Gaussian classes as the arrays of a features file, a long tail in train."""
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(len(classes), 8))
    arrays = {"class_names": np.array(classes)}
    tail = [200 // 4**label for label in range(len(classes))]
    for split, counts in {"train": tail, "val": [30] * len(classes), "test": [60] * len(classes)}.items():
        labels = np.repeat(np.arange(len(classes)), counts)
        arrays[f"{split}_features"] = (centres[labels] + rng.normal(size=(len(labels), 8))).astype(np.float32)
        arrays[f"{split}_labels"] = labels
    return arrays


SMALL_RECIPE = """
name = "mine"
architecture = "cifar_resnet20"
data = "my_images"
input_size = [16, 16]

[stage1]
epochs = 2
batch_size = 6
warmup_epochs = 0
learning_rate = 0.01
augmentation = "padded_crop"

[finetune]
metric = "mean_recall"

[finetune.stage2]
steps = 100
start_steps = 50
"""


def image_split(images: list[Image.Image]) -> ImageSplit:
    """Return a split of images in memory, without labels."""
    pixels = [np.asarray(image) for image in images]  # they may differ in size
    return ImageSplit([f"image{index}" for index in range(len(images))], None, ArrayImages(pixels))


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write an `.npz` and return its path."""
    np.savez(path, **arrays)
    return path


def scattered(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give every weight and every statistic of a model random values, so that none is at its default."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            uniform = torch.rand(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                tensor.copy_((uniform - 0.5) * 4 / tensor[0].numel() ** 0.5)
            elif tensor.is_floating_point():
                tensor.copy_(uniform + 0.5)
    return model


def write_backbone_folder(folder: Path, *, seed: int = 0, **changes: object) -> torch.nn.Module:
    """Write a cifar_resnet20 of random weights as stage one writes it, with `changes` in the manifest; return it."""
    model = scattered(build_model("cifar_resnet20", num_classes=3), seed).eval()
    folder.mkdir(parents=True)
    save_tensors(model.state_dict(), folder / "model.safetensors", {})
    manifest = {
        "architecture": "cifar_resnet20",
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.25, 0.125],
        "std": [0.5, 0.25, 0.2],
        "class_names": ["ant", "bee", "cat"],
        "sha256": file_digest(folder / "model.safetensors"),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return model


class Trap:
    """An object whose unpickling creates a file: what a malicious pickle would do."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)
