"""Feature files for `benchmarks/unlabeled.py`, from public images and a backbone.

    python benchmarks/unlabeled_features.py IMAGES --backbone B [--head-count N] [--components C] --strangers IMAGES
        --out FILE.npz

IMAGES is CIFAR-10 (`cifar10:FOLDER`), a folder with the four idx files of Fashion-MNIST, a folder of class folders, or
an .npz with `images`, uint8 [n, height, width(, 3)]. `--head-count` says that the backbone was trained on the long tail
of so many images of the largest class, imbalance factor 100, drawn with seed 0: these rows are the train split then.
`--components` keeps so many principal components of the features. Strangers are grey where the images are.
"""

import argparse
import runpy
from pathlib import Path

import numpy as np
import torch

from selmix.backbones import load_backbone
from selmix.data.images import ArrayImages, ImageSplit
from selmix.data.longtail import disjoint_class_draws, exponential_counts
from selmix.data.sources import open_images
from selmix.features.extract import extract_features

FACTOR, STRANGERS = 100, 5000
BUILD = Path(__file__).parent.parent / "pretrained/fashion_mnist_lt/build.py"


def read(name: str) -> list[ImageSplit]:
    """Return the train and the test images; those of an .npz are one split without labels."""
    if name.endswith(".npz"):
        pixels = np.load(name)["images"]
        return [ImageSplit(list(map(str, range(len(pixels)))), None, ArrayImages(pixels))]
    folder = Path(name)
    if (folder / "train-images-idx3-ubyte.gz").is_file():
        read_idx = runpy.run_path(str(BUILD))["read_idx"]
        parts = []
        for part in ("train", "t10k"):
            pixels, labels = (read_idx(folder / f"{part}-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1"))
            parts.append(ImageSplit(list(map(str, range(len(labels)))), labels.astype(np.int64), ArrayImages(pixels)))
        return parts
    data = open_images(name)
    return [data.splits[split] for split in ("train", "test") if split in data.splits]


def greyed(split: ImageSplit, side: int) -> ImageSplit:
    """Return the images in grey, `side` pixels wide and high."""
    pixels = [np.asarray(split.images.open(own).convert("L").resize((side, side))) for own in range(len(split.ids))]
    return ImageSplit(split.ids, split.labels, ArrayImages(np.stack(pixels)))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--head-count", type=int)
    parser.add_argument("--components", type=int)
    parser.add_argument("--strangers", required=True)
    parser.add_argument("--out", required=True)
    words = parser.parse_args()
    train, test = read(words.images)
    strangers = read(words.strangers)[0]
    chosen = np.random.default_rng(0).permutation(len(strangers.ids))[:STRANGERS]
    strangers = strangers.subset(chosen)
    example = np.asarray(train.images.pixels[0]) if isinstance(train.images, ArrayImages) else None
    if example is not None and example.ndim == 2:
        strangers = greyed(strangers, len(example))
    from selmix.backbones import Preprocessing

    size = None if words.input_size is None else (words.input_size, words.input_size)
    backbone = load_backbone(words.backbone, overrides=Preprocessing(size, None, None))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = [extract_features(backbone, own, device=device) for own in (train, test, strangers)]
    everything = torch.cat(features[:2])
    if words.components is not None:
        centre = features[0].mean(0)
        _, _, axes = torch.linalg.svd((features[0] - centre)[::5], full_matrices=False)
        project = axes[: words.components].T
        everything, features[2] = ((own - centre) @ project for own in (everything, features[2]))
    arrays = {"features": everything, "ood": features[2]}
    extra = {}
    if words.head_count is not None:
        counts = exponential_counts(words.head_count, FACTOR, int(train.labels.max()) + 1)
        extra["train_ids"] = disjoint_class_draws(train.labels, {"train": counts}, seed=0)["train"]
    np.savez(
        words.out,
        **{name: own.half().numpy() for name, own in arrays.items()},
        labels=np.concatenate([train.labels, test.labels]),
        test_from=len(train.labels),
        **extra,
    )


if __name__ == "__main__":
    main()
