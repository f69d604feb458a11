"""The last layer of a network, as some losses want it."""

from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional as F

from selmix.errors import UsageError
from selmix.losses.class_balanced import one_vs_rest_bias
from selmix.stage1.objective import Objective


@runtime_checkable
class _Around(Protocol):
    """A module around a network, such as `RetrainedClassifier`, that knows what to write of it."""

    def exported_state(self) -> dict[str, torch.Tensor]: ...


class CosineClassifier(nn.Module):
    """The cosines of features and class weights: a classifier whose logits do not know how long either is.

    Attributes:
        weight: [k, d], its rows of any length; random directions of length 1 at the start.
        scale: what makes logits of cosines; the forward pass leaves it to the loss.
    """

    def __init__(self, num_features: int, num_classes: int, *, scale: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, num_features).uniform_(-1, 1)))
        self.scale = scale

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [b, d] to cosines, float32 [b, k]: a loss that scales them up needs their digits."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(F.normalize(features.to(self.weight.dtype)), F.normalize(self.weight))


def prepare_classifier(model: nn.Module, objective: Objective, *, fresh: bool = True) -> tuple[nn.Parameter, ...]:
    """Give a network the last layer that an objective wants, in place.

    A cosine classifier is made of torch's global random numbers, as all initial weights are.

    Args:
        model: with timm's `get_classifier`.
        objective: what will be minimised.
        fresh: whether its classifier has learnt nothing yet; else what it has learnt stays, as far as it can.

    Returns:
        The parameters that weight decay must spare: the last bias, where each class is judged against the
        rest.

    Raises:
        UsageError: if the objective wants a change, and the network does not end in a linear classifier with a bias.
    """
    if objective.cosine_scale is None and not objective.one_vs_rest:
        return ()
    classifier = model.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear) or classifier.bias is None:
        raise UsageError(
            "ldam, sigmoid and sigmoid_focal change the network's last layer, which must be linear and have a bias; "
            "that of this one is another: name another architecture or loss"
        )
    name = next(name for name, module in model.named_modules() if module is classifier)
    if objective.cosine_scale is not None:
        cosine = CosineClassifier(classifier.in_features, classifier.out_features, scale=objective.cosine_scale)
        if not fresh:
            cosine.weight.data.copy_(classifier.weight.data)
        cosine.weight.requires_grad_(classifier.weight.requires_grad)
        model.set_submodule(name, cosine.to(classifier.weight))
        return ()
    if fresh:
        nn.init.constant_(classifier.bias, one_vs_rest_bias(classifier.out_features))
    return (classifier.bias,)


def exported_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a network with a linear classifier that decides alike.

    The rows of a cosine classifier get the length of its scale, and a bias of 0: its logits on features of length 1,
    in proportion on others. Of a module around a network, see its own `exported_state`. Else that is the state dict.
    """
    if isinstance(model, _Around):
        return model.exported_state()
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, CosineClassifier):
            prefix = f"{name}." if name else ""
            rows = module.scale * F.normalize(module.weight.detach())
            state |= {f"{prefix}weight": rows, f"{prefix}bias": rows.new_zeros(len(rows))}
    return state
