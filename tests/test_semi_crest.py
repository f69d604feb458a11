"""CReST+: quotas and alignment by hand; generations from a recipe, resumed within one and between two."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from semi_methods import begun, falls, images, outputs, step, trained
from semi_trainer import TinyNet
from test_semi_training import data, log, train

import selmix.training
from selmix.data.images import ArrayImages, ImageSplit, JoinedImages
from selmix.generations import joined
from selmix.semi.crest import CrestSettings, alignment_power
from selmix.semi.fixmatch import FixMatchSettings

__all__ = ["data"]

SEMI = CrestSettings(threshold=0.4, steps_per_epoch=3)
WORDS = ("semi.method=crest_plus", "semi.generations=2", "architecture=cifar_resnet20", "--quiet")


def test_quotas_of_three_classes_by_hand():
    # counts 8, 4, 1, alpha 3: mu = (1/8)^(1/3) = 1/2 of the first, (4/8)^(1/3) = 0.794 of the second, all of the third
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TinyNet().double().eval()
    pool = images(60, 3, None)
    labels = CrestSettings().choose(network, pool, torch.tensor([8, 4, 1]))
    with torch.no_grad():
        inputs = next(pool.loads([(torch.arange(60), torch.zeros(60, dtype=torch.int64))]))
        confidence, classes = network(inputs).softmax(1).max(1)
    for label, share in enumerate((1 / 2, 0.5 ** (1 / 3), 1)):
        own = (classes == label).nonzero().flatten()
        most = own[confidence[own].argsort(descending=True)][: int(np.ceil(share * len(own)))]
        assert sorted(most.tolist()) == (labels == label).nonzero().flatten().tolist()
    assert 0 < (labels >= 0).sum() < 60


def test_the_power_of_the_prior_goes_down_from_generation_to_generation():
    assert [alignment_power(number, 6, least=0.5) for number in range(6)] == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert alignment_power(0, 1, least=0.5) == 1


@pytest.mark.parametrize(("generation", "target"), [(0, [6 / 11, 4 / 11, 1 / 11]), (5, [1 / 3, 1 / 3, 1 / 3])])
def test_alignment_by_hand(generation, target):
    # before the first batch the mean is uniform, so probabilities are weighed by the target; at t = 0 they stay
    method = begun(dataclasses.replace(SEMI, least_power=0.0), generation=generation)
    probabilities = outputs(5, 1).logits.detach().softmax(1)
    for row, aligned in zip(probabilities.tolist(), method.aligned(probabilities).tolist(), strict=True):
        raw = [value * wanted for value, wanted in zip(row, target, strict=True)]
        assert aligned == pytest.approx([value / sum(raw) for value in raw], rel=1e-6)
    if generation:
        torch.testing.assert_close(method.aligned(probabilities), probabilities)


def test_probabilities_are_divided_by_the_mean_of_the_last_128_batches():
    method, means = begun(SEMI), [[1 / 3] * 3] * 128
    for number in range(131):
        same = step(seed=number, size=3, pool_size=6)
        torch.testing.assert_close(method.history.mean(0), torch.tensor(means[-128:]).double().mean(0))
        aligned = method.aligned(same.weak.logits.softmax(1))
        loss, _ = method.share(same)  # uses the mean before this batch
        torch.testing.assert_close(loss, method.fixmatch.learn_from(same, aligned)[0])
        means.append(same.weak.logits.softmax(1).mean(0).tolist())
    expected = torch.tensor([6, 4, 1]) / 11 / torch.tensor(means[-128:]).mean(0)
    last = step(seed=1).weak.logits.softmax(1)
    torch.testing.assert_close(method.aligned(last), (last * expected) / (last * expected).sum(1, keepdim=True), rtol=1e-5, atol=1e-7)  # fmt: skip # noqa: E501


def test_alignment_changes_what_is_learned_and_the_loss_falls():
    same = step()
    aligned, plain = begun(SEMI).share(same)[0], begun(FixMatchSettings(threshold=0.4)).share(same)[0]
    assert not torch.allclose(aligned, plain)
    assert falls(SEMI)
    _, records = trained(SEMI)
    assert len(records) == 3


def test_images_of_two_sources_are_one_after_the_other():
    pixels = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((5, 2, 2), dtype=np.uint8)
    first, second = (
        ImageSplit([f"{name}{row}" for row in range(len(own))], labels, ArrayImages(own))
        for name, own, labels in (("a", pixels[:2], np.array([0, 1])), ("b", pixels[2:], None))
    )
    both = joined(first, second, np.array([-1, 2, 0]))
    assert both.ids == ["a0", "a1", "b1", "b2"]
    assert both.labels.tolist() == [0, 1, 2, 0]
    assert [np.asarray(both.images.open(row))[0, 0, 0] for row in range(4)] == [0, 1, 3, 4]
    assert isinstance(both.images, JoinedImages)
    assert len(both.images) == 4
    assert [both.images.digest(row) for row in range(4)] == [ArrayImages(pixels).digest(row) for row in (0, 1, 3, 4)]
    assert both.images.stamp(3) is None


def test_generations_from_a_recipe_and_what_the_last_one_learns_from(data, tmp_path, monkeypatch):
    seen = []
    real = selmix.training.begin_semi

    def noted(job, images, *rest, generation):
        seen.append((generation, len(images.labels), job.class_counts.tolist()))
        return real(job, images, *rest, generation=generation)

    monkeypatch.setattr("selmix.training.begin_semi", noted)
    monkeypatch.setattr("selmix.generations.begin_semi", noted)
    words = ("semi.generations=3", "stage1.epochs=1", *WORDS[:1], *WORDS[2:])
    result = train(tmp_path, "a", *words)
    assert result.exit_code == 0, result.output
    chosen = [
        load_file(tmp_path / "a" / f"generations/{number}/pseudo_labels.safetensors")["labels"] for number in (1, 2)
    ]
    assert [len(labels) for labels in chosen] == [30, 30]
    joining = [int((labels >= 0).sum()) for labels in chosen]
    assert seen == [(0, 20, [2] * 10), (1, 20 + joining[0], [2] * 10), (2, 20 + joining[1], [2] * 10)]
    assert min(joining) > 0
    assert [row["epoch"] for row in log(tmp_path / "a" / "generations" / "2")] == [1]
    assert [row["epoch"] for row in log(tmp_path / "a")] == [1]
    # a label of the pool is not looked at
    data.splits["unlabeled"] = dataclasses.replace(data.splits["unlabeled"], labels=np.arange(30) % 10)
    assert train(tmp_path, "b", *words).exit_code == 0
    assert (tmp_path / "a" / "last.safetensors").read_bytes() == (tmp_path / "b" / "last.safetensors").read_bytes()


def interrupted(tmp_path, out, monkeypatch, *, after):
    """Train until so many epochs are logged."""
    lines, real = iter(range(after)), selmix.training.EpochLog.__call__

    def stopped(own, record):
        if next(lines, None) is None:
            raise KeyboardInterrupt
        real(own, record)

    with monkeypatch.context() as patch:
        patch.setattr(selmix.training.EpochLog, "__call__", stopped)
        assert train(tmp_path, out, *WORDS).exit_code == 130


def test_generations_go_on_after_an_interruption_within_one_and_between_two(data, tmp_path, monkeypatch):
    assert train(tmp_path, "whole", *WORDS).exit_code == 0
    for after in (1, 2, 3):
        out = f"part{after}"
        interrupted(tmp_path, out, monkeypatch, after=after)
        assert (tmp_path / out / "generations/1/pseudo_labels.safetensors").exists() == (after > 1)
        assert train(tmp_path, out, *WORDS, "--resume").exit_code == 0
        for name in ("last.safetensors", "generations/1/pseudo_labels.safetensors"):
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / out / name).read_bytes()


def test_a_training_that_fails_before_its_first_checkpoint_leaves_nothing(data, tmp_path, monkeypatch):
    def failing(own, record):
        raise KeyboardInterrupt

    monkeypatch.setattr(selmix.training.EpochLog, "__call__", failing)
    assert train(tmp_path, "a", *WORDS).exit_code == 130
    assert not (tmp_path / "a").exists()


def test_pseudo_labels_of_another_pool_are_refused(data, tmp_path, monkeypatch):
    interrupted(tmp_path, "a", monkeypatch, after=2)
    data.splits["unlabeled"] = data.splits["unlabeled"].subset(np.arange(29))
    result = train(tmp_path, "a", *WORDS, "--resume")
    assert result.exit_code == 3
    assert "is of another pool" in " ".join(result.stderr.split())
