"""Settings of the losses, which become objectives when the class counts are known."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from selmix.errors import DataError, check_settings
from selmix.losses.class_balanced import class_balanced_weights, sigmoid_cross_entropy, sigmoid_focal
from selmix.losses.focal import focal
from selmix.losses.margin import ldam, ldam_margins
from selmix.losses.parametric import cdt_scale, logit_adjustment, parametric_cross_entropy
from selmix.losses.smoothing import Shape, Variant, label_aware_smoothing, smoothed_cross_entropy
from selmix.stage1.objective import Losses, Objective, cross_entropy


@dataclass(frozen=True)
class LossSettings:
    """A loss and the weights of the classes, which every loss can have.

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
        check_settings(self, rules | self._rules())

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
            weights = _table(class_counts, class_balanced_weights(_counted(class_counts), beta=beta))
        return Objective(
            self._losses(class_counts),
            weights,
            self.weights_from,
            self.divide_by,
        )

    def _rules(self) -> dict[str, tuple[str, bool]]:
        return {}

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        raise NotImplementedError


def _counted(class_counts: torch.Tensor) -> torch.Tensor:
    """Return the counts where float64 is to be had."""
    empty = (class_counts == 0).nonzero().flatten().tolist()
    if empty:
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise DataError(
            f"every class needs a training image for this loss; {len(empty)} have none, with numbers {shown}: leave "
            "them out of the data, or train with name=cross_entropy without weights"
        )
    return class_counts.cpu()


def _table(class_counts: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Put numbers of the classes where the network is."""
    return values.to(class_counts.device, torch.float32)


@dataclass(frozen=True)
class CrossEntropySettings(LossSettings):
    """Cross-entropy; with class-balanced weights, the class-balanced softmax loss."""

    name: Literal["cross_entropy"] = "cross_entropy"

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        return cross_entropy


@dataclass(frozen=True)
class FocalSettings(LossSettings):
    """Focal loss on softmax probabilities.

    Attributes:
        gamma: how much less the well classified count; 0 is cross-entropy.
    """

    name: Literal["focal"] = "focal"
    gamma: float = 1.0

    def _rules(self) -> dict[str, tuple[str, bool]]:
        return {"gamma": (">= 0", self.gamma >= 0)}

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        return partial(focal, gamma=self.gamma)


@dataclass(frozen=True)
class SigmoidSettings(LossSettings):
    """Binary cross-entropy of every class against the rest."""

    name: Literal["sigmoid"] = "sigmoid"

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        return sigmoid_cross_entropy

    def objective(self, class_counts: torch.Tensor) -> Objective:
        """Return what training minimises, with each class judged against the rest."""
        return replace(super().objective(class_counts), one_vs_rest=True)


@dataclass(frozen=True)
class SigmoidFocalSettings(LossSettings):
    """Focal loss of every class against the rest.

    Attributes:
        gamma: how much less the well classified count; 0 is the loss `sigmoid`.
    """

    name: Literal["sigmoid_focal"] = "sigmoid_focal"
    gamma: float = 0.5

    def _rules(self) -> dict[str, tuple[str, bool]]:
        return {"gamma": (">= 0", self.gamma >= 0)}

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        return partial(sigmoid_focal, gamma=self.gamma)

    def objective(self, class_counts: torch.Tensor) -> Objective:
        """Return what training minimises, with each class judged against the rest."""
        return replace(super().objective(class_counts), one_vs_rest=True)


@dataclass(frozen=True)
class LdamSettings(LossSettings):
    """LDAM, on cosines; with class-balanced weights from epoch 160 of 200, LDAM-DRW.

    Attributes:
        max_margin: of the smallest class.
        scale: what makes logits of cosines.
    """

    name: Literal["ldam"] = "ldam"
    max_margin: float = 0.5
    scale: float = 30.0

    def _rules(self) -> dict[str, tuple[str, bool]]:
        return {"max_margin": (">= 0", self.max_margin >= 0), "scale": ("> 0", self.scale > 0)}

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        margins = ldam_margins(_counted(class_counts), max_margin=self.max_margin)
        return partial(ldam, margins=_table(class_counts, margins), scale=self.scale)

    def objective(self, class_counts: torch.Tensor) -> Objective:
        """Return what training minimises, on cosines."""
        return replace(super().objective(class_counts), cosine_scale=self.scale)


@dataclass(frozen=True)
class LogitAdjustmentSettings(LossSettings):
    """Logit-adjusted cross-entropy; at tau = 1, balanced softmax.

    Attributes:
        tau: what the log prior is multiplied by.
    """

    name: Literal["logit_adjustment"] = "logit_adjustment"
    tau: float = 1.0

    def _rules(self) -> dict[str, tuple[str, bool]]:
        return {"tau": (">= 0", self.tau >= 0)}

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        offset = logit_adjustment(_counted(class_counts), tau=self.tau)
        return partial(parametric_cross_entropy, offset=_table(class_counts, offset))


@dataclass(frozen=True)
class CdtSettings(LossSettings):
    """Cross-entropy with class-dependent temperatures.

    Attributes:
        gamma: power of the counts relative to the largest, which multiply the logits.
    """

    name: Literal["cdt"] = "cdt"
    gamma: float = 0.3

    def _rules(self) -> dict[str, tuple[str, bool]]:
        return {"gamma": (">= 0", self.gamma >= 0)}

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        scale = cdt_scale(_counted(class_counts), gamma=self.gamma)
        return partial(parametric_cross_entropy, scale=_table(class_counts, scale))


@dataclass(frozen=True)
class VsSettings(LossSettings):
    """Vector scaling: temperatures of CDT and offsets of logit adjustment.

    Attributes:
        gamma: as in CDT.
        tau: as in logit adjustment.
    """

    name: Literal["vs"] = "vs"
    gamma: float = 0.3
    tau: float = 1.0

    def _rules(self) -> dict[str, tuple[str, bool]]:
        return {"gamma": (">= 0", self.gamma >= 0), "tau": (">= 0", self.tau >= 0)}

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        counts = _counted(class_counts)
        return partial(
            parametric_cross_entropy,
            scale=_table(class_counts, cdt_scale(counts, gamma=self.gamma)),
            offset=_table(class_counts, logit_adjustment(counts, tau=self.tau)),
        )


@dataclass(frozen=True)
class LabelAwareSmoothingSettings(LossSettings):
    """Cross-entropy with targets that are less certain of large classes.

    Attributes:
        head_smoothing: of the largest class.
        tail_smoothing: of the smallest class; the same as of the largest is plain label smoothing.
        shape: how it goes with the count in between.
        power: of the count, for `exp`.
        variant: over which classes it is spread: all, as in the released code, or all others, as in the paper.
    """

    name: Literal["label_aware_smoothing"] = "label_aware_smoothing"
    head_smoothing: float = 0.3
    tail_smoothing: float = 0.0
    shape: Shape = "concave"
    power: float = 1.0
    variant: Variant = "code"

    def _rules(self) -> dict[str, tuple[str, bool]]:
        return {
            "head_smoothing": ("in [0, 1)", 0 <= self.head_smoothing < 1),
            "tail_smoothing": ("in [0, 1)", 0 <= self.tail_smoothing < 1),
            "power": ("> 0, and 1 unless shape is exp", self.power > 0 and (self.shape == "exp" or self.power == 1)),
        }

    def _losses(self, class_counts: torch.Tensor) -> Losses:
        smoothing = label_aware_smoothing(
            class_counts.cpu(),
            head=self.head_smoothing,
            tail=self.tail_smoothing,
            shape=self.shape,
            power=self.power,
        )
        return partial(smoothed_cross_entropy, smoothing=_table(class_counts, smoothing), variant=self.variant)


LOSSES: dict[str, type[LossSettings]] = {
    kind.name: kind
    for kind in (
        CrossEntropySettings,
        FocalSettings,
        SigmoidSettings,
        SigmoidFocalSettings,
        LdamSettings,
        LogitAdjustmentSettings,
        CdtSettings,
        VsSettings,
        LabelAwareSmoothingSettings,
    )
}
