"""`selmix compare`."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from selmix.commands import extracting, goals, options, sources
from selmix.commands.bars import progress
from selmix.commands.console import alone, out, show_report
from selmix.commands.options import Debug, Device, DeviceName, Json, Out, Overwrite, Quiet, Settings
from selmix.commands.tables import percent


def compare(
    *,
    features: sources.Features = None,
    backbone: sources.BackboneSpec = None,
    data: sources.DataSpec = None,
    unlabeled: sources.Unlabeled = None,
    metric: options.MetricName,
    methods: goals.Methods = None,
    seeds: options.Seeds = "0..4",
    val_per_class: goals.ValPerClass = None,
    settings: Settings = None,
    folder: Out,
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
    """Is SelMix worth it here? Run it and its rivals on the same features and labels, over metrics and seeds.

    A seed changes what is random in the methods and, without a val split, which part of train is set aside for it.

    Figures on val are out-of-fold. The best rival is chosen on test, which favours it. docs/ladder.md explains methods.
    """
    from selmix.compare import compare as compare_recipe
    from selmix.option_words import parse_assignments, parse_metrics, parse_names, parse_seeds
    from selmix.pipeline import choose_device
    from selmix.recipe import CompareRecipe, build_recipe

    with alone("compare", quiet=quiet, debug=debug):
        content = extracting.extraction(arch, input_size, mean, std, dtype, views, bad_image)
        content |= sources.source(backbone, data, features, cache, unlabeled)
        content |= {
            "metrics": parse_metrics(metric),
            "methods": parse_names(methods),
            "seeds": parse_seeds(seeds),
            "val_per_class": val_per_class,
            "stage2": parse_assignments(settings or []),
        }
        recipe, where, bar = build_recipe(CompareRecipe, content), choose_device(device), progress(quiet=quiet)
        document = compare_recipe(recipe, folder, device=where, overwrite=overwrite, track=bar)
        if as_json:
            print(json.dumps(document, indent=1, allow_nan=False))
        elif not quiet:
            _show(document, folder)


def _show(document: dict[str, Any], folder: Path) -> None:
    over = f"mean ± std over {len(document['request']['seeds'])} seed(s)"
    for name, summary in document["summary"].items():
        table = Table("method", title=f"{name}, %, {over}", title_justify="left")
        for column in ("val", "test", "seconds"):
            table.add_column(column, justify="right", no_wrap=True)
        for method, figures in sorted(summary["methods"].items(), key=lambda item: -item[1]["test"]["mean"]):
            cells = (f"{percent(figures[part]['mean'])} ± {percent(figures[part]['std'])}" for part in ("val", "test"))
            shown = f"[bold]{method}[/]" if method == "selmix" else method
            table.add_row(shown, *cells, f"{figures['seconds']['mean']:.1f}")
        out.print(table)
    for summary in document["summary"].values():
        out.print(summary["verdict"], soft_wrap=True, highlight=False)
    for method, reason in document["left_out"].items():
        out.print(f"left out: {method}: {reason}", highlight=False)
    if any("difference" in summary for summary in document["summary"].values()):
        out.print("the rival was chosen by its test mean, which favours it; intervals cover test samples, not seeds")
    out.print(f"written: {folder / 'compare.json'}", soft_wrap=True, highlight=False)
    show_report(folder)
