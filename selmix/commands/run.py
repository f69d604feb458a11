"""`selmix run`."""

import json
from functools import partial
from typing import Annotated, Any

import typer

from selmix.commands import options
from selmix.commands.bars import image_bar, progress
from selmix.commands.completion import recipe_sources
from selmix.commands.console import alone, out
from selmix.commands.options import Debug, Device, Json, Overwrite, Quiet, at_least
from selmix.commands.outcome import show_outcome
from selmix.commands.train import show_backbone


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A TOML file, or shipped:NAME (`selmix recipes ls`).", autocompletion=recipe_sources
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Keys of the recipe, e.g. stage1.epochs=20 finetune.metric=macro_f1."
        ),
    ] = None,
    *,
    folder: options.Out,
    seed: Annotated[int | None, typer.Option(callback=at_least(0), help="Seed of both stages.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    device: Annotated[Device, typer.Option(help="Where to train, and where the backbone runs.")] = Device.auto,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Do both stages of one recipe: train a backbone, then tune its head.

    Stage one stands at the top of the recipe as `selmix train` has it, stage two in a table [finetune]: metric,
    subject_to, seed or seeds, [finetune.stage2] and so on (docs/recipes.md). They go to RUN/stage1 and RUN/stage2. A
    recipe of one stage runs that one, in RUN itself.

    What is set behind the recipe goes before what stands in it; the merged recipe is printed, and saved in RUN.

    Exit codes: 0 ok, 2 usage, 3 data or checkpoint problem, 4 a constraint was not met (the run is complete),
    5 diverged.
    """
    from selmix.option_words import parse_assignments
    from selmix.pipeline import choose_device
    from selmix.shipped import recipe_file
    from selmix.stages import STAGE1, STAGE2, read_stages, run_stages
    from selmix.training_run import RECIPE

    with alone("run", quiet=quiet, debug=debug, resumes=folder / RECIPE):
        stages = read_stages(recipe_file(recipe), parse_assignments(settings or []), folder, seed=seed)
        if not (quiet or as_json):
            _show_recipe(stages.content)
        shown: dict[str, Any] = {"track": progress(quiet=quiet), "bars": partial(image_bar, quiet=quiet)}
        document = run_stages(stages, folder, device=choose_device(device), resume=resume, overwrite=overwrite, **shown)
        both = None not in document.values()
        if as_json:
            print(json.dumps({"schema": 1, "command": "run"} | document, indent=1, allow_nan=False))
        elif document["stage1"] is not None and not quiet:
            show_backbone(document["stage1"], folder / STAGE1 if both else folder)
        if document["stage2"] is not None:
            place = folder / STAGE2 if both else folder
            show_outcome(document["stage2"], place, as_json=False, quiet=quiet or as_json)


def _show_recipe(content: dict[str, Any]) -> None:
    import tomli_w

    out.print(tomli_w.dumps(content), markup=False, highlight=False, soft_wrap=True)
