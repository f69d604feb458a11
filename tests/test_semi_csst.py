"""CSST: gains and multipliers by hand, what the loss is for a diagonal gain, the mask, val."""

import dataclasses
import math

import pytest
import torch
from semi_methods import COUNTS, begun, falls, outputs, step, trained
from torch.nn import functional as F

from selmix.semi.csst import CsstSettings, gain_matrix, sharpen
from selmix.semi.fixmatch import FixMatchSettings
from selmix.semi.method import EpochEnd
from selmix.stage1.loss_settings import LogitAdjustmentSettings

SEMI = CsstSettings(steps_per_epoch=3)
PRIOR = COUNTS.double() / 11


def test_the_first_gains_are_logit_adjustment_and_the_mask_of_fixmatch():
    # l = 1/3: G = diag(1 / 3 pi), a constant away from logit adjustment at tau = 1, on both losses
    method, same = begun(SEMI), step()
    adjusted = LogitAdjustmentSettings(tau=1.0).objective(COUNTS)
    loss, figures = method.share(same)
    labeled = adjusted.share(same.labeled.logits, same.labels, same.rows, epoch=0)
    torch.testing.assert_close(figures["labeled_loss"], labeled.detach(), rtol=1e-6, atol=0)
    confidence, classes = same.weak.logits.softmax(1).max(1)
    used = confidence > math.exp(-0.05)
    unlabeled = adjusted.losses(same.strong.logits, classes)[used].sum() / 40
    torch.testing.assert_close(loss, labeled + unlabeled, rtol=1e-6, atol=0)
    plain = begun(FixMatchSettings(threshold=math.exp(-0.05))).share(same)[1]
    assert figures["pseudo_label_share"] == plain["pseudo_label_share"]
    assert 0 < figures["pseudo_label_share"] < 1


def test_a_full_gain_matrix_by_hand():
    method = begun(dataclasses.replace(SEMI, goal="coverage"))
    gains = torch.tensor([[2.0, 0.5, 0.0], [1.0, 4.0, 3.0], [0.25, 0.0, 8.0]]).double()
    method.gains.copy_(gains)
    logits, labels = outputs(6, 5).logits, torch.tensor([0, 1, 2, 0, 1, 2])
    losses, divergences = [], []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        shifted = [value - math.log(gains[j, j]) for j, value in enumerate(row)]
        total = math.log(sum(map(math.exp, shifted)))
        losses.append(-sum(float(gains[label, j] / gains[j, j]) * (shifted[j] - total) for j in range(3)))
        wanted = (gains[label] / gains[label].sum()).tolist()
        plain = math.log(sum(map(math.exp, row)))
        divergences.append(sum(w * (math.log(w) - value + plain) for w, value in zip(wanted, row, strict=True) if w))
    assert method.losses(logits, labels).tolist() == pytest.approx(losses)
    assert method.divergences(logits, labels).tolist() == pytest.approx(divergences)


def test_a_row_of_gains_that_spreads_takes_what_spreads_likewise():
    method = begun(dataclasses.replace(SEMI, goal="coverage"))
    method.gains.copy_(torch.tensor([[6.0, 2.0, 2.0], [1.0, 8.0, 1.0], [0.0, 0.0, 1.0]]))
    logits = torch.tensor([[0.6, 0.2, 0.2], [0.98, 0.01, 0.01], [0.1, 0.8, 0.1], [0.01, 0.01, 0.98]]).double().log()
    near = method.divergences(logits, logits.argmax(1)) < 0.05
    assert near.tolist() == [True, False, True, True]


def test_multipliers_of_the_worst_recall_by_hand():
    multipliers, recalls = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([1.0, 0.5, 0.0]).double()
    raw = [0.5 * math.exp(-0.1), 0.3 * math.exp(-0.05), 0.2]
    assert sharpen(multipliers, recalls, 0.1).tolist() == pytest.approx([value / sum(raw) for value in raw])


def ended(counts):
    return EpochEnd(0, lambda: torch.tensor(counts).double())


def test_an_epoch_moves_the_gains_by_the_recalls_of_val():
    method = begun(SEMI)
    method.end_epoch(ended([[4, 0, 0], [1, 1, 0], [3, 0, 1]]))  # recalls 1, 1/2, 1/4
    raw = [math.exp(-0.1 * recall) for recall in (1, 1 / 2, 1 / 4)]
    multipliers = torch.tensor([value / sum(raw) for value in raw]).double()
    torch.testing.assert_close(method.multipliers, multipliers)
    torch.testing.assert_close(method.gains, torch.diag(multipliers * 11 / COUNTS))


def test_an_epoch_moves_the_gains_by_the_coverages_of_val_and_goes_on_from_there():
    method = begun(dataclasses.replace(SEMI, goal="coverage", multiplier_rate=2.0))
    # coverages 8/10, 1/10, 1/10; floor 0.95 / 3; from 1/3: 1/3 - 2 (0.8 - 0.31667) < 0, 1/3 + 2 * 0.21667 = 0.76667
    method.end_epoch(ended([[4, 0, 0], [1, 1, 0], [3, 0, 1]]))
    assert method.multipliers.tolist() == pytest.approx([0, 0.766667, 0.766667], abs=1e-6)
    # mu of val: 4/10, 2/10, 4/10, pi 6/11, 4/11, 1/11
    shift = [0.4 * 11 / 6, 0.2 * 11 / 4, 0.4 * 11]
    diagonal = [11 / 18, 11 / 12, 11 / 3]
    expected = [[0.0] * 3 for _ in range(3)]
    for i in range(3):
        for j in range(3):
            expected[i][j] = (diagonal[i] if i == j else 0) + (0 if j == 0 else 0.766667) * shift[i]
    torch.testing.assert_close(method.gains, torch.tensor(expected).double(), rtol=1e-5, atol=1e-6)
    method.end_epoch(ended([[4, 0, 0], [1, 1, 0], [3, 0, 1]]))
    assert method.multipliers.tolist() == pytest.approx([0, 1.2, 1.2], abs=1e-6)


def test_where_val_has_the_prior_of_the_labels_the_gains_are_the_published_ones():
    multipliers = torch.tensor([0.2, 0.0, 0.7]).double()
    expected = torch.diag(1 / (3 * PRIOR)) + multipliers
    torch.testing.assert_close(gain_matrix(multipliers, PRIOR, PRIOR, "coverage"), expected)


def test_gains_are_the_derivative_of_what_is_maximised():
    # mean recall and l times the coverages of val, as functions of the joint matrix under the prior of the labels
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    joint = (PRIOR[:, None] * rows / rows.sum(1, keepdim=True)).requires_grad_()
    multipliers, mu = torch.tensor([0.2, 0.1, 0.7]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
    recalls = joint / PRIOR[:, None]
    (recalls.diagonal().mean() + multipliers @ (mu[:, None] * recalls).sum(0)).backward()
    torch.testing.assert_close(gain_matrix(multipliers, PRIOR, mu, "coverage"), joint.grad)
    joint.grad = None
    (multipliers @ (joint / PRIOR[:, None]).diagonal()).backward()
    torch.testing.assert_close(gain_matrix(multipliers, PRIOR, mu, "min_recall"), joint.grad)


@pytest.mark.parametrize("goal", ["min_recall", "coverage"])
def test_training_by_csst_follows_val_and_its_loss_falls(goal):
    semi = dataclasses.replace(SEMI, goal=goal, divergence=1.0)
    assert falls(semi)
    state, records = trained(semi, epochs=2)
    method = state.model.method
    assert not torch.equal(method.multipliers, torch.full((3,), 1 / 3).double())
    assert torch.equal(state.kept.method.prior, PRIOR)
    assert all(math.isfinite(record["loss"]) for record in records)
    assert F.normalize(method.gains, p=1).sum(1).tolist() == pytest.approx([1, 1, 1])
