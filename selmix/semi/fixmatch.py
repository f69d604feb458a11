"""FixMatch: the network's own confident predictions on weak views are labels of the strong ones."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

from selmix.semi.method import Method, Step
from selmix.semi.settings import Beginning, SemiSettings
from selmix.stage1.objective import Objective


@dataclass(frozen=True)
class ThresholdSettings(SemiSettings):
    """What FixMatch and all methods around it have in common.

    Attributes:
        threshold: least confidence of a pseudo-label that is used.
    """

    threshold: float = 0.95

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return {"threshold": (">= 0", self.threshold >= 0)}

    def fixmatch(self, objective: Objective) -> "FixMatch":
        """Return FixMatch, by itself or for another method to build on."""
        return FixMatch(objective, threshold=self.threshold, unlabeled_weight=self.unlabeled_weight)


@dataclass(frozen=True)
class FixMatchSettings(ThresholdSettings):
    """FixMatch by itself."""

    method: Literal["fixmatch"] = "fixmatch"

    def begin(self, objective: Objective, beginning: Beginning) -> Method:
        """Return the method before its first step."""
        return self.fixmatch(objective)


class FixMatch(Method):
    """FixMatch; with logit adjustment in the objective of the labeled images, FixMatch with logit adjustment.

    The loss is that of the labeled images and `unlabeled_weight` times the mean over all unlabeled ones of

        1[max_k p_k >= threshold] * cross-entropy(logits of the strong view, argmax_k p_k),

    p the softmax of the logits of the weak view. These are raw logits in both: what the objective adds to logits for
    the sake of the labeled class prior has no place in a pseudo-label.

    Source: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020,
    equations 3 and 4; with logit adjustment as in Ramasubramanian et al., ICLR 2024 (SelMix).
    """

    def __init__(self, objective: Objective, *, threshold: float, unlabeled_weight: float) -> None:
        """Take what is minimised on labeled images, the least confidence of a pseudo-label, and their weight."""
        super().__init__()
        self.objective, self.threshold, self.unlabeled_weight = objective, threshold, unlabeled_weight

    def share(self, step: Step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return this process's share of the loss, of its two parts, and of the pseudo-labels that are used."""
        return self.learn_from(step, step.weak.logits.softmax(1))

    def learn_from(self, step: Step, probabilities: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the same with other probabilities p, [m', k] without gradient."""
        labeled = self.objective.share(step.labeled.logits, step.labels, step.rows, epoch=step.epoch)
        confidence, pseudo_labels = probabilities.max(1)
        used = confidence >= self.threshold
        losses = F.cross_entropy(step.strong.logits, pseudo_labels, reduction="none")
        unlabeled = (used * losses).sum() / step.pool_batch
        figures = {
            "labeled_loss": labeled.detach(),
            "unlabeled_loss": unlabeled.detach(),
            "pseudo_label_share": used.double().sum() / step.pool_batch,
        }
        return labeled + self.unlabeled_weight * unlabeled, figures
