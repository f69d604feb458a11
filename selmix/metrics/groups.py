"""The worst of several mean recalls: of head and tail classes, and of groups of samples."""

from dataclasses import dataclass

import torch

from selmix.confusion import class_confusion, class_prior
from selmix.metrics.minimum import Minimum, hard_minimum, rate_variance

HEAD_ABOVE, TAIL_BELOW = 100, 20  # training samples; the field's "many" and "few" shot borders


@dataclass(frozen=True)
class ClassGroups:
    """Head, medium and tail classes by training count (more than 100, 20 to 100, fewer than 20), never by index.

    Attributes:
        members: group name -> bool [k].
    """

    members: dict[str, torch.Tensor]

    @classmethod
    def from_counts(cls, class_counts: torch.Tensor) -> "ClassGroups":
        """Group the classes by their training counts, int64 [k]."""
        head, tail = class_counts > HEAD_ABOVE, class_counts < TAIL_BELOW
        return cls({"head": head, "medium": ~head & ~tail, "tail": tail})

    @property
    def head_and_tail(self) -> torch.Tensor | None:
        """Return the members of head and tail, bool [2, k], or None if either has none."""
        both = torch.stack([self.members["head"], self.members["tail"]])
        return both if both.any(1).all() else None


def min_head_tail_recall(
    confusion: torch.Tensor, members: torch.Tensor, minimum: Minimum = hard_minimum
) -> torch.Tensor:
    """Return the smaller of the mean recalls of head and tail classes.

    Args:
        confusion: [k, k] or [k g, k].
        members: bool [2, k], `ClassGroups.head_and_tail`.
        minimum: how to take the minimum.
    """
    confusion = class_confusion(confusion)
    return _min_of_means(confusion.diagonal(), class_prior(confusion), members.to(confusion.device), minimum)


def worst_group_recall(confusion: torch.Tensor, minimum: Minimum = hard_minimum) -> torch.Tensor:
    """Return the smallest, over groups of samples, of the mean recall of the classes that have samples in the group.

    Where each group holds one class this is the worst-group accuracy.

    Args:
        confusion: [k g, k], row = class * g + group.
        minimum: how to take the minimum.
    """
    rows, num_classes = confusion.shape
    num_groups = rows // num_classes
    label = torch.arange(num_classes, device=confusion.device).repeat_interleave(num_groups)
    correct = confusion.gather(1, label[:, None]).squeeze(1)
    members = torch.eye(num_groups, dtype=torch.bool, device=confusion.device).repeat(1, num_classes)
    return _min_of_means(correct, class_prior(confusion), members, minimum)


def _min_of_means(correct: torch.Tensor, prior: torch.Tensor, members: torch.Tensor, minimum: Minimum) -> torch.Tensor:
    """Return the minimum over sets of rows (bool [m, rows]) of their mean recall; rows without samples are left out."""
    present = prior > 0
    members = members & present
    members = members[members.any(1)]
    recalls = torch.where(present, correct / torch.where(present, prior, 1), 0)
    count = members.sum(1)

    def errors(support: torch.Tensor) -> torch.Tensor:
        support = support.view(len(prior), -1).sum(1)
        variances = rate_variance(recalls, support)
        return (members.to(variances) @ variances).sqrt() / count

    return minimum(members.to(recalls) @ recalls / count, errors)
