"""Learning a classifier again on a frozen trunk: stage two of MiSLAS, and Decoupling's cRT and LWS, on images."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from selmix.errors import UsageError, check_settings
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState


@dataclass(frozen=True)
class RetrainSettings:
    """What is learned again, and from where; how is said by the settings of the supervised loop.

    Attributes:
        head_start: the head of stage one, or a fresh one.
        learn_head: whether weight and bias are learned.
        learn_scale: whether a factor per class is learned, which multiplies its logit.
        head_factor: the head's learning rate relative to the scale's.
        decay_scale: whether weight decay pulls the factors towards 0.
        shift_batch_norm: whether the running statistics of the frozen trunk follow the batches, which are normalised by
            their own; what is learned of these layers stays.
    """

    head_start: Literal["stage1", "random"] = "stage1"
    learn_head: bool = True
    learn_scale: bool = True
    head_factor: float = 1.0
    decay_scale: bool = True
    shift_batch_norm: bool = False

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_settings(
            self,
            {
                "head_start": ("stage1, where learn_head is false", self.learn_head or self.head_start == "stage1"),
                "learn_scale": ("true, where learn_head is false", self.learn_head or self.learn_scale),
                "head_factor": ("> 0", self.head_factor > 0),
            },
        )


class RetrainedClassifier(nn.Module):
    """Logits s * (W h + b) on the features h of a frozen trunk.

    Source of form and shifted statistics: Zhong et al., "Improving Calibration for Long-Tailed Recognition", CVPR 2021,
    as in the authors' code: W and b go on from stage one. cRT and LWS, which learn either W and b or s: Kang et al.,
    "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020.
    """

    def __init__(self, model: nn.Module, settings: RetrainSettings, *, generator: torch.Generator):
        """Take a model apart.

        Args:
            model: a network of timm's form with one linear classifier; it becomes the trunk, in place.
            settings: what is learned.
            generator: of a fresh head.

        Raises:
            UsageError: if the classifier is not one linear layer.
        """
        super().__init__()
        head: Any = model.get_classifier()  # type: ignore[operator]
        if not isinstance(head, nn.Linear):
            raise UsageError(
                "[classifier] learns a linear classifier again, and that of this network is another; name another "
                "architecture, or leave [classifier] out"
            )
        self.classifier = next(name for name, module in model.named_modules() if module is head)
        model.reset_classifier(0)  # type: ignore[operator]
        self.trunk = model.requires_grad_(False)
        self.shift_batch_norm = settings.shift_batch_norm
        self.head = nn.Linear(head.in_features, head.out_features, device=head.weight.device)
        if settings.head_start == "stage1":
            self.head.weight.data.copy_(head.weight.data)
            self.head.bias.data.copy_(head.bias.data if head.bias is not None else torch.zeros(head.out_features))
        else:
            for parameter in self.head.parameters():
                fresh = torch.rand(parameter.shape, generator=generator) * 2 - 1
                parameter.data.copy_(fresh / head.in_features**0.5)
        self.head.requires_grad_(settings.learn_head)
        self.scale = nn.Parameter(
            torch.ones(head.out_features, device=head.weight.device), requires_grad=settings.learn_scale
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [b, c, h, w] to logits [b, k]."""
        with torch.no_grad():
            features = self.trunk(images)
        return self.scale * self.head(features)

    def train(self, mode: bool = True) -> "RetrainedClassifier":
        """Leave the trunk as it is in use, but for the statistics of its batch norms where they are to shift."""
        super().train(mode)
        self.trunk.eval()
        for module in self.trunk.modules():
            if self.shift_batch_norm and isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def exported_state(self) -> dict[str, torch.Tensor]:
        """Return the state dict of the model that was taken apart, the factors folded into its classifier."""
        scale = self.scale.detach()
        return self.trunk.state_dict() | {
            f"{self.classifier}.weight": scale[:, None] * self.head.weight.detach(),
            f"{self.classifier}.bias": scale * self.head.bias.detach(),
        }


def begin_retraining(
    model: nn.Module, retrain: RetrainSettings, settings: SupervisedSettings, *, generator: torch.Generator
) -> TrainingState:
    """Return the state from which `train_supervised` learns a classifier again.

    Its model is a `RetrainedClassifier`: of `state.kept`, `exported_state()` is what to write.

    Args:
        model: trained in stage one, on its device; it becomes the trunk, in place.
        retrain: what is learned.
        settings: of the loop.
        generator: of a fresh head.

    Raises:
        UsageError: if the classifier is not one linear layer.
    """
    module = RetrainedClassifier(model, retrain, generator=generator)
    factors = dict.fromkeys(module.head.parameters(), retrain.head_factor)
    return TrainingState.begin(
        module, settings, factors=factors, undecayed=() if retrain.decay_scale else (module.scale,)
    )
