"""Stage one from a recipe to a run folder: a backbone, and the manifest that says what it is."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from selmix.agreement import together
from selmix.checkpoints import save_tensors
from selmix.data.assembly import digest_of_images
from selmix.data.images import ImageData
from selmix.data.rows import SPLITS
from selmix.data.sources import open_images
from selmix.data.splits import stratified_holdout
from selmix.data.splits_file import write_splits
from selmix.errors import DivergedError, UsageError
from selmix.manifest import write_manifest
from selmix.ranks import ALONE, Ranks
from selmix.seeding import numpy_generator, torch_generator
from selmix.stage1.classifier import exported_state, prepare_classifier
from selmix.stage1.images import TrainingImages
from selmix.stage1.placing import training_images
from selmix.stage1.retraining import begin_retraining
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import train_supervised
from selmix.stage1.validation import validate
from selmix.starting import Start, starting_model
from selmix.train_recipe import TrainRecipe, train_settings
from selmix.training_run import BEST, CHECKPOINT, LAST, MODEL, SPLITS_FILE, begin_run, log_epoch

SELECTED_BY = "mean_recall"


class Bar(Protocol):
    """Shows how far a long job is."""

    def __call__(self, description: str, total: int, done: int) -> Callable[[int], None]:
        """Begin a line, and return what is told how many images each step has seen."""
        ...


def no_bar(description: str, total: int, done: int) -> Callable[[int], None]:
    """Show nothing."""
    return lambda count: None


@dataclass(frozen=True)
class Job:
    """What the phases of one training have in common.

    Attributes:
        recipe: what was asked.
        data: train, and where there is one val, and test.
        start: what training starts from.
        device: where to train.
        ranks: the processes.
        bar: shows progress.
    """

    recipe: TrainRecipe
    data: ImageData
    start: Start
    device: torch.device
    ranks: Ranks
    bar: Bar

    def images(self, split: str, settings: SupervisedSettings, *, like: TrainingImages | None = None) -> TrainingImages:
        """Return the images of train as a network learns from them, or those of val, normalised `like` these."""
        return training_images(
            self.data.splits[split],
            size=self.recipe.input_size,
            settings=settings,
            device=self.device,
            augmented=like is None,
            mean=self.start.mean if like is None else like.mean,
            std=self.start.std if like is None else like.std,
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

    def identity(self, train: TrainingImages) -> dict[str, Any]:
        """Return what the weights say by themselves: they are also opened as a plain checkpoint."""
        return {
            "architecture": self.recipe.architecture,
            "class_names": self.data.class_names,
            "input_size": [3, *self.recipe.input_size],
            "mean": list(train.mean),
            "std": list(train.std),
        }


def with_val(data: ImageData, fraction: float, *, seed: int) -> ImageData:
    """Set a fraction of train aside as val, class by class; a class with one image keeps it.

    Raises:
        UsageError: if there is a val already.
    """
    if "val" in data.splits:
        raise UsageError(f"val_fraction = {fraction} asks for a part of train, and the data have a val; drop one")
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


def train_backbone(
    recipe: TrainRecipe,
    out: Path,
    *,
    device: torch.device,
    ranks: Ranks = ALONE,
    resume: bool = False,
    bar: Bar = no_bar,
) -> dict[str, Any]:
    """Train a backbone, and return its manifest.

    Args:
        recipe: what to train on what.
        out: the run folder (see `selmix.training_run`).
        device: where to train.
        ranks: the processes that share each batch.
        resume: go on from the checkpoint in `out`, if there is one.
        bar: shows progress.

    Raises:
        UsageError: for a faulty recipe, or one that is not that of the checkpoint.
        DataError: for missing or faulty data or weights.
        DivergedError: for a loss that is not finite.
    """
    settings = train_settings(recipe)
    data = open_images(recipe.data)
    start = starting_model(recipe, data.class_names)
    request = recipe.model_dump() | settings.resolved()
    with together(ranks):
        if ranks.leads:
            begin_run(out, request, resume=resume)
    ranks.wait()

    if recipe.val_fraction is not None:
        data = with_val(data, recipe.val_fraction, seed=recipe.seed)
        if ranks.leads:
            write_splits(data, out / SPLITS_FILE)
    job = Job(recipe, data, start, device, ranks, bar)
    model = start.model.to(device)
    objective = settings.loss.objective(job.class_counts)
    if settings.classifier is None:
        spared = prepare_classifier(model, objective)
        state = TrainingState.begin(model, settings.stage1, undecayed=spared)
    else:
        generator = torch_generator(recipe.seed, "classifier")
        state = begin_retraining(model, settings.classifier, settings.stage1, generator=generator)
    train = job.images("train", settings.stage1)
    fit(
        job,
        out,
        state,
        train,
        settings.stage1,
        lambda advance: train_supervised(
            state, train, objective, settings.stage1, seed=recipe.seed, ranks=ranks, advance=advance
        ),
    )
    if not ranks.leads:
        return {}
    return write_manifest(out, job.identity(train), request, data, {"epochs": state.epochs}, device=device)


def fit(
    job: Job,
    out: Path,
    state: TrainingState,
    train: TrainingImages,
    settings: SupervisedSettings,
    records: Callable[[Callable[[int], None]], Iterator[dict[str, float]]],
) -> None:
    """Go through the epochs that are left; judge, log and keep the network after each.

    Args:
        job: what the phases of a training have in common.
        out: folder of checkpoint, log and best weights.
        state: as it begins; an earlier checkpoint in `out` is taken over.
        train: what the loop learns from.
        settings: of the loop.
        records: begins the loop on the state, told what shows progress.
    """
    val = job.images("val", settings, like=train) if "val" in job.data.splits else None
    best = state.load(out / CHECKPOINT)["best"] if (out / CHECKPOINT).is_file() else -1.0
    images = len(job.data.splits["train"].ids) // settings.batch_size * settings.batch_size

    def keep(name: str) -> None:
        if job.ranks.leads:
            save_tensors(exported_state(state.kept), out / name, job.identity(train) | {"epoch": state.epochs})

    advance = job.bar("training", images * settings.epochs, images * state.epochs)
    try:
        for record in records(advance):
            last = state.epochs == settings.epochs
            if val is not None and (last or state.epochs % settings.evaluate_every == 0):
                record |= {f"val_{name}": value for name, value in validate(state.kept, val, ranks=job.ranks).items()}
                if record[f"val_{SELECTED_BY}"] > best:
                    best = record[f"val_{SELECTED_BY}"]
                    keep(BEST)
            if job.ranks.leads:
                log_epoch(out, record)
                if last or state.epochs % settings.checkpoint_every == 0:
                    state.save(out / CHECKPOINT, {"best": best})
    except DivergedError as error:
        whole = (
            f"the last good checkpoint is {out / CHECKPOINT}" if (out / CHECKPOINT).is_file() else "no checkpoint yet"
        )
        raise DivergedError(f"{error}; {whole}") from error
    keep(LAST)
    if job.ranks.leads:
        shutil.copyfile(out / (BEST if val is not None else LAST), out / MODEL)
