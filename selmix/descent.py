"""One SGD step of softmax regression, in closed form and in place; every loop over a linear head is made of it."""

import torch


def cross_entropy_step_(
    weight: torch.Tensor, features: torch.Tensor, targets: torch.Tensor, *, rate: float, decay: float = 0.0
) -> None:
    """Take one step of gradient descent on mean cross-entropy plus decay/2 |W|^2, changing `weight`.

    The gradient is (softmax(X W^T) - T)^T X / b. A bias is a column of W that meets a constant 1 in X.

    Args:
        weight: [k, d], changed in place.
        features: [b, d].
        targets: [b, k] target distributions, one-hot for plain labels.
        rate: learning rate.
        decay: L2 coefficient.
    """
    residual = torch.mm(features, weight.T).softmax(1).sub_(targets)
    weight.addmm_(residual.T, features, beta=1 - rate * decay, alpha=-rate / len(features))
