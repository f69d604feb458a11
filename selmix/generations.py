"""CReST's generations as phases of training: what one makes of the pool is among the labels of the next."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selmix.checkpoints import read_state_dict, save_tensors
from selmix.data.images import ImageSplit, JoinedImages
from selmix.errors import DataError
from selmix.semi.crest import CrestSettings
from selmix.semi.views import without_labels
from selmix.semi_training import begin_semi
from selmix.stage1.loss_weights import LossSettings
from selmix.stage1.settings import SupervisedSettings
from selmix.starting import starting_model
from selmix.training_job import Job
from selmix.training_run import CHECKPOINT, GENERATIONS, PSEUDO_LABELS, EpochLog, earlier_checkpoint, named_checkpoint

logger = logging.getLogger("selmix")


def earlier_generations(
    job: Job, out: Path, settings: SupervisedSettings, loss: LossSettings, semi: CrestSettings
) -> Job:
    """Train all generations but the last, and return the job with the labels that the last one learns from.

    Each stays in `out/generations/NUMBER`, counted from 1; a finished one is read there, an interrupted one goes on.

    Args:
        job: with unlabeled images; its network is left alone.
        out: the run folder.
        settings: of the loop of each generation.
        loss: of the labeled images.
        semi: of the generations.

    Raises:
        DataError: for a damaged file.
        DivergedError: for a loss that is not finite.
    """
    taught = job
    for generation in range(semi.generations - 1):
        folder = out / GENERATIONS / str(generation + 1)
        if not (folder / PSEUDO_LABELS).is_file():
            _train(job, taught, folder, settings, loss, semi, generation=generation)
            job.ranks.wait()
        labels = read_state_dict(folder / PSEUDO_LABELS).get("labels", torch.empty(0))
        pool = job.data.splits["unlabeled"]
        if len(labels) != len(pool.ids):
            raise DataError(f"{folder / PSEUDO_LABELS} is of another pool; remove it to choose them anew")
        splits = job.data.splits | {"train": joined(job.data.splits["train"], pool, labels.numpy())}
        taught = replace(job, data=replace(job.data, splits=splits))
    return taught


def joined(train: ImageSplit, pool: ImageSplit, labels: np.ndarray) -> ImageSplit:
    """Return the labeled images, and after them those of the pool that have a pseudo-label; -1 is none."""
    assert train.labels is not None
    chosen = pool.subset(np.flatnonzero(labels >= 0))
    return ImageSplit(
        ids=[*train.ids, *chosen.ids],
        labels=np.concatenate([train.labels, labels[labels >= 0]]),
        images=JoinedImages(train.images, chosen.images),
    )


def _train(
    job: Job,
    taught: Job,
    folder: Path,
    settings: SupervisedSettings,
    loss: LossSettings,
    semi: CrestSettings,
    *,
    generation: int,
) -> None:
    """Train a generation from the first weights on, and write what it makes of the pool."""
    start = starting_model(job.recipe, job.data.class_names)
    start.model.to(job.device)
    train, objective = taught.images("train", settings, augment=True), loss.objective(taught.class_counts)
    state, records = begin_semi(
        replace(job, start=start), train, objective, settings, semi, None, generation=generation
    )
    folder.mkdir(parents=True, exist_ok=True)
    earlier_checkpoint(state, folder, job.origin)
    log = EpochLog(folder, tensorboard=job.tensorboard and job.ranks.leads)
    images = semi.images(settings) * settings.epochs
    name = f"generation {generation + 1} of {semi.generations}"
    advance = job.bar(name, images, state.epochs / settings.epochs)
    with named_checkpoint(folder):
        for record in records(advance):
            last = state.epochs == settings.epochs
            if job.ranks.leads:
                log(record)
                if last or state.epochs % settings.checkpoint_every == 0:
                    state.save(folder / CHECKPOINT, {"origin": job.origin})
    blind = job.data.splits | {"unlabeled": without_labels(job.data.splits["unlabeled"])}
    pool = replace(job, data=replace(job.data, splits=blind)).images("unlabeled", settings, augment=False)
    labels = semi.choose(state.kept, pool, job.class_counts, ranks=job.ranks)
    counts = torch.bincount(labels[labels >= 0], minlength=len(job.class_counts))
    if job.ranks.leads:
        logger.info(f"{name}: {int(counts.sum())} of {len(labels)} unlabeled images join, by class {counts.tolist()}")
        save_tensors({"labels": labels}, folder / PSEUDO_LABELS, {})
