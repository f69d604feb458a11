"""What training changes: its average, its checkpoints, and that a training that was interrupted comes out the same."""

import subprocess
import sys
from pathlib import Path

import killed_trainer
import pytest
import torch
from builders import Trap
from killed_trainer import small_net, tensors, train
from test_torchrun import ENVIRONMENT
from torch import nn

from selmix.errors import DataError
from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState, parameter_groups
from selmix.stage1.supervised import train_supervised
from selmix.stage1.validation import validate


def assert_same(own: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(own) == list(other)
    assert [name for name in own if not torch.equal(own[name], other[name])] == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return tensors(train(tmp_path_factory.mktemp("whole") / "checkpoint.pt"))


def test_a_killed_training_goes_on_as_if_it_had_not_stopped(tmp_path, uninterrupted):
    checkpoint = tmp_path / "checkpoint.pt"
    command = [sys.executable, killed_trainer.__file__, checkpoint]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT)
    assert ended.returncode == -9, ended.stderr
    assert torch.load(checkpoint, weights_only=True)["epochs"] == 2
    assert_same(tensors(train(checkpoint)), uninterrupted)


def test_a_checkpoint_that_is_half_written_takes_no_place(tmp_path, monkeypatch, uninterrupted):
    checkpoint = tmp_path / "checkpoint.pt"
    calls, replace = iter(range(2)), Path.replace

    def interrupted(self, target):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint)
    monkeypatch.undo()
    assert torch.load(checkpoint, weights_only=True)["epochs"] == 2
    assert_same(tensors(train(checkpoint)), uninterrupted)


@pytest.mark.parametrize("changes", [{"precision": "float16"}, {"accumulation": 2, "checkpoint_every": 2}], ids=str)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_checkpoint_is_all_that_is_needed(tmp_path, monkeypatch, changes, stop):
    whole = tensors(train(tmp_path / "whole.pt", **changes))
    save = TrainingState.save

    def save_and_stop(self, path, extra):
        save(self, path, extra)
        if self.epochs == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "part.pt", **changes)
    monkeypatch.undo()
    torch.manual_seed(99)  # nothing depends on the global stream
    assert_same(tensors(train(tmp_path / "part.pt", **changes)), whole)


def test_dropout_is_drawn_anew_in_every_epoch_and_for_every_seed():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.linear, self.masks = nn.Dropout(0.5), nn.Linear(192, 3), []

        def forward(self, images):
            self.masks.append(self.drop(torch.ones(40)))
            return self.linear(images.flatten(1))

    def masks(seed: int) -> list[tuple[float, ...]]:
        settings = SupervisedSettings(epochs=2, batch_size=4, warmup_epochs=0)
        images = DeviceImages(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8) % 3, (0.5,) * 3, (0.5,) * 3)
        model = Seen()
        list(train_supervised(TrainingState.begin(model, settings), images, Objective(), settings, seed=seed))
        return [tuple(mask.tolist()) for mask in model.masks]

    assert masks(0) == masks(0)
    assert len(set(masks(0) + masks(1))) == 8  # 2 epochs of 2 steps each; two masks agree with a probability of 2^-40


def test_the_average_by_its_closed_form():
    settings = SupervisedSettings(epochs=3, batch_size=6, warmup_epochs=0, learning_rate=0.05, average_decay=0.7)
    state, path = TrainingState.begin(small_net(), settings), []
    update = state.average.update_parameters

    def remembering(model):
        path.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
        update(model)

    state.average.update_parameters = remembering
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images = DeviceImages(pixels, torch.arange(12) % 3, (0.5,) * 3, (0.25,) * 3)
    list(train_supervised(state, images, Objective(), settings, seed=0))
    assert len(path) == 6
    # d^5 w_1 + (1 - d) (d^4 w_2 + ... + w_6): it begins with the weights after the first step
    shares = [0.7**5] + [0.3 * 0.7 ** (6 - step) for step in range(2, 7)]
    assert sum(shares) == pytest.approx(1)
    for name, own in state.kept.state_dict().items():
        if own.is_floating_point():  # running statistics, too
            expected = sum(share * weights[name].double() for share, weights in zip(shares, path, strict=True))
            torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=1e-6)
            assert not torch.equal(own, path[-1][name])


def test_what_is_kept_is_judged_by_its_own_statistics_and_does_not_change():
    settings = SupervisedSettings(average_decay=0.5)
    state = TrainingState.begin(small_net(), settings)
    pixels = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = DeviceImages(pixels, torch.arange(9) % 3, (0.5,) * 3, (0.25,) * 3)
    state.model.train()
    before = {name: tensor.clone() for name, tensor in state.kept.state_dict().items()}
    first = validate(state.kept, images)
    assert first == validate(state.kept, images)  # no dropout
    assert_same(state.kept.state_dict(), before)
    with torch.no_grad():
        predictions = state.model.eval()((pixels.float() / 255 - 0.5) / 0.25).argmax(1)
    hits = predictions == images.labels
    assert first["accuracy"] == pytest.approx(hits.double().mean().item())
    recalls = [hits[images.labels == label].double().mean().item() for label in range(3)]
    assert first["mean_recall"] == pytest.approx(sum(recalls) / 3)
    assert first["min_recall"] == pytest.approx(min(recalls))


def test_a_class_without_images_is_not_judged():
    class Always1(nn.Module):
        def forward(self, images):
            return torch.tensor([0.0, 1.0, 0.0]).expand(len(images), 3)

    images = DeviceImages(
        torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1, 1]), (0.0,) * 3, (1.0,) * 3
    )
    assert validate(Always1(), images) == {"accuracy": 0.75, "mean_recall": 0.5, "min_recall": 0.0}


@pytest.mark.parametrize("decay_all", [True, False])
def test_which_parameters_are_decayed(decay_all):
    model = small_net()
    model[0].weight.requires_grad = False
    settings = SupervisedSettings(weight_decay=0.3, decay_all=decay_all)
    spared, slow = model[5].bias, model[1].weight
    groups = parameter_groups(model, settings, factors={slow: 0.5}, undecayed=[spared])
    decayed = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decayed == {
        id(model[5].weight): 0.3,
        id(spared): 0.0,
        **{id(other): 0.3 if decay_all else 0.0 for other in (model[0].bias, slow, model[1].bias)},
    }
    rates = {id(parameter): group["factor"] for group in groups for parameter in group["params"]}
    assert rates == {parameter: 0.5 if parameter == id(slow) else 1 for parameter in decayed}


def other_model(state: TrainingState, path: Path) -> TrainingState:
    state.save(path, {})
    return TrainingState.begin(nn.Linear(3, 2), SupervisedSettings())


def other_settings(state: TrainingState, path: Path) -> TrainingState:
    state.save(path, {})
    return TrainingState.begin(small_net(), SupervisedSettings(average_decay=0.9))


def half_a_file(state: TrainingState, path: Path) -> TrainingState:
    state.save(path, {})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return state


def no_checkpoint(state: TrainingState, path: Path) -> TrainingState:
    torch.save({"model": state.model.state_dict()}, path)
    return state


def code(state: TrainingState, path: Path) -> TrainingState:
    torch.save(Trap(path.with_name("ran")), path)
    return state


@pytest.mark.parametrize("spoil", [other_model, other_settings, half_a_file, no_checkpoint, code])
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(tmp_path, spoil):
    state = spoil(TrainingState.begin(small_net(), SupervisedSettings()), tmp_path / "checkpoint.pt")
    with pytest.raises(DataError, match=r"checkpoint\.pt .*damaged.*; remove it to begin anew$") as caught:
        state.load(tmp_path / "checkpoint.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
