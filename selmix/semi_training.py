"""Stage one with unlabeled images, as a phase of training."""

from collections.abc import Callable, Iterator

import torch

from selmix.data.images import ImageData
from selmix.errors import UsageError
from selmix.seeding import derived_seed
from selmix.semi.loop import train_semi
from selmix.semi.network import SemiNetwork, linear_classifier
from selmix.semi.settings import Beginning, SemiSettings
from selmix.semi.views import pool_images
from selmix.stage1.images import TrainingImages
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.train_recipe import TrainRecipe
from selmix.training_job import Job

Records = Callable[[Callable[[int], object]], Iterator[dict[str, float]]]


def check_splits(data: ImageData, recipe: TrainRecipe, semi: SemiSettings) -> None:
    """Refuse data without unlabeled images, or without the val that a method needs.

    Raises:
        UsageError: if they have none.
    """
    if "unlabeled" not in data.splits or not data.splits["unlabeled"].ids:
        raise UsageError(
            f"[semi] learns from unlabeled images, and {recipe.data} has none; add a split `unlabeled`, or draw one "
            "with a [semi] table in a data spec (docs/data.md)"
        )
    if semi.needs_val and "val" not in data.splits and recipe.val_fraction is None:
        raise UsageError(
            f"the method {semi.method} steers by val, and {recipe.data} has none; set val_fraction in the recipe, e.g. "
            "to 0.2"
        )


def begin_semi(
    job: Job,
    train: TrainingImages,
    objective: Objective,
    settings: SupervisedSettings,
    semi: SemiSettings,
    val: TrainingImages | None,
    *,
    generation: int = 0,
) -> tuple[TrainingState, Records]:
    """Return the state before the first step, and what begins the loop on it.

    Args:
        job: with unlabeled images.
        train: the labeled images.
        objective: what is minimised on the labeled ones.
        settings: of the loop.
        semi: of the unlabeled images.
        val: not augmented; None if there is none.
        generation: trainings that went before this one.

    Raises:
        UsageError: if the network does not end in one linear classifier, or the average that the method wants is off,
            or it needs images of every class in val and there are none.
        DataError: if an image cannot be read.
    """
    backbone = job.start.model
    num_features = linear_classifier(backbone)[1].in_features
    if semi.needs_val:
        judged = torch.zeros(0, dtype=torch.int64) if val is None else val.labels
        missing = (torch.bincount(judged, minlength=len(job.class_counts)) == 0).nonzero().flatten().tolist()
        if missing:
            raise UsageError(
                f"the method {semi.method} steers by val, which has no image of the class "
                f"{job.data.class_names[missing[0]]}; set val_fraction in the recipe, or add images to val"
            )
    beginning = Beginning(num_features, job.class_counts, settings.epochs, generation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(job.recipe.seed, "classifier"))
        method = semi.begin(objective, beginning)
    if method.wants_average and not settings.average_decay:
        raise UsageError(
            f"[semi] {semi.method} learns from the averaged network, and there is none; set stage1.average_decay, "
            "e.g. to 0.999"
        )
    # running statistics of slow momentum lag behind the weights about as much as an average of the weights does
    state = TrainingState.begin(SemiNetwork(backbone, method).to(job.device), settings, average_buffers=False)
    pool = pool_images(
        job.data.splits["unlabeled"],
        size=job.recipe.input_size,
        mean=job.mean,
        std=job.std,
        settings=settings,
        device=job.device,
        pixels=job.start.pixels,
        processes=job.ranks.count,
    )

    def records(advance: Callable[[int], object]) -> Iterator[dict[str, float]]:
        return train_semi(
            state, train, pool, settings, semi, seed=job.recipe.seed, val=val, ranks=job.ranks, advance=advance
        )

    return state, records
