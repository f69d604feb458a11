"""The loop with unlabeled images: steps and average by hand, what is minimised on which logits, resuming, processes."""

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import semi_methods
import semi_trainer
import torch
from killed_trainer import tensors
from semi_trainer import MEAN, SEMI, STD, Eager, begin, images, pool, train
from test_torchrun import ENVIRONMENT, TORCHRUN
from torch import nn

from selmix.errors import DivergedError, UsageError
from selmix.ranks import Ranks
from selmix.semi.fixmatch import FixMatch, FixMatchSettings
from selmix.semi.loop import semi_batches, train_semi
from selmix.semi.method import Outputs, Step
from selmix.semi.network import SemiNetwork
from selmix.semi.plan import plan_semi_epoch
from selmix.semi.views import PoolImages
from selmix.stage1.classifier import exported_state
from selmix.stage1.loss_settings import LogitAdjustmentSettings
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.supervised import train_supervised

COUNTS = torch.tensor([6, 4, 1])


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def adjusted() -> Objective:
    return LogitAdjustmentSettings().objective(COUNTS)


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.exp().sum(1).log() - logits[torch.arange(len(labels)), labels]


def test_steps_average_and_figures_by_hand():
    semi = FixMatchSettings(**SEMI)
    state, settings = begin(objective=adjusted())
    labeled, unlabeled = images(11, 0, 0), pool()
    oracle = begin()[0].model.backbone.train()
    assert torch.equal(oracle.conv.weight, state.model.backbone.conv.weight)
    weights = list(oracle.parameters())
    velocity, history, step, advanced = [torch.zeros_like(weight) for weight in weights], [], 0, []
    run = train_semi(state, labeled, unlabeled, settings, semi, seed=5, advance=advanced.append)
    for epoch, record in enumerate(run):
        plan = plan_semi_epoch(labeled.labels, 17, settings, semi, epoch=epoch, seed=5)
        losses, used = [], []
        for mine, theirs in zip(plan.labeled.positions, plan.positions, strict=True):
            rate = 0.05 * math.cos(7 * math.pi * (step + 1) / (16 * 12))
            step += 1
            with torch.no_grad():
                probabilities = oracle(normalised(unlabeled.weak.pixels[theirs]).double()).exp()
            probabilities /= probabilities.sum(1, keepdim=True)
            strong = normalised(255 - unlabeled.weak.pixels[theirs])
            logits = oracle(torch.cat([normalised(labeled.pixels[mine]), strong]).double())
            prior = (COUNTS / 11).log()
            first = cross_entropies(logits[:5] + prior, labeled.labels[mine]).mean()
            kept = probabilities.amax(1) >= 0.4
            second = cross_entropies(logits[5:], probabilities.argmax(1))[kept].sum() / 10
            loss = first + 0.7 * second
            losses.append(loss.item())
            used += kept.tolist()
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, gradient, v in zip(weights, gradients, velocity, strict=True):
                    decayed = gradient + (0.01 * weight if weight.ndim > 1 else 0)
                    v.mul_(0.9).add_(decayed)
                    weight -= rate * (decayed + 0.9 * v)
            history.append([weight.detach().clone() for weight in weights])
        assert record["loss"] == pytest.approx(sum(losses) / 4, rel=1e-6)
        assert record["pseudo_label_share"] == pytest.approx(sum(used) / 40)
        assert 0 < sum(used) < 40
        assert record["learning_rate"] == pytest.approx(rate)
        parts = record["labeled_loss"] + 0.7 * record["unlabeled_loss"]
        assert record["loss"] == pytest.approx(parts)
    assert step == 12
    assert advanced == [15] * 12
    assert semi.images(settings) == 60
    for own, other in zip(state.model.backbone.parameters(), weights, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    # d^11 w_1 + (1 - d) sum_t d^(12 - t) w_t
    factors = [0.8**11, *(0.2 * 0.8 ** (12 - t) for t in range(2, 13))]
    assert sum(factors) == pytest.approx(1)
    average = [sum(f * w for f, w in zip(factors, row, strict=True)) for row in zip(*history, strict=True)]
    for own, other in zip(state.kept.backbone.parameters(), average, strict=True):
        torch.testing.assert_close(own.data, other, rtol=1e-5, atol=1e-6)
    # both views have moved the statistics, of which the average has copies
    for name, buffer in oracle.named_buffers():
        torch.testing.assert_close(state.kept.backbone.get_buffer(name), buffer, rtol=1e-5, atol=1e-6)
    assert int(oracle.norm.num_batches_tracked) == 24


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_without_pseudo_labels_it_is_supervised_training(monkeypatch, weight):
    # above 1 no prediction is confident enough; at a weight of 0 all may be
    semi = FixMatchSettings(steps_per_epoch=4, threshold=1.5 if weight else 0.0, unlabeled_weight=weight)
    labeled = images(11, 0, 1)
    (own, settings), (other, _) = (begin(objective=adjusted(), semi=semi, norm=False, crop_padding=1) for _ in range(2))
    records = list(train_semi(own, labeled, pool(), settings, semi, seed=5))
    assert [record["pseudo_label_share"] for record in records] == [0.0 if weight else 1.0] * 3
    monkeypatch.setattr(
        "selmix.stage1.supervised.plan_epoch",
        lambda labels, loop, *, epoch, seed: plan_semi_epoch(labels, 17, loop, semi, epoch=epoch, seed=seed).labeled,
    )
    plain = list(train_supervised(other, labeled, adjusted(), settings, seed=5))
    assert [row["loss"] for row in plain] == pytest.approx([row["loss"] for row in records], rel=1e-12)
    for mine, theirs in ((own.model, other.model), (own.kept, other.kept)):
        for name, tensor in mine.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-12, atol=1e-14)


def outputs(rows: int, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    return Outputs(torch.zeros(rows, 2), 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64))


def shared(method: FixMatch, *, rows: slice = slice(None), pool_rows: slice = slice(None)) -> tuple:
    labeled, strong, weak = outputs(6, 0), outputs(40, 1), outputs(40, 2)
    parts = [Outputs(part.features[own], part.logits[own]) for part, own in ((labeled, rows), (strong, pool_rows), (weak, pool_rows))]  # fmt: skip  # noqa: E501
    labels = torch.arange(6) % 4
    return method.share(Step(*parts, None, labels, torch.arange(6)[rows], torch.arange(40)[pool_rows], 40, epoch=0))


def test_a_threshold_is_a_bound_on_the_divergence_from_the_pseudo_label():
    # KL(one-hot || p) < 0.05 is -log p < 0.05, p > 0.9512
    method = FixMatch(Objective(), threshold=math.exp(-0.05), unlabeled_weight=1.0)
    logs = outputs(40, 2).logits.log_softmax(1)
    one_hot = nn.functional.one_hot(logs.argmax(1), 4).double()
    divergence = nn.functional.kl_div(logs, one_hot, reduction="none").sum(1)
    assert method.threshold == pytest.approx(0.9512, abs=5e-5)
    share = shared(method)[1]["pseudo_label_share"]
    assert 0 < share < 1
    assert share * 40 == (divergence < 0.05).sum()
    share, at_0, at_1 = (
        shared(FixMatch(Objective(), threshold=threshold, unlabeled_weight=1.0))[1]["pseudo_label_share"]
        for threshold in (0.9512, 0.0, 1.01)
    )
    assert (share * 40, at_0, at_1) == ((divergence < 0.05).sum(), 1, 0)


@pytest.mark.parametrize("border", [(0, 0), (4, 7), (6, 40)])
def test_the_shares_of_two_processes_add_up(border):
    method = FixMatch(adjusted_of_four(), threshold=0.8, unlabeled_weight=0.5)
    whole, figures = shared(method)
    parts = [
        shared(method, rows=slice(0, border[0]), pool_rows=slice(0, border[1])),
        shared(method, rows=slice(border[0], None), pool_rows=slice(border[1], None)),
    ]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    for name, figure in figures.items():
        torch.testing.assert_close(sum(said[name] for _, said in parts), figure)


def adjusted_of_four() -> Objective:
    return LogitAdjustmentSettings().objective(torch.tensor([50, 20, 5, 1]))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_loss_is_in_full_precision(monkeypatch, precision):
    seen = []
    share = FixMatch.share

    def noted(self, step):
        seen.append(
            {part.dtype for own in (step.labeled, step.strong, step.weak) for part in (own.features, own.logits)}
        )
        assert not step.weak.logits.requires_grad
        return share(self, step)

    monkeypatch.setattr(FixMatch, "share", noted)
    state, settings = begin(precision=precision, epochs=1)
    (record,) = train_semi(state, images(11, 0, 1), pool(), settings, FixMatchSettings(**SEMI), seed=5)
    assert seen == [{torch.float64}] * 4
    assert math.isfinite(record["loss"])


def test_a_loss_that_is_not_finite_ends_the_epoch_soon():
    state, settings = begin(learning_rate=1e200)
    advanced = []
    semi = FixMatchSettings(**SEMI | {"steps_per_epoch": 130})
    with pytest.raises(DivergedError, match=r"the loss of epoch 1, step \d is not finite"):
        list(train_semi(state, images(11, 0, 1), pool(), settings, semi, seed=5, advance=advanced.append))
    assert len(advanced) <= 50
    assert state.epochs == 0


def test_what_a_method_is_told_of_a_step(monkeypatch):
    told = []
    state, settings = begin(epochs=2, objective=adjusted())
    semi, labeled = FixMatchSettings(**SEMI), images(11, 0, None)
    share = FixMatch.share

    def noted(self, step):
        own = plans[step.epoch].labeled.positions[len(told) % 4]
        inputs = next(labeled.loads([(own, own)]))
        assert not state.kept.training
        torch.testing.assert_close(step.average.logits, state.kept(inputs))
        assert len(told) < 4 or not torch.allclose(step.average.logits, state.model(inputs))
        assert torch.equal(step.labels, labeled.labels[own])
        assert step.rows.tolist() == [0, 1, 2, 3, 4]
        told.append(step.positions)
        return share(self, step)

    monkeypatch.setattr(FixMatch, "share", noted)
    monkeypatch.setattr(FixMatch, "wants_average", True)
    plans = [plan_semi_epoch(labeled.labels, 17, settings, semi, epoch=epoch, seed=5) for epoch in (0, 1)]
    list(train_semi(state, labeled, pool(), settings, semi, seed=5))
    assert torch.equal(torch.stack(told), torch.cat([plan.positions for plan in plans]))


@dataclass(frozen=True)
class Asked:
    """Images whose pixels are what was asked for."""

    labels: torch.Tensor

    def loads(self, requests):
        return (torch.stack(request, dim=1) for request in requests)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_process_has_its_rows_of_both_views(count):
    settings, semi = SupervisedSettings(batch_size=5), FixMatchSettings(steps_per_epoch=4)
    labeled, unlabeled = Asked(torch.arange(11) % 3), Asked(torch.full((17,), -1))
    plan = plan_semi_epoch(labeled.labels, 17, settings, semi, epoch=0, seed=5)
    every = [
        list(semi_batches(plan, labeled, PoolImages(unlabeled, unlabeled), Ranks(rank, count))) for rank in range(count)
    ]
    for step, parts in enumerate(zip(*every, strict=True)):
        assert {part.pool_batch for part in parts} == {10}
        for name, seeds in (("weak", plan.weak_seeds), ("strong", plan.strong_seeds)):
            whole = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(whole, torch.stack([plan.positions[step], seeds[step]], dim=1))
        assert torch.equal(torch.cat([part.positions for part in parts]), plan.positions[step])
        mine = torch.cat([part.labeled.inputs for part in parts])
        assert torch.equal(mine, torch.stack([plan.labeled.positions[step], plan.labeled.seeds[step]], dim=1))
    with pytest.raises(UsageError, match="a batch of 5 images cannot be cut into 1 parts for each of 6 processes"):
        next(semi_batches(plan, labeled, PoolImages(unlabeled, unlabeled), Ranks(0, 6)))


def test_the_head_of_a_method_is_what_is_judged_and_kept():
    state, settings = begin(Eager, epochs=1)
    val = images(9, 2, None)
    list(train_semi(state, images(11, 0, 1), pool(), settings, FixMatchSettings(**SEMI), seed=5, val=val))
    network = state.kept
    inputs = next(val.loads([(torch.arange(9), torch.zeros(9, dtype=torch.int64))]))
    plain = semi_trainer.TinyNet().double().eval()
    plain.load_state_dict(exported_state(network))
    torch.testing.assert_close(plain(inputs), network(inputs))
    assert torch.equal(plain.fc.weight, network.method.head.weight)
    assert not torch.equal(plain.fc.weight, network.backbone.fc.weight)
    # a method without a head leaves the network's own
    own = SemiNetwork(plain, FixMatch(Objective(), threshold=0.95, unlabeled_weight=1.0))
    torch.testing.assert_close(own(inputs), plain(inputs))
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in exported_state(own).items())


def test_a_network_that_ends_otherwise_is_refused():
    net = semi_trainer.TinyNet()
    net.fc = nn.Sequential(nn.Linear(6, 3))
    with pytest.raises(UsageError, match="ends in one linear classifier, and this one ends in another; name another"):
        SemiNetwork(net, FixMatch(Objective(), threshold=0.95, unlabeled_weight=1.0))


def test_an_interrupted_training_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    whole, checkpoint = tensors(train(tmp_path / "whole.pt")), tmp_path / "checkpoint.pt"
    calls, step = iter(range(SEMI["steps_per_epoch"] + 2)), torch.optim.SGD.step

    def interrupted(self, *rest):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.SGD, "step", interrupted)  # in the midst of the second epoch
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint)
    monkeypatch.undo()
    assert torch.load(checkpoint, weights_only=True)["epochs"] == 1
    resumed = tensors(train(checkpoint))
    assert list(resumed) == list(whole)
    assert {"method.memory", "method.level", "method.head.weight"} <= whole.keys()
    assert float(whole["method.level"]) > 0
    assert [name for name in whole if not torch.equal(resumed[name], whole[name])] == []


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folders in which one process, this one, and two have trained the same."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    semi_methods.several(one)
    command = [*TORCHRUN, semi_methods.__file__, two]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=ENVIRONMENT)
    assert finished.returncode == 0, finished.stderr
    return one, two


@pytest.mark.parametrize("name", semi_methods.ALIKE)
def test_two_processes_come_to_the_weights_and_memories_of_one_by_every_method(folders, name):
    alone, *both = (
        torch.load(folder / f"{name}{rank}.pt", weights_only=True)
        for folder, rank in ((folders[0], 0), (folders[1], 0), (folders[1], 1))
    )
    for own in both:
        assert own["loss"] == pytest.approx(alone["loss"], rel=1e-9)
        assert torch.equal(own.get("chosen", torch.zeros(0)), alone.get("chosen", torch.zeros(0)))
        for which in ("model", "kept"):
            for key, tensor in alone[which].items():
                torch.testing.assert_close(own[which][key], tensor, rtol=1e-9, atol=1e-9)
                assert torch.equal(own[which][key], both[0][which][key])


@pytest.mark.parametrize("name", ["plain", "eager"])
def test_two_processes_come_to_the_weights_of_one(folders, name):
    def weights(folder: Path, rank: int = 0) -> dict[str, dict[str, torch.Tensor]]:
        return torch.load(folder / f"{name}{rank}.pt", weights_only=True)

    def said(folder: Path, rank: int = 0) -> list[dict[str, float]]:
        return json.loads((folder / f"said{rank}.json").read_text())[name]

    one, first, second = weights(folders[0]), weights(folders[1]), weights(folders[1], 1)
    for which in ("model", "kept"):
        assert list(one[which]) == list(first[which])
        for key, tensor in one[which].items():
            torch.testing.assert_close(first[which][key], tensor, rtol=1e-10, atol=1e-10)
            assert torch.equal(first[which][key], second[which][key])
    for rank in (0, 1):
        for mine, theirs in zip(said(folders[1], rank), said(folders[0]), strict=True):
            mine.pop("images_per_second", None), theirs.pop("images_per_second", None)
            assert mine == pytest.approx(theirs, rel=1e-9)
    assert 0 < said(folders[0])[0]["pseudo_label_share"] < 1
