"""docs/stage-one.md: its commands name recipes that load, its links and files are there."""

import json
import re
import shlex
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from builders import write_image_folder
from typer.testing import CliRunner

from selmix.commands import app
from selmix.option_words import parse_assignments
from selmix.recipe import load_recipe
from selmix.train_recipe import TrainRecipe, train_settings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "stage-one.md").read_text()
COMMANDS = re.findall(r"^    (selmix train .*)$", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_recipe_of_a_command_is_there_and_takes_its_keys(command):
    _, _, recipe, *words = shlex.split(command)
    at = words.index("--out")
    del words[at : at + 2]
    train_settings(load_recipe(ROOT / recipe, TrainRecipe, parse_assignments(words)))


def test_a_shortened_recipe_is_shortened_as_the_page_says():
    words = re.search(r"`(stage1\.epochs=15 [^`]*stage1\.step_factors=[^`]*)`", PAGE)
    assert words is not None
    for name in ("cross_entropy", "class_balanced_softmax", "cdt", "ldam_drw", "logit_adjustment"):
        assert f"| `{name}` |" in PAGE
        own = [*shlex.split(words.group(1)), *(["loss.weights_from=12"] if name == "ldam_drw" else [])]
        recipe = load_recipe(
            ROOT / "recipes" / "cifar10_lt_if100" / f"{name}.toml", TrainRecipe, parse_assignments(own)
        )
        assert train_settings(recipe).stage1.epochs == 15


def test_the_shortened_training_with_unlabeled_images_is_as_long_as_the_page_says():
    words = re.search(r"`(stage1\.epochs=\d+ semi\.[^`]*)` are ([\d,]+) steps of 2\^20", PAGE)
    assert words is not None
    recipe = ROOT / "recipes" / "cifar10_lt_ssl" / "fixmatch_la.toml"
    settings = train_settings(load_recipe(recipe, TrainRecipe, parse_assignments(shlex.split(words.group(1)))))
    assert settings.semi is not None
    assert settings.stage1.epochs * settings.semi.steps_per_epoch == int(words.group(2).replace(",", ""))


def test_the_recipe_for_images_of_ones_own_trains(tmp_path, monkeypatch):
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_image_folder(Path("my_images"), {"train": {"cat": 4, "dog": 4}, "unlabeled": {"any": 6}})
    torch.manual_seed(0)
    safetensors.torch.save_file(timm.create_model("resnet18").state_dict(), "resnet18.safetensors")
    Path("mine.toml").write_text(text.replace("224, 224", "32, 32"))
    words = ["stage1.epochs=1", "stage1.batch_size=4", "semi.steps_per_epoch=2"]
    result = CliRunner().invoke(app, ["train", "mine.toml", "--out", "run", *words])
    assert result.exit_code == 0, result.output
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["class_counts"] == [4, 4]
    assert manifest["recipe"]["semi"]["method"] == "fixmatch"


def test_the_figures_of_what_ships_are_those_of_its_manifest():
    manifest = json.loads((ROOT / "pretrained" / "cifar10_lt_mislas" / "manifest.json").read_text())
    test = {name: f"{100 * value:.1f}" for name, value in manifest["metrics"]["test"].items() if value is not None}
    (row,) = re.findall(r"^\| `mislas_stage2`, .*$", PAGE, flags=re.MULTILINE)
    cells = [cell.strip(" *") for cell in row.split("|")]
    assert cells[2] == test["accuracy"]
    assert cells[4] == f"{test['head_recall']} / {test['medium_recall']}"
    assert cells[5:7] == [test["min_recall"], test["ece"]]


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!http)([^)]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
