"""Settings of the losses, which become objectives when the class counts are known."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from selmix.losses.class_balanced import sigmoid_cross_entropy, sigmoid_focal
from selmix.losses.focal import focal
from selmix.losses.margin import ldam, ldam_margins
from selmix.losses.parametric import cdt_scale, logit_adjustment, parametric_cross_entropy
from selmix.losses.smoothing import Shape, Variant, label_aware_smoothing, smoothed_cross_entropy
from selmix.stage1.loss_weights import LossSettings, known_counts, network_table
from selmix.stage1.objective import Losses, Objective, cross_entropy


@dataclass(frozen=True)
class CrossEntropySettings(LossSettings):
    """Cross-entropy; with class-balanced weights, the class-balanced softmax loss."""

    name: Literal["cross_entropy"] = "cross_entropy"

    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""
        return cross_entropy


@dataclass(frozen=True)
class FocalSettings(LossSettings):
    """Focal loss on softmax probabilities.

    Attributes:
        gamma: how much less the well classified count; 0 is cross-entropy.
    """

    name: Literal["focal"] = "focal"
    gamma: float = 1.0

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return {"gamma": (">= 0", self.gamma >= 0)}

    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""
        return partial(focal, gamma=self.gamma)


@dataclass(frozen=True)
class SigmoidSettings(LossSettings):
    """Binary cross-entropy of every class against the rest."""

    name: Literal["sigmoid"] = "sigmoid"

    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""
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

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return {"gamma": (">= 0", self.gamma >= 0)}

    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""
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

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return {"max_margin": (">= 0", self.max_margin >= 0), "scale": ("> 0", self.scale > 0)}

    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""
        margins = ldam_margins(known_counts(class_counts), max_margin=self.max_margin)
        return partial(ldam, margins=network_table(class_counts, margins), scale=self.scale)

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

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return {"tau": (">= 0", self.tau >= 0)}

    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""
        offset = logit_adjustment(known_counts(class_counts), tau=self.tau)
        return partial(parametric_cross_entropy, offset=network_table(class_counts, offset))


@dataclass(frozen=True)
class CdtSettings(LossSettings):
    """Cross-entropy with class-dependent temperatures.

    Attributes:
        gamma: power of the counts relative to the largest, which multiply the logits.
    """

    name: Literal["cdt"] = "cdt"
    gamma: float = 0.3

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return {"gamma": (">= 0", self.gamma >= 0)}

    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""
        scale = cdt_scale(known_counts(class_counts), gamma=self.gamma)
        return partial(parametric_cross_entropy, scale=network_table(class_counts, scale))


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

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return {"gamma": (">= 0", self.gamma >= 0), "tau": (">= 0", self.tau >= 0)}

    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""
        counts = known_counts(class_counts)
        return partial(
            parametric_cross_entropy,
            scale=network_table(class_counts, cdt_scale(counts, gamma=self.gamma)),
            offset=network_table(class_counts, logit_adjustment(counts, tau=self.tau)),
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

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return {
            "head_smoothing": ("in [0, 1)", 0 <= self.head_smoothing < 1),
            "tail_smoothing": ("in [0, 1)", 0 <= self.tail_smoothing < 1),
            "power": ("> 0, and 1 unless shape is exp", self.power > 0 and (self.shape == "exp" or self.power == 1)),
        }

    def losses(self, class_counts: torch.Tensor) -> Losses:
        """Return the loss per image."""
        smoothing = label_aware_smoothing(
            class_counts.cpu(),
            head=self.head_smoothing,
            tail=self.tail_smoothing,
            shape=self.shape,
            power=self.power,
        )
        return partial(smoothed_cross_entropy, smoothing=network_table(class_counts, smoothing), variant=self.variant)


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
