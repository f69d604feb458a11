"""Feature extraction: the features of a direct forward pass, in order, from a backbone that stays as it was."""

import dataclasses

import pytest
import torch
from builders import image_split, noise_image, write_backbone_folder
from PIL import Image
from torch import nn

from selmix.backbones import Backbone, checksum, load_backbone_folder
from selmix.data.images import ArrayImages
from selmix.features.extract import extract_features

CPU = torch.device("cpu")
IMAGES = [noise_image(seed, (32, 32)) for seed in range(7)]


@pytest.fixture
def backbone(tmp_path):
    write_backbone_folder(tmp_path / "net")
    return load_backbone_folder(tmp_path / "net")


def pixel_mean(image: Image.Image) -> torch.Tensor:
    return torch.tensor([[[sum(image.getpixel((0, 0))) / 765]]])


def toy(model: nn.Module) -> Backbone:
    return Backbone("toy", model, pixel_mean, digest="")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 256])
def test_features_are_those_of_a_direct_forward_pass(backbone, batch_size):
    with torch.no_grad():
        expected = torch.cat([backbone.model(backbone.transform(image)[None]) for image in IMAGES])
    actual = extract_features(backbone, image_split(IMAGES), device=CPU, batch_size=batch_size)
    assert actual.dtype == torch.float32
    assert expected.std(0).mean() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_features_keep_the_order_of_the_ids(batch_size):
    greys = [0.2, 0.8, 0.0, 1.0, 0.4]
    images = [Image.new("RGB", (1, 1), (round(255 * grey),) * 3) for grey in greys]
    features = extract_features(toy(nn.Flatten()), image_split(images), device=CPU, batch_size=batch_size)
    torch.testing.assert_close(features, torch.tensor(greys)[:, None])


def test_the_backbone_stays_in_eval_mode_and_as_it_was(backbone):
    before = checksum(backbone.model)
    extract_features(backbone, image_split(IMAGES), device=CPU)
    assert checksum(backbone.model) == before
    assert not any(module.training for module in backbone.model.modules())


class Counting(nn.Module):
    """A model that changes a buffer in its forward pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.flatten(1)


@pytest.mark.parametrize("model", [Counting(), nn.Sequential(nn.BatchNorm2d(1), nn.Flatten()).train()])
def test_a_backbone_that_changes_is_reported(model):
    with pytest.raises(RuntimeError, match="backbone toy changed while it was frozen"):
        extract_features(toy(model), image_split(IMAGES), device=CPU)


def test_each_image_is_opened_once_and_progress_is_shown():
    opened, calls = [], []
    split = image_split(IMAGES)

    class Counted(ArrayImages):
        def open(self, position):
            opened.append(position)
            return super().open(position)

    split = dataclasses.replace(split, images=Counted(split.images.pixels))

    def track(positions, description, total):
        calls.append((description, total))
        return positions

    extract_features(toy(nn.Flatten()), split, device=CPU, batch_size=2, track=track)
    assert opened == list(range(7))
    assert calls == [("features", 7)]
