"""`selmix check`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selmix.commands import extracting, running
from selmix.commands.bars import progress
from selmix.commands.check_tables import class_table, finding_table, group_table, images_line, printable
from selmix.commands.console import alone, out
from selmix.commands.options import Debug, Device, DeviceName, Json, Quiet
from selmix.errors import DataError

if TYPE_CHECKING:
    from selmix.check.report import Report

_MOST_FIXES = 12


def check(
    data: Annotated[str, typer.Argument(metavar="DATA", help="As for finetune --data.")],
    backbone: Annotated[
        str | None, typer.Option(help="Compare images by its features, too: they see through crops.")
    ] = None,
    arch: extracting.Arch = None,
    input_size: extracting.InputSize = None,
    mean: extracting.Mean = None,
    std: extracting.Std = None,
    file: Annotated[Path | None, typer.Option("--out", metavar="FINDINGS.csv", help="File for all findings.")] = None,
    overwrite: running.OverwriteFile = False,
    device: DeviceName = Device.auto,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What is in a data set, and what is wrong with it?

    Prints the classes of every split, reads every image to its end, and looks for copies and near copies of images, in
    particular between splits. docs/check.md explains every kind of finding.

    Exit codes: 0 ok (there may be warnings), 2 usage, 3 there is an error among the findings.
    """
    with alone("check", quiet=quiet, debug=debug):
        from selmix.backbones import Preprocessing, load_backbone
        from selmix.check.report import check_data, write_findings
        from selmix.deploy.sheets import check_target
        from selmix.option_words import parse_preprocessing
        from selmix.pipeline import choose_device

        if file is not None:
            check_target(file, overwrite=overwrite)
        overrides = Preprocessing(**parse_preprocessing(input_size, mean, std))
        net = None if backbone is None else load_backbone(backbone, arch=arch, overrides=overrides)
        report = check_data(data, backbone=net, device=choose_device(device), track=progress(quiet=quiet))
        if file is not None:
            write_findings(file, report.findings)
        if as_json:
            print(json.dumps(report.document, indent=1, allow_nan=False))
        elif not quiet:
            _show(report, file)
        if report.faulty:
            raise typer.Exit(DataError.exit_code)


def _show(report: "Report", file: Path | None) -> None:
    document = report.document
    if document["classes"]:
        out.print(class_table(document))
    if document["groups"]:
        out.print(group_table(document))
    lines = [f"unlabeled: {document['unlabeled']} images"] * bool(document["unlabeled"])
    lines += [images_line(split, facts) for split, facts in document["images"].items()]
    lines += [f"note: {note}" for note in document["notes"]]
    for line in lines:
        _say(line)
    if report.findings:
        out.print(finding_table(report.findings))
        _say("what to do:")
        fixes = [f"  {fix}" for fix in document["fixes"]]
        for line in [*fixes[:_MOST_FIXES], *[f"  and {len(fixes) - _MOST_FIXES} more"] * (len(fixes) > _MOST_FIXES)]:
            _say(line)
    counts = document["counts"]
    where = f"written: {file}" if file else "--out FINDINGS.csv lists each" if report.findings else "nothing is wrong"
    _say(f"{counts['error']} error(s), {counts['warning']} warning(s) in {document['seconds']:.1f} s; {where}")


def _say(line: str) -> None:
    out.print(printable(line), soft_wrap=True, highlight=False)
