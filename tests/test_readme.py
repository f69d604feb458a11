"""Every command and every script that the README shows runs."""

import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from builders import write_photos
from typer.testing import CliRunner

from selmix.commands import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for language, text in BLOCKS if not language for line in text.splitlines() if line.startswith("selmix ")
]


def write_small_cifar(folder: Path, rng: np.random.Generator) -> None:
    """Write CIFAR-10 as torchvision keeps it, with 40 noisy train and 5 test images a class."""
    folder.mkdir(parents=True)
    for name, per_class in {f"data_batch_{number}": 8 for number in range(1, 6)}.items() | {("test_batch", 5)}:
        labels = np.repeat(np.arange(10), per_class)
        pixels = rng.normal(60 + 15 * labels[:, None], 40, (len(labels), 3072)).clip(0, 255).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels.tolist()}))
    names = [
        name.encode()
        for name in ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    ]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the README takes for granted: images, checkpoints, the features it makes; CIFAR in small."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    write_small_cifar(folder / "cifar10" / "cifar-10-batches-py", rng)
    spec, recipe = (text for language, text in BLOCKS if language == "toml")
    assert "5000" in spec
    (folder / "my_recipe.toml").write_text(recipe.replace("224, 224", "64, 64").replace("epochs = 20", "epochs = 2"))
    (folder / "cifar10_lt").mkdir()
    (folder / "cifar10_lt" / "data.toml").write_text(spec.replace("5000", "40").replace("= 100", "= 10"))
    write_photos(folder, rng)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.torch.save_file(timm.create_model("resnet18").state_dict(), folder / "resnet18.safetensors")
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), folder / "efficientnet_lite0.pth")
    for script in [text for language, text in BLOCKS if language == "python"]:
        subprocess.run(
            [sys.executable, "-c", script], cwd=folder, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
    return folder


def test_the_readme_has_commands():
    assert {line.split()[1] for line in COMMANDS} == {
        "backbones", "check", "compare", "demo", "extract", "finetune", "metrics", "train",
    }  # fmt: skip
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs(command, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output


def test_the_run_folder_holds_what_the_readme_lists(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    words = ["finetune", "--features", "features.npz", "--metric", "min_recall", "--out", "runs/listed", "--quiet"]
    assert CliRunner().invoke(app, words).exit_code == 0
    listed = set(re.findall(r"^\| `([\w.]+)` \|", README, flags=re.MULTILINE))
    assert listed == {path.name for path in (workplace / "runs" / "listed").iterdir()}


def test_make_targets_and_links_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
