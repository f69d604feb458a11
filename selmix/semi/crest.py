"""CReST+: training begins anew with the best pseudo-labels among the labels, rare classes first."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from selmix.pseudo.selection import Candidates, Selection, candidates, select
from selmix.ranks import ALONE, Ranks
from selmix.semi.fixmatch import FixMatch, ThresholdSettings
from selmix.semi.method import Method, Step
from selmix.semi.settings import Beginning
from selmix.stage1.images import TrainingImages
from selmix.stage1.objective import Objective
from selmix.stage1.placing import in_order

_BATCHES = 128  # whose predictions are averaged, as in ReMixMatch


@dataclass(frozen=True)
class CrestSettings(ThresholdSettings):
    """FixMatch in generations, with aligned pseudo-labels.

    Attributes:
        generations: trainings, each of so many epochs as [stage1] says; the last one is kept.
        quota: alpha of the quotas: the larger, the more of each class joins the labeled images.
        least_power: what the class prior is raised to in the last generation; 1 in the first, a line in between.
    """

    method: Literal["crest_plus"] = "crest_plus"
    generations: int = 6
    quota: float = 3.0
    least_power: float = 0.5

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return super().rules() | {
            "generations": (">= 1", self.generations >= 1),
            "quota": ("> 0", self.quota > 0),
            "least_power": ("in [0, 1]", 0 <= self.least_power <= 1),
        }

    def begin(self, objective: Objective, beginning: Beginning) -> Method:
        """Return the method before its first step."""
        power = alignment_power(beginning.generation, self.generations, least=self.least_power)
        target = beginning.class_counts.clamp_min(1).float() ** power
        return AlignedFixMatch(self.fixmatch(objective), target / target.sum())

    @torch.no_grad()
    def choose(
        self, network: nn.Module, pool: TrainingImages, class_counts: torch.Tensor, *, ranks: Ranks = ALONE
    ) -> torch.Tensor:
        """Return which images of the pool join the labeled ones, and as what: int64 [m], -1 for those that do not.

        Args:
            network: image -> logits, in eval mode.
            pool: not augmented.
            class_counts: int64 [k] labeled images of the first generation.
            ranks: the processes that share the pool.
        """
        own = torch.arange(len(pool.labels)).tensor_split(ranks.count)[ranks.rank]
        found = candidates(network(inputs).softmax(1).cpu() for inputs in pool.loads(in_order(own)))
        whole = Candidates(*(ranks.gathered(part) for part in found))
        return select(whole, Selection(quota=self.quota), class_counts=class_counts.cpu())


def alignment_power(generation: int, generations: int, *, least: float) -> float:
    """Return t: 1 in the first generation, `least` in the last, on a line in between.

    >>> [alignment_power(generation, 3, least=0.5) for generation in range(3)]
    [1.0, 0.75, 0.5]
    """
    return 1 - generation / max(1, generations - 1) * (1 - least)


class AlignedFixMatch(Method):
    """FixMatch whose probabilities are brought to a distribution over classes.

    With q the softmax of a weak view, r the target and m the mean of q over the last 128 batches, which are uniform
    before the first, FixMatch takes for its probabilities q r / m, scaled to sum to 1.

    Source: Wei et al., "CReST: A Class-Rebalancing Self-Training Framework for Imbalanced Semi-Supervised Learning",
    CVPR 2021, section 3.3, with r the prior of the labeled images to the power t, scaled; Berthelot et al.,
    "ReMixMatch", ICLR 2020, for the mean.
    """

    target: torch.Tensor
    history: torch.Tensor

    def __init__(self, fixmatch: FixMatch, target: torch.Tensor) -> None:
        """Take FixMatch and r [k]."""
        super().__init__()
        self.fixmatch = fixmatch
        self.register_buffer("target", target)
        self.register_buffer("history", torch.full_like(target, 1 / len(target)).repeat(_BATCHES, 1))

    def share(self, step: Step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return this process's share of the loss, of its two parts, and of the pseudo-labels that are used."""
        probabilities = step.weak.logits.softmax(1)
        shares = self.fixmatch.learn_from(step, self.aligned(probabilities))
        mean = step.ranks.total(probabilities.sum(0)) / step.pool_batch
        self.history.copy_(torch.cat([self.history[1:], mean[None]]))
        return shares

    def aligned(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return the aligned probabilities, [m, k]."""
        weighted = probabilities * (self.target / self.history.mean(0))
        return weighted / weighted.sum(1, keepdim=True)
