"""Stage two from a recipe to a run folder."""

from pathlib import Path
from typing import Any

import torch

from selmix.extraction import features_of_images
from selmix.features.extract import Track
from selmix.features.file import load_features
from selmix.metrics import MetricContext, parse_metric
from selmix.pipeline import tune
from selmix.recipe import FinetuneRecipe, refine_settings
from selmix.result import describe
from selmix.run import run_folder, write_run


def finetune(
    recipe: FinetuneRecipe,
    out: Path,
    *,
    command: str,
    device: torch.device,
    overwrite: bool = False,
    track: Track | None = None,
) -> dict[str, Any]:
    """Tune a head as the recipe says, write the run folder, return the content of its `result.json`.

    What can be wrong with the request is checked before the first image is read.

    Args:
        recipe: metric, sources, seed and settings.
        out: run folder, made if missing.
        command: the verb, for the record.
        device: where the backbone runs; the head is tuned on the CPU, so its numbers are the same on every device.
        overwrite: replace a finished run in `out`.
        track: wraps long loops to show progress.

    Raises:
        UsageError: for a faulty request.
        DataError: for faulty data, features or weights.
    """
    wanted = parse_metric(recipe.metric)
    settings = refine_settings(recipe.stage2)
    with run_folder(out, overwrite=overwrite):
        if recipe.features is not None:
            data = load_features(Path(recipe.features))
        else:
            assert recipe.backbone is not None
            assert recipe.data is not None
            data = features_of_images(recipe.backbone, recipe.data, device=device, track=track)
        counts = torch.bincount(data.splits["train"].labels, minlength=len(data.class_names))
        metric = wanted.bind(MetricContext(data.class_names, counts))
        tuning = tune(data, metric, settings, seed=recipe.seed)
        document = describe(tuning, metric, command=command, seed=recipe.seed)
        request = recipe.model_dump(exclude_none=True) | {"metric": metric.name, "stage2": vars(settings)}
        write_run(out, document, tuning, request)
    return document
