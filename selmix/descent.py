"""One SGD step of softmax regression, in closed form and in place; every loop over linear heads is made of it."""

from collections.abc import Callable

import torch


def cross_entropy_step_(
    weights: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    rate: float,
    decay: float = 0.0,
    total: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Let several heads take one step of gradient descent each, on mean cross-entropy plus decay/2 |W|^2.

    For one head the gradient is (softmax(X W^T) - T)^T X / b. A bias is a column of W that meets a constant 1 in X.

    Args:
        weights: [h, k, d], one head a slice, changed in place.
        features: [h, b, d], the batch of each head.
        targets: [h, b, k], or [b, k] for all heads: target distributions, one-hot for plain labels.
        rate: learning rate.
        decay: L2 coefficient.
        total: adds up over processes of which each has a part X_r of the features, X = sum_r X_r: the logits are the
            sum of the X_r W^T, the gradient that of the (softmax - T)^T X_r, and the weights stay the same everywhere.
    """
    # classes before samples: a softmax along the rows of a [b, k] matrix is several times slower when k is small
    logits = torch.bmm(weights, features.mT)
    residual = (logits if total is None else total(logits)).softmax(1).sub_(targets.mT)
    if total is not None:
        gradient = total(torch.bmm(residual, features))
        weights.mul_(1 - rate * decay).sub_(gradient, alpha=rate / features.shape[1])
        return
    weights.baddbmm_(residual, features, beta=1 - rate * decay, alpha=-rate / features.shape[1])
