"""ABC: a second head that learns from as many images of each class."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from selmix.semi.fixmatch import FixMatch, ThresholdSettings
from selmix.semi.method import Method, Step
from selmix.semi.settings import Beginning
from selmix.stage1.loss_weights import known_counts, network_table
from selmix.stage1.objective import Objective


@dataclass(frozen=True)
class AbcSettings(ThresholdSettings):
    """FixMatch with the auxiliary balanced classifier, which has the last word.

    Attributes:
        pseudo_labels: of the balanced head: its probabilities, or the class that it takes for the most likely.
    """

    method: Literal["abc"] = "abc"
    pseudo_labels: Literal["soft", "hard"] = "soft"

    def begin(self, objective: Objective, beginning: Beginning) -> Method:
        """Return the method before its first step."""
        counts = known_counts(beginning.class_counts).double()
        return BalancedClassifier(
            self.fixmatch(objective),
            num_features=beginning.num_features,
            keep=network_table(beginning.class_counts, counts.min() / counts),
            soft=self.pseudo_labels == "soft",
            epochs=beginning.epochs,
        )


class BalancedClassifier(Method):
    """FixMatch, and beside it a head of the same features whose losses leave images of large classes out at random.

    An image of class y takes part in a step's loss of the head with probability kappa_y = min_k N_k / N_y. The head
    labels the pool by itself: with q its probabilities on the weak view, c = argmax q, and e of E epochs over, the loss
    is the mean over all unlabeled images of

        1[q_c >= threshold] * B * cross-entropy(the head on the strong view, q),   B ~ Bernoulli(1 - e/E (1 - kappa_c)).

    Both losses are added to those of FixMatch, and their gradients flow into the features as well.

    Source: Lee, Shin and Kim, "ABC: Auxiliary Balanced Classifier for Class-Imbalanced Semi-Supervised Learning",
    NeurIPS 2021, equations 1 to 5; with one strong view of an image instead of two.
    """

    keep: torch.Tensor

    def __init__(self, fixmatch: FixMatch, *, num_features: int, keep: torch.Tensor, soft: bool, epochs: int) -> None:
        """Take FixMatch, the width of the features, kappa [k], the form of pseudo-labels, and E."""
        super().__init__()
        self.fixmatch, self.soft, self.epochs = fixmatch, soft, epochs
        self.head = nn.Linear(num_features, len(keep))
        self.register_buffer("keep", keep)

    def share(self, step: Step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return this process's share of the loss, of its parts, and of the pseudo-labels that are used."""
        loss, figures = self.fixmatch.share(step)
        labels = step.labels[step.rows]
        kept = torch.bernoulli(self.keep[labels])
        labeled_losses = F.cross_entropy(self.head(step.labeled.features), labels, reduction="none")
        labeled = (kept * labeled_losses).sum() / len(step.labels)

        with torch.no_grad():
            probabilities = self.head(step.weak.features).softmax(1)
        confidence, classes = probabilities.max(1)
        chance = 1 - step.epoch / self.epochs * (1 - self.keep[classes])
        used = (confidence >= self.fixmatch.threshold) * torch.bernoulli(chance)
        target = probabilities if self.soft else classes
        unlabeled_losses = F.cross_entropy(self.head(step.strong.features), target, reduction="none")
        unlabeled = (used * unlabeled_losses).sum() / step.pool_batch
        figures |= {
            "balanced_labeled_loss": labeled.detach(),
            "balanced_unlabeled_loss": unlabeled.detach(),
            "balanced_pseudo_label_share": used.double().sum() / step.pool_batch,
        }
        return loss + labeled + unlabeled, figures

    def inference_head(self) -> nn.Linear:
        """Return the balanced head."""
        return self.head
