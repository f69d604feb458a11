"""What must hold of features before they are tuned, and a validation split where there is none.

Of several processes each holds a part of every split. All checks are of figures that all of them have, so that all take
the same way.
"""

import logging
from dataclasses import replace

import torch

from selmix.apportion import own_share, random_shift
from selmix.data.splits import stratified_holdout
from selmix.errors import DataError
from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.features.names import picked
from selmix.features.rows import gather, row_blocks
from selmix.predictions import logit_blocks
from selmix.seeding import numpy_generator, own_generator, torch_generator

logger = logging.getLogger("selmix")

VALIDATION_FRACTION = 0.2
LARGEST_LOGIT = 1e30  # beyond it float32 arithmetic on logits overflows
FEW = 10  # validation samples of a class below which a warning is due


def check_tunable(data: FeatureData) -> None:
    """Refuse what cannot be tuned.

    Raises:
        DataError: if there is one class, if a class has no training sample, if all features are the same, or if the
            given head overflows on them.
    """
    if len(data.class_names) < 2:
        raise DataError(f"there is one class, {data.class_names[0]}; a classifier needs at least 2: add another")
    train = data.splits["train"]
    counts = data.ranks.total(torch.bincount(train.labels, minlength=len(data.class_names)))
    if int(counts.amin()) == 0:
        raise DataError(f"class {data.class_names[int(counts.argmin())]} has no training sample; bring some")
    if _constant(train, data):
        raise DataError("all training features are the same; is this the right backbone, or the right file?")
    if data.head is not None and not _moderate(data):
        raise DataError(
            "the given head has logits beyond 1e30 on these features; do head and features belong together?"
        )


def _constant(train: LabeledFeatures, data: FeatureData) -> bool:
    first = gather(train.features, torch.arange(min(1, len(train.labels))))
    first = data.ranks.gathered(first)[0]
    same = all(bool((rows == first).all()) for _, rows in row_blocks(train.features))
    return int(data.ranks.total(torch.tensor(int(same)))) == data.ranks.count


def _moderate(data: FeatureData) -> bool:
    assert data.head is not None
    small = all(
        float(logits.abs().amax()) < LARGEST_LOGIT  # not so for NaN
        for split in data.splits.values()
        for _, logits in logit_blocks(data.head, split.features)
    )
    return int(data.ranks.total(torch.tensor(int(small)))) == data.ranks.count


def with_validation(data: FeatureData, seed: int) -> FeatureData:
    """Set a part of train aside, stratified by class and group, when there is no validation split."""
    if "val" in data.splits:
        return data
    train = data.splits["train"]
    rows, names = train.rows(data.num_groups), [str(row) for row in range(len(data.class_names) * data.num_groups)]
    if data.ranks.count > 1:
        stay, held_out = _own_holdout(rows, len(names), data, seed)
    else:
        # the only sample of a row stays; below, it is learnt by all heads and judged by none
        stay, held_out = map(
            torch.from_numpy,
            stratified_holdout(
                rows.numpy(),
                names,
                fraction=VALIDATION_FRACTION,
                generator=numpy_generator(seed, "validation"),
                lone_stay=True,
            ),
        )
    parts = {"train": stay, "val": held_out}
    counts = data.ranks.total(torch.tensor([len(held_out), len(rows)])).tolist()
    logger.info("no validation split: %d of %d training samples set aside for it", *counts)
    ids = data.ids["train"]
    return replace(
        data,
        splits=data.splits | {name: train.subset(part) for name, part in parts.items()},
        ids=dict(data.ids) | {name: picked(ids, part) for name, part in parts.items()},
    )


def _own_holdout(rows: torch.Tensor, num_rows: int, data: FeatureData, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return this process's positions that stay and that are held out; over all there are as many as one would take."""
    ranks, common = data.ranks, torch_generator(seed, "validation")
    alone = own_generator(common, rank=ranks.rank, count=ranks.count)
    own = torch.bincount(rows, minlength=num_rows)
    before, everyone = ranks.shares(own)
    wanted = (VALIDATION_FRACTION * everyone).round().long().clamp_min(1).minimum(everyone - 1).clamp_min(0)
    if not wanted.any():
        raise DataError("no class has two samples, one to train and one to validate; add samples")
    share = own_share(wanted, before, own, everyone, random_shift(everyone, generator=common))
    shuffled = torch.randperm(len(rows), generator=alone)
    order = shuffled[rows[shuffled].argsort(stable=True)]
    place = torch.arange(len(rows)) - (own.cumsum(0) - own)[rows[order]]
    held_out = torch.zeros(len(rows), dtype=torch.bool)
    held_out[order] = place < share[rows[order]]
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def warn_of_few(data: FeatureData) -> None:
    """Warn of the class with the fewest validation samples, if these are few."""
    num_classes = len(data.class_names)
    support = data.ranks.total(torch.bincount(data.splits["val"].labels, minlength=num_classes))
    label, missing, few = int(support.argmin()), int((support == 0).sum()), int((support < FEW).sum())
    if missing:
        logger.warning(
            "class %s%s has no validation sample: figures on validation leave it out, and nothing honest watches over "
            "it",
            data.class_names[label],
            _others(missing),
        )
    elif few:
        logger.warning(
            "class %s%s has %d validation sample(s): its recall is a rough guess, and so is what rests on it",
            data.class_names[label],
            _others(few, f" with fewer than {FEW}"),
            int(support[label]),
        )


def _others(count: int, what: str = "") -> str:
    """Return how many classes a warning holds for beside the one that it names."""
    return "" if count == 1 else f" (like {count - 1:,} more{what})"
