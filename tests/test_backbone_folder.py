"""A backbone folder as stage one writes it: its head, its preprocessing, and the manifest that vouches for it."""

import json
from pathlib import Path

import pytest
import torch
from builders import noise_image, write_backbone_folder
from PIL import Image

from selmix.backbones import load_backbone, load_backbone_folder
from selmix.errors import DataError


def test_a_folder_brings_its_head_classes_and_preprocessing(tmp_path):
    model = write_backbone_folder(tmp_path / "net")
    backbone = load_backbone_folder(tmp_path / "net")
    assert backbone.class_names == ["ant", "bee", "cat"]
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
        actual = backbone.head.logits(backbone.model(images))
    torch.testing.assert_close(actual, expected)
    assert not backbone.head.weight.requires_grad
    # a grey of 102 / 255 = 0.4, resized to 32 pixels, then (0.4 - mean) / std of the manifest
    pixels = backbone.transform(Image.new("RGB", (64, 64), (102, 102, 102)))
    assert pixels.shape == (3, 32, 32)
    expected_pixels = torch.tensor([(0.4 - 0.5) / 0.5, (0.4 - 0.25) / 0.25, (0.4 - 0.125) / 0.2])
    torch.testing.assert_close(pixels, expected_pixels.view(3, 1, 1).expand(3, 32, 32))


def test_an_image_of_the_right_size_is_not_resampled(tmp_path):
    write_backbone_folder(tmp_path / "net", mean=[0.0] * 3, std=[1.0] * 3)
    image = noise_image(0, (32, 32))
    pixels = load_backbone_folder(tmp_path / "net").transform(image)
    assert [round(255 * float(value)) for value in pixels[:, 3, 5]] == list(image.getpixel((5, 3)))


def test_preprocessing_is_part_of_the_digest(tmp_path):
    for name, mean in (("a", 0.5), ("b", 0.4), ("c", 0.5)):
        write_backbone_folder(tmp_path / name, mean=[mean] * 3)
    first, other, same = (load_backbone_folder(tmp_path / name).digest for name in "abc")
    assert first == same != other


def flip_a_byte(folder: Path) -> None:
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)


def exchange(folder: Path) -> None:
    write_backbone_folder(folder / "other", seed=5)
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")


@pytest.mark.parametrize("tamper", [flip_a_byte, exchange])
def test_weights_that_the_manifest_does_not_vouch_for_are_refused(tmp_path, tamper):
    write_backbone_folder(tmp_path / "net")
    tamper(tmp_path / "net")
    with pytest.raises(DataError, match="does not match the sha256") as caught:
        load_backbone_folder(tmp_path / "net")
    assert str(tmp_path / "net" / "model.safetensors") in str(caught.value)


@pytest.mark.parametrize("content", [None, "{", json.dumps(["a list"])])
def test_a_missing_or_broken_manifest_is_refused(tmp_path, content):
    write_backbone_folder(tmp_path / "net")
    (tmp_path / "net" / "manifest.json").unlink()
    if content is not None:
        (tmp_path / "net" / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_backbone_folder(tmp_path / "net")


def test_a_folder_of_images_is_no_backbone(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="is no folder of `selmix train`: it has no manifest.json"):
        load_backbone(str(tmp_path))
