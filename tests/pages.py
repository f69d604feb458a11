"""The README and the pages of docs/ as things that run: their scripts, commands and files, in their order."""

import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
from builders import write_photos
from typer.testing import CliRunner

from selmix.commands import app

ROOT = Path(__file__).parent.parent
# pages need no good heads; settings behind a command change no more than that
QUICK = {name: ["steps=100", "start_steps=200"] for name in ("demo", "finetune", "compare")}
QUICK["compare"] += ["--seeds", "0"]


def verb(step: str) -> str:
    """Return the verb of a command; "" for a script."""
    return step.split()[1] if step.startswith("selmix ") else ""


def blocks(page: str, language: str = "") -> list[str]:
    """Return the fenced blocks of a page (a path from the root) in a language; "" is none."""
    return [text for own, text in _fenced(page) if own == language]


def steps(*pages: str) -> list[str]:
    """Return the commands and the scripts of the pages in their order, what several have once."""
    found: dict[str, None] = {}
    for language, text in (block for page in pages for block in _fenced(page)):
        if language == "python":
            found[text] = None
        for line in text.splitlines() if not language else []:
            if line.startswith("selmix "):
                found[line] = None
    return list(found)


def _fenced(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def run(step: str, folder: Path) -> None:
    """Run a command or a script in a folder."""
    if not verb(step):
        words = [sys.executable, "-c", step]
        subprocess.run(words, cwd=folder, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        return
    words = [*shlex.split(step)[1:], *QUICK.get(verb(step), [])]
    here = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, words)
    finally:
        os.chdir(here)
    assert result.exit_code == 0, result.output


def write_workplace(folder: Path) -> None:
    """Write what the pages take for granted: images, checkpoints, and CIFAR in small."""
    rng = np.random.default_rng(0)
    _write_small_cifar(folder / "cifar10" / "cifar-10-batches-py", rng)
    write_photos(folder, rng)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.torch.save_file(timm.create_model("resnet18").state_dict(), folder / "resnet18.safetensors")
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), folder / "efficientnet_lite0.pth")


def _write_small_cifar(folder: Path, rng: np.random.Generator) -> None:
    """Write CIFAR-10 as torchvision keeps it, with 40 noisy train and 5 test images a class."""
    folder.mkdir(parents=True)
    for name, per_class in {f"data_batch_{number}": 8 for number in range(1, 6)}.items() | {("test_batch", 5)}:
        labels = np.repeat(np.arange(10), per_class)
        pixels = rng.normal(60 + 15 * labels[:, None], 40, (len(labels), 3072)).clip(0, 255).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels.tolist()}))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [name.encode() for name in names]}))
