"""The command line: `selmix VERB`, one file a verb."""

import inspect
import re
import sys
from importlib import import_module
from typing import Annotated

import typer
from rich.markup import escape

import selmix.commands.environment  # noqa: F401  before anything that imports PyTorch
from selmix.commands import recipes
from selmix.commands.completion import colons_joined
from selmix.commands.console import show_error, show_interrupted
from selmix.commands.guide import GUIDE, epilog
from selmix.commands.interruption import interruptible, untold
from selmix.errors import UsageError

app = typer.Typer(
    name="selmix",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="New here? `selmix demo` does the main job in half a minute, `selmix doctor` says whether this machine can.",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(selmix.__version__)
        raise typer.Exit


@app.callback()
def selmix_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune a pretrained backbone's linear head for the metric that matters when classes are imbalanced."""


# a module of selmix.commands has the verb of its name; none imports PyTorch before the verb is called
for verb, (panel, examples) in GUIDE.items():
    if verb == "recipes":
        app.add_typer(recipes.app, name=verb, rich_help_panel=panel, epilog=epilog(examples), help=recipes.ABOUT)
    else:
        function = getattr(import_module(f"selmix.commands.{verb}"), verb)
        about = escape(inspect.getdoc(function) or "")  # a [table] is no markup
        app.command(help=about, rich_help_panel=panel, epilog=epilog(examples))(function)


def _plain(said: str) -> str:
    """Return what typer says of a value, in the words of selmix."""
    said = re.sub(r"Invalid value for '([^']+)': Input should be", r"\1 must be", said)
    return said.partition(", unable to parse")[0].replace("Value error, ", "")


def _refused(error: BaseException) -> int:
    """Say what is wrong with the words of a command, and return the exit code; raise what is no fault of theirs."""
    # typer carries a click of its own or uses the installed one: know its usage errors by what they can do
    if not hasattr(error, "format_message"):
        raise error
    where = getattr(error, "ctx", None)
    verb = where.command_path if where else "selmix"
    said = _plain(error.format_message().rstrip("."))
    if verb == "selmix evaluate" and "extra argument" in said:
        said += "; labeled images go with --data"
    show_error(f"{said}; see {verb} --help")
    return UsageError.exit_code


def main() -> None:
    """Run the command line; what is wrong with the words themselves is one line, and so is an interruption."""
    words, code = sys.argv[1:] or ["--help"], 1
    try:
        with interruptible(), colons_joined():
            code = app(words, prog_name="selmix", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if untold() is None:
            code = _refused(error)
    if code and (interruption := untold()) is not None:  # before the verb was guarded, or after
        show_interrupted()
        code = interruption.exit_code
    sys.exit(code)
