"""Bootstrap intervals for functions of the confusion matrix, and for the change between two heads."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from selmix.confusion import confusion_counts, row_normalised
from selmix.margins import Margins


def resampled_counts(
    rows: torch.Tensor,
    predictions: Sequence[torch.Tensor],
    num_classes: int,
    *,
    replicates: int,
    generator: torch.Generator,
    groups: int = 1,
) -> Iterator[list[torch.Tensor]]:
    """Yield confusion counts of bootstrap samples, the same samples for every list of predictions.

    Samples are drawn with replacement within each row (stratified), so the counts of each class, and of each class and
    group, stay as they are: none is ever empty that was not, and metrics speak of the data at those counts.

    Args:
        rows: int64 [n], labels; with groups of samples, label * groups + group.
        predictions: of one or several heads on the same samples, each int64 [n].
        num_classes: k.
        replicates: bootstrap samples.
        generator: source of randomness.
        groups: g.

    Yields:
        One [k g, k] matrix of counts per head.
    """
    for ordered, drawn in _resamples(rows, num_classes * groups, replicates, generator):
        yield [confusion_counts(ordered, predicted[drawn], num_classes, groups=groups) for predicted in predictions]


def _resamples(
    rows: torch.Tensor, num_rows: int, replicates: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the sorted rows [n] and, for each of them, the position of a sample of the same row, int64 [n]."""
    order = rows.argsort(stable=True)
    support = torch.bincount(rows, minlength=num_rows)
    ordered = rows[order]
    size, start = support[ordered], (support.cumsum(0) - support)[ordered]
    for _ in range(replicates):
        uniform = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        yield ordered, order[start + (uniform * size).long()]


def resampled_rows(
    confusion: torch.Tensor, support: torch.Tensor, *, replicates: int, generator: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Yield joint confusion matrices as chance would vary them: each row redrawn from its own distribution.

    This is the bootstrap for a matrix of weighted samples, of which only the worth of each row is known.

    Args:
        confusion: joint, [r, k].
        support: how many samples each row is worth, [r]; rounded, a row with samples has at least one.
        replicates: matrices to draw.
        generator: source of randomness.

    Yields:
        float64 [r, k] with the row sums of `confusion`.
    """
    shares = row_normalised(confusion.double()).numpy()
    prior = confusion.double().sum(1).numpy()
    drawable = prior > 0
    counts = np.maximum(support.round().numpy().astype(np.int64), 1)
    for _ in range(replicates):
        redrawn = np.zeros_like(shares)
        drawn = generator.multinomial(counts[drawable], shares[drawable])
        redrawn[drawable] = drawn / counts[drawable, None] * prior[drawable, None]
        yield torch.from_numpy(redrawn)


def percentile_interval(values: np.ndarray, *, level: float = 0.95) -> list[float]:
    """Return the central interval that holds a share `level` of the bootstrap values.

    The minimum over classes is biased low on small samples, and so is its bootstrap; the interval of a change of two
    heads on the same samples suffers less.

    >>> percentile_interval(np.arange(5.0), level=0.5)
    [1.0, 3.0]
    """
    tail = (1 - level) / 2
    return np.quantile(values, [tail, 1 - tail]).tolist()


def bootstrap_statistics(
    rows: torch.Tensor,
    predictions: Sequence[torch.Tensor],
    statistics: Callable[[torch.Tensor | Margins], dict[str, float]],
    num_classes: int,
    *,
    replicates: int,
    generator: torch.Generator,
    groups: int = 1,
    margins: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Return the bootstrap values of every statistic of every head, aligned by replicate.

    Args:
        rows: int64 [n], as for `resampled_counts`.
        predictions: of each head on the same samples, int64 [n].
        statistics: confusion counts [k g, k] -> named numbers, the same names for every counts.
        num_classes: k.
        replicates: bootstrap samples, r.
        generator: source of randomness.
        groups: g; 1 with `margins`.
        margins: give the statistics the margins of the counts alone, which costs n instead of k^2.

    Returns:
        For each head, name -> float64 [r]; differences of heads are taken replicate by replicate (paired).
    """
    count = Margins.of if margins else partial(confusion_counts, groups=groups)
    values = [
        [statistics(count(labels, predicted[drawn], num_classes)) for predicted in predictions]
        for labels, drawn in _resamples(rows, num_classes * groups, replicates, generator)
    ]
    return [
        {name: np.array([own[head][name] for own in values]) for name in values[0][head]}
        for head in range(len(predictions))
    ]
