"""Build the long-tailed Fashion-MNIST set that ships with selmix from the four public idx files.

    python pretrained/fashion_mnist_lt/build.py FOLDER [--val-per-class 100] [--out FOLDER]

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two t10k files, as published at
https://github.com/zalandoresearch/fashion-mnist (MIT licence; Debian packages them as dataset-fashion-mnist).
The result is the same, byte for byte, wherever it is built: tests compare the digests in manifest.json.
"""

import argparse
import gzip
import json
from pathlib import Path

import numpy as np

from selmix.data.arrays import digest_of_arrays
from selmix.data.longtail import disjoint_class_draws, exponential_counts

CLASS_NAMES = [
    "t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
]  # fmt: skip
IMBALANCE_FACTOR = 100
TRAIN_HEAD, UNLABELED_HEAD = 1000, 2000
SEED = 0


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped idx file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">u4", count=dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def build(source: Path, val_per_class: int) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays of every split: images uint8 [n, 28, 28], labels int64 [n], ids int32 [n] into the source."""
    images = {part: read_idx(source / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")}
    labels = {part: read_idx(source / f"{part}-labels-idx1-ubyte.gz").astype(np.int64) for part in ("train", "t10k")}
    num_classes = len(CLASS_NAMES)
    ids = disjoint_class_draws(
        labels["train"],
        {
            "train": exponential_counts(TRAIN_HEAD, IMBALANCE_FACTOR, num_classes),
            "unlabeled": exponential_counts(UNLABELED_HEAD, IMBALANCE_FACTOR, num_classes),
            "val": [val_per_class] * num_classes,
        },
        seed=SEED,
    )
    splits = {split: ("train", chosen) for split, chosen in ids.items()} | {
        "test": ("t10k", np.arange(len(labels["t10k"])))
    }
    arrays = {}
    for split, (part, chosen) in splits.items():
        # true labels of the unlabeled pool are for audits alone, so they go by another name
        label_key = "audit_labels" if split == "unlabeled" else "labels"
        arrays[split] = {
            "images": images[part][chosen],
            label_key: labels[part][chosen],
            "ids": chosen.astype(np.int32),
        }
    return arrays


def main() -> None:
    """Write one .npz a split and the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--val-per-class", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arrays = build(arguments.source, arguments.val_per_class)
    arguments.out.mkdir(parents=True, exist_ok=True)
    manifest = {
        "name": "fashion_mnist_lt",
        "licence": "MIT (Zalando SE, 2017); see LICENSE",
        "source": "https://github.com/zalandoresearch/fashion-mnist",
        "class_names": CLASS_NAMES,
        "imbalance_factor": IMBALANCE_FACTOR,
        "seed": SEED,
        "ids": "index into the official train images; for test, into the official t10k images",
        "splits": {},
    }
    for split, content in arrays.items():
        np.savez_compressed(arguments.out / f"{split}.npz", **content)
        labels = content.get("labels", content.get("audit_labels"))
        manifest["splits"][split] = {
            "count": len(labels),
            "class_counts": np.bincount(labels, minlength=len(CLASS_NAMES)).tolist(),
            "sha256": digest_of_arrays(content),
        }
    (arguments.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
