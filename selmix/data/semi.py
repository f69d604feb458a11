"""Class counts of the unlabeled part of semi-supervised long-tailed splits."""

from typing import Literal

import numpy as np

from selmix.data.longtail import exponential_counts

UnlabeledProfile = Literal["consistent", "reversed", "uniform", "unknown"]


def unlabeled_counts(
    head_count: int, imbalance_factor: float, num_classes: int, *, profile: UnlabeledProfile, seed: int
) -> list[int]:
    """Return the images per class of an unlabeled part beside a labeled one whose class 0 is the largest.

    Args:
        head_count: images of the largest class.
        imbalance_factor: largest count / smallest count; of no account where `profile` is uniform.
        num_classes: k.
        profile: `consistent`: class 0 is the largest here, too. `reversed`: the last class is (in the notation of the
            paper M1 = head_count / imbalance_factor, rho_u = 1 / imbalance_factor). `uniform`: all are alike.
            `unknown`: the counts of the exponential profile in an order that has nothing to do with the labels', drawn
            with `seed`; it stands in for data such as STL-10's, of which nobody knows the class counts.
        seed: of that order.

    Raises:
        UsageError: for an impossible profile.

    Source: Ramasubramanian et al., "Selective Mixup Fine-Tuning for Optimizing Non-Decomposable Objectives", ICLR 2024
    (CIFAR-10: N1 = 1500, M1 = 3000, rho = 100).

    >>> unlabeled_counts(3000, 100, 4, profile="reversed", seed=0)
    [30, 139, 646, 3000]
    """
    if profile == "uniform":
        return [head_count] * num_classes
    counts = exponential_counts(head_count, imbalance_factor, num_classes)
    if profile == "reversed":
        return counts[::-1]
    if profile == "unknown":
        order = np.random.default_rng(seed).permutation(num_classes)
        return [counts[position] for position in order]
    return counts
