"""`selmix doctor`."""

import json
from dataclasses import asdict

import typer
from rich.markup import escape

from selmix.commands.console import guarded, out
from selmix.commands.options import Debug, Json
from selmix.errors import DataError

_MARKS = {
    "ok": "[green]ok[/green]     ",
    "warning": "[yellow]warning[/yellow]",
    "problem": "[bold red]problem[/bold red]",
}


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Can this machine do it? Try every library, device and folder that selmix needs, and say what to do.

    Exit codes: 0 all that is needed works (there may be warnings), 3 something that is needed is broken.
    """
    from selmix.doctor import examine

    with guarded(quiet=False, debug=debug):
        findings = []
        for finding in examine():
            findings.append(finding)
            if not as_json:
                out.print(f"{_MARKS[finding.status]} {escape(finding.name)}: {escape(finding.detail)}", soft_wrap=True)
                if finding.remedy:
                    out.print(f"        {escape(finding.remedy)}", soft_wrap=True, highlight=False)
        counts = {status: sum(own.status == status for own in findings) for status in _MARKS}
        if as_json:
            print(json.dumps({"schema": 1, "counts": counts, "findings": [asdict(own) for own in findings]}, indent=1))
        else:
            out.print(f"{counts['problem']} problem(s), {counts['warning']} warning(s)", highlight=False)
        if counts["problem"]:
            raise typer.Exit(DataError.exit_code)
