"""docs/backbones.md: every form that it shows is opened."""

import re
import shlex
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from builders import write_backbone_folder
from huggingface_hub import constants

from selmix.backbones import Preprocessing, build_model, hub, load_backbone
from selmix.backbones.models import OWN
from selmix.checkpoints import WRAPPERS
from selmix.option_words import parse_preprocessing

PAGE = (Path(__file__).parent.parent / "docs" / "backbones.md").read_text()
LINES = re.findall(r"^--backbone .*$", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name, file in (("resnet18", "resnet18"), ("vit_tiny_patch16_224", "vit")):
        safetensors.torch.save_file(timm.create_model(name).state_dict(), folder / f"{file}.safetensors")
    torch.save(build_model("cifar_resnet32", num_classes=3).state_dict(), folder / "mine.pth")
    write_backbone_folder(folder / "runs" / "stage1")
    return folder


@pytest.mark.parametrize("line", LINES)
def test_the_form_is_opened(line, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "cached_weights", lambda name: workplace / f"{name}.safetensors")
    words = shlex.split(line)
    options = dict(zip(words[::2], words[1::2], strict=True))
    changes = parse_preprocessing(*(options.get(name) for name in ("--input-size", "--mean", "--std")))
    backbone = load_backbone(options["--backbone"], arch=options.get("--arch"), overrides=Preprocessing(**changes))
    with torch.no_grad():
        assert backbone.model(torch.zeros(1, *backbone.preprocessing["input_size"])).ndim == 2


def test_the_class_table_names_the_head(workplace, tmp_path):
    table = re.search(r"```\n(ant\n.*?)```", PAGE, re.DOTALL)[1]
    (tmp_path / "mine.pth").write_bytes((workplace / "mine.pth").read_bytes())
    (tmp_path / "mine.pth.classes.txt").write_text(table)
    assert load_backbone(str(tmp_path / "mine.pth"), arch="cifar_resnet32").class_names == ["ant", "bee", "cat"]


def test_the_page_has_all_forms_names_and_wrappers():
    assert len(LINES) == 8
    assert ", ".join(f"`{key}`" for key in WRAPPERS) in PAGE
    assert set(re.findall(r"`(cifar_resnet20|wrn_28_2)`", PAGE)) == {OWN[0], OWN[-1]}
