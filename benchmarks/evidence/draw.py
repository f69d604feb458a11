"""Which images are train, val and test of each setting: drawn once, kept as ids in splits/, read by the specs in data/.

    python benchmarks/evidence/draw.py [NAME ...]

CIFAR-10-LT is the community's, whose largest class has all 5,000 training images; so val is half of the official test
images and test the other half. Of Fashion-MNIST-LT train is what ships, val 500 further training images a class. Of
Tiny-ImageNet, which has 50 images a class beside train, 20 are val and 30 test.
"""

import json
import sys
from pathlib import Path

import numpy as np

from selmix.data.images import ImageSplit
from selmix.data.longtail import disjoint_class_draws
from selmix.data.sources import open_images

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def drawn(split: ImageSplit, per_class: int, among: np.ndarray | None = None) -> tuple[list[str], list[str]]:
    """Return the ids of so many images of each class, drawn with seed 0, and of the others."""
    rows = np.arange(len(split.ids)) if among is None else among
    counts = [per_class] * (int(split.labels.max()) + 1)
    chosen = rows[disjoint_class_draws(split.labels[rows], {"val": counts}, seed=0)["val"]]
    return [split.ids[row] for row in np.sort(chosen)], [split.ids[row] for row in np.setdiff1d(rows, chosen)]


def cifar10(factor: int) -> dict[str, list[str]]:
    """Return the ids of CIFAR-10-LT."""
    data = open_images(str(ROOT / f"recipes/cifar10_lt_if{factor}/data.toml")).splits
    val, test = drawn(data["test"], 500)
    return {"train": list(data["train"].ids), "val": val, "test": test}


def fashion() -> dict[str, list[str]]:
    """Return the ids of Fashion-MNIST-LT."""
    shipped = open_images("shipped:fashion_mnist_lt").splits["train"]
    data = open_images(str(HERE / "data/fashion_mnist.toml")).splits
    numbers = np.array([int(own.rpartition("/")[2]) for own in shipped.ids])
    val, _ = drawn(data["train"], 500, np.setdiff1d(np.arange(len(data["train"].ids)), numbers))
    return {
        "train": [data["train"].ids[number] for number in numbers],
        "val": val,
        "test": list(data["test"].ids),
    }


def tiny() -> dict[str, list[str]]:
    """Return the ids of Tiny-ImageNet, 100 classes."""
    data = open_images(str(HERE / "data/tiny_imagenet100.toml")).splits
    val, test = drawn(data["test"], 20)
    return {"train": list(data["train"].ids), "val": val, "test": test}


DRAWS = {
    "cifar10_if100": lambda: cifar10(100),
    "cifar10_if10": lambda: cifar10(10),
    "fashion_lt": fashion,
    "tiny_lt": tiny,
}


def main() -> None:
    """Write the files of ids."""
    for name in sys.argv[1:] or DRAWS:
        (HERE / f"splits/{name}.json").write_text(json.dumps({"splits": DRAWS[name]()}, indent=0) + "\n")


if __name__ == "__main__":
    main()
