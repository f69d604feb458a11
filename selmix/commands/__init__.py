"""The command line: `selmix VERB`, one file a verb."""

import sys
from typing import Annotated

import typer

import selmix.commands.environment  # noqa: F401  before anything that imports PyTorch
from selmix.commands import (
    backbones,
    check,
    compare,
    demo,
    evaluate,
    export,
    extract,
    finetune,
    metrics,
    predict,
    train,
)
from selmix.commands.console import show_error
from selmix.errors import UsageError

app = typer.Typer(
    name="selmix",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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


for verb in (
    backbones.backbones,
    check.check,
    compare.compare,
    demo.demo,
    evaluate.evaluate,
    export.export,
    extract.extract,
    finetune.finetune,
    metrics.metrics,
    predict.predict,
    train.train,
):
    app.command()(verb)


def main() -> None:
    """Run the command line; what is wrong with the words themselves is one line, too."""
    words = sys.argv[1:] or ["--help"]
    try:
        code = app(words, prog_name="selmix", standalone_mode=False)
    except Exception as error:
        # typer carries a click of its own or uses the installed one: know its usage errors by what they can do
        if not hasattr(error, "format_message"):
            raise
        where = getattr(error, "ctx", None)
        show_error(f"{error.format_message().rstrip('.')}; see {where.command_path if where else 'selmix'} --help")
        code = UsageError.exit_code
    sys.exit(code)
