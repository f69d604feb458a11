"""`selmix demo`."""

from pathlib import Path
from typing import Annotated

import typer

from selmix.commands.bars import progress
from selmix.commands.console import alone
from selmix.commands.options import Debug, Device, DeviceName, Json, Overwrite, Quiet, Seed, Settings, SubjectTo
from selmix.commands.show import show_result

_OUT = Path("runs/demo")


def demo(
    metric: Annotated[
        str,
        typer.Option(
            help="What to raise: a metric listed by `selmix metrics`, arithmetic on these, or FILE.py:FUNCTION."
        ),
    ] = "min_recall",
    out: Annotated[
        Path, typer.Option(help="Folder for the run; an earlier demo in the default one is replaced.")
    ] = _OUT,
    subject_to: SubjectTo = None,
    settings: Settings = None,
    seed: Seed = None,
    device: DeviceName = Device.auto,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Do the main job on what ships: a small backbone and long-tailed images, no network needed.

    The same as: selmix finetune --backbone shipped:fashion_resnet32 --data shipped:fashion_mnist_lt --metric min_recall
    """
    from selmix.finetuning import finetune
    from selmix.option_words import parse_assignments
    from selmix.pipeline import choose_device
    from selmix.recipe import FinetuneRecipe, load_recipe, stage_two_tables
    from selmix.run import is_run_of
    from selmix.shipped import shipped_recipe

    with alone("demo", quiet=quiet, debug=debug):
        tables = stage_two_tables(parse_assignments(settings or []))
        overrides = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
        overrides |= {"metric": metric, "subject_to": subject_to or [], "seed": seed or 0}
        recipe = load_recipe(shipped_recipe("demo"), FinetuneRecipe, overrides)
        document = finetune(
            recipe,
            out,
            command="demo",
            device=choose_device(device),
            overwrite=overwrite or (out == _OUT and is_run_of(out, "demo")),
            track=progress(quiet=quiet),
        )
        show_result(document, out, as_json=as_json, quiet=quiet)
