"""The last layer that a loss wants, and what is left of it in a linear classifier."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from selmix.backbones.models import build_model
from selmix.errors import UsageError
from selmix.stage1.classifier import CosineClassifier, exported_state, prepare_classifier
from selmix.stage1.objective import Objective


@pytest.fixture(autouse=True)
def _own_random_numbers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def features(count: int = 50) -> torch.Tensor:
    return torch.randn(count, 6) * torch.rand(count, 1) * 10


def test_cosines_are_those_of_the_angles():
    classifier = CosineClassifier(6, 4)
    with torch.no_grad():
        classifier.weight *= torch.tensor([[0.1], [1], [5], [100]])
    x = features()
    expected = F.cosine_similarity(x[:, None], classifier.weight.detach(), dim=2)
    torch.testing.assert_close(classifier(x).detach(), expected, rtol=0, atol=1e-6)
    assert classifier(x).abs().max() <= 1 + 1e-6


def test_rows_start_in_random_directions_at_length_1():
    weight = CosineClassifier(500, 40).weight.detach()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(40))
    # uniform on [-1, 1] before: no coordinate is above sqrt(3) times the root mean square, which a normal law would be
    assert weight.abs().max() * math.sqrt(500) == pytest.approx(math.sqrt(3), rel=0.1)
    assert weight.mean().abs() < 1e-3
    assert (weight @ weight.T - torch.eye(40)).abs().max() < 0.3


def test_cosines_keep_their_digits_under_autocast():
    classifier = CosineClassifier(6, 4)
    x = features()
    with torch.autocast("cpu", torch.bfloat16):
        cosines = classifier(x)
    assert cosines.dtype == torch.float32
    torch.testing.assert_close(cosines, classifier(x))


def test_gradient_of_the_cosines():
    classifier = CosineClassifier(3, 4).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(classifier, {"weight": w}, x), (x, classifier.weight)
    )


@pytest.mark.parametrize("arch", ["cifar_resnet20", "resnet18", "vit_tiny_patch16_224"])
def test_a_network_gets_a_cosine_classifier(arch):
    model = build_model(arch, num_classes=7)
    size = model.get_classifier().in_features
    assert prepare_classifier(model, Objective(cosine_scale=30.0)) == ()
    classifier = model.get_classifier()
    assert isinstance(classifier, CosineClassifier)
    assert classifier.weight.shape == (7, size)
    assert sum(isinstance(module, nn.Linear) and module.out_features == 7 for module in model.modules()) == 0


def test_what_is_exported_is_linear_and_decides_alike():
    model = build_model("cifar_resnet20", num_classes=5)
    prepare_classifier(model, Objective(cosine_scale=30.0))
    model.eval()
    images = torch.randn(32, 3, 32, 32) * torch.rand(32, 3, 1, 1)
    with torch.no_grad():
        seen = model.forward_head(model.forward_features(images), pre_logits=True)
        # class i points from what all features have in common to image i
        directions, common = F.normalize(seen[:5]), F.normalize(seen.mean(0), dim=0)
        rows = F.normalize(directions - (directions @ common)[:, None] * common)
        model.linear.weight.copy_(torch.tensor([[0.1], [1], [5], [100], [2]]) * rows)
    plain = build_model("cifar_resnet20", num_classes=5)
    plain.load_state_dict(exported_state(model))
    plain.eval()
    with torch.no_grad():
        cosines, logits = model(images), plain(images)
    assert len(cosines.argmax(1).unique()) == 5
    assert torch.equal(cosines.argmax(1), logits.argmax(1))
    torch.testing.assert_close(logits / seen.norm(dim=1, keepdim=True), 30 * cosines, rtol=0, atol=1e-4)
    torch.testing.assert_close(plain.linear.weight.norm(dim=1), torch.full((5,), 30.0))


def test_a_cosine_classifier_alone_is_exported_too():
    classifier = CosineClassifier(3, 2, scale=2.0)
    state = exported_state(classifier)
    assert set(state) == {"weight", "bias"}
    torch.testing.assert_close(state["weight"], 2 * classifier.weight.detach())


def test_other_networks_are_exported_and_left_as_they_are():
    model = build_model("cifar_resnet20", num_classes=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert prepare_classifier(model, Objective()) == ()
    state = exported_state(model)
    assert list(state) == list(before)
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_one_class_against_the_rest_begins_with_the_probability_of_a_class():
    model = build_model("cifar_resnet20", num_classes=5)
    weight = model.linear.weight.detach().clone()
    (bias,) = prepare_classifier(model, Objective(one_vs_rest=True))
    assert bias is model.linear.bias
    torch.testing.assert_close(model.linear.bias.detach().sigmoid(), torch.full((5,), 0.2))
    assert torch.equal(model.linear.weight, weight)


@pytest.mark.parametrize("objective", [Objective(cosine_scale=30.0), Objective(one_vs_rest=True)])
def test_a_network_without_a_linear_classifier_is_refused(objective):
    for model in (
        build_model("cifar_resnet20", num_classes=0),
        timm.create_model("mobilenetv3_small_050", num_classes=0),
    ):
        with pytest.raises(UsageError, match="which must be linear and have a bias; that of this one is another"):
            prepare_classifier(model, objective)
