"""The command line: `selmix VERB`, one file a verb."""

import typer

from selmix.commands import demo, finetune, metrics, train

app = typer.Typer(
    name="selmix",
    help="Fine-tune a pretrained backbone's linear head for the metric that matters when classes are imbalanced.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (demo.demo, finetune.finetune, metrics.metrics, train.train):
    app.command()(verb)


def main() -> None:
    """Run the command line."""
    app(prog_name="selmix")
