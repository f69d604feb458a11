"""Settings of AutoBalance's search."""

from dataclasses import dataclass
from typing import Literal

import torch

from selmix.errors import UsageError, check_settings
from selmix.stage1.cells import Goal, Goals
from selmix.stage1.design import Expand, Learnable, LossDesign, Transform
from selmix.stage1.hypergradient import Method
from selmix.stage1.settings import SupervisedSettings


@dataclass(frozen=True)
class AutoBalanceSettings:
    """Settings of AutoBalance's search; the defaults are published for CIFAR-10-LT, with 300 epochs, but for four.

    Published are `tau` 0 (in one of two variants), `step` 1, which diverges where the Hessian has eigenvalues beyond 2,
    `train_batches` 10, the same for all terms, and `optimizer` sgd.

    Attributes:
        learn: what of the loss: offsets, factors, weights of classes; or `tau` alone, the offsets' common factor, which
            a small validation split can still tell; or `noise`, a personal augmentation.
        cluster_size: classes, neighbours in frequency, that share their values.
        expand: how clusters become classes: a value for all of a cluster, or a line between the values of clusters.
        transform: that keeps the factors of logits positive.
        scale_start: of the factors, before the transform.
        tau: the offsets start from this times the logarithm of the class prior.
        noise_max: greatest noise that can be learnt, in standard deviations a pixel of the normalised image.
        goal: what validation is to have: the mean over classes, over images, or equalised odds over groups.
        blended_with: another goal.
        blend: the share of the other goal.
        start_epoch: epochs of training at the start, before the loss is changed.
        interval: steps of training between two of the loss.
        train_batches: batches that each product with second derivatives is taken on; each Neumann term has its own.
        val_batches: batches that the gradient on validation is taken on.
        method: how the Hessian is inverted.
        terms: powers of the Neumann series beyond the first, or steps of conjugate gradients.
        step: of the Neumann series; `auto` is 1 / (largest eigenvalue of the Hessian + damping).
        damping: added to the Hessian's eigenvalues; the weight decay would make it that of what SGD minimises.
        optimizer: of the loss; Adam's steps do not depend on the hypergradient's length, which a short series
            understates.
        learning_rate: of the loss.
        momentum: of SGD, or of Adam's first moment.
        weight_decay: of the loss.
        warmup_epochs: of its learning rate, from `start_epoch` on.
        step_epochs: after how many epochs its learning rate changes.
        step_factors: what it is multiplied by from then on.
    """

    learn: tuple[Learnable, ...] = ("offset", "scale")
    cluster_size: int = 1
    expand: Expand = "repeat"
    transform: Transform = "sigmoid"
    scale_start: float = 1.0
    tau: float = 1.0
    noise_max: float = 0.0
    goal: Goal = "balanced"
    blended_with: Goal | Literal["none"] = "none"
    blend: float = 0.5
    start_epoch: int = 120
    interval: int = 20
    train_batches: int = 1
    val_batches: int = 10
    method: Method = "neumann"
    terms: int = 5
    step: float | Literal["auto"] = "auto"
    damping: float = 0.0
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 10
    step_epochs: tuple[float, ...] = (220, 260)
    step_factors: tuple[float, ...] = (0.1, 0.01)

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        learn = set(self.learn)
        increasing = list(self.step_epochs) == sorted(set(self.step_epochs)) and all(e > 0 for e in self.step_epochs)
        check_settings(
            self,
            {
                "learn": (
                    "one or more different parts, of offset and tau one at most",
                    0 < len(self.learn) == len(learn) and not {"offset", "tau"} <= learn,
                ),
                "cluster_size": (">= 1", self.cluster_size >= 1),
                "noise_max": ("> 0 with noise in learn, else 0", (self.noise_max > 0) == ("noise" in learn)),
                "blended_with": ("another goal", self.blended_with != self.goal),
                "blend": ("in [0, 1]", 0 <= self.blend <= 1),
                "start_epoch": (">= 0", self.start_epoch >= 0),
                "interval": (">= 1", self.interval >= 1),
                "train_batches": (">= 1", self.train_batches >= 1),
                "val_batches": (">= 1", self.val_batches >= 1),
                "terms": (">= 0, and >= 1 for conjugate_gradient", self.terms >= (self.method == "conjugate_gradient")),
                "step": ("auto, or > 0", self.step == "auto" or self.step > 0),
                "damping": (">= 0", self.damping >= 0),
                "learning_rate": ("> 0", self.learning_rate > 0),
                "momentum": ("in [0, 1)", 0 <= self.momentum < 1),
                "weight_decay": (">= 0", self.weight_decay >= 0),
                "warmup_epochs": (">= 0", self.warmup_epochs >= 0),
                "step_epochs": ("increasing and > 0", increasing),
                "step_factors": (
                    "one factor >= 0 for each of step_epochs",
                    len(self.step_factors) == len(self.step_epochs) and all(f >= 0 for f in self.step_factors),
                ),
            },
        )

    def check_beside(self, supervised: SupervisedSettings) -> None:
        """Refuse what does not go with the settings of the loop.

        Raises:
            UsageError: with the rule and both values.
        """
        if self.start_epoch >= supervised.epochs:
            raise UsageError(
                f"start_epoch must be below epochs, or the loss is never changed, "
                f"got {self.start_epoch} and {supervised.epochs}"
            )
        if "noise" in self.learn and supervised.mixup_alpha > 0:
            raise UsageError(f"learning noise goes without mixup, got mixup_alpha {supervised.mixup_alpha}")

    def design(self, cell_counts: torch.Tensor) -> LossDesign:
        """Return the loss at the start; `cell_counts` [k, g] of train, on the device of the model."""
        return LossDesign.begin(
            cell_counts,
            learn=self.learn,
            cluster_size=self.cluster_size,
            expand=self.expand,
            transform=self.transform,
            scale_start=self.scale_start,
            tau=self.tau,
            noise_max=self.noise_max,
        )

    def goals(self, design: LossDesign) -> Goals:
        """Return what validation is to have, for the cells of a design.

        Raises:
            UsageError: for equalised odds without groups.
        """
        goals = Goals(design.log_prior.numel(), design.log_prior.shape[1], self.goal, self.blended_with, self.blend)
        if not goals.linear and goals.num_groups == 1:
            raise UsageError("deo compares groups, and the data have none; take another goal, or data with groups")
        return goals
