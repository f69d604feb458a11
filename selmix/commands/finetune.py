"""`selmix finetune`."""

from typing import Annotated, Any

import typer

from selmix.commands import extracting, options, sources
from selmix.commands.bars import progress
from selmix.commands.console import guarded
from selmix.commands.options import Debug, Device, DeviceName, Json, MetricName, Out, Overwrite, Quiet, Settings
from selmix.commands.several import show_seeds
from selmix.commands.show import show_result
from selmix.commands.sweep import show_sweep
from selmix.errors import UsageError
from selmix.finetuning import finetune as run_one
from selmix.finetuning import finetune_seeds as run_each
from selmix.pipeline import choose_device
from selmix.ranks import join_ranks
from selmix.recipe import FinetuneRecipe, build_recipe, parse_assignments, parse_metrics, parse_seeds, stage_two_tables
from selmix.sweep import finetune_sweep as run_sweep


def finetune(
    metric: MetricName,
    out: Out,
    backbone: sources.BackboneSpec = None,
    data: sources.DataSpec = None,
    features: sources.Features = None,
    unlabeled: sources.Unlabeled = None,
    subject_to: options.SubjectTo = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Also measure how well the gains of class pairs predict what steps do.")
    ] = False,
    settings: Settings = None,
    seed: options.Seed = None,
    seeds: Annotated[
        str | None, typer.Option(help="Instead of --seed: a run for each, 0..4 or 0,1,2; then also mean and std.")
    ] = None,
    arch: extracting.Arch = None,
    input_size: extracting.InputSize = None,
    mean: extracting.Mean = None,
    std: extracting.Std = None,
    dtype: extracting.DtypeName = extracting.Dtype.auto,
    views: extracting.Views = 0,
    bad_image: extracting.BadImage = extracting.OnBadImage.error,
    cache: sources.Cache = None,
    device: DeviceName = Device.auto,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tune the linear head of a frozen backbone for a metric.

    The labels of train and val train the head, those of val steer it (each judged by a head that has not learnt it).

    Without val, a fifth of train is set aside for it. The test split is looked at once, at the end.

    The run folder gets result.json, the tuned head, the ids of every split and the request; with --seeds a folder
    like that for each seed, and seeds.json. A seed changes what is random in stage two and the part of train that is
    set aside; not the backbone, nor a split that the data have.

    Exit codes: 0 ok, 2 usage, 3 data or checkpoint problem, 4 a constraint was not met (the run is complete).
    """
    ranks = join_ranks()
    with guarded(quiet=quiet, debug=debug, silent=not ranks.leads):
        content = extracting.extraction(arch, input_size, mean, std, dtype, views, bad_image)
        content |= sources.source(backbone, data, features, cache, unlabeled)
        content |= {
            "metric": metric,
            "subject_to": subject_to or [],
            "diagnose": diagnose,
            "seed": seed or 0,
        } | stage_two_tables(parse_assignments(settings or []))
        if seeds is not None and seed is not None:
            raise UsageError("--seed and --seeds exclude each other; a single seed is --seed N")
        recipe, metrics = build_recipe(FinetuneRecipe, content), parse_metrics(metric)
        several = None if seeds is None else parse_seeds(seeds)
        work: dict[str, Any] = {"command": "finetune", "device": choose_device(device), "overwrite": overwrite}
        work |= {"track": progress(quiet=quiet or not ranks.leads), "ranks": ranks}
        if len(metrics) > 1:
            document, show = run_sweep(recipe, metrics, several or [recipe.seed], out, **work), show_sweep
        elif several is not None:
            document, show = run_each(recipe, several, out, **work), show_seeds
        else:
            document, show = run_one(recipe, out, **work), show_result
        if ranks.leads:
            show(document, out, as_json=as_json, quiet=quiet)
