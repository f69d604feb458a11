"""AutoBalance's search as a phase of training: its own folder, checkpoint and log, and the loss that it found."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from selmix.errors import DataError, UsageError
from selmix.stage1.autobalance import SearchState, search
from selmix.stage1.autobalance_settings import AutoBalanceSettings
from selmix.stage1.cells import cell_numbers
from selmix.stage1.design import LossTables
from selmix.stage1.images import TrainingImages
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.starting import starting_model
from selmix.training_job import Job
from selmix.training_run import CHECKPOINT, LOSS, SEARCH, EpochLog, earlier_checkpoint, named_checkpoint
from selmix.writing import write_atomically


def searched_loss(job: Job, out: Path, settings: AutoBalanceSettings, loop: SupervisedSettings) -> LossTables:
    """Search a loss on val while a network learns from train, and return its tables for the training after it.

    Everything stays in `out/search`; a finished search is read from there, an interrupted one goes on.

    Args:
        job: with train and val.
        out: the run folder.
        settings: of the search.
        loop: of its loop.

    Raises:
        UsageError: without val, or with several processes.
        DataError: for a damaged file.
        DivergedError: for a loss that is not finite.
    """
    if "val" not in job.data.splits:
        raise UsageError(
            "a loss is searched on val, and the data have none; set val_fraction in the recipe, e.g. to 0.2"
        )
    folder = out / SEARCH
    if not (folder / LOSS).is_file():
        if job.ranks.count > 1:
            raise UsageError("a loss is searched in one process; leave torchrun away until search/loss.json is there")
        _search(job, folder, settings, loop)
    try:
        content = json.loads((folder / LOSS).read_text())
        return LossTables.from_dict(content["tables"], device=job.device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / LOSS} is damaged; remove it to search again from the last checkpoint") from error


def in_cells(job: Job, split: str, settings: SupervisedSettings) -> TrainingImages:
    """Return the images of a split with cells for labels: classes within groups, where there are groups."""
    images, groups = job.images(split, settings, augment=split == "train"), job.data.splits[split].groups
    if groups is None:
        return images
    num_groups = len(job.data.group_names)
    return replace(images, labels=cell_numbers(images.labels, torch.from_numpy(groups), num_groups=num_groups))


def _search(job: Job, folder: Path, settings: AutoBalanceSettings, loop: SupervisedSettings) -> None:
    num_classes, num_groups = len(job.data.class_names), max(1, len(job.data.group_names))
    train, val = (in_cells(job, split, loop) for split in ("train", "val"))
    counts = torch.bincount(train.labels, minlength=num_classes * num_groups).view(num_classes, num_groups)
    design = settings.design(counts.to(job.device))
    model = starting_model(job.recipe, job.data.class_names).model
    state = TrainingState.begin(model.to(job.device), loop)
    searching = SearchState.begin(design, settings)
    folder.mkdir(exist_ok=True)
    earlier = earlier_checkpoint(state, folder, job.origin)
    if earlier:
        searching.load_state_dict(earlier["searching"])
    log = EpochLog(folder, tensorboard=job.tensorboard)
    advance = job.bar("search", len(train.labels) * loop.epochs, state.epochs / loop.epochs)
    with named_checkpoint(folder):
        for record in search(
            state, searching, train, val, design, settings, loop, seed=job.recipe.seed, advance=advance
        ):
            log(record)
            if state.epochs % loop.checkpoint_every == 0 or state.epochs == loop.epochs:
                state.save(folder / CHECKPOINT, {"searching": searching.state_dict(), "origin": job.origin})
    found = {"val_error": searching.best_score, "tables": design.tables(searching.best).to_dict()}
    write_atomically(folder / LOSS, json.dumps(found, indent=1) + "\n")
