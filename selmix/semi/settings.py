"""What the settings of all methods have in common, and what a method is begun for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from selmix.errors import check_settings
from selmix.semi.method import Method
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings


@dataclass(frozen=True)
class Beginning:
    """What a method may depend on before its first step.

    Attributes:
        num_features: d.
        class_counts: int64 [k] labeled images, on the device of the network.
        epochs: of the training.
        generation: how many trainings went before it, for methods that begin anew.
    """

    num_features: int
    class_counts: torch.Tensor
    epochs: int
    generation: int = 0


@dataclass(frozen=True)
class SemiSettings(ABC):
    """What all methods have in common; the methods are subclasses.

    Attributes:
        method: what is made of the unlabeled images.
        unlabeled_ratio: unlabeled images a step for each labeled one.
        unlabeled_weight: of the loss on the unlabeled images.
        steps_per_epoch: an epoch is so many steps, whatever the number of images.
    """

    method: str = "fixmatch"
    unlabeled_ratio: int = 2
    unlabeled_weight: float = 1.0
    steps_per_epoch: int = 1024

    needs_val: ClassVar[bool] = False
    own_loss: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        rules = {
            "unlabeled_ratio": (">= 1", self.unlabeled_ratio >= 1),
            "unlabeled_weight": (">= 0", self.unlabeled_weight >= 0),
            "steps_per_epoch": (">= 1", self.steps_per_epoch >= 1),
        }
        check_settings(self, rules | self.rules())

    def images(self, settings: SupervisedSettings) -> int:
        """Return how many images an epoch takes, labeled and unlabeled."""
        return self.steps_per_epoch * settings.batch_size * (1 + self.unlabeled_ratio)

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values of this method must be: name -> (the rule in words, whether it holds)."""
        return {}

    @abstractmethod
    def begin(self, objective: Objective, beginning: Beginning) -> Method:
        """Return the method before its first step; its weights come from torch's global stream.

        Args:
            objective: what is minimised on labeled images.
            beginning: what else it depends on.

        Raises:
            DataError: for a class without labeled images, where the method depends on the counts.
        """
