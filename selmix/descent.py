"""One SGD step of softmax regression, in closed form and in place; every loop over linear heads is made of it."""

import torch


def cross_entropy_step_(
    weights: torch.Tensor, features: torch.Tensor, targets: torch.Tensor, *, rate: float, decay: float = 0.0
) -> None:
    """Let several heads take one step of gradient descent each, on mean cross-entropy plus decay/2 |W|^2.

    For one head the gradient is (softmax(X W^T) - T)^T X / b. A bias is a column of W that meets a constant 1 in X.

    Args:
        weights: [h, k, d], one head a slice, changed in place.
        features: [h, b, d], the batch of each head.
        targets: [h, b, k], or [b, k] for all heads: target distributions, one-hot for plain labels.
        rate: learning rate.
        decay: L2 coefficient.
    """
    # classes before samples: a softmax along the rows of a [b, k] matrix is several times slower when k is small
    residual = torch.bmm(weights, features.mT).softmax(1).sub_(targets.mT)
    weights.baddbmm_(residual, features, beta=1 - rate * decay, alpha=-rate / features.shape[1])
