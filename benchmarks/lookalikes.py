"""What `selmix check` finds again of changed copies, and how often it is wrong: the figures of docs/check.md.

    python benchmarks/lookalikes.py DATA [--backbone B]

Copies of training images, changed in one way, are looked for in train. Alarms are counted among the real test images,
by how many have a near duplicate in train, and how many of those are of another class, which true ones seldom are.
"""

import argparse
import hashlib
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from selmix.backbones import Backbone, load_backbone
from selmix.check.lookalikes import lookalike_findings
from selmix.check.reading import read_images
from selmix.data.images import ImageData, ImageSplit
from selmix.data.sources import open_images
from selmix.features.extract import extract_features

COPIES = 1000
BORDERS = (0.7, 0.8, 0.85, 0.9, 0.93, 0.95)


def _jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file).convert("RGB")


def _scaled(image: Image.Image, by: float) -> Image.Image:
    return image.resize((round(by * image.width), round(by * image.height)), Image.Resampling.BICUBIC)


CHANGES = {
    "JPEG 50": _jpeg,
    "90 % size": lambda image: _scaled(image, 0.9),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brightness +10 %": lambda image: image.point(lambda value: min(255, round(1.1 * value))),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "cropped by 2 px": lambda image: image.crop((2, 2, image.width, image.height)),
    "cropped to 95 %": lambda image: _scaled(image, 2).crop(
        (0, 0, round(1.9 * image.width), round(1.9 * image.height))
    ),
}


@dataclass
class Copies:
    """Images in memory, of any size."""

    images: list[Image.Image]

    def __len__(self) -> int:
        return len(self.images)

    def open(self, position: int) -> Image.Image:
        """Return an image."""
        return self.images[position]

    def stamp(self, position: int) -> None:
        """Return None: there is no file."""

    def digest(self, position: int) -> str:
        """Return the sha256 of the pixels."""
        return hashlib.sha256(self.images[position].tobytes()).hexdigest()


class Bench:
    """Train and its rows, read once."""

    def __init__(self, data: ImageData, backbone: Backbone | None) -> None:
        self.data, self.backbone = data, backbone
        self.train = self._look(data.splits["train"])

    def _look(self, split: ImageSplit):
        own = None
        if self.backbone is not None:
            own = extract_features(self.backbone, split, device=torch.device("cpu"))
        return read_images(split, name=""), own

    def best(self, test: ImageSplit) -> dict[str, list]:
        """Return path -> findings of the images of `test`."""
        reading, own = self._look(test)
        readings = {"train": self.train[0], "test": reading}
        features = None if own is None else {"train": self.train[1], "test": own}
        data = ImageData(self.data.class_names, {"train": self.data.splits["train"], "test": test}, "")
        found: dict[str, list] = {}
        for finding in lookalike_findings(data, readings, features, similar=min(BORDERS)):
            found.setdefault(finding.path, []).append(finding)
        return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--backbone")
    words = parser.parse_args()
    torch.set_num_threads(1)
    data = open_images(words.data)
    bench = Bench(data, None if words.backbone is None else load_backbone(words.backbone))
    train = data.splits["train"]
    chosen = np.random.default_rng(0).choice(len(train.ids), min(COPIES, len(train.ids)), replace=False)
    print(f"{'similarity at least':24}" + "".join(f"{border:8}" for border in BORDERS))
    for name, change in CHANGES.items():
        images = [change(train.images.open(int(position))) for position in chosen]
        names = [train.ids[position] for position in chosen]
        found = bench.best(ImageSplit(names, train.labels[chosen], Copies(images)))
        right = np.array([
            max((hit.similarity for hit in found.get(f"test:{own}", []) if _is(hit.other_path, own)), default=0)
            for own in names
        ])  # fmt: skip
        print(f"{'found: ' + name:24}" + "".join(f"{(right >= border).mean():8.1%}" for border in BORDERS))
    if "test" in data.splits:
        test = data.splits["test"]
        hits = [max(hits, key=lambda hit: hit.similarity) for hits in bench.best(test).values()]
        alike = np.array([hit.similarity for hit in hits])
        differ = np.array([" and " in hit.message for hit in hits])
        print(f"{'test images alarmed':24}" + "".join(f"{(alike >= border).sum():8}" for border in BORDERS))
        print(
            f"{'share of them':24}" + "".join(f"{(alike >= border).sum() / len(test.ids):8.2%}" for border in BORDERS)
        )
        print(f"{'of another class':24}" + "".join(f"{differ[alike >= border].sum():8}" for border in BORDERS))


def _is(path: str, own: str) -> bool:
    return path.endswith(own) and (len(path) == len(own) or path[-len(own) - 1] in ":/")


if __name__ == "__main__":
    main()
