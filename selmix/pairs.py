"""The law over class pairs, and drawing pairs and their members from it."""

from dataclasses import dataclass, replace

import torch

_CELLS = 1 << 22  # cells of the law that are summed up at a time


def pair_distribution(
    gains: torch.Tensor,
    *,
    inverse_temperature: float,
    exploration: float = 0.0,
    allowed: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the softmax law over the pairs of positive gain.

    Gains are first divided by the largest, so that `inverse_temperature` means the same whatever the scale of features
    and metric: the best pair is exp(inverse_temperature) times likelier than a pair of vanishing gain. A share
    `exploration` of the mass is spread evenly over all allowed pairs.

    Args:
        gains: [r, r] from `selmix.gains.gain_matrix`; at least one allowed entry must be positive (else the head is
            stationary and there is nothing to draw).
        inverse_temperature: s >= 0; 0 is uniform over the positive pairs, large is greedy.
        exploration: in [0, 1).
        allowed: bool [r] of the rows that may be kept and bool [r] of those that may be partners; all, if not given.

    Returns:
        float64 [r, r] that sums to 1.

    Source: SelMix, ICLR 2024 (softmax policy); its released code also restricts it to positive gains.
    """
    law = gains.to(torch.float64, copy=True)  # and in place from here: at r = 10^4 it is most of a gigabyte
    kept, partner = allowed or 2 * (law.new_ones(len(law), dtype=torch.bool),)
    law.mul_(kept[:, None]).mul_(partner)
    positive = law > 0
    law.div_(law.amax()).sub_(1).mul_(inverse_temperature).exp_().mul_(positive)
    law.mul_((1 - exploration) / law.sum())
    if exploration:
        law.addr_(kept.double(), partner.double(), alpha=exploration / float(kept.sum() * partner.sum()))
    return law


def draw_pairs(
    distribution: torch.Tensor, count: int, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw `count` pairs (i, j) independently from the law: i from its row sums, j from the law's row i.

    Args:
        distribution: float64 [r, r].
        count: pairs to draw.
        generator: source of randomness.

    Returns:
        Kept rows i and partner rows j, each int64 [count].
    """
    uniform = torch.rand((2, count), generator=generator, dtype=torch.float64, device=distribution.device)
    kept = _invert(distribution.sum(1), uniform[0])
    partner = torch.empty_like(kept)
    step = max(1, _CELLS // distribution.shape[1])
    for start in range(0, count, step):
        block = slice(start, start + step)
        partner[block] = _invert(distribution[kept[block]], uniform[1, block, None]).squeeze(1)
    return kept, partner


def _invert(masses: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the cells [..., m] where the cumulative masses [..., c], not normalised, pass numbers of [0, 1)."""
    cumulative = masses.cumsum(-1)
    # a cell of zero mass ends where its predecessor ends, so `right=True` never returns it
    return torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)


def sorting(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return the positions [n] of labels 0..k-1 in the order of the labels, equal ones as they stand.

    Sorted as small integers: of ten million samples, keys and their copies take 40 MB in place of 160.
    """
    kind = torch.int16 if num_classes < 1 << 15 else torch.int32 if num_classes < 1 << 31 else torch.int64
    return labels.to(kind).argsort(stable=True)


@dataclass(frozen=True)
class ClassMembers:
    """The samples of every class, laid out for drawing.

    Of samples that several processes hold, each knows its own: those of a class are numbered through, and a process
    holds the numbers from `before` on.

    Attributes:
        order: int64 [n], sample indices grouped by class.
        starts: int64 [k], where each class begins in `order`.
        counts: int64 [k], samples per class, of all processes.
        own_counts: int64 [k], samples per class in `order`; None if these are all.
        before: int64 [k], samples per class that processes before this one hold; None if there is one process.
    """

    order: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor
    own_counts: torch.Tensor | None = None
    before: torch.Tensor | None = None

    @classmethod
    def from_labels(
        cls, labels: torch.Tensor, num_classes: int, *, among: torch.Tensor | None = None
    ) -> "ClassMembers":
        """Group the samples by label: all n of them, or those at the positions `among`, int64 [m]."""
        if among is not None:
            labels = labels[among]
        counts = torch.bincount(labels, minlength=num_classes)
        order = sorting(labels, num_classes)
        return cls(order if among is None else among[order], counts.cumsum(0) - counts, counts)

    def among_others(self, before: torch.Tensor, counts: torch.Tensor) -> "ClassMembers":
        """Return the same members as the part of `counts` [k] that comes after `before` [k]."""
        return replace(self, counts=counts, own_counts=self.counts, before=before)

    def draw(self, classes: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """Draw one member of each listed class, uniformly and independently.

        Args:
            classes: int64 of any shape.
            generator: source of randomness.

        Returns:
            Sample indices, of the same shape; -1 for a sample that another process holds.

        Raises:
            ValueError: if a listed class has no member.
        """
        # index_select on flat positions is several times faster than an index
        flat = classes.flatten()
        counts = self.counts.index_select(0, flat)
        if (counts == 0).any():
            raise ValueError("cannot draw a member of a class without samples")
        uniform = torch.rand(flat.shape, generator=generator, dtype=torch.float64, device=flat.device)
        number = (uniform * counts).long()
        if self.before is None or self.own_counts is None:
            position = self.starts.index_select(0, flat) + number
            return self.order.index_select(0, position).view(classes.shape)
        number -= self.before.index_select(0, flat)
        held = (number >= 0) & (number < self.own_counts.index_select(0, flat))
        drawn = torch.full_like(flat, -1)
        drawn[held] = self.order[self.starts[flat[held]] + number[held]]
        return drawn.view(classes.shape)
