"""The command line: `selmix VERB`, one file a verb."""

from typing import Annotated

import typer

import selmix
from selmix.commands import demo, finetune, metrics, train

app = typer.Typer(
    name="selmix",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Fine-tune a pretrained backbone's linear head for the metric that matters when classes are imbalanced."""
    if show:
        print(selmix.__version__)
        raise typer.Exit


for verb in (demo.demo, finetune.finetune, metrics.metrics, train.train):
    app.command()(verb)


def main() -> None:
    """Run the command line."""
    app(prog_name="selmix")
