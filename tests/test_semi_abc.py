"""ABC: who takes part, what it learns from, and which head has the last word."""

import dataclasses

import pytest
import torch
from semi_methods import COUNTS, begun, falls, step, trained

from selmix.errors import DataError
from selmix.semi.abc import AbcSettings
from selmix.semi.fixmatch import FixMatchSettings

SEMI = AbcSettings(threshold=0.4, steps_per_epoch=3)


def naive(method, same, *, soft, kept, used):
    """Return the loss of the head, image by image."""
    weight, bias = method.head.weight, method.head.bias
    total = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(same.labels):
        logs = (weight @ same.labeled.features[row] + bias).log_softmax(0)
        total = total - kept(int(label)) * logs[label] / len(same.labels)
    for row in range(same.pool_batch):
        target = (weight @ same.weak.features[row] + bias).softmax(0).detach()
        logs = (weight @ same.strong.features[row] + bias).log_softmax(0)
        if target.max() >= 0.4:
            loss = -(target * logs).sum() if soft else -logs[target.argmax()]
            total = total + used(int(target.argmax())) * loss / same.pool_batch
    return total


@pytest.mark.parametrize("form", ["soft", "hard"])
def test_with_equal_counts_everything_takes_part_at_any_time(form):
    method = begun(dataclasses.replace(SEMI, pseudo_labels=form), torch.tensor([5, 5, 5]))
    for epoch in (0, 2):
        same = step(epoch=epoch)
        loss, figures = method.share(same)
        expected = naive(method, same, soft=form == "soft", kept=lambda label: 1, used=lambda label: 1)
        plain, _ = begun(FixMatchSettings(threshold=0.4)).share(same)
        torch.testing.assert_close(loss, plain + expected)
        parts = figures["balanced_labeled_loss"] + figures["balanced_unlabeled_loss"]
        torch.testing.assert_close(parts, expected.detach())
        assert 0 < figures["balanced_pseudo_label_share"] < 1


def test_images_take_part_in_proportion_to_the_smallest_class(monkeypatch):
    # kappa is 1/6, 1/4, 1 at counts 6, 4, 1; epoch 2 of 3: 1 - 2/3 (1 - kappa) = 4/9, 1/2, 1
    method, same = begun(SEMI), step(epoch=2)
    monkeypatch.setattr(torch, "bernoulli", lambda chances: chances)
    loss, _ = method.share(same)
    plain, _ = method.fixmatch.share(same)
    kappa, later = [1 / 6, 1 / 4, 1], [4 / 9, 1 / 2, 1]
    expected = naive(method, same, soft=True, kept=kappa.__getitem__, used=later.__getitem__)
    torch.testing.assert_close(loss - plain, expected, rtol=1e-6, atol=1e-7)  # kappa is float32
    # at the beginning all unlabeled images do
    first = step(epoch=0)
    expected = naive(method, first, soft=True, kept=kappa.__getitem__, used=lambda label: 1)
    torch.testing.assert_close(method.share(first)[0] - plain, expected, rtol=1e-6, atol=1e-7)


def test_the_draws_have_the_probabilities():
    # on average over draws the loss is that of the probabilities: 400 draws, whose mean has its own standard error
    method, same = begun(SEMI), step(epoch=2)
    torch.manual_seed(0)
    draws = torch.stack([method.share(same)[1]["balanced_labeled_loss"] for _ in range(400)])
    logs = method.head(same.labeled.features).log_softmax(1)
    losses = -logs.detach()[torch.arange(8), same.labels] * torch.tensor([1 / 6, 1 / 4, 1])[same.labels]
    assert abs(float(draws.mean() - losses.mean())) < 4 * float(draws.std()) / 20


def test_gradients_reach_the_features_and_no_pseudo_label():
    method, same = begun(SEMI, torch.tensor([5, 5, 5])), step()
    expected = naive(method, same, soft=True, kept=lambda label: 1, used=lambda label: 1)
    (gradient,) = torch.autograd.grad(expected, [method.head.weight])
    method.share(same)[0].backward()
    torch.testing.assert_close(method.head.weight.grad, gradient)
    assert same.labeled.features.grad.abs().sum() > 0
    assert same.strong.features.grad.abs().sum() > 0
    assert method.inference_head() is method.head


def test_a_class_without_labels_is_refused():
    with pytest.raises(DataError, match="1 have none, with numbers 1"):
        begun(SEMI, torch.tensor([5, 0, 1]))


def test_training_by_abc_learns_and_the_loss_falls():
    assert falls(dataclasses.replace(SEMI, threshold=0.0))
    state, records = trained(SEMI)
    assert {"balanced_labeled_loss", "balanced_unlabeled_loss", "balanced_pseudo_label_share"} <= records[0].keys()
    before = begun(SEMI).head.weight
    assert not torch.equal(state.model.method.head.weight, before)
    torch.testing.assert_close(state.model.method.keep, (1 / COUNTS).double(), rtol=1e-6, atol=0)
