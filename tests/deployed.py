"""A small run on real image files, for the tests of what is done with runs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from selmix.commands import app

CLASSES = ["ant", "bee", "c|<i>"]
COUNTS = {"train": (24, 14, 8), "val": (8, 8, 8), "test": (15, 13, 11)}
BACKBONE = "shipped:fashion_resnet32"
REPLICATES = 50  # of the bootstrap


def run(*words):
    """Run the command line; return exit code, stdout and stderr."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def write_striped(root: Path, counts: dict[str, tuple[int, ...]]) -> Path:
    """Write ROOT/SPLIT/CLASS/INDEX.png, images of noisy stripes, wider for each class; no two are the same."""
    rng = np.random.default_rng(0)
    for split, of_class in counts.items():
        for label, (name, count) in enumerate(zip(CLASSES, of_class, strict=True)):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                # neither square nor as large as the backbone's images
                stripes = 100 * (np.arange(40) // (2 + 3 * label) % 2)
                pixels = 70 + stripes[:, None, None] + rng.normal(scale=70, size=(40, 31, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return root


def tuned_run(folder: Path, *more: object) -> Path:
    """Write FOLDER/data and return FOLDER/run, a head tuned on it."""
    data = write_striped(folder / "data", COUNTS)
    words = ("--backbone", BACKBONE, "--data", data, "--cache", folder / "cache", "--dtype", "float32")
    quick_finetune(*words, "--metric", "min_recall", "--out", folder / "run", *more)
    return folder / "run"


def quick_finetune(*words: object) -> None:
    """Tune a head in few steps, with intervals from few draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selmix.result.REPLICATES", REPLICATES)
        done = run("finetune", *words, "--quiet", "steps=100", "start_steps=200")
    assert done == (0, "", "")
