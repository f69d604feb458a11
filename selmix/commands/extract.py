"""`selmix extract`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from selmix.commands import extracting, sources
from selmix.commands.bars import progress
from selmix.commands.console import guarded, out
from selmix.commands.options import Debug, Device, DeviceName, Json, Quiet, at_least


def extract(
    backbone: Annotated[str, typer.Option(help="As for finetune.")],
    data: Annotated[str, typer.Option(help="As for finetune.")],
    cache: Annotated[Path, typer.Option("--out", help="Folder of the features; --features takes it then.")],
    unlabeled: sources.Unlabeled = None,
    arch: extracting.Arch = None,
    input_size: extracting.InputSize = None,
    mean: extracting.Mean = None,
    std: extracting.Std = None,
    dtype: extracting.DtypeName = extracting.Dtype.auto,
    views: extracting.Views = 0,
    bad_image: extracting.BadImage = extracting.OnBadImage.error,
    workers: Annotated[
        int | None, typer.Option(callback=at_least(0), help="Processes that decode images; 0 for none.")
    ] = None,
    device: DeviceName = Device.auto,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run every image through the backbone once, and keep the features on disk.

    What interrupts it costs one block: the same command goes on from there. So does it after damage or a changed image.

    Several processes share the work: torchrun --nproc-per-node 2 -m selmix extract ...
    """
    from selmix.extraction import describe_cache, extract_to_cache
    from selmix.pipeline import choose_device
    from selmix.ranks import join_ranks
    from selmix.recipe import ExtractRecipe, build_recipe

    ranks = join_ranks()
    with guarded(quiet=quiet, debug=debug, silent=not ranks.leads):
        content = extracting.extraction(arch, input_size, mean, std, dtype, views, bad_image)
        content |= {"backbone": backbone, "data": data, "unlabeled": unlabeled}
        recipe = build_recipe(ExtractRecipe, content | {"workers": workers, "cache": str(cache)})
        track = progress(quiet=quiet or not ranks.leads)
        filled = extract_to_cache(recipe, device=choose_device(device), ranks=ranks, track=track)
        if as_json and ranks.leads:
            print(json.dumps(describe_cache(filled), indent=1))
        elif ranks.leads and not quiet:
            _show(describe_cache(filled))


def _show(document: dict[str, Any]) -> None:
    from selmix.features.disk import shown_bytes

    table = Table("split", title=f"d = {document['width']}, {document['dtype']}", title_justify="left")
    for column in ("rows", "left out", "size"):
        table.add_column(column, justify="right")
    for name, rows in document["rows"].items():
        left_out = len(document["bad_images"].get(name, ()))
        size = document["bytes"] * rows / sum(document["rows"].values())
        table.add_row(name, f"{rows - left_out:,}", f"{left_out:,}", shown_bytes(size))
    out.print(table)
    if document["extracted"]:
        images, seconds = document["extracted"], document["seconds"]["extract"]
        out.print(f"extracted {images:,} images in {seconds:.1f} s, {images / seconds:,.0f} a second", highlight=False)
    out.print(f"features: {document['cache']}", soft_wrap=True, highlight=False)
