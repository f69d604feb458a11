"""What nearly every metric reads off a confusion matrix: its diagonal and its two sums, 3 k numbers instead of k^2.

A thousand bootstrap samples of 5,000 classes are a thousand matrices of 200 MB, or as many margins of 120 kB.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Margins:
    """Stands in for the confusion matrix of the classes where nothing but its margins is read.

    Attributes:
        correct: [k], the diagonal.
        truth: [k], the sum of each row.
        predicted: [k], the sum of each column.

    >>> labels, predictions = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    >>> Margins.of(labels, predictions, 2).sum(0).tolist()
    [1.0, 2.0]
    """

    correct: torch.Tensor
    truth: torch.Tensor
    predicted: torch.Tensor

    @classmethod
    def of(cls, labels: torch.Tensor, predictions: torch.Tensor, num_classes: int) -> "Margins":
        """Count, float64, what `selmix.confusion.confusion_counts` counts: both int64 [n]."""
        kinds = labels[labels == predictions], labels, predictions
        return cls(*(torch.bincount(own, minlength=num_classes).double() for own in kinds))

    @property
    def shape(self) -> tuple[int, int]:
        """Return (k, k)."""
        return len(self.truth), len(self.truth)

    @property
    def device(self) -> torch.device:
        """Return that of the counts."""
        return self.truth.device

    def __len__(self) -> int:
        return len(self.truth)

    def diagonal(self) -> torch.Tensor:
        """Return what is right of each class, [k]."""
        return self.correct

    def sum(self, axis: int | None = None) -> torch.Tensor:
        """Return the sum over an axis, [k], or over both."""
        return self.truth.sum() if axis is None else self.predicted if axis == 0 else self.truth

    def new_tensor(self, value: float) -> torch.Tensor:
        """Return a number as the matrix would hold it."""
        return self.truth.new_tensor(value)

    def joint(self) -> "Margins":
        """Return those of the joint confusion matrix, which sums to 1."""
        total = self.sum().clamp_min(1)
        return Margins(self.correct / total, self.truth / total, self.predicted / total)
