"""The supervised loop: its steps by hand, its schedule, its seeds, and that it learns."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from selmix.errors import DivergedError, UsageError
from selmix.ranks import Ranks
from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.plan import plan_epoch
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import planned_batches, train_supervised

MEAN, STD = (0.5, 0.25, 0.4), (0.5, 0.2, 0.25)
PLAIN = {"warmup_epochs": 1, "crop_padding": 0}


def coloured(count: int, *, seed: int, noise: float = 40.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy 8 x 8 images of 3 classes, each bright in one channel, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    brightness = 90 + 40 * F.one_hot(labels, 3).float()[:, :, None, None]
    pixels = brightness + noise * torch.randn(count, 3, 8, 8, generator=generator)
    return pixels.clamp(0, 255).to(torch.uint8), labels


def linear(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


def small_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 3),
        )  # fmt: skip


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def records(model, images, labels, *, seed=0, objective=None, **settings):
    """Return the records of a training of `model` in place."""
    own = SupervisedSettings(**settings)
    padding = own.crop_padding if own.augmentation == "padded_crop" else None
    train = DeviceImages(images, labels, MEAN, STD, padding)
    return train_supervised(TrainingState.begin(model, own), train, objective or Objective(), own, seed=seed)


def flat_images(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of one colour each: they look the same mirrored."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(256, (count, 3, 1, 1), dtype=torch.uint8, generator=generator)
    return colours.expand(count, 3, 8, 8).contiguous(), torch.arange(count) % 3


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_first_steps_by_hand(nesterov):
    # one batch holds all images, so neither order nor augmentation matters
    images, labels = flat_images()
    model = linear()
    oracle = copy.deepcopy(model)
    weights = list(oracle.parameters())
    velocity = [torch.zeros_like(weight) for weight in weights]
    run = records(
        model, images, labels, **PLAIN, epochs=3, batch_size=12, learning_rate=0.02, momentum=0.6, weight_decay=0.3,
        nesterov=nesterov,
    )  # fmt: skip
    for rate, record in zip((0.02, 0.01), run, strict=False):  # the first epoch warms up; then half a cosine
        loss = F.cross_entropy(oracle(normalised(images)), labels)
        assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, gradient, v in zip(weights, gradients, velocity, strict=True):
                decayed = gradient + 0.3 * weight
                v.mul_(0.6).add_(decayed)
                weight -= rate * (decayed + 0.6 * v if nesterov else v)
        for own, theirs in zip(model.parameters(), weights, strict=True):
            torch.testing.assert_close(own.detach(), theirs.detach(), rtol=1e-4, atol=1e-6)


def test_the_loss_of_a_mixed_batch_by_hand():
    images, labels = flat_images(9)
    model = linear()
    oracle = copy.deepcopy(model)
    settings = PLAIN | {"mixup_alpha": 0.7, "epochs": 2, "batch_size": 9}
    plan = plan_epoch(labels, SupervisedSettings(**settings), epoch=0, seed=5)
    record = next(records(model, images, labels, seed=5, **settings))
    order, partners, mix = plan.positions[0], plan.positions[0][plan.partners[0]], float(plan.mix[0])
    assert 0 < mix < 1
    inputs = mix * normalised(images)[order] + (1 - mix) * normalised(images)[partners]
    # the same as the cross-entropy with the mixed label
    soft = mix * F.one_hot(labels[order], 3) + (1 - mix) * F.one_hot(labels[partners], 3)
    expected = -(soft * oracle(inputs).log_softmax(1)).sum(1).mean()
    assert record["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("divide_by", ["batch", "weight"])
def test_classes_weigh_from_the_named_epoch_on(divide_by):
    images, labels = flat_images(10)
    model = linear()
    weights = torch.tensor([0.5, 1.0, 4.0])
    objective = Objective(class_weights=weights, weights_from=1, divide_by=divide_by)
    settings = PLAIN | {"epochs": 2, "batch_size": 10, "accumulation": 3}
    for epoch, record in enumerate(records(model, images, labels, objective=objective, **settings)):
        if epoch == 1:
            break
        oracle = copy.deepcopy(model)  # as it is before the second epoch
        assert record["loss"] == pytest.approx(F.cross_entropy(linear()(normalised(images)), labels).item(), rel=1e-5)
    losses = F.cross_entropy(oracle(normalised(images)), labels, weight=weights, reduction="none")
    expected = losses.sum() / (weights[labels].sum() if divide_by == "weight" else 10)
    assert record["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_batch_in_parts_takes_the_step_of_the_whole(alpha):
    def trained(accumulation: int) -> tuple[list[float], torch.Tensor]:
        model = linear()
        settings = PLAIN | {"mixup_alpha": alpha, "epochs": 3, "batch_size": 11, "accumulation": accumulation}
        own = records(model, *coloured(33, seed=0), **settings)
        return [record["loss"] for record in own], model[1].weight.detach()

    losses, weight = trained(1)
    for parts in (2, 3, 11):
        own_losses, own_weight = trained(parts)
        assert own_losses == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(own_weight, weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", [PLAIN, {"mixup_alpha": 1.0, "precision": "bfloat16"}], ids=["plain", "mixup and bfloat16"]
)
def test_it_learns_what_fresh_images_show(options):
    model = small_net()
    settings = {"epochs": 8, "batch_size": 16, "learning_rate": 0.1, "warmup_epochs": 1, "crop_padding": 1} | options
    history = list(records(model, *coloured(96, seed=0), **settings))
    assert [record["epoch"] for record in history] == list(range(1, 9))
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert not model.training
    fresh, labels = coloured(300, seed=1)
    with torch.no_grad():
        accuracy = float((model(normalised(fresh)).argmax(1) == labels).double().mean())
    assert accuracy > 0.8  # chance is 1/3


def test_the_same_seed_gives_the_same_weights():
    def weights(seed: int) -> dict[str, torch.Tensor]:
        model = small_net()
        list(records(model, *coloured(48, seed=0), seed=seed, epochs=2, batch_size=16, warmup_epochs=1))
        return model.state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_the_global_stream_is_left_alone():
    before = torch.random.get_rng_state()
    list(records(small_net(), *coloured(48, seed=0), epochs=2, batch_size=16, warmup_epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_rate_of_every_step_follows_the_schedule(monkeypatch):
    rates, step = [], torch.optim.SGD.step

    def recording(self, *arguments, **options):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", recording)
    settings = PLAIN | {"warmup_epochs": 2}
    history = list(records(linear(), *coloured(8, seed=0), **settings, epochs=4, batch_size=4, learning_rate=0.4))
    # 2 steps an epoch: warm-up in quarters to 1, then the cosine at a quarter, half, three quarters and the end
    root = 2**0.5 / 4
    expected = [0.25, 0.5, 0.75, 1, 0.5 + root, 0.5, 0.5 - root, 0]
    assert rates == pytest.approx([0.4 * share for share in expected])
    assert [record["learning_rate"] for record in history] == rates[1::2]


@pytest.mark.parametrize(("count", "batch_size", "expected"), [(10, 4, [4, 4]), (8, 4, [4, 4]), (3, 4, [3])])
def test_the_incomplete_batch_is_dropped_unless_it_is_the_only_one(count, batch_size, expected):
    sizes = []
    model = linear()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    before = copy.deepcopy(model[1].weight)
    list(records(model, *coloured(count, seed=0), **PLAIN, epochs=3, batch_size=batch_size))
    assert sizes == 3 * expected
    assert not torch.equal(model[1].weight, before)


def test_every_image_is_seen_once_an_epoch():
    # the red level of a flat image is its number
    images = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).repeat(1, 3, 8, 8)
    seen = []
    model = linear()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, 0, 0, 0]))
    list(records(model, images, torch.arange(12) % 3, **PLAIN, epochs=2, batch_size=4))
    numbers = (torch.cat(seen) * STD[0] + MEAN[0]) * 255
    first, second = numbers.round().int().view(2, 12).tolist()
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


@pytest.mark.parametrize("step", [0, 3, 50, 51, 69])
def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(step):
    # 70 steps an epoch, a look at the losses at the first, the 51st and the last
    calls = iter(range(70 + step))

    def losses(logits, labels):
        return F.cross_entropy(logits, labels, reduction="none") * (1 if next(calls, None) is not None else torch.inf)

    images, labels = flat_images(70)
    model = linear()
    run = records(
        model, images, labels, objective=Objective(losses), **PLAIN, epochs=3, batch_size=1, learning_rate=1e-3
    )
    assert next(run)["epoch"] == 1
    with pytest.raises(
        DivergedError, match=rf"the loss of epoch 2, step {step + 1} .*is not finite; lower learning_ra"
    ):
        next(run)


def test_compiled_is_the_same(monkeypatch):
    # without a compiler of C++, and in no time: what is traced is run as it is
    compiled, compile_it = [], torch.compile

    def traced(model):
        compiled.append(model)
        return compile_it(model, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    weights = []
    for wish in (False, True):
        model = small_net()
        list(records(model, *coloured(12, seed=0), epochs=2, batch_size=6, warmup_epochs=1, compile=wish))
        weights.append(model.state_dict())
        assert compiled == [model] * wish
    assert list(weights[0]) == list(weights[1])
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_of_the_forward_pass_alone(precision):
    seen = []

    def losses(logits, labels):
        seen.append(logits.dtype)
        return F.cross_entropy(logits, labels, reduction="none")

    model = linear()
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    settings = PLAIN | {"epochs": 2, "batch_size": 12, "precision": precision, "learning_rate": 0.01}
    history = list(records(model, *flat_images(), objective=Objective(losses), **settings))
    assert seen == [getattr(torch, precision), torch.float32] * 2
    assert model[1].weight.dtype == torch.float32
    single = list(records(linear(), *flat_images(), **settings | {"precision": "float32"}))
    assert [record["loss"] for record in history] == pytest.approx([record["loss"] for record in single], rel=0.02)
    assert [record["loss"] for record in history] != [record["loss"] for record in single]


def test_images_and_weights_lie_pixel_by_pixel_if_they_shall():
    for wish in (False, True):
        layouts = []
        model = small_net()
        model[0].register_forward_pre_hook(
            lambda module, inputs, layouts=layouts: layouts.extend(
                tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (inputs[0], module.weight)
            )
        )
        list(records(model, *coloured(6, seed=0), **PLAIN, epochs=2, batch_size=6, channels_last=wish))
        assert layouts == [wish] * 4


def test_progress_is_told_in_images_after_each_step():
    own = SupervisedSettings(**PLAIN | {"epochs": 2, "batch_size": 4})
    train = DeviceImages(*coloured(10, seed=0), MEAN, STD)
    told: list[int] = []
    state = TrainingState.begin(linear(), own)
    for record in train_supervised(state, train, Objective(), own, seed=0, advance=told.append):
        assert told == [4, 4] * record["epoch"]


def test_a_batch_that_is_too_small_for_its_parts_is_refused():
    with pytest.raises(UsageError, match="a batch of 3 images cannot be cut into 4 parts for each of 1 processes"):
        next(records(linear(), *coloured(3, seed=0), **PLAIN, epochs=2, batch_size=8, accumulation=4))


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_every_part_of_a_batch(parts, count):
    class Numbers:
        """Images whose input is their number, and which tell what is asked for."""

        def __init__(self):
            self.labels, self.asked = 10 * torch.arange(40), []

        def loads(self, requests):
            for positions, seeds in requests:
                self.asked.append(positions)
                assert len(positions.unique()) == len(positions)
                yield positions[:, None].double() + seeds[:, None].double() / 2.0**70

    settings = SupervisedSettings(batch_size=13, mixup_alpha=1.0)
    images = [Numbers() for _ in range(count)]
    plan = plan_epoch(images[0].labels, settings, epoch=0, seed=0)
    of_each = [list(planned_batches(plan, own, Ranks(rank, count), parts=parts)) for rank, own in enumerate(images)]
    numbers = plan.positions.double() + plan.seeds.double() / 2.0**70
    for step, mix in enumerate(plan.mix.tolist()):
        batches = [own[step] for own in of_each]
        rows = torch.cat([batch.rows for batch in batches])
        assert sorted(rows.tolist()) == list(range(13))
        # the first part of the batch is made of the first parts that the processes have, and so on
        for number, whole in enumerate(torch.arange(13).tensor_split(parts)):
            own = torch.cat([batch.rows.tensor_split(parts)[number] for batch in batches])
            assert own.sort().values.tolist() == whole.tolist()
        expected = mix * numbers[step] + (1 - mix) * numbers[step][plan.partners[step]]
        torch.testing.assert_close(torch.cat([batch.inputs for batch in batches])[:, 0], expected[rows])
        for batch in batches:
            assert batch.mix == mix
            assert torch.equal(batch.labels, 10 * plan.positions[step])
            assert torch.equal(batch.partner_labels, 10 * plan.positions[step][plan.partners[step]])
    for own in images:
        assert max(map(len, own.asked)) <= min(13, 2 * -(-13 // count) + 2)  # its own, and at most as many partners


BAD = {
    "epochs": 0, "batch_size": 0, "learning_rate": 0.0, "momentum": 1.0, "weight_decay": -1.0, "warmup_epochs": 200.0,
    "step_epochs": (3.0, 2.0), "step_factors": (0.1,), "mixup_alpha": -0.1, "crop_padding": -1, "accumulation": 0,
    "average_decay": 1.0, "evaluate_every": 0, "checkpoint_every": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "names", [*([name] for name in BAD if name not in ("epochs", "batch_size", "step_epochs")), list(BAD)], ids="-".join
)
def test_settings_without_meaning_are_refused_all_at_once(names):
    with pytest.raises(UsageError) as caught:
        SupervisedSettings(**{name: BAD[name] for name in names})
    assert [fault.split(" must be ")[0] for fault in str(caught.value).split("; ")] == names


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"schedule": "step"}, "given with the schedule step"),
        ({"step_epochs": (3.0,), "step_factors": (0.1,)}, "given with the schedule step"),
        ({"schedule": "step", "step_epochs": (3.0, 5.0), "step_factors": (0.1,)}, "one factor >= 0"),
        ({"schedule": "step", "step_epochs": (3.0,), "step_factors": (-0.1,)}, "one factor >= 0"),
        ({"nesterov": True, "momentum": 0.0}, "false without momentum"),
        ({"batch_size": 4, "accumulation": 5}, r"accumulation must be in \[1, batch_size\], got 5"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong, rule):
    with pytest.raises(UsageError, match=rule):
        SupervisedSettings(**wrong)
