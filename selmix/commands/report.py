"""`selmix report`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from selmix.commands.console import guarded, show_report
from selmix.commands.options import Debug, Json, Quiet


def report(
    run: Annotated[Path, typer.Argument(help="Folder that demo, finetune or compare wrote.")],
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write RUN/report.html anew: one file that opens in any browser, without a network.

    A run writes it by itself; this is for after an update of selmix. All that is needed lies in the run folder.
    """
    from selmix.report.writer import write_report

    with guarded(quiet=quiet, debug=debug):
        page = write_report(run, each=True)
        if as_json:
            print(json.dumps({"schema": 1, "command": "report", "report": str(page), "bytes": page.stat().st_size}))
        elif not quiet:
            show_report(run)
