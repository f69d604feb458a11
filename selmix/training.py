"""Stage one from a recipe to a run folder: a backbone, and the manifest that says what it is."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selmix.agreement import together
from selmix.checkpoints import save_tensors
from selmix.data.assembly import digest_of_images
from selmix.data.sources import open_images
from selmix.data.splits_file import write_splits
from selmix.errors import UsageError
from selmix.generations import earlier_generations
from selmix.manifest import write_manifest
from selmix.ranks import ALONE, Ranks
from selmix.searching import in_cells, searched_loss
from selmix.seeding import derived_seed, torch_generator
from selmix.semi.crest import CrestSettings
from selmix.semi_training import Records, begin_semi, check_splits
from selmix.stage1.classifier import exported_state, prepare_classifier
from selmix.stage1.images import TrainingImages
from selmix.stage1.objective import Objective
from selmix.stage1.personal import NoisyImages
from selmix.stage1.placing import channel_statistics
from selmix.stage1.retraining import begin_retraining
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import train_supervised
from selmix.stage1.validation import validate
from selmix.starting import starting_model
from selmix.train_recipe import TrainRecipe, TrainSettings, train_settings
from selmix.training_job import Bar, Job, no_bar, with_val
from selmix.training_run import (
    BEST,
    CHECKPOINT,
    LAST,
    MODEL,
    SPLITS_FILE,
    EpochLog,
    earlier_checkpoint,
    named_checkpoint,
    training_folder,
)

logger = logging.getLogger("selmix")

SELECTED_BY = "mean_recall"


def train_backbone(
    recipe: TrainRecipe,
    out: Path,
    *,
    device: torch.device,
    ranks: Ranks = ALONE,
    resume: bool = False,
    bar: Bar = no_bar,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train a backbone, and return its manifest.

    Args:
        recipe: what to train on what.
        out: the run folder (see `selmix.training_run`).
        device: where to train.
        ranks: the processes that share each batch.
        resume: go on from the checkpoint in `out`, if there is one.
        bar: shows progress.
        tensorboard: whether epochs are logged for TensorBoard, too.

    Raises:
        UsageError: for a faulty recipe, or one that is not that of the checkpoint.
        DataError: for missing or faulty data or weights.
        DivergedError: for a loss that is not finite.
    """
    settings = train_settings(recipe)
    data = open_images(recipe.data)
    start = starting_model(recipe, data.class_names)
    if settings.classifier is not None and settings.classifier.head_start == "stage1" and not start.has_classifier:
        raise UsageError(
            f"a classifier is to be learnt again, and {recipe.start or 'a network without start'} has none of the "
            f"classes of {recipe.data}; let start name a backbone that has, or set classifier.head_start=random"
        )
    if settings.semi is not None:
        check_splits(data, recipe, settings.semi)
    mean, std = start.mean, start.std
    if mean is None or std is None:
        measured = channel_statistics(data.splits["train"], size=recipe.input_size)
        mean, std = mean or measured[0], std or measured[1]
    request = recipe.model_dump() | settings.resolved()
    with ExitStack() as stack:
        with together(ranks):
            if ranks.leads:
                stack.enter_context(training_folder(out, request, resume=resume))
        ranks.wait()
        learnt = digest_of_images(data.class_names, {"train": data.splits["train"]}, data.group_names)
        job = Job(recipe, data, start, learnt, mean, std, device, ranks, bar, tensorboard)
        job = _train(job, settings, out)
        return write_manifest(out, job.identity, request, job.data, device=device) if ranks.leads else {}


def _train(job: Job, settings: TrainSettings, out: Path) -> Job:
    """Train in the folder of the run, and return the job with the data that the network has learnt from."""
    whole, recipe = job.data, job.recipe
    job.start.model.to(job.device)
    if recipe.val_fraction is not None and "val" not in whole.splits:
        job = replace(job, data=with_val(whole, recipe.val_fraction, seed=recipe.seed))
        fresh = job.ranks.leads and not (out / SPLITS_FILE).is_file()
        if fresh and settings.autobalance is None:  # else the network learns from that val, too
            write_splits(job.data, out / SPLITS_FILE)
    elif recipe.val_fraction is not None:
        logger.info(f"val_fraction = {recipe.val_fraction} is not used: the data have a val")
    if settings.autobalance is None or settings.search is None:
        taught = job
        if isinstance(settings.semi, CrestSettings):
            taught = earlier_generations(job, out, settings.stage1, settings.loss, settings.semi)
        objective = settings.loss.objective(taught.class_counts)
        train: TrainingImages = taught.images("train", settings.stage1, augment=True)
    else:
        tables = searched_loss(job, out, settings.autobalance, settings.search)
        objective = tables.objective()
        job = replace(job, data=whole)  # the network learns from all of train
        train = in_cells(job, "train", settings.stage1)
        if tables.noise.any():
            train = NoisyImages(train, tables.noise)
    val = job.images("val", settings.stage1, augment=False) if "val" in job.data.splits else None
    epoch_images = len(job.data.splits["train"].ids)
    if settings.semi is not None:
        generation = settings.semi.generations - 1 if isinstance(settings.semi, CrestSettings) else 0
        state, records = begin_semi(job, train, objective, settings.stage1, settings.semi, val, generation=generation)
        epoch_images = settings.semi.images(settings.stage1)
    else:
        state, records = _begin_supervised(job, train, objective, settings)
    fit(job, out, state, settings.stage1, records, val=val, epoch_images=epoch_images)
    return job


def _begin_supervised(
    job: Job, train: TrainingImages, objective: Objective, settings: TrainSettings
) -> tuple[TrainingState, Records]:
    """Return the state before the first step, and what begins the loop on it."""
    model, seed = job.start.model, job.recipe.seed
    if settings.classifier is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "classifier"))
            spared = prepare_classifier(model, objective, fresh=not job.start.has_classifier)
        state = TrainingState.begin(model, settings.stage1, undecayed=spared)
    else:
        generator = torch_generator(seed, "classifier")
        state = begin_retraining(model, settings.classifier, settings.stage1, generator=generator)

    def records(advance: Callable[[int], object]) -> Iterator[dict[str, float]]:
        return train_supervised(state, train, objective, settings.stage1, seed=seed, ranks=job.ranks, advance=advance)

    return state, records


def fit(
    job: Job,
    out: Path,
    state: TrainingState,
    settings: SupervisedSettings,
    records: Records,
    *,
    val: TrainingImages | None,
    epoch_images: int,
) -> None:
    """Go through the epochs that are left; judge, log and keep the network after each.

    Args:
        job: what the phases of a training have in common.
        out: folder of checkpoint, log and best weights.
        state: as it begins; an earlier checkpoint in `out` is taken over.
        settings: of the loop.
        records: begins the loop on the state, told what shows progress.
        val: not augmented; None if there is none.
        epoch_images: that an epoch takes.
    """
    best = earlier_checkpoint(state, out, job.origin).get("best", -1.0)

    def keep(name: str) -> None:
        if job.ranks.leads:
            save_tensors(exported_state(state.kept), out / name, job.identity | {"epoch": state.epochs})

    log = EpochLog(out, tensorboard=job.tensorboard and job.ranks.leads)
    advance = job.bar("training", epoch_images * settings.epochs, state.epochs / settings.epochs)
    with named_checkpoint(out):
        for record in records(advance):
            last = state.epochs == settings.epochs
            if val is not None and (last or state.epochs % settings.evaluate_every == 0):
                record |= {f"val_{name}": value for name, value in validate(state.kept, val, ranks=job.ranks).items()}
                if record[f"val_{SELECTED_BY}"] > best:
                    best = record[f"val_{SELECTED_BY}"]
                    keep(BEST)
            if job.ranks.leads:
                log(record)
                if last or state.epochs % settings.checkpoint_every == 0:
                    state.save(out / CHECKPOINT, {"best": best, "origin": job.origin})
    keep(LAST)
    if job.ranks.leads:
        shutil.copyfile(out / (BEST if val is not None else LAST), out / MODEL)
