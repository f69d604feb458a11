"""Filling a feature cache: what is missing is extracted, block by block, and what is there stays."""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selmix.data.images import ImageData
from selmix.errors import DataError
from selmix.features.blocks import Images, record_path, write_block
from selmix.features.cache import EXTRACTED, Identity, Sidecar, default_folder, facts, known_sidecar
from selmix.features.disk import check_disk, disk_fault
from selmix.features.extract import Engine, Progress, Track
from selmix.features.loading import Batch, Batches, Task, default_workers, read_ahead
from selmix.features.lock import locked, wait_for_blocks
from selmix.features.survey import Fault, bad_image, survey
from selmix.heads import LinearHead
from selmix.ranks import ALONE, Ranks
from selmix.writing import remove_leftovers, write_atomically

if TYPE_CHECKING:
    from selmix.backbones import Backbone  # timm takes a while to import, and ready features need none

logger = logging.getLogger("selmix")


@dataclass(frozen=True)
class Filling:
    """What is to be in a cache, and how it gets there.

    Attributes:
        images: whose train, val and test go in, and the unlabeled pool.
        backbone: frozen.
        device: where it runs.
        dtype: of the features, `float32`, `float16` or `bfloat16`.
        views: augmented views of each image of train and of the pool.
        skip_bad: whether an unreadable image is left out; else it is an error.
        head: the classifier that came with the backbone, for the class table of the images.
        workers: processes that decode; by the number of images and processors, if not given.
        about: names of backbone and data, for the record.
        origin: backbone and images, so that they can be opened again.
        ranks: the processes that share the work; each extracts the blocks b with b % count == rank.
        track: wraps the loop over images to show progress.
    """

    images: ImageData
    backbone: "Backbone"
    device: torch.device
    dtype: str = "float32"
    views: int = 0
    skip_bad: bool = False
    head: LinearHead | None = None
    workers: int | None = None
    about: dict[str, str] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = ALONE
    track: Track | None = None

    @property
    def identity(self) -> Identity:
        """Return what the features depend on."""
        return Identity(self.backbone.digest, self.images.digest, self.dtype, self.views)

    def sidecar(self, width: int, files: dict[str, bytes]) -> Sidecar:
        """Return what the sidecar says before all is there."""
        images = self.images
        return Sidecar(
            identity=self.identity,
            about=self.about | {"device": self.device.type, "torch": torch.__version__},
            width=width,
            sizes={name: len(images.splits[name].ids) for name in EXTRACTED if name in images.splits},
            class_names=images.class_names,
            group_names=images.group_names,
            files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            origin=self.origin,
        )

    def survey(self, folder: Path, sidecar: Sidecar) -> list[Fault]:
        """Return the blocks of this rank that must be extracted."""
        return survey(folder, sidecar, self.images, refuse_bad=not self.skip_bad, ranks=self.ranks)

    def total(self, count: int) -> int:
        """Return the sum over all ranks."""
        return int(self.ranks.total(torch.tensor(int(count), device=self.device if self.ranks.count > 1 else "cpu")))


@dataclass(frozen=True)
class Filled:
    """A complete cache.

    Attributes:
        folder: where it lies.
        sidecar: what it holds.
        images: how many were extracted now, by all ranks; 0 if the cache was complete.
        seconds: what that took.
    """

    folder: Path
    sidecar: Sidecar
    images: int
    seconds: float


def fill_cache(filling: Filling, folder: Path | None = None) -> Filled:
    """Make sure that a cache is complete and sound, extracting what is not there, damaged, or made from other images.

    Whatever interrupts it, a later call goes on from the last block that was written.

    Args:
        filling: what is to be in it.
        folder: of the cache; one under the cache root, if not given.

    Raises:
        DataError: if an image cannot be read, the disk is too small or cannot be written, or `folder` holds something
            else.
    """
    started = time.perf_counter()
    where = folder or default_folder(filling.identity, filling.images)
    named, files = folder is not None, facts(filling.images, filling.head)
    try:
        sidecar = known_sidecar(where, filling.identity, named=named)
        sound = sidecar is not None and _finished(where, sidecar, files) and not filling.survey(where, sidecar)
        extracted = 0
        if filling.total(not sound):
            with locked(where, ranks=filling.ranks, total=filling.total):
                sidecar, extracted = _fill(where, filling, files, named=named)
    except OSError as error:
        raise DataError(disk_fault(error, where)) from error
    assert sidecar is not None
    if not extracted:
        logger.info("features reused from %s", where)
    return Filled(where, sidecar, extracted, time.perf_counter() - started)


def _finished(folder: Path, sidecar: Sidecar, files: dict[str, bytes]) -> bool:
    """Return whether all was written once, and the files beside the blocks are what they must be."""
    try:
        return (
            sidecar.complete
            and sidecar.files.keys() == files.keys()
            and all((folder / name).read_bytes() == content for name, content in files.items())
        )
    except FileNotFoundError:
        return False


def _fill(folder: Path, filling: Filling, files: dict[str, bytes], *, named: bool) -> tuple[Sidecar, int]:
    """Extract what is missing, under the lock; return the sidecar and the number of images that went through."""
    ranks, first = filling.ranks, filling.ranks.rank == 0
    known = known_sidecar(folder, filling.identity, named=named)
    engine = Engine(filling.backbone, filling.device, filling.dtype)
    sidecar = filling.sidecar(known.width if known else engine.width(), files)
    ranks.wait()  # nobody writes before all have looked
    if first:
        remove_leftovers(folder)
    ranks.wait()
    faults = filling.survey(folder, sidecar)
    for fault in faults:
        if fault.reason:
            logger.warning(
                "%s, block %d of %s: %s; extracted anew", folder, fault.number, fault.part.name, fault.reason
            )
    missing = filling.total(sum(len(fault.part.rows_of(fault.number)) for fault in faults))
    if missing == 0 and known is not None and _finished(folder, known, files):
        return known, 0  # somebody else was faster
    check_disk(folder, sidecar, missing)
    everything = sum(part.rows for part in sidecar.parts)
    if missing < everything:
        logger.info("%s of %s are there already", f"{everything - missing:,}", f"{everything:,}")
    for fault in faults:
        record_path(folder / fault.part.name, fault.number).unlink(missing_ok=True)
    if first:
        sidecar.write(folder)  # first of all: a folder with it is known to be ours
        for part in sidecar.parts:
            (folder / part.name).mkdir(exist_ok=True)
        for name, content in files.items():
            write_atomically(folder / name, content)
    ranks.wait()
    try:
        _extract(folder, sidecar, filling, engine, faults)
    except KeyboardInterrupt:
        logger.warning("interrupted; what is complete stays in %s, and the same command goes on from there", folder)
        raise
    sidecar = replace(sidecar, complete=True)
    if first:
        wait_for_blocks(folder, sidecar)
        sidecar.write(folder)
    ranks.wait()
    return sidecar, missing


def _extract(folder: Path, sidecar: Sidecar, filling: Filling, engine: Engine, faults: Sequence[Fault]) -> None:
    """Extract the blocks of this rank, in order, and write each as soon as it is whole."""
    if not faults:
        return
    tasks = [Task(fault.part.split, fault.part.rows_of(fault.number), fault.part.view) for fault in faults]
    batches = Batches(filling.images.splits, tasks, engine.transform, batch_size=engine.batch_size())
    count = sum(len(task.rows) for task in tasks)
    workers = filling.workers
    if workers is None:
        # torchrun says how many processes share a machine
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", filling.ranks.count))
        workers = default_workers(count, processes=processes)
    progress, done = Progress(filling.track, count), 0
    decoded = read_ahead(batches, workers=workers, pinned=filling.device.type == "cuda")
    with closing(decoded), closing(engine.features(decoded)) as results:
        for batch, features in results:
            task, fault = tasks[batch.task], faults[batch.task]
            if not done:
                rows = torch.empty(len(task.rows), sidecar.width, dtype=features.dtype)
                read = Images()
            rows[done : done + len(features)] = features
            _note(read, batch, rows, done, task, filling)
            done += len(features)
            progress.advance(len(features))
            if done == len(rows):
                _check_finite(rows, task, filling)
                write_block(folder / fault.part.name, fault.number, rows, read, key=sidecar.identity.key)
                done = 0
    progress.close()


def _note(read: Images, batch: Batch, rows: torch.Tensor, start: int, task: Task, filling: Filling) -> None:
    """Take down what was read, and wipe the rows of images that could not be read.

    Raises:
        DataError: for such an image, unless they are to be skipped.
    """
    read.stamps.extend(batch.stamps)
    read.digests.extend(batch.digests)
    for position, reason in batch.faults.items():
        row = task.rows[start + position]
        error = bad_image(reason, filling.images, task.split, row)
        if not filling.skip_bad:
            raise error
        logger.warning("left out: %s", str(error).partition(", or leave")[0])
        read.bad[start + position] = reason
        rows[start + position] = 0


def _check_finite(rows: torch.Tensor, task: Task, filling: Filling) -> None:
    wrong = (~rows.isfinite().all(1)).nonzero().flatten()
    if len(wrong):
        name = filling.images.splits[task.split].ids[task.rows[int(wrong[0])]]
        remedy = "are its weights damaged?" if filling.dtype == "float32" else "take --dtype float32"
        raise DataError(f"{filling.backbone.name} gives features of {name} that are not finite numbers; {remedy}")
