"""A frozen backbone: model, preprocessing, identity, and the head that came with it."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import nn

from selmix.heads import LinearHead

logger = logging.getLogger("selmix")


@dataclass(frozen=True)
class Backbone:
    """A frozen feature extractor.

    Attributes:
        name: as the user named it.
        model: image batch [b, 3, h, w] -> features [b, d]; in eval mode, without gradients.
        transform: RGB image -> normalised tensor [3, h, w]; can be pickled.
        digest: sha256 of the weights and of the preprocessing.
        preprocessing: what the transform does, in timm's words: `input_size`, `mean`, `std`, `interpolation`, ...
        head: the classifier that came with the weights, if its class table is known.
        class_names: the class table of that head.
        unnamed_classes: number of outputs of a classifier whose class table is unknown.
        trained_on: digest of the train split that the weights have learnt; None if it is not known.
        pixels: the part of `transform` before it normalises, RGB image -> uint8 [3, h, w]; None if there is no such.
    """

    name: str
    model: nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    digest: str
    preprocessing: dict[str, Any] = field(default_factory=dict)
    head: LinearHead | None = None
    class_names: list[str] | None = None
    unnamed_classes: int = 0
    pixels: Callable[[Image.Image], torch.Tensor] | None = None
    trained_on: str | None = None

    @property
    def architecture(self) -> str:
        """Return timm's name of the model, which builds it again."""
        return str(getattr(self.model, "pretrained_cfg", {}).get("architecture", ""))

    def head_for(self, class_names: list[str]) -> LinearHead | None:
        """Return the head with its classes in the given order, or None if it does not know just these by name."""
        if self.head is None or self.class_names is None:
            if self.unnamed_classes == len(class_names):
                logger.info(
                    f"{self.name} has a classifier of {len(class_names)} outputs, but not the names of its classes: it "
                    "is not used; name them, one a line in the order of the outputs, in CHECKPOINT.classes.txt"
                )
            return None
        if sorted(self.class_names) != sorted(class_names):
            own, wanted = ({name.casefold() for name in names} for names in (self.class_names, class_names))
            if own & wanted:  # not just another task: somebody may have expected a match
                odd = sorted(set(self.class_names) ^ set(class_names))
                logger.info(
                    f"the classifier of {self.name} is not used, as its class table and that of the data differ in "
                    f"{', '.join(odd[:5])}{f' and {len(odd) - 5} more' if len(odd) > 5 else ''}"
                )
            return None
        order = [self.class_names.index(name) for name in class_names]
        return LinearHead(self.head.weight[order], self.head.bias[order])


def checksum(model: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers; equal before and after means frozen."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
