"""What the phases of a stage-one training have in common: data, preprocessing, device, processes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from selmix.data.assembly import digest_of_images
from selmix.data.images import ImageData
from selmix.data.rows import SPLITS
from selmix.data.splits import stratified_holdout
from selmix.ranks import Ranks
from selmix.seeding import numpy_generator
from selmix.stage1.images import DeviceImages
from selmix.stage1.placing import training_images
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.streaming import StreamedImages
from selmix.starting import Start
from selmix.train_recipe import TrainRecipe


class Bar(Protocol):
    """Shows how far a long job is."""

    def __call__(self, description: str, images: int, done: float) -> Callable[[int], object]:
        """Begin a line for so many images, a share of which is done; return what is told how many each step took."""
        ...


def no_bar(description: str, images: int, done: float) -> Callable[[int], object]:
    """Show nothing."""
    return lambda count: None


@dataclass(frozen=True)
class Job:
    """What the phases of one training have in common.

    Attributes:
        recipe: what was asked.
        data: train, and where there is one val, and test.
        start: what training starts from.
        learnt: digest of the train split, all of it.
        mean: normalisation, per channel of images in [0, 1].
        std: likewise.
        device: where to train.
        ranks: the processes.
        bar: shows progress.
        tensorboard: whether epochs are logged for TensorBoard, too.
    """

    recipe: TrainRecipe
    data: ImageData
    start: Start
    learnt: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    ranks: Ranks
    bar: Bar
    tensorboard: bool

    def images(self, split: str, settings: SupervisedSettings, *, augment: bool) -> DeviceImages | StreamedImages:
        """Return the images of a split as a network learns from them, or is judged by them."""
        return training_images(
            self.data.splits[split],
            size=self.recipe.input_size,
            mean=self.mean,
            std=self.std,
            settings=settings,
            device=self.device,
            augment=augment,
            pixels=self.start.pixels,
            processes=self.ranks.count,
        )

    @property
    def class_counts(self) -> torch.Tensor:
        """Images per class of train, int64 [k], on the device."""
        labels = self.data.splits["train"].labels
        assert labels is not None
        counts = torch.bincount(torch.from_numpy(labels), minlength=len(self.data.class_names))
        return counts.to(self.device)

    @property
    def origin(self) -> str:
        """What a checkpoint belongs to: digests of data and first weights."""
        return f"{self.data.digest} {self.start.digest}"

    @property
    def identity(self) -> dict[str, Any]:
        """What the weights say by themselves: they are also opened as a plain checkpoint."""
        return {
            "architecture": self.recipe.architecture,
            "class_names": self.data.class_names,
            "input_size": [3, *self.recipe.input_size],
            "mean": list(self.mean),
            "std": list(self.std),
            "data": {"name": self.recipe.data, "split": "train", "digest": self.learnt},
        }


def with_val(data: ImageData, fraction: float, *, seed: int) -> ImageData:
    """Set a fraction of train aside as val, class by class; a class with one image keeps it."""
    train = data.splits["train"]
    assert train.labels is not None
    stay, aside = stratified_holdout(
        train.labels,
        data.class_names,
        fraction=fraction,
        generator=numpy_generator(seed, "validation"),
        lone_stay=True,
    )
    parts = data.splits | {"train": train.subset(stay), "val": train.subset(aside)}
    splits = {split: parts[split] for split in SPLITS if split in parts}
    return replace(data, splits=splits, digest=digest_of_images(data.class_names, splits, data.group_names))
