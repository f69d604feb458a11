"""The network that learns with a method, and what is kept of it."""

from typing import Any

import torch
from torch import nn

from selmix.errors import UsageError
from selmix.semi.method import Method, Outputs


class SemiNetwork(nn.Module):
    """A backbone with its classifier, and the method that it learns by."""

    def __init__(self, backbone: nn.Module, method: Method) -> None:
        """Take a network of timm's form that ends in one linear classifier.

        Raises:
            UsageError: if its classifier is another.
        """
        super().__init__()
        self.backbone: Any = backbone
        self.method = method
        linear_classifier(backbone)

    def outputs(self, images: torch.Tensor) -> Outputs:
        """Return features and logits of the network's own classifier, given images [b, c, h, w]."""
        features = self.backbone.forward_head(self.backbone.forward_features(images), pre_logits=True)
        return Outputs(features, self.backbone.get_classifier()(features))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [b, c, h, w] to the logits [b, k] that predictions are made of."""
        outputs = self.outputs(images)
        head = self.method.inference_head()
        return outputs.logits if head is None else head(outputs.features)

    def exported_state(self) -> dict[str, torch.Tensor]:
        """Return the state dict of the backbone, with the head of the method for a classifier where it has one."""
        state = dict(self.backbone.state_dict())
        head = self.method.inference_head()
        if head is not None:
            prefix, _ = linear_classifier(self.backbone)
            state |= {f"{prefix}.{name}": tensor.detach() for name, tensor in head.named_parameters()}
        return state


class Views(nn.Module):
    """A network that says features and logits: what several processes, and a compiler, take a forward pass to be."""

    def __init__(self, network: SemiNetwork) -> None:
        """Take the network; its parameters are those of this module."""
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map images [b, c, h, w] to features [b, d] and logits [b, k]."""
        outputs = self.network.outputs(images)
        return outputs.features, outputs.logits


def linear_classifier(backbone: Any) -> tuple[str, nn.Linear]:
    """Return a network's linear classifier, and its name in it.

    Raises:
        UsageError: if it has none.
    """
    classifier = backbone.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise UsageError(
            "[semi] needs a network that ends in one linear classifier, and this one ends in another; name "
            "another architecture"
        )
    return next(name for name, module in backbone.named_modules() if module is classifier), classifier
