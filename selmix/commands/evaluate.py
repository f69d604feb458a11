"""`selmix evaluate`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from selmix.commands import extracting, running
from selmix.commands.bars import progress
from selmix.commands.console import alone
from selmix.commands.judged import show_judgement
from selmix.commands.options import Debug, Device, DeviceName, Json, Quiet
from selmix.errors import UsageError


class Split(StrEnum):
    """Labeled splits."""

    train = "train"
    val = "val"
    test = "test"


def evaluate(
    run: running.RunFolder,
    data: Annotated[
        str | None,
        typer.Option(help="Labeled images: as for finetune, or a folder of SPLIT/CLASS or CLASS, or a manifest."),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Ready features of the same backbone instead: a folder of extract, or an .npz.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Which split of them.")] = Split.test,
    bad_image: extracting.BadImage = extracting.OnBadImage.error,
    backbone: running.MovedBackbone = None,
    arch: extracting.Arch = None,
    device: DeviceName = Device.auto,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Every metric of a tuned head on labeled data: its own, if no other are named.

    Classes are compared with the head's by name. Intervals are 95 % bootstrap intervals over samples.
    """
    from selmix.deploy.judging import judge, samples_of_features, samples_of_images
    from selmix.deploy.opening import backbone_of, open_run
    from selmix.deploy.predicting import Predictor
    from selmix.pipeline import choose_device

    with alone("evaluate", quiet=quiet, debug=debug):
        if data is not None and features is not None:
            raise UsageError("--data and --features exclude each other; give one, or none for the run's own")
        if data is None and (backbone, arch) != (None, None):
            raise UsageError("--backbone and --arch go with --data; features have been through it already")
        opened = open_run(run)
        if data is None:
            samples = samples_of_features(opened, features, split)
        else:
            predictor = Predictor(
                backbone_of(opened, backbone, arch=arch),
                opened.head,
                choose_device(device),
                dtype=opened.dtype,
                skip_bad=bad_image == extracting.OnBadImage.skip,
            )
            samples = samples_of_images(opened, predictor, data, split, track=progress(quiet=quiet))
        document = judge(opened, samples)
        if as_json:
            print(json.dumps(document, indent=1, allow_nan=False))
        elif not quiet:
            show_judgement(document)
