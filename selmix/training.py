"""Stage one from a recipe to a run folder: a backbone, and the manifest that says what it is."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from selmix.agreement import together
from selmix.checkpoints import save_tensors
from selmix.data.assembly import digest_of_images
from selmix.data.images import ImageData, stack_images
from selmix.data.rows import SPLITS
from selmix.data.sources import open_images
from selmix.data.splits import stratified_holdout
from selmix.data.splits_file import write_splits
from selmix.errors import DivergedError, UsageError
from selmix.manifest import write_manifest
from selmix.ranks import ALONE, Ranks
from selmix.train_recipe import TrainRecipe, train_settings
from selmix.seeding import numpy_generator, torch_generator
from selmix.stage1.classifier import exported_state, prepare_classifier
from selmix.stage1.images import TrainingImages, training_images
from selmix.stage1.objective import Objective
from selmix.stage1.retraining import begin_retraining
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import train_supervised
from selmix.stage1.validation import validate
from selmix.starting import starting_model
from selmix.training_run import BEST, CHECKPOINT, LAST, MODEL, SPLITS_FILE, begin_run, log_epoch

SELECTED_BY = "mean_recall"
_MEASURED = 5000  # images whose pixels give mean and standard deviation


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
        mean: normalisation, per channel of images in [0, 1].
        std: likewise.
        device: where to train.
        ranks: the processes.
        bar: shows progress.
    """

    recipe: TrainRecipe
    data: ImageData
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    ranks: Ranks
    bar: Bar

    def images(self, split: str, settings: SupervisedSettings, *, augment: bool) -> TrainingImages:
        """Return the images of a split as a network learns from them, or is judged by them."""
        return training_images(
            self.data.splits[split],
            size=self.recipe.input_size,
            mean=self.mean,
            std=self.std,
            settings=settings,
            device=self.device,
            augment=augment,
        )

    @property
    def class_counts(self) -> torch.Tensor:
        """Images per class of train, int64 [k], on the device."""
        labels = self.data.splits["train"].labels
        assert labels is not None
        counts = torch.bincount(torch.from_numpy(labels), minlength=len(self.data.class_names))
        return counts.to(self.device)

    @property
    def identity(self) -> dict[str, Any]:
        """What the weights say by themselves: they are also opened as a plain checkpoint."""
        return {
            "architecture": self.recipe.architecture,
            "class_names": self.data.class_names,
            "input_size": [3, *self.recipe.input_size],
            "mean": list(self.mean),
            "std": list(self.std),
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
    model, preprocessing = starting_model(recipe, data.class_names)
    mean, std = _normalisation(recipe, data, preprocessing)
    request = recipe.model_dump() | settings.resolved()
    with together(ranks):
        if ranks.leads:
            begin_run(out, request, resume=resume)
    ranks.wait()

    if recipe.val_fraction is not None:
        data = with_val(data, recipe.val_fraction, seed=recipe.seed)
        if ranks.leads:
            write_splits(data, out / SPLITS_FILE)
    job = Job(recipe, data, mean, std, device, ranks, bar)
    objective = settings.loss.objective(job.class_counts)
    model.to(device)
    if settings.classifier is None:
        spared = prepare_classifier(model, objective)
        state = TrainingState.begin(model, settings.stage1, undecayed=spared)
    else:
        generator = torch_generator(recipe.seed, "classifier")
        state = begin_retraining(model, settings.classifier, settings.stage1, generator=generator)
    train = job.images("train", settings.stage1, augment=True)
    fit(
        job,
        out,
        state,
        settings.stage1,
        lambda advance: train_supervised(
            state, train, objective, settings.stage1, seed=recipe.seed, ranks=ranks, advance=advance
        ),
    )
    if not ranks.leads:
        return {}
    return write_manifest(out, job.identity, request, data, {"epochs": state.epochs}, device=device)


def fit(
    job: Job,
    out: Path,
    state: TrainingState,
    settings: SupervisedSettings,
    records: Callable[[Callable[[int], None]], Iterator[dict[str, float]]],
) -> None:
    """Go through the epochs that are left; judge, log and keep the network after each.

    Args:
        job: what the phases of a training have in common.
        out: folder of checkpoint, log and best weights.
        state: as it begins; an earlier checkpoint in `out` is taken over.
        settings: of the loop.
        records: begins the loop on the state, told what shows progress.
    """
    val = job.images("val", settings, augment=False) if "val" in job.data.splits else None
    best = state.load(out / CHECKPOINT)["best"] if (out / CHECKPOINT).is_file() else -1.0
    images = len(job.data.splits["train"].ids) // settings.batch_size * settings.batch_size
    advance = job.bar("training", images * settings.epochs, images * state.epochs)
    try:
        for record in records(advance):
            if not job.ranks.leads:
                continue
            last = state.epochs == settings.epochs
            if val is not None and (last or state.epochs % settings.evaluate_every == 0):
                record |= {f"val_{name}": value for name, value in validate(state.kept, val).items()}
                if record[f"val_{SELECTED_BY}"] > best:
                    best = record[f"val_{SELECTED_BY}"]
                    save_tensors(exported_state(state.kept), out / BEST, job.identity | {"epoch": state.epochs})
            log_epoch(out, record)
            if last or state.epochs % settings.checkpoint_every == 0:
                state.save(out / CHECKPOINT, {"best": best})
    except DivergedError as error:
        whole = f"the last good checkpoint is {out / CHECKPOINT}" if (out / CHECKPOINT).is_file() else "no checkpoint yet"
        raise DivergedError(f"{error}; {whole}") from error
    if job.ranks.leads:
        save_tensors(exported_state(state.kept), out / LAST, job.identity | {"epoch": state.epochs})
        shutil.copyfile(out / (BEST if val is not None else LAST), out / MODEL)


def _normalisation(
    recipe: TrainRecipe, data: ImageData, preprocessing: dict[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel: as the recipe has them, as the first weights do, or measured."""
    mean, std = recipe.mean or preprocessing.get("mean"), recipe.std or preprocessing.get("std")
    if mean is None or std is None:
        train = data.splits["train"]
        some = np.linspace(0, len(train.ids) - 1, min(len(train.ids), _MEASURED)).round().astype(np.int64)
        pixels = torch.from_numpy(stack_images(train.subset(some), recipe.input_size))
        channels = pixels.double().div_(255).transpose(0, 1).flatten(1)
        mean = mean or [round(value, 6) for value in channels.mean(1).tolist()]
        std = std or [round(value, 6) for value in channels.std(1).tolist()]
    return tuple(mean), tuple(std)
