"""What a method makes of the labeled images and the pool of unlabeled ones: the contract with the loop."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from selmix.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Outputs:
    """What the network says of some images.

    Attributes:
        features: [m, d], not in half precision.
        logits: [m, k] of its own classifier, likewise.
    """

    features: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True)
class Step:
    """What one process has of a step with b labeled and u unlabeled images.

    Attributes:
        labeled: of its labeled images, weakly augmented.
        strong: of its unlabeled images, strongly augmented.
        weak: of the same unlabeled images, weakly augmented; without gradient.
        average: what the averaged network says of its labeled images, without gradient; None where `wants_average` of
            the method is false.
        labels: int64 [b], of the whole labeled batch.
        rows: int64 [m], which of `labels` are those of `labeled`.
        positions: int64 [m'], where in the pool its unlabeled images are; on the CPU.
        pool_batch: u, over all processes.
        epoch: from 0.
        ranks: the processes that share the step.
    """

    labeled: Outputs
    strong: Outputs
    weak: Outputs
    average: Outputs | None
    labels: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    pool_batch: int
    epoch: int
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class EpochEnd:
    """What is known when an epoch is over.

    Attributes:
        epoch: that is over, from 0.
        confusion: counts, int64 [k, k] with rows true, of the network that is evaluated, on val; computed when it is
            called, by all processes together. None where there is no val.
        ranks: the processes.
    """

    epoch: int
    confusion: Callable[[], torch.Tensor] | None
    ranks: Ranks = ALONE


class Method(nn.Module):
    """How to learn from labeled and unlabeled images; one module for each, `share` at the least.

    It lives inside the network that is trained, so its parameters are optimised, averaged and in the checkpoint, and
    its buffers are in the checkpoint: whatever it remembers from step to step must be a buffer, of one shape for good,
    for training goes on from a checkpoint to the very same weights. Buffers of the averaged network are copies, of
    the last step. Parameters of one axis are spared from weight decay where `decay_all` is false.

    All processes call the same methods in the same order; what is remembered must be the same on each, so counts are
    added up with `step.ranks.total`, and rows put together with `step.ranks.gathered`. Randomness is drawn from
    torch's global stream, which is that of the epoch and the process.
    """

    wants_average = False

    def share(self, step: Step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what the rows of this process contribute to the loss of a step, and figures for the log.

        The shares of all processes add up to the loss, and so do the figures, each a number without gradient; the log
        has the means of their sums over an epoch. Every parameter of the method must take part in every loss.
        """
        raise NotImplementedError

    def inference_head(self) -> nn.Linear | None:
        """Return the head on the features that is evaluated and kept; None for the network's own classifier."""
        return None

    def end_epoch(self, ended: EpochEnd) -> None:
        """Take note that an epoch is over, before its checkpoint is written."""
