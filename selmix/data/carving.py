"""New splits drawn from the training images of a labeled data set."""

from dataclasses import replace

import numpy as np

from selmix.data.assembly import digest_of_images
from selmix.data.findings import listed
from selmix.data.images import ImageData
from selmix.data.longtail import disjoint_class_draws
from selmix.data.rows import SPLITS
from selmix.errors import UsageError


def carve_train(data: ImageData, counts_of_split: dict[str, list[int]], *, seed: int) -> ImageData:
    """Replace train by disjoint draws from it; the other splits stay.

    Args:
        data: with labels in train; balanced or not.
        counts_of_split: images per class of each new split, `train` and where wanted `unlabeled` and `val`, each of
            length k. Which images the first takes depends on its counts alone.
        seed: of the draws.

    Returns:
        The data with the new splits; the labels of `unlabeled` are left for the audit.

    Raises:
        UsageError: if there are too few images of a class, or a new split is there already.
    """
    train = data.splits["train"]
    assert train.labels is not None
    there = [split for split in counts_of_split if split != "train" and split in data.splits]
    if there:
        raise UsageError(f"the data have a split {there[0]} already; drop the settings that draw one from train")
    counts = np.bincount(train.labels, minlength=len(data.class_names))
    wanted = np.sum([*counts_of_split.values()], axis=0)
    short = [
        f"class {name} has {count} images, the splits ask for {asked}"
        for name, count, asked in zip(data.class_names, counts, wanted, strict=True)
        if asked > count
    ]
    if short:
        raise UsageError(f"{listed(short)}; lower the counts")
    drawn = disjoint_class_draws(train.labels, counts_of_split, seed=seed)
    new = {split: train.subset(positions) for split, positions in drawn.items()}
    if "unlabeled" in new:
        new["unlabeled"] = new["unlabeled"].as_pool()
    splits = {split: (data.splits | new)[split] for split in SPLITS if split in data.splits | new}
    return replace(data, splits=splits, digest=digest_of_images(data.class_names, splits, data.group_names))
