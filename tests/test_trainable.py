"""Training a part of a network: the rest stays bit by bit."""

import copy

import pytest
import torch
from torch import nn

from selmix.backbones import build_model
from selmix.checkpoints import load_strictly
from selmix.errors import UsageError
from selmix.stage1.trainable import train_only


def test_only_the_named_modules_move():
    model = build_model("resnet18", num_classes=3, zero_init_last=False)  # else a block's gradient is 0 at first
    batch = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.train()(batch)
    expected = model.eval()(batch)
    train_only(model, ["layer4.1", "fc"])
    torch.testing.assert_close(model.eval()(batch), expected)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()(batch).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(("layer4.1.", "fc."))}
    # what is written is a state dict of the architecture
    load_strictly(build_model("resnet18", num_classes=3), model.state_dict(), source="export")


def test_layer1_is_not_the_beginning_of_layer10():
    model = nn.Sequential()
    for name in ("layer1", "layer10"):
        model.add_module(name, nn.Linear(2, 2))
    train_only(model, ["layer1"])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"layer1.weight", "layer1.bias"}


def test_parameters_of_a_module_with_children_freeze_too():
    model = build_model("vit_tiny_patch16_224", num_classes=3, img_size=32)
    train_only(model, ["blocks.11", "head"])
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in model.named_parameters() if n.startswith(("blocks.11.", "head."))}
    assert "cls_token" not in learning


@pytest.mark.parametrize("name", ["layer4.7", ""])
def test_a_module_that_is_not_there_is_refused(name):
    with pytest.raises(UsageError, match="no part of the network is called"):
        train_only(build_model("resnet18", num_classes=3), [name])
