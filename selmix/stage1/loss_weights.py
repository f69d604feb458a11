"""What the settings of all losses have in common: the weights of the classes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch

from selmix.errors import DataError, check_settings
from selmix.losses.class_balanced import class_balanced_weights
from selmix.stage1.objective import Losses, Objective


@dataclass(frozen=True)
class LossSettings(ABC):
    """A loss and the weights of the classes, which every loss can have; the losses are subclasses.

    Attributes:
        name: of the loss.
        weights: of the classes, which sum to their number: all 1; inverse to the effective number of training images;
            inverse to the number itself.
        beta: of the effective number.
        weights_from: the epoch, from 0, with which the weights set in (deferred re-weighting).
        divide_by: what the weighted losses of a batch are divided by: the number of images, or the sum of weights.
    """

    name: str = ""
    weights: Literal["none", "class_balanced", "inverse_frequency"] = "none"
    beta: float = 0.9999
    weights_from: float = 0
    divide_by: Literal["batch", "weight"] = "batch"

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        deferred = self.weights_from >= 0 and (self.weights != "none" or self.weights_from == 0)
        rules = {
            "beta": ("in [0, 1)", 0 <= self.beta < 1),
            "weights_from": (">= 0, and 0 while weights is none", deferred),
        }
        check_settings(self, rules | self.rules())

    def objective(self, class_counts: torch.Tensor) -> Objective:
        """Return what training minimises.

        Args:
            class_counts: int64 [k] training images, on the device of the network.

        Raises:
            DataError: for a class without training images, where the loss depends on the counts.
        """
        weights = None
        if self.weights != "none":
            beta = 1.0 if self.weights == "inverse_frequency" else self.beta
            weights = network_table(class_counts, class_balanced_weights(known_counts(class_counts), beta=beta))
        return Objective(self.losses(class_counts), weights, self.weights_from, self.divide_by)

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values of this loss must be: name -> (the rule in words, whether it holds)."""
        return {}

    @abstractmethod
    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""


def known_counts(class_counts: torch.Tensor) -> torch.Tensor:
    """Return the counts where float64 is to be had, each >= 1.

    Raises:
        DataError: naming the classes without training images.
    """
    empty = (class_counts == 0).nonzero().flatten().tolist()
    if empty:
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise DataError(
            f"every class needs a training image for this loss; {len(empty)} have none, with numbers {shown}: leave "
            "them out of the data, or train with name=cross_entropy without weights"
        )
    return class_counts.cpu()


def network_table(class_counts: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Put numbers of the classes, [k], where the network is, in float32."""
    return values.float().to(class_counts.device)
