"""The CIFAR residual networks: parameter counts of the paper's form, option-A shortcuts, and timm's contract."""

import pytest
import torch
from timm.data import resolve_model_data_config

from selmix.backbones import build_model
from selmix.cifar_resnet import BasicBlock


def parameter_count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_parameter_count(depth):
    # a 3x3 convolution from a to b channels has 9ab weights, its batch norm 2b; (depth - 2) / 6 blocks a stage
    def layer(a: int, b: int) -> int:
        return 9 * a * b + 2 * b

    more = (depth - 2) // 3 - 1
    trunk = layer(3, 16) + (more + 1) * layer(16, 16)
    trunk += layer(16, 32) + more * layer(32, 32) + layer(32, 64) + more * layer(64, 64)
    assert parameter_count(build_model(f"cifar_resnet{depth}", num_classes=0)) == trunk
    assert parameter_count(build_model(f"cifar_resnet{depth}", num_classes=10)) == trunk + 650


def test_parameter_count_of_resnet32_is_the_published_one():
    # specs/stage1.md B.2
    assert parameter_count(build_model("cifar_resnet32", num_classes=0)) == 463_504
    assert parameter_count(build_model("cifar_resnet32", num_classes=10)) == 464_154


@pytest.mark.parametrize(("channels", "stride"), [((2, 4), 2), ((2, 6), 2), ((3, 3), 1)])
def test_the_shortcut_subsamples_and_pads_channels_with_zeros(channels, stride):
    block = BasicBlock(*channels, stride).eval()
    torch.nn.init.zeros_(block.conv2.weight)  # leaves the shortcut alone
    x = torch.randn(2, channels[0], 4, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, channels[1], 4 // stride, 6 // stride)
    before = (channels[1] - channels[0]) // 2
    for channel in range(channels[0]):
        for row in range(4 // stride):
            for column in range(6 // stride):
                value = x[:, channel, stride * row, stride * column]
                expected[:, before + channel, row, column] = value.clamp(min=0)
    with torch.no_grad():
        assert torch.equal(block(x), expected)


@pytest.fixture
def model():
    return build_model("cifar_resnet20", num_classes=5).eval()


def test_feature_maps_shrink_by_four(model):
    with torch.no_grad():
        assert model.forward_features(torch.zeros(2, 3, 32, 32)).shape == (2, 64, 8, 8)
        assert model.forward_features(torch.zeros(2, 3, 28, 28)).shape == (2, 64, 7, 7)


@torch.no_grad()
def test_timm_contract(model):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    feature_map = model.forward_features(images)
    features = model.forward_head(feature_map, pre_logits=True)
    torch.testing.assert_close(features, feature_map.flatten(2).sum(2) / 64)
    assert features.shape == (2, model.num_features)
    torch.testing.assert_close(model(images), features @ model.linear.weight.T + model.linear.bias)
    assert model.get_classifier() is model.linear
    model.reset_classifier(0)
    assert torch.equal(model(images), features)
    assert model.num_classes == 0
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    assert model.get_classifier().out_features == model.num_classes == 3


def test_no_classes_means_features():
    model = build_model("cifar_resnet20", num_classes=0).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 64)
    assert not any(name.startswith("linear") for name in model.state_dict())


def test_data_config_and_its_overlay(model):
    assert resolve_model_data_config(model)["input_size"] == (3, 32, 32)
    overlay = {"input_size": (3, 28, 28), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    config = resolve_model_data_config(build_model("cifar_resnet20", pretrained_cfg_overlay=overlay))
    assert {key: config[key] for key in overlay} == overlay
    assert config["crop_pct"] == 1


@pytest.mark.parametrize("options", [{"global_pool": "max"}, {"drop_rate": 0.1}])
def test_what_it_cannot_do_is_refused(options):
    with pytest.raises(ValueError, match="global_pool and drop_rate"):
        build_model("cifar_resnet20", **options)
