"""Opening a feature cache: every block is verified before a row of it is given out."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from selmix.data.images import ImageData, ImageSubset
from selmix.errors import DataError
from selmix.features.blocks import Torn, map_block, read_record, verify_block
from selmix.features.cache import EXTRACTED, Part, Sidecar, read_fact, read_sidecar
from selmix.features.labeled import FeatureData, LabeledFeatures, UnlabeledFeatures
from selmix.features.rows import Rows, StackedRows
from selmix.features.survey import renewed_stamps
from selmix.heads import LinearHead
from selmix.ranks import ALONE, Ranks

logger = logging.getLogger("selmix")

_COMFORTABLE = 0.5  # of the available memory


@dataclass(frozen=True)
class _Own:
    """What this rank has of a split or a view: blocks on memory maps, the rows that they are, which are bad, files."""

    blocks: list[torch.Tensor]
    rows: torch.Tensor
    bad: torch.Tensor
    digests: list[str | None]


def load_cache(
    folder: Path, *, ranks: Ranks = ALONE, images: ImageData | None = None, pool_folder: Path | None = None
) -> FeatureData:
    """Open a feature cache; its features are in memory as float32 where they fit easily, else on memory maps.

    Rows of images that could not be read are left out.

    Args:
        folder: of the cache.
        ranks: the processes that share it; each gets the blocks b with b % count == rank, and of labels, groups and ids
            what belongs to them.
        images: where they are at hand, the features must be of what the files hold now; those of the pool stay beside
            its features.
        pool_folder: the cache of the unlabeled pool, by the same backbone, where that is one of its own.

    Raises:
        DataError: if it is no complete cache, a block or a file is missing or damaged, or a class has no image left.
    """
    try:
        return _load([folder] if pool_folder is None else [folder, pool_folder], ranks, images)
    except Torn as error:
        raise DataError(
            f"{folder}: {error}; repeat the `selmix extract` that made it, with the same --out: what is sound stays"
        ) from error


def _load(folders: list[Path], ranks: Ranks, images: ImageData | None) -> FeatureData:
    parts: dict[str, _Own] = {}
    homes: dict[str, tuple[Path, Sidecar]] = {}  # of each split
    for folder in folders:
        sidecar = read_sidecar(folder)
        if not sidecar.complete:
            raise Torn("it is not complete")
        homes |= dict.fromkeys(sidecar.sizes, (folder, sidecar))
        parts |= {part.name: _own(folder, sidecar, part, ranks, images) for part in sidecar.parts}
    if "train" not in homes:
        raise Torn("it has no train")
    folder, sidecar = homes["train"]
    in_memory = 4 * sidecar.width * sum(len(own.rows) for own in parts.values())
    fits = in_memory < _COMFORTABLE * psutil.virtual_memory().available
    splits, pool, ids, bad_images = {}, None, {}, {}
    for name in (name for name in EXTRACTED if name in homes):
        home, own_sidecar = homes[name]
        viewed = [parts[part.name] for part in own_sidecar.parts if part.split == name and part.view]
        own, bad = parts[name], parts[name].bad
        for view in viewed:
            bad = bad | view.bad  # an image that went bad meanwhile has no row in any of them
        kept, names = own.rows[~bad], read_fact(home, f"{name}.ids.json", own_sidecar)
        given = [read_fact(home, f"{name}.{kind}.npy", own_sidecar) for kind in ("labels", "groups", "audit")]
        labels, groups, audit = (None if numbers is None else torch.from_numpy(numbers)[kept] for numbers in given)
        rows, views = _rows(own.blocks, ~bad, sidecar.width, fits), None
        if viewed:
            blocks = [block for view in viewed for block in view.blocks]
            views = _rows(blocks, (~bad).repeat(len(viewed)), sidecar.width, fits)
        ids[name] = [names[row] for row in kept.tolist()]
        if bad.any():
            bad_images[name] = [names[row] for row in own.rows[bad].tolist()]
        source = None if images is None else ImageSubset(images.splits[name].images, kept.numpy())
        if labels is None:
            pool = UnlabeledFeatures(rows, views, audit, source)
            continue
        splits[name] = LabeledFeatures(rows, labels, groups, views, source)
        if bad.any():
            _check_classes(folder, name, given[0], labels, sidecar, ranks)
    leaks = _leaks(parts)
    weight, bias = (read_fact(folder, f"head.{part}.npy", sidecar) for part in ("weight", "bias"))
    return FeatureData(
        class_names=sidecar.class_names,
        splits=splits,
        ids=ids,
        group_names=sidecar.group_names,
        unlabeled=pool,
        head=None if weight is None else LinearHead(torch.from_numpy(weight), torch.from_numpy(bias)),
        digests={"data": sidecar.identity.data, "backbone": sidecar.identity.backbone}
        | ({"unlabeled": homes["unlabeled"][1].identity.data} if len(folders) > 1 else {}),
        origin=sidecar.origin,
        seconds={"extract": 0.0},
        cache={
            "folder": os.path.abspath(folder),
            "reused": True,
            "dtype": sidecar.identity.dtype,
            "views": sidecar.identity.views,
            "bad_images": bad_images,
            "leaks": leaks,
        },
        ranks=ranks,
    )


def _own(folder: Path, sidecar: Sidecar, part: Part, ranks: Ranks, images: ImageData | None) -> _Own:
    """Verify and map the blocks of a rank.

    Raises:
        Torn: naming the first one that is missing or damaged.
    """
    blocks, rows, bad = [], [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.bool)]
    digests: list[str | None] = []
    for number in range(ranks.rank, part.blocks, ranks.count):
        own = part.rows_of(number)
        place = folder / part.name
        try:
            record, read = read_record(place, number, key=sidecar.identity.key, rows=len(own), width=sidecar.width)
            verify_block(place, number, record)
            if images is not None:
                renewed_stamps(images.splits[part.split], own, read)
        except Torn as error:
            raise Torn(f"block {number} of {part.name}: {error}") from error
        blocks.append(map_block(place, number, rows=len(own), width=sidecar.width, dtype=sidecar.identity.dtype))
        rows.append(torch.arange(own.start, own.stop))
        bad.append(torch.zeros(len(own), dtype=torch.bool))
        bad[-1][list(read.bad)] = True
        digests += read.digests
    return _Own(blocks, torch.cat(rows), torch.cat(bad), digests)


def _leaks(parts: dict[str, _Own]) -> int:
    """Return how many files of test are files of another split or of the pool as well, as far as this rank sees."""
    files = {name: set(parts[name].digests) - {None} for name in EXTRACTED if name in parts}
    own = files.pop("test", set())
    shared = {name: own & others for name, others in files.items()}
    count = len(set().union(*shared.values()))
    if count:
        where = " and ".join(name for name in shared if shared[name])
        logger.warning("%d file(s) of test are in %s, too: test figures are too good; see `selmix check`", count, where)
    return count


def _rows(blocks: list[torch.Tensor], kept: torch.Tensor, width: int, in_memory: bool) -> Rows:
    """Return the kept rows of some blocks, one block after another."""
    pieces = []
    for block, mask in zip(blocks, kept.split([len(block) for block in blocks]), strict=True):
        # runs of kept rows: a piece of a memory map is no copy
        edges = torch.cat([mask.new_zeros(1), mask, mask.new_zeros(1)]).to(torch.int8).diff().nonzero().flatten()
        pieces += [block[start:stop] for start, stop in edges.view(-1, 2).tolist()]
    if not in_memory and pieces:
        return StackedRows(pieces)
    rows = torch.empty(sum(map(len, pieces)), width)
    if pieces:
        for own, piece in zip(rows.split([len(piece) for piece in pieces]), pieces, strict=True):
            own.copy_(piece)
    return rows


def _check_classes(folder: Path, split: str, labels: Any, left: torch.Tensor, sidecar: Sidecar, ranks: Ranks) -> None:
    """Refuse a split of which bad images took a whole class; with several ranks none sees all of it."""
    count = len(sidecar.class_names)
    before, after = torch.bincount(torch.from_numpy(labels), minlength=count), torch.bincount(left, minlength=count)
    gone = [sidecar.class_names[label] for label in ((before > 0) & (after == 0)).nonzero().flatten().tolist()]
    if gone and ranks.count == 1:
        raise DataError(
            f"{folder}: no image of class {', '.join(gone)} in {split} could be read; bring readable images of it"
        )
