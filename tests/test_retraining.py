"""A classifier learned again: what stays, what moves, at which rate, and the head that comes out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from selmix.backbones import build_model
from selmix.checkpoints import load_strictly
from selmix.errors import UsageError
from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.plan import plan_epoch
from selmix.stage1.retraining import RetrainedClassifier, RetrainSettings, begin_retraining
from selmix.stage1.schedules import learning_rate
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.supervised import train_supervised

SETTINGS = SupervisedSettings(
    epochs=2, batch_size=8, warmup_epochs=0, rate_changes="epoch", weight_decay=0.01, channels_last=False
)


def network(seed: int = 0) -> nn.Module:
    """Return a ResNet-20 whose batch norms have seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model("cifar_resnet20", num_classes=3)
        model.train()
        model(torch.randn(16, 3, 16, 16))
    return model.eval()


def images(count: int = 24) -> DeviceImages:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return DeviceImages(pixels, torch.arange(count) % 3, (0.5,) * 3, (0.25,) * 3)


def retrained(settings: RetrainSettings, model: nn.Module | None = None) -> RetrainedClassifier:
    generator = torch.Generator().manual_seed(5)
    state = begin_retraining(model or network(), settings, SETTINGS, generator=generator)
    for _ in train_supervised(state, images(), Objective(), SETTINGS, seed=0):
        pass
    return state.model


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


HEAD = {"linear.weight", "linear.bias"}


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"learn_scale": False, "head_start": "random"}, {"learn_head": False}],
    ids=["mislas", "crt", "lws"],
)
def test_the_trunk_stays_bit_by_bit_and_its_statistics_unless_they_shift(settings, shift):
    model = network()
    before = copy.deepcopy(model.state_dict())
    moved = changed(before, retrained(RetrainSettings(**settings, shift_batch_norm=shift), model).exported_state())
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    assert moved == (HEAD | statistics if shift else HEAD)


def test_what_is_learned_moves_and_nothing_else():
    for settings, expected in (
        (RetrainSettings(), {"head.weight", "head.bias", "scale"}),
        (RetrainSettings(learn_scale=False), {"head.weight", "head.bias"}),
        (RetrainSettings(learn_head=False), {"scale"}),
    ):
        start = RetrainedClassifier(network(), settings, generator=torch.Generator().manual_seed(5)).state_dict()
        assert changed(start, retrained(settings).state_dict()) == expected


def test_it_starts_with_the_logits_of_stage_one():
    model, batch = network(), torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = model(batch)
    again = RetrainedClassifier(model, RetrainSettings(), generator=torch.Generator()).eval()
    torch.testing.assert_close(again(batch), expected)


def test_the_factors_fold_into_the_head():
    module = retrained(RetrainSettings()).eval()
    assert (module.scale - 1).abs().max() > 1e-4
    batch = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    plain = network(seed=9)
    load_strictly(plain, module.exported_state(), source="export")
    torch.testing.assert_close(plain(batch), module(batch))


def test_a_fresh_head_is_drawn_as_torch_draws_it_and_by_the_generator():
    def head(seed: int) -> nn.Linear:
        settings = RetrainSettings(head_start="random", learn_scale=False)
        return RetrainedClassifier(network(), settings, generator=torch.Generator().manual_seed(seed)).head

    weights = torch.cat([head(seed).weight.flatten() for seed in range(20)]).detach()
    assert weights.abs().max() <= 1 / 8  # nn.Linear: uniform on +- 1 / sqrt(64)
    # the variance of a uniform law on +- a is a^2 / 3; 3,840 draws know it to 1.5 %
    assert weights.var().item() == pytest.approx(1 / 8**2 / 3, rel=0.06)
    assert torch.equal(head(0).weight, head(0).weight)
    assert not torch.equal(head(0).weight, head(1).weight)


@pytest.mark.parametrize("decay_scale", [True, False])
def test_the_first_step_by_hand(decay_scale):
    model = network()
    features = model.forward_head(model.forward_features(inputs := one_batch()), pre_logits=True).detach()
    weight, bias = (p.detach().clone().requires_grad_() for p in model.linear.parameters())
    scale = torch.ones(3, requires_grad=True)
    labels = torch.arange(24) % 3
    F.cross_entropy(scale * (features @ weight.T + bias), labels).backward()

    one_step = SupervisedSettings(
        epochs=1, batch_size=24, warmup_epochs=0, rate_changes="epoch", weight_decay=0.5, learning_rate=0.2,
        channels_last=False,
    )  # fmt: skip
    settings = RetrainSettings(head_factor=0.25, decay_scale=decay_scale)
    state = begin_retraining(model, settings, one_step, generator=torch.Generator())
    list(train_supervised(state, images(), Objective(), one_step, seed=0))
    assert inputs.shape == (24, 3, 16, 16)
    for own, theirs, rate, decay in (
        (state.model.head.weight, weight, 0.05, 0.5),
        (state.model.head.bias, bias, 0.05, 0.5),
        (state.model.scale, scale, 0.2, 0.5 if decay_scale else 0.0),
    ):
        expected = theirs - rate * (theirs.grad + decay * theirs)
        torch.testing.assert_close(own.detach(), expected.detach(), rtol=1e-4, atol=1e-6)


def one_batch() -> torch.Tensor:
    """Return all images as the network gets them."""
    pixels = images().pixels.float() / 255
    return (pixels - 0.5) / 0.25


def test_shifted_statistics_are_moving_averages_of_the_batches():
    # features of one channel: batches {2, 4} have mean 3 and unbiased variance 2, the momentum is 0.1
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(1), nn.Linear(1, 2)

        def get_classifier(self):
            return self.fc

        def reset_classifier(self, num_classes):
            self.fc = nn.Identity()

        def forward(self, x):
            return self.fc(self.norm(x))

    module = RetrainedClassifier(Tiny(), RetrainSettings(shift_batch_norm=True), generator=torch.Generator())
    for _ in range(3):
        module.train()(torch.tensor([[2.0], [4.0]]))
    module.eval()(torch.tensor([[2.0], [40.0]]))
    state = module.exported_state()
    assert state["norm.running_mean"].item() == pytest.approx(3 * (1 - 0.9**3))  # 0.813
    assert state["norm.running_var"].item() == pytest.approx(0.9**3 + 2 * (1 - 0.9**3))  # 1.271
    assert (state["norm.weight"].item(), state["norm.bias"].item()) == (1, 0)


def test_dropout_of_the_trunk_stays_off_while_statistics_shift():
    model = build_model("resnet18", num_classes=3, drop_rate=0.5, drop_path_rate=0.5)
    module = RetrainedClassifier(model, RetrainSettings(shift_batch_norm=True), generator=torch.Generator()).train()
    training = {type(part).__name__ for part in module.trunk.modules() if part.training}
    assert training == {"BatchNorm2d"}
    assert module.training


def test_the_published_schedule():
    settings = SupervisedSettings(epochs=10, learning_rate=0.1, warmup_epochs=0, rate_changes="epoch")
    rates = [
        learning_rate(settings, epoch=epoch, step=step, steps_per_epoch=97) for epoch in range(10) for step in (0, 96)
    ]
    # 0.05 (1 + cos(pi t / 10)), constant within an epoch, as the authors' code sets it
    published = [0.1, 0.0976, 0.0905, 0.0794, 0.0655, 0.05, 0.0345, 0.0206, 0.0095, 0.0024]
    assert rates == pytest.approx([rate for rate in published for _ in range(2)], abs=5e-5)


def test_an_epoch_of_class_aware_batches_is_as_long_as_train():
    counts = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
    labels = torch.arange(10).repeat_interleave(counts)
    plan = plan_epoch(labels, SupervisedSettings(sampler="class_aware"), epoch=0, seed=0)
    assert plan.positions.shape == (12406 // 128, 128)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learn_head": False, "learn_scale": False}, "learn_scale must be true, where learn_head is false, got False"),
        ({"learn_head": False, "head_start": "random"}, "head_start must be stage1, where learn_head is false"),
        ({"head_factor": 0.0}, "head_factor must be > 0, got 0.0"),
    ],
)
def test_settings_without_meaning_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        RetrainSettings(**values)


def test_a_classifier_that_is_not_one_linear_layer_is_refused():
    with pytest.raises(UsageError, match="learns a linear classifier again, and that of this network is another"):
        RetrainedClassifier(
            build_model("cifar_resnet20", num_classes=0), RetrainSettings(), generator=torch.Generator()
        )
