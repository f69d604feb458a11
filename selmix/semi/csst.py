"""CSST: cost-sensitive self-training for the worst recall, or for the mean recall with a floor of every coverage.

While the multipliers are held, what is maximised is linear in the confusion matrix: sum_ij G_ij C_ij, with G_ij the
gain of predicting j where the truth is i, and C that of the prior pi of the labeled images. A val of prior mu has
recalls R_ii = C_ii / pi_i and coverages sum_i mu_i R_ij = sum_i (mu_i / pi_i) C_ij. So

    min recall:  l on the simplex, l_i <- l_i exp(-w R_ii) / Z,   G = diag(l_i / pi_i);
    coverage:    l_j <- max(0, l_j - w (coverage_j - floor)),     G_ij = 1[i = j] / (k pi_i) + l_j mu_i / pi_i.

Where val has the prior of the labeled images, the last term is l_j, as it is published.

Sources: Rangwani et al., "Cost-Sensitive Self-Training for Optimizing Non-Decomposable Metrics", NeurIPS 2022;
Narasimhan and Menon, "Training Over-Parameterized Models with Non-Decomposable Objectives", NeurIPS 2021. In the
released code of the former the multipliers of coverage begin anew at every refresh; these go on.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch.nn import functional as F

from selmix.confusion import coverage, joint_confusion, row_normalised
from selmix.constraints import ascend_multipliers
from selmix.semi.method import EpochEnd, Method, Step
from selmix.semi.settings import Beginning, SemiSettings
from selmix.stage1.loss_weights import known_counts
from selmix.stage1.objective import Objective

Goal = Literal["min_recall", "coverage"]


@dataclass(frozen=True)
class CsstSettings(SemiSettings):
    """Cost-sensitive self-training.

    Attributes:
        goal: the worst recall; or the mean recall while every class is predicted often enough.
        coverage_floor: least coverage of a class, in units of 1 / k, for the goal `coverage`.
        multiplier_rate: of the multipliers, an epoch.
        divergence: of the wanted distribution over classes from that of the weak view, below which a pseudo-label is
            used.
    """

    method: Literal["csst"] = "csst"
    goal: Goal = "min_recall"
    coverage_floor: float = 0.95
    multiplier_rate: float = 0.1
    divergence: float = 0.05

    needs_val: ClassVar[bool] = True
    own_loss: ClassVar[bool] = True

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return {
            "coverage_floor": ("in [0, 1]", 0 <= self.coverage_floor <= 1),
            "multiplier_rate": ("> 0", self.multiplier_rate > 0),
            "divergence": ("> 0", self.divergence > 0),
        }

    def begin(self, objective: Objective, beginning: Beginning) -> Method:
        """Return the method before its first step; the objective is not asked."""
        counts = known_counts(beginning.class_counts).double().to(beginning.class_counts.device)
        return CostSensitive(counts / counts.sum(), self)


class CostSensitive(Method):
    """Learning by gains, refreshed from the confusion matrix of val after every epoch.

    With D = diag(G) and M = G D^-1, the loss of logits f and class y is

        -sum_j M_yj log softmax(f - log D)_j,

    averaged over the labeled images; and over the unlabeled ones, with y the prediction of the weak view and f the
    logits of the strong one, where KL(G_y / |G_y| || softmax of the weak view) is below `divergence`. For a diagonal G
    that is FixMatch's mask at confidence exp(-divergence).
    """

    prior: torch.Tensor
    multipliers: torch.Tensor
    gains: torch.Tensor

    def __init__(self, prior: torch.Tensor, settings: CsstSettings) -> None:
        """Take pi, float64 [k], and what multipliers and mask go by."""
        super().__init__()
        self.settings = settings
        multipliers = torch.full_like(prior, 1 / len(prior))
        self.register_buffer("prior", prior)
        self.register_buffer("multipliers", multipliers)
        # before val has been looked at: as if it had the prior of the labeled images
        self.register_buffer("gains", gain_matrix(multipliers, prior, prior, settings.goal))

    def share(self, step: Step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return this process's share of the loss, of its two parts, and of the pseudo-labels that are used."""
        labeled = self.losses(step.labeled.logits, step.labels[step.rows]).sum() / len(step.labels)
        pseudo_labels = step.weak.logits.argmax(1)
        used = self.divergences(step.weak.logits, pseudo_labels) < self.settings.divergence
        unlabeled = (used * self.losses(step.strong.logits, pseudo_labels)).sum() / step.pool_batch
        figures = {
            "labeled_loss": labeled.detach(),
            "unlabeled_loss": unlabeled.detach(),
            "pseudo_label_share": used.double().sum() / step.pool_batch,
        }
        return labeled + self.settings.unlabeled_weight * unlabeled, figures

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of every row, [m]."""
        diagonal = self.gains.diagonal()
        weights = (self.gains / diagonal)[labels].to(logits)
        return F.cross_entropy(logits - diagonal.log().to(logits), weights, reduction="none")

    def divergences(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return KL(G_y / |G_y| || softmax of the logits) of every row, [m]."""
        wanted = F.normalize(self.gains, p=1)[labels].to(logits)
        return F.kl_div(logits.log_softmax(1), wanted, reduction="none").sum(1)

    def end_epoch(self, ended: EpochEnd) -> None:
        """Move the multipliers by the confusion matrix of val, and take the gains that follow."""
        assert ended.confusion is not None
        confusion = joint_confusion(ended.confusion()).to(self.prior)
        if self.settings.goal == "min_recall":
            multipliers = sharpen(self.multipliers, row_normalised(confusion).diagonal(), self.settings.multiplier_rate)
        else:
            slack = coverage(confusion) - self.settings.coverage_floor / len(self.prior)
            multipliers = ascend_multipliers(self.multipliers, slack, rate=self.settings.multiplier_rate)
        self.multipliers.copy_(multipliers)
        self.gains.copy_(gain_matrix(multipliers, self.prior, confusion.sum(1), self.settings.goal))


def sharpen(multipliers: torch.Tensor, recalls: torch.Tensor, rate: float) -> torch.Tensor:
    """Return l_i exp(-rate recall_i) / Z, [k]."""
    return (multipliers.log() - rate * recalls).softmax(0)


def gain_matrix(multipliers: torch.Tensor, prior: torch.Tensor, val_prior: torch.Tensor, goal: Goal) -> torch.Tensor:
    """Return G, [k, k], of multipliers l, pi and mu, each [k]."""
    if goal == "min_recall":
        return torch.diag(multipliers / prior)
    return torch.diag(1 / (len(prior) * prior)) + multipliers * (val_prior / prior)[:, None]
