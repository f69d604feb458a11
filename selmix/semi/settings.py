"""Settings of learning from unlabeled images, which become a method when the objective is known."""

from dataclasses import dataclass

import torch

from selmix.errors import check_settings
from selmix.semi.fixmatch import FixMatch
from selmix.semi.method import Method
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings


@dataclass(frozen=True)
class SemiSettings:
    """FixMatch, and what all methods have in common; the settings of another method are a subclass, in `METHODS`.

    Attributes:
        method: what is made of the unlabeled images.
        unlabeled_ratio: unlabeled images a step for each labeled one.
        threshold: least confidence of a pseudo-label that is used.
        unlabeled_weight: of the loss on the unlabeled images.
        steps_per_epoch: an epoch is so many steps, whatever the number of images.
    """

    method: str = "fixmatch"
    unlabeled_ratio: int = 2
    threshold: float = 0.95
    unlabeled_weight: float = 1.0
    steps_per_epoch: int = 1024

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_settings(
            self,
            {
                "unlabeled_ratio": (">= 1", self.unlabeled_ratio >= 1),
                "threshold": (">= 0", self.threshold >= 0),
                "unlabeled_weight": (">= 0", self.unlabeled_weight >= 0),
                "steps_per_epoch": (">= 1", self.steps_per_epoch >= 1),
            },
        )

    def images(self, settings: SupervisedSettings) -> int:
        """Return how many images an epoch takes, labeled and unlabeled."""
        return self.steps_per_epoch * settings.batch_size * (1 + self.unlabeled_ratio)

    def begin(self, objective: Objective, *, num_features: int, class_counts: torch.Tensor) -> Method:
        """Return the method before its first step; its weights come from torch's global stream.

        Args:
            objective: what is minimised on labeled images.
            num_features: d.
            class_counts: int64 [k] labeled images, on the device of the network.
        """
        return FixMatch(objective, threshold=self.threshold, unlabeled_weight=self.unlabeled_weight)


METHODS: dict[str, type[SemiSettings]] = {"fixmatch": SemiSettings}
