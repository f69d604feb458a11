"""Long-tailed class counts and the seeded choice of images that realises them."""

import numpy as np

from selmix.errors import UsageError


def exponential_counts(head_count: int, imbalance_factor: float, num_classes: int) -> list[int]:
    """Return the community's exponential profile, int(head_count * imbalance_factor ** (-i / (k - 1))).

    Args:
        head_count: images of the largest class.
        imbalance_factor: largest count / smallest count, >= 1.
        num_classes: k, at least 2; class 0 is the largest.

    Raises:
        UsageError: if the factor is below 1 or a class would get no image.

    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019
    (its CIFAR-LT protocol, which MiSLAS and VS share).

    >>> exponential_counts(5000, 100, 10)
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    _check_factor(head_count, imbalance_factor, num_classes)
    tail_fraction = 1 / imbalance_factor
    return [int(head_count * tail_fraction ** (i / (num_classes - 1))) for i in range(num_classes)]


def step_counts(head_count: int, imbalance_factor: float, num_classes: int) -> list[int]:
    """Return a step: the first floor(k / 2) classes large, the rest small.

    Args:
        head_count: images of each large class.
        imbalance_factor: largest count / smallest count, >= 1.
        num_classes: k, at least 2.

    Raises:
        UsageError: if the factor is below 1 or a class would get no image.

    Source: Cao et al., NeurIPS 2019 (as `exponential_counts`).

    >>> step_counts(5000, 100, 4)
    [5000, 5000, 50, 50]
    """
    _check_factor(head_count, imbalance_factor, num_classes)
    large = num_classes // 2
    return [head_count] * large + [int(head_count * (1 / imbalance_factor))] * (num_classes - large)


def pareto_counts(head_count: int, tail_count: int, num_classes: int, *, exponent: float = 6.0) -> list[int]:
    """Return class counts that follow a Pareto law, as those of ImageNet-LT do (head 1280, tail 5, exponent 6).

    The size of a class is taken to be Pareto distributed with density p(x) = a (1 + x)^-(a+1), x >= 0 (the law of type
    II, Lomax). Its quantiles are x(u) = (1 - u)^(-1/a) - 1. The mean of 1 - u of the i-th largest of k draws is
    i / (k+1), so class i = 0..k-1 gets x_i = ((k+1) / (i+1))^(1/a) - 1; sizes are scaled so that the largest is
    `head_count`, and none is below `tail_count`. With ImageNet-LT's figures the sum is within 3 % of its 115,846
    images, which are one random draw; its own images are in its own lists.

    Args:
        head_count: images of the largest class.
        tail_count: images that the smallest class has at least.
        num_classes: k, at least 2; class 0 is the largest.
        exponent: a > 0; the smaller, the longer the tail.

    Raises:
        UsageError: for figures outside these ranges.

    Source: Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019, which names the law and the
    exponent; the quantiles are our reading of it.

    >>> pareto_counts(1280, 5, 4)
    [1280, 686, 369, 157]
    """
    if num_classes < 2:
        raise UsageError(f"a long tail needs at least 2 classes, got num_classes={num_classes}")
    if not 1 <= tail_count <= head_count:
        raise UsageError(f"tail_count must lie in 1..head_count={head_count}, got {tail_count}")
    if not 0 < exponent < np.inf:
        raise UsageError(f"exponent must be finite and > 0, got {exponent}")
    # expm1 keeps the differences that a large exponent makes small
    size = np.expm1(np.log((num_classes + 1) / np.arange(1, num_classes + 1)) / exponent)
    return [head_count] + [max(tail_count, int(head_count * share)) for share in size[1:] / size[0]]


def _check_factor(head_count: int, imbalance_factor: float, num_classes: int) -> None:
    if not 1 <= imbalance_factor < np.inf:
        hint = f"; did you mean {1 / imbalance_factor:g}?" if 0 < imbalance_factor < 1 else ""
        raise UsageError(
            f"imbalance_factor must be finite and >= 1 (head count / tail count), got {imbalance_factor}{hint}"
        )
    if num_classes < 2:
        raise UsageError(f"a long tail needs at least 2 classes, got num_classes={num_classes}")
    if int(head_count * (1 / imbalance_factor)) < 1:
        raise UsageError(
            f"head_count={head_count} with imbalance_factor={imbalance_factor:g} leaves the smallest class empty; "
            "raise head_count or lower the factor"
        )


def disjoint_class_draws(
    labels: np.ndarray, counts_of_split: dict[str, list[int]], *, seed: int
) -> dict[str, np.ndarray]:
    """Draw disjoint splits with the given class counts, in the index order of the community's CIFAR-LT protocol.

    Each class's index array is shuffled in place by one shared legacy `RandomState(seed)` stream, classes ascending;
    the splits take consecutive pieces of it, in the order of `counts_of_split`. So the first split is exactly the
    CIFAR-LT choice, and a later split can grow without changing an earlier one.

    Args:
        labels: [n] integer labels of the source.
        counts_of_split: images per class of every split, each of length k.
        seed: of the legacy stream; the community uses 0.

    Raises:
        UsageError: if a class has fewer images than the splits ask for.
    """
    stream = np.random.RandomState(seed)
    num_classes = len(next(iter(counts_of_split.values())))
    if labels.max() >= num_classes:
        raise UsageError(
            f"the splits name {num_classes} classes, the labels go up to {labels.max()}; give every class a count"
        )
    pieces: dict[str, list[np.ndarray]] = {split: [] for split in counts_of_split}
    for label in range(num_classes):
        indices = np.flatnonzero(labels == label)
        stream.shuffle(indices)
        wanted = sum(counts[label] for counts in counts_of_split.values())
        if wanted > len(indices):
            raise UsageError(f"class {label} has {len(indices)} images, the splits ask for {wanted}; lower the counts")
        start = 0
        for split, counts in counts_of_split.items():
            pieces[split].append(indices[start : start + counts[label]])
            start += counts[label]
    return {split: np.concatenate(parts) for split, parts in pieces.items()}
