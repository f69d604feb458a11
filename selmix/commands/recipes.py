"""`selmix recipes`: what ships, and whether a recipe is in order."""

import json
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table

from selmix.commands.completion import recipe_names
from selmix.commands.console import err, guarded, out
from selmix.commands.guide import RECIPES, epilog
from selmix.commands.options import Debug, Json
from selmix.errors import UsageError
from selmix.shipped import copy_recipe, shipped_recipe, shipped_recipes

ABOUT = "List, show, copy and check recipes."

app = typer.Typer()

_Name = Annotated[
    str, typer.Argument(metavar="NAME", help="As `selmix recipes ls` lists it.", autocompletion=recipe_names)
]


@app.command("ls", epilog=epilog(RECIPES["ls"]))
def list_recipes(as_json: Json = False, debug: Debug = False) -> None:
    """List the recipes and data specs that ship: name, the verb that runs them, what they claim."""
    with guarded(quiet=False, debug=debug):
        from selmix.recipe_header import shipped_headers

        if as_json:
            print(json.dumps(shipped_headers(), indent=1))
            return
        table = Table(Column("recipe", no_wrap=True), "verb", "what it claims", box=SIMPLE_HEAD)
        for _, rows in groupby(shipped_headers(), key=lambda row: row["name"].partition("/")[0]):
            for row in rows:
                table.add_row(row["name"], row["verb"], escape(row["claim"]))
            table.add_section()
        out.print(table)


@app.command("show", epilog=epilog(RECIPES["show"]))
def show_recipe(name: _Name, debug: Debug = False) -> None:
    """Print a recipe that ships, as it is in its file."""
    with guarded(quiet=False, debug=debug):
        print(shipped_recipe(name).read_text(encoding="utf-8"), end="")


@app.command("cp", epilog=epilog(RECIPES["cp"]))
def copy(
    name: _Name,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A folder, made if missing.")],
    debug: Debug = False,
) -> None:
    """Copy a recipe that ships, and the data spec that it names and where images lie, into a folder of your own."""
    with guarded(quiet=False, debug=debug):
        for path in copy_recipe(name, destination):
            out.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


@app.command("validate", epilog=epilog(RECIPES["validate"]))
def validate(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Recipes or data specs; those that ship, if none.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check names, types and settings of recipes completely, without data, and print every fault.

    Exit codes: 0 all are in order, 2 a fault was found.
    """
    with guarded(quiet=False, debug=debug):
        from selmix.recipe_check import recipe_faults

        faults = {str(path): recipe_faults(path) for path in files or shipped_recipes().values()}
        if as_json:
            print(json.dumps(faults, indent=1))
        for path, own in {} if as_json else faults.items():
            for fault in own:
                err.print(f"{path}: {fault}", markup=False, highlight=False, soft_wrap=True)
        faulty = sum(map(bool, faults.values()))
        if faulty:
            raise UsageError(f"{faulty} of {len(faults)} file(s) have faults; mend them as said above")
        if not as_json:
            out.print(f"{len(faults)} file(s) are in order", highlight=False)
