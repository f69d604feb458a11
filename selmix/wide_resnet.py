"""The wide residual network WRN-28-2, registered with timm under `wrn_28_2`.

Form: a 3x3 stem of 16 channels, three stages of four pre-activation blocks at widths 32, 64, 128 with strides 1, 2, 2,
batch norm and activation, global average pooling, a linear classifier on 128 features. Where a block changes the width,
its shortcut is a 1x1 convolution of the activated input; elsewhere the shortcut is the input itself.
Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, section 2. Two choices are those of FixMatch and
SelMix instead: the activation is a leaky ReLU of slope 0.1, and the running statistics move by 0.001 a batch.

Names of tensors are those of the PyTorch code bases for FixMatch (`block1.layer.0.convShortcut.weight`), so that their
checkpoints fit. Some of these code bases feed the first convolution of stages 2 and 3 with the input before
activation; such weights fit as well and give other features than where they were trained.
"""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F

from selmix.cifar_resnet import DATA_CONFIG

_SLOPE = 0.1
_MOMENTUM = 0.001


class WideBlock(nn.Module):
    """Activation before each of two 3x3 convolutions, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels, momentum=_MOMENTUM)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, momentum=_MOMENTUM)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        widens = in_channels != out_channels
        self.convShortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if widens else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [b, in_channels, h, w] to [b, out_channels, h / stride, w / stride]."""
        active = F.leaky_relu(self.bn1(x), _SLOPE)
        out = self.conv2(F.leaky_relu(self.bn2(self.conv1(active)), _SLOPE))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideResNet(nn.Module):
    """A wide residual network for small images that honours timm's contract for backbones."""

    def __init__(
        self,
        depth: int,
        widening: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        if global_pool != "avg" or drop_rate:
            raise ValueError("WideResNet has average pooling and no dropout; leave global_pool and drop_rate alone")
        blocks = (depth - 4) // 6
        widths = [16, 16 * widening, 32 * widening, 64 * widening]
        self.num_features = self.head_hidden_size = widths[3]
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.block1 = _Stage(widths[0], widths[1], blocks, stride=1)
        self.block2 = _Stage(widths[1], widths[2], blocks, stride=2)
        self.block3 = _Stage(widths[2], widths[3], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3], momentum=_MOMENTUM)
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", a=_SLOPE)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one, or remove it with `num_classes=0`."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [b, c, h, w] to the last feature map [b, d, h / 4, w / 4]."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return F.leaky_relu(self.bn1(x), _SLOPE)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool a feature map to features [b, d] (`pre_logits`) or logits [b, k]."""
        features = x.mean(dim=(2, 3))
        return features if pre_logits else self.fc(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [b, c, h, w] to logits [b, k], or to features when the classifier is removed."""
        return self.forward_head(self.forward_features(x))


class _Stage(nn.Module):
    """Blocks of one width; a module of its own for the sake of the names in published checkpoints."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, *, stride: int):
        super().__init__()
        rest = [WideBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(WideBlock(in_channels, out_channels, stride), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


default_cfgs = generate_default_cfgs({"wrn_28_2.untrained": DATA_CONFIG | {"classifier": "fc"}})


@register_model
def wrn_28_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """Build WRN-28-2 for 32-pixel images."""
    return build_model_with_cfg(WideResNet, "wrn_28_2", pretrained, depth=28, widening=2, **kwargs)
