"""`selmix finetune`."""

from selmix.commands import extracting, goals, options, sources
from selmix.commands.bars import progress
from selmix.commands.console import guarded
from selmix.commands.options import Debug, Device, DeviceName, Json, MetricName, Out, Overwrite, Quiet, Settings
from selmix.commands.outcome import show_outcome
from selmix.errors import UsageError


def finetune(
    *,
    features: sources.Features = None,
    backbone: sources.BackboneSpec = None,
    data: sources.DataSpec = None,
    unlabeled: sources.Unlabeled = None,
    metric: MetricName,
    subject_to: options.SubjectTo = None,
    seed: options.Seed = None,
    seeds: goals.SeveralSeeds = None,
    settings: Settings = None,
    diagnose: goals.Diagnose = False,
    out: Out,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    arch: extracting.Arch = None,
    input_size: extracting.InputSize = None,
    mean: extracting.Mean = None,
    std: extracting.Std = None,
    dtype: extracting.DtypeName = extracting.Dtype.auto,
    views: extracting.Views = 0,
    bad_image: extracting.BadImage = extracting.OnBadImage.error,
    cache: sources.Cache = None,
    device: DeviceName = Device.auto,
) -> None:
    """Tune the linear head of a frozen backbone for a metric.

    The labels of train and val train the head, those of val steer it (each judged by a head that has not learnt it).

    Without val, a fifth of train is set aside for it. The test split is looked at once, at the end.

    RUN gets report.html, result.json, the tuned head, the ids of every split and the request; with --seeds a folder
    like that for each seed, and seeds.json; with several metrics RUN/METRIC/seedN, sweep.json, sweep.csv, pareto.svg.

    A seed changes what is random in stage two and the part of train that is set aside; not the backbone, nor a split
    that the data have.

    Exit codes: 0 ok, 2 usage, 3 data or checkpoint problem, 4 a constraint was not met (the run is complete),
    5 diverged.
    """
    from selmix.option_words import parse_assignments, parse_metrics, parse_seeds
    from selmix.pipeline import choose_device
    from selmix.ranks import join_ranks
    from selmix.recipe import FinetuneRecipe, build_recipe, stage_two_tables
    from selmix.sweep import finetune_all

    ranks = join_ranks()
    with guarded(quiet=quiet, debug=debug, silent=not ranks.leads):
        content = extracting.extraction(arch, input_size, mean, std, dtype, views, bad_image)
        content |= sources.source(backbone, data, features, cache, unlabeled)
        content |= {"metric": metric, "subject_to": subject_to or [], "diagnose": diagnose, "seed": seed or 0}
        content |= stage_two_tables(parse_assignments(settings or []))
        if seeds is not None and seed is not None:
            raise UsageError("--seed and --seeds exclude each other; a single seed is --seed N")
        document = finetune_all(
            build_recipe(FinetuneRecipe, content),
            parse_metrics(metric),
            None if seeds is None else parse_seeds(seeds),
            out,
            command="finetune",
            device=choose_device(device),
            overwrite=overwrite,
            track=progress(quiet=quiet or not ranks.leads),
            ranks=ranks,
        )
        if ranks.leads:
            show_outcome(document, out, as_json=as_json, quiet=quiet)
