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
    if not 1 <= imbalance_factor < np.inf:
        hint = f"; did you mean {1 / imbalance_factor:g}?" if 0 < imbalance_factor < 1 else ""
        raise UsageError(
            f"imbalance_factor must be finite and >= 1 (head count / tail count), got {imbalance_factor}{hint}"
        )
    if num_classes < 2:
        raise UsageError(f"a long tail needs at least 2 classes, got num_classes={num_classes}")
    tail_fraction = 1 / imbalance_factor
    counts = [int(head_count * tail_fraction ** (i / (num_classes - 1))) for i in range(num_classes)]
    if counts[-1] < 1:
        raise UsageError(
            f"head_count={head_count} with imbalance_factor={imbalance_factor:g} leaves the smallest class empty; "
            "raise head_count or lower the factor"
        )
    return counts


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
