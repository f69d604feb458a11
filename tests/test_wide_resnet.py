"""WRN-28-2: the published parameter count, the pre-activation block by hand, and timm's contract."""

import pytest
import torch
from builders import scattered
from torch.nn import functional as F

from selmix.backbones import build_model
from selmix.wide_resnet import WideBlock


def test_parameter_count_is_the_published_one():
    # a 3x3 convolution has 9ab weights, a 1x1 shortcut ab, a batch norm 2a; four blocks at 32, 64, 128 after 16
    total = 9 * 3 * 16
    for a, b in ((16, 32), (32, 64), (64, 128)):
        total += 2 * a + 9 * a * b + 2 * b + 9 * b * b + a * b  # the block that widens
        total += 3 * (2 * b + 9 * b * b + 2 * b + 9 * b * b)
    total += 2 * 128 + 128 * 10 + 10
    model = build_model("wrn_28_2", num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == total == 1_467_610


@pytest.mark.parametrize(("channels", "stride"), [((2, 4), 2), ((2, 3), 1), ((3, 3), 1)])
@torch.no_grad()
def test_a_block_is_the_formula(channels, stride):
    block = scattered(WideBlock(*channels, stride), 3).eval()
    x = torch.randn(2, channels[0], 4, 6, generator=torch.Generator().manual_seed(0))

    def activate(z: torch.Tensor, norm: torch.nn.BatchNorm2d) -> torch.Tensor:
        mean, var, scale, shift = (
            t.view(1, -1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        z = (z - mean) / (var + 1e-5).sqrt() * scale + shift
        return torch.where(z > 0, z, 0.1 * z)

    active = activate(x, block.bn1)
    hidden = activate(F.conv2d(active, block.conv1.weight, stride=stride, padding=1), block.bn2)
    shortcut = x if channels[0] == channels[1] else F.conv2d(active, block.convShortcut.weight, stride=stride)
    expected = F.conv2d(hidden, block.conv2.weight, padding=1) + shortcut
    torch.testing.assert_close(block(x), expected)


def test_names_of_tensors_are_those_of_published_checkpoints():
    names = set(build_model("wrn_28_2").state_dict())
    assert {
        "conv1.weight",
        "block1.layer.0.convShortcut.weight",
        "block3.layer.3.bn2.running_var",
        "bn1.weight",
    } < names
    assert {"fc.weight", "fc.bias"} < names
    assert len([name for name in names if "convShortcut" in name]) == 3


@torch.no_grad()
def test_the_last_feature_map_is_normed_and_activated():
    model = scattered(build_model("wrn_28_2"), 0).eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = F.conv2d(images, model.conv1.weight, padding=1)
    for stage in (model.block1, model.block2, model.block3):
        for block in stage.layer:
            x = block(x)
    mean, var, scale, shift = (
        tensor.view(1, -1, 1, 1)
        for tensor in (model.bn1.running_mean, model.bn1.running_var, model.bn1.weight, model.bn1.bias)
    )
    x = (x - mean) / (var + 1e-5).sqrt() * scale + shift
    torch.testing.assert_close(model.forward_features(images), torch.where(x > 0, x, 0.1 * x))


@torch.no_grad()
def test_running_statistics_move_by_a_thousandth_a_batch():
    model = build_model("wrn_28_2").train()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    entering = F.conv2d(images, model.conv1.weight, padding=1)
    model(images)
    norm = model.block1.layer[0].bn1
    torch.testing.assert_close(norm.running_mean, 0.001 * entering.mean((0, 2, 3)), rtol=1e-3, atol=1e-7)
    assert {module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.001}


@torch.no_grad()
def test_timm_contract():
    model = build_model("wrn_28_2", num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    feature_map = model.forward_features(images)
    assert feature_map.shape == (2, 128, 8, 8)
    features = model.forward_head(feature_map, pre_logits=True)
    torch.testing.assert_close(features, feature_map.flatten(2).sum(2) / 64)
    assert features.shape == (2, model.num_features)
    torch.testing.assert_close(model(images), features @ model.fc.weight.T + model.fc.bias)
    assert model.get_classifier() is model.fc
    model.reset_classifier(0)
    assert torch.equal(model(images), features)
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    assert model.get_classifier().out_features == model.num_classes == 3
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert not any(name.startswith("fc") for name in build_model("wrn_28_2", num_classes=0).state_dict())


@pytest.mark.parametrize("options", [{"global_pool": "max"}, {"drop_rate": 0.1}])
def test_what_it_cannot_do_is_refused(options):
    with pytest.raises(ValueError, match="global_pool and drop_rate"):
        build_model("wrn_28_2", **options)
