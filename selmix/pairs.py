"""The law over class pairs, and drawing pairs and their members from it."""

from dataclasses import dataclass

import torch


def pair_distribution(gains: torch.Tensor, *, inverse_temperature: float, exploration: float = 0.0) -> torch.Tensor:
    """Return the softmax law over the pairs of positive gain.

    Gains are first divided by the largest, so that `inverse_temperature` means the same whatever the scale of features
    and metric: the best pair is exp(inverse_temperature) times likelier than a pair of vanishing gain. A share
    `exploration` of the mass is spread evenly over all pairs.

    Args:
        gains: [k, k] from `selmix.gains.gain_matrix`; at least one entry must be positive (else the head is
            stationary and there is nothing to draw).
        inverse_temperature: s >= 0; 0 is uniform over the positive pairs, large is greedy.
        exploration: in [0, 1).

    Returns:
        float64 [k, k] that sums to 1.

    Source: SelMix, ICLR 2024 (softmax policy); its released code also restricts it to positive gains.
    """
    gains = gains.double()
    exponents = (inverse_temperature * gains / gains.amax()).masked_fill(gains <= 0, -torch.inf)
    law = exponents.flatten().softmax(0).view_as(gains)
    return (1 - exploration) * law + exploration / gains.numel()


def draw_pairs(
    distribution: torch.Tensor, count: int, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw `count` pairs (i, j) independently from the law.

    Args:
        distribution: float64 [k, k].
        count: pairs to draw.
        generator: source of randomness.

    Returns:
        Kept labels i and partner labels j, each int64 [count].
    """
    cumulative = distribution.flatten().cumsum(0)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64, device=distribution.device)
    # a cell of zero mass ends where its predecessor ends, so `right=True` never returns it
    cells = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    num_classes = distribution.shape[1]
    return cells // num_classes, cells % num_classes


@dataclass(frozen=True)
class ClassMembers:
    """The samples of every class, laid out for drawing.

    Attributes:
        order: int64 [n], sample indices grouped by class.
        starts: int64 [k], where each class begins in `order`.
        counts: int64 [k], samples per class.
    """

    order: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def from_labels(
        cls, labels: torch.Tensor, num_classes: int, *, among: torch.Tensor | None = None
    ) -> "ClassMembers":
        """Group the samples by label: all n of them, or those at the positions `among`, int64 [m]."""
        if among is not None:
            labels = labels[among]
        counts = torch.bincount(labels, minlength=num_classes)
        order = labels.argsort(stable=True)
        return cls(order if among is None else among[order], counts.cumsum(0) - counts, counts)

    def draw(self, classes: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """Draw one member of each listed class, uniformly and independently.

        Args:
            classes: int64 of any shape.
            generator: source of randomness.

        Returns:
            Sample indices, of the same shape.

        Raises:
            ValueError: if a listed class has no member.
        """
        if (self.counts[classes] == 0).any():
            raise ValueError("cannot draw a member of a class without samples")
        uniform = torch.rand(classes.shape, generator=generator, dtype=torch.float64, device=classes.device)
        position = (uniform * self.counts[classes]).long()
        return self.order[self.starts[classes] + position]
