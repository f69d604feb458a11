"""The supervised loop: its steps by hand, its schedule, its seeds, and that it learns."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from selmix.errors import UsageError
from selmix.stage1 import supervised
from selmix.stage1.supervised import SupervisedSettings, train_supervised

MEAN, STD = (0.5, 0.25, 0.4), (0.5, 0.2, 0.25)
PLAIN = {"warmup_epochs": 1, "mixup_alpha": 0.0, "crop_padding": 0, "bfloat16": False}


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


def records(model, images, labels, *, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    own = SupervisedSettings(**settings)
    return train_supervised(model, images, labels, mean=MEAN, std=STD, settings=own, generator=generator)


def test_the_first_step_by_hand():
    # flat images look the same mirrored; the one batch holds them all, so neither order nor augmentation matters
    images = torch.randint(256, (12, 3, 1, 1), dtype=torch.uint8).expand(12, 3, 8, 8).contiguous()
    labels = torch.arange(12) % 3
    model = linear()
    oracle = copy.deepcopy(model)
    loss = F.cross_entropy(oracle(normalised(images)), labels)
    loss.backward()
    run = records(
        model, images, labels, **PLAIN, epochs=2, batch_size=12, learning_rate=0.02, momentum=0.6, weight_decay=0.3
    )
    record = next(run)
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
    # Nesterov's first step is (1 + momentum) times the decayed gradient, at the full rate after one epoch of warm-up
    for own, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
        expected = theirs - 0.02 * 1.6 * (theirs.grad + 0.3 * theirs)
        torch.testing.assert_close(own.detach(), expected.detach(), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(own, theirs, atol=1e-4)


def test_the_loss_of_a_mixed_batch_by_hand(monkeypatch):
    images, labels = coloured(9, seed=0)
    model = linear()
    oracle, seen = copy.deepcopy(model), []

    def mix_with_the_next_class(batch, batch_labels, *, alpha, generator):
        seen.append((batch.clone(), batch_labels, alpha))
        return batch, (batch_labels + 1) % 3, 0.3

    monkeypatch.setattr(supervised, "mix_inputs", mix_with_the_next_class)
    record = next(records(model, images, labels, **PLAIN | {"mixup_alpha": 0.7}, epochs=2, batch_size=9))
    ((batch, batch_labels, alpha),) = seen
    with torch.no_grad():
        logits = oracle(batch)
        expected = 0.3 * F.cross_entropy(logits, batch_labels) + 0.7 * F.cross_entropy(logits, (batch_labels + 1) % 3)
    assert alpha == 0.7
    assert record["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_alpha_zero_mixes_nothing(monkeypatch):
    monkeypatch.setattr(supervised, "mix_inputs", None)
    list(records(linear(), *coloured(9, seed=0), **PLAIN, epochs=2, batch_size=3))


@pytest.mark.parametrize("options", [PLAIN, {"bfloat16": True}], ids=["plain", "mixup, crops and bfloat16"])
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


BAD = {
    "epochs": 0, "batch_size": 0, "learning_rate": 0.0, "momentum": 1.0, "weight_decay": -1.0, "warmup_epochs": 200.0,
    "mixup_alpha": -0.1, "crop_padding": -1,
}  # fmt: skip


@pytest.mark.parametrize("names", [*([name] for name in BAD if name != "epochs"), list(BAD)], ids="-".join)
def test_settings_without_meaning_are_refused_all_at_once(names):
    with pytest.raises(UsageError) as caught:
        SupervisedSettings(**{name: BAD[name] for name in names})
    assert [fault.split(" must be ")[0] for fault in str(caught.value).split("; ")] == names
