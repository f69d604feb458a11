"""`selmix predict`."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from selmix.commands import extracting, running
from selmix.commands.bars import progress
from selmix.commands.console import alone
from selmix.commands.options import Debug, Device, DeviceName, Json, Quiet, at_least


def predict(
    run: running.RunFolder,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Images, folders of images, globs, or .csv or .parquet with `path`."),
    ],
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.csv|.parquet", help="File for all predictions.")
    ] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Soften or sharpen probabilities by the temperature of the run.")
    ] = False,
    top: Annotated[
        int | None, typer.Option(callback=at_least(1), help="The N likeliest classes, not the probabilities of all.")
    ] = None,
    bad_image: extracting.BadImage = extracting.OnBadImage.error,
    backbone: running.MovedBackbone = None,
    arch: extracting.Arch = None,
    overwrite: running.OverwriteFile = False,
    device: DeviceName = Device.auto,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Name the class of images, with probabilities.

    Columns of the file: path, class, its probability, and p_NAME for each class; with --top N instead class_2,
    probability_2 and so on. docs/deploy.md tells more.
    """
    from selmix.commands.predicted import print_predictions, show_predictions
    from selmix.deploy.images import named_images
    from selmix.deploy.opening import backbone_of, open_run
    from selmix.deploy.predicting import Predictor, predict_to
    from selmix.deploy.sheets import Layout, Tally, check_sheet
    from selmix.pipeline import choose_device

    with alone("predict", quiet=quiet, debug=debug):
        if file is not None:
            check_sheet(file, overwrite=overwrite)
        skip = bad_image == extracting.OnBadImage.skip
        opened, images = open_run(run), named_images(paths, skip_bad=skip)
        predictor = Predictor(
            backbone_of(opened, backbone, arch=arch),
            opened.head,
            choose_device(device),
            dtype=opened.dtype,
            temperature=opened.temperature if calibrated else 1.0,
            skip_bad=skip,
        )
        layout, kept = Layout(opened.class_names, top), as_json and file is None
        with tempfile.TemporaryFile("w+", encoding="utf-8") if kept else nullcontext() as spool:
            tally = Tally(spool=spool)
            predict_to(file, predictor, images, layout, tally, track=progress(quiet=quiet))
            if as_json:
                print_predictions(run, predictor, tally, layout, file)
            elif not quiet:
                show_predictions(predictor, tally, file)
