"""What every rung of the ladder is given: the same features, the same labels, the same head to start from."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch

from selmix.baselines.logistic import CrossFitted, cross_fitted_logistic
from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.features.labeled import LabeledFeatures
from selmix.features.pool import Pool
from selmix.heads import LinearHead
from selmix.pairs import ClassMembers

FOLDS = 5


class Classifier(Protocol):
    """What a method returns; a `LinearHead` is one."""

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, d] to logits [n, k], of which the largest is the prediction."""


@dataclass(frozen=True)
class Problem:
    """Features and labels, and what several methods share on them, fitted once.

    Attributes:
        train: every class must have a sample.
        val: not empty; a class may be missing.
        num_classes: k.
        source: the head that the post-hoc methods work on, trained on train alone.
        fold: int64 [n], the fold of each validation sample; at least two folds occur.
    """

    train: LabeledFeatures
    val: LabeledFeatures
    num_classes: int
    source: LinearHead
    fold: torch.Tensor

    @classmethod
    def pose(
        cls,
        train: LabeledFeatures,
        val: LabeledFeatures,
        given: LinearHead | None,
        num_classes: int,
        *,
        generator: torch.Generator,
    ) -> "Problem":
        """Deal the validation samples into folds; without a given head a linear probe on train is the source.

        Args:
            train: every class must have a sample.
            val: at least two samples.
            given: the head that came with the features.
            num_classes: k.
            generator: source of the deal and the probe.
        """
        fold = deal(val.labels, generator=generator)
        return cls(train, val, num_classes, given or retrained(train, num_classes, 1, generator=generator), fold)

    @cached_property
    def pool(self) -> LabeledFeatures:
        """Return train and val as one set, in this order."""
        features = torch.cat([self.train.tensor, self.val.tensor])
        return LabeledFeatures(features, torch.cat([self.train.labels, self.val.labels]))

    @cached_property
    def train_counts(self) -> torch.Tensor:
        """Return the training samples of every class, int64 [k]."""
        return torch.bincount(self.train.labels, minlength=self.num_classes)

    @cached_property
    def balanced(self) -> CrossFitted:
        """Return balanced logistic regression on train and val, with out-of-fold logits of val."""
        return cross_fitted_logistic(self.train, self.val, self.fold, self.num_classes)

    @cached_property
    def without_fold(self) -> list[tuple[torch.Tensor, "Problem"]]:
        """Return, for each fold, the positions of its samples in val and the problem that does not know them."""
        parts = []
        for fold in self.fold.unique():
            stay = (self.fold != fold).nonzero()[:, 0]
            smaller = replace(self, val=self.val.subset(stay), fold=self.fold[stay])
            parts.append(((self.fold == fold).nonzero()[:, 0], smaller))
        return parts


def deal(labels: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """Return the fold of each sample, int64 [n]: fold sizes differ by at most one, overall and within a class."""
    shuffled = torch.randperm(len(labels), generator=generator)
    order = shuffled[labels[shuffled].argsort(stable=True)]
    fold = torch.empty_like(labels)
    fold[order] = torch.arange(len(labels)) % FOLDS
    return fold


def retrained(
    data: LabeledFeatures, num_classes: int, sampling_power: float, *, generator: torch.Generator
) -> LinearHead:
    """Return one fresh head trained by SGD, see `retrain_heads`."""
    members = ClassMembers.from_labels(data.labels, num_classes)
    settings = RetrainSettings()
    (head,) = retrain_heads(
        Pool(data.features), [members], sampling_power=sampling_power, settings=settings, generator=generator
    )
    return head
