"""The CIFAR residual networks (ResNet-20/32/44/56), registered with timm under `cifar_resnet{depth}`.

Form: a 3x3 stem of 16 channels, three stages of basic blocks at widths 16, 32, 64 with strides 1, 2, 2, global average
pooling, a linear classifier on 64 features. Shortcuts are option A: spatial subsampling and zero-padded channels, no
parameters. Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
"""

from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around an option-A shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.padded_channels = (out_channels - in_channels) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [b, in_channels, h, w] to [b, out_channels, h / stride, w / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.padded_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.padded_channels, self.padded_channels))
        return F.relu(out + shortcut)


class CifarResNet(nn.Module):
    """A CIFAR residual network that honours timm's contract for backbones."""

    def __init__(
        self, depth: int, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0
    ):
        super().__init__()
        if global_pool != "avg" or drop_rate:
            raise ValueError("CifarResNet has average pooling and no dropout; leave global_pool and drop_rate alone")
        blocks = (depth - 2) // 6
        self.num_features = self.head_hidden_size = 64
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.num_classes = num_classes
        self.linear = nn.Linear(64, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier."""
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one, or remove it with `num_classes=0`."""
        self.num_classes = num_classes
        self.linear = nn.Linear(64, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [b, c, h, w] to the last feature map [b, 64, h / 4, w / 4]."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool a feature map to features [b, 64] (`pre_logits`) or logits [b, k]."""
        features = x.mean(dim=(2, 3))
        return features if pre_logits else self.linear(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [b, c, h, w] to logits [b, k], or to features when the classifier is removed."""
        return self.forward_head(self.forward_features(x))


def _stage(in_channels: int, out_channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = [BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *rest)


# what timm is told of networks for 32-pixel images
DATA_CONFIG = {
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "num_classes": 10,
    "first_conv": "conv1",
    "classifier": "linear",
}

default_cfgs = generate_default_cfgs({f"cifar_resnet{depth}.untrained": DATA_CONFIG for depth in (20, 32, 44, 56)})


def _create(depth: int, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(CifarResNet, f"cifar_resnet{depth}", pretrained, depth=depth, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Build ResNet-20 for 32-pixel images."""
    return _create(20, pretrained, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Build ResNet-32 for 32-pixel images."""
    return _create(32, pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Build ResNet-44 for 32-pixel images."""
    return _create(44, pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Build ResNet-56 for 32-pixel images."""
    return _create(56, pretrained, **kwargs)
