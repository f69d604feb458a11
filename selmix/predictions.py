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
        of_truth: float64 [n], the probability of the true class, where that was given.
    """

    classes: torch.Tensor
    confidence: torch.Tensor
    of_truth: torch.Tensor | None = None

    @classmethod
    def empty(cls, count: int, *, judged: bool = False) -> "Predictions":
        """Return room for so many; `judged`, also for the probabilities of true classes."""
        number = torch.float64
        of_truth = torch.empty(count, dtype=number) if judged else None
        return cls(torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=number), of_truth)

    @classmethod
    def of_logits(cls, logits: torch.Tensor, labels: torch.Tensor | None = None) -> "Predictions":
        """Return those of logits [n, k], of samples whose true classes may be given, int64 [n]."""
        probabilities = logits.double().softmax(1)
        confidence, classes = probabilities.max(1)
        return cls(classes, confidence, None if labels is None else probabilities.gather(1, labels[:, None])[:, 0])

    def put(self, places: slice | torch.Tensor, others: "Predictions") -> None:
        """Overwrite some."""
        self.classes[places], self.confidence[places] = others.classes, others.confidence
        if self.of_truth is not None and others.of_truth is not None:
            self.of_truth[places] = others.of_truth

    def gathered(self, ranks: Ranks) -> "Predictions":
        """Return those of all ranks."""
        of_truth = None if self.of_truth is None else ranks.gathered(self.of_truth)
        return Predictions(ranks.gathered(self.classes), ranks.gathered(self.confidence), of_truth)


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


def predict(
    head: LinearHead, features: Rows, *, positions: torch.Tensor | None = None, labels: torch.Tensor | None = None
) -> Predictions:
    """Return the predictions of features [n, d], or of those at `positions`, int64 [m], whose labels may be given."""
    count = len(features) if positions is None else len(positions)
    result = Predictions.empty(count, judged=labels is not None)
    for block, logits in logit_blocks(head, features, positions):
        result.put(block, Predictions.of_logits(logits, None if labels is None else labels[block]))
    return result
