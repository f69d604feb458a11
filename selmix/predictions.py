"""What a head predicts for features in blocks: the most likely class of each sample, and how sure it is."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from selmix.features.rows import Rows, row_blocks
from selmix.heads import LinearHead
from selmix.ranks import Ranks

_LOGITS = 1 << 22  # in memory at a time


@dataclass(frozen=True)
class Predictions:
    """What samples are predicted to be, and with what probability.

    Attributes:
        classes: int64 [n].
        confidence: float64 [n], the largest probability.
    """

    classes: torch.Tensor
    confidence: torch.Tensor

    @classmethod
    def empty(cls, count: int) -> "Predictions":
        """Return room for so many."""
        return cls(torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.float64))

    @classmethod
    def of_logits(cls, logits: torch.Tensor) -> "Predictions":
        """Return those of logits [n, k]."""
        confidence, classes = logits.double().softmax(1).max(1)
        return cls(classes, confidence)

    def put(self, places: slice | torch.Tensor, others: "Predictions") -> None:
        """Overwrite some."""
        self.classes[places], self.confidence[places] = others.classes, others.confidence

    def gathered(self, ranks: Ranks) -> "Predictions":
        """Return those of all ranks."""
        return Predictions(ranks.gathered(self.classes), ranks.gathered(self.confidence))


def logit_blocks(
    head: LinearHead, features: Rows, positions: torch.Tensor | None = None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the logits [n, k] of features [n, d], or of those at `positions`, in blocks, each with its place."""
    height = max(1, _LOGITS // head.num_classes)
    for block, rows in row_blocks(features, positions):
        start = block.start
        for part in rows.split(height):
            yield slice(start, start + len(part)), head.logits(part)
            start += len(part)


def predict(head: LinearHead, features: Rows, *, positions: torch.Tensor | None = None) -> Predictions:
    """Return the predictions of features [n, d], or of those at `positions`, int64 [m]."""
    result = Predictions.empty(len(features) if positions is None else len(positions))
    for block, logits in logit_blocks(head, features, positions):
        result.put(block, Predictions.of_logits(logits))
    return result
