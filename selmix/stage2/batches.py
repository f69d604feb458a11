"""Batches of mixed pairs: from a law over class pairs to features and targets."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from selmix.features.pool import Pool
from selmix.features.space import FeatureSpace
from selmix.losses.smoothing import smoothed_targets
from selmix.pairs import ClassMembers, draw_pairs

_CELLS = 1 << 17  # numbers of mixed features and targets in memory at a time, but at least one step's


@dataclass(frozen=True)
class PairBatches:
    """Draws batches of feature mixups from labeled features; several processes draw the same, each mixes what it holds.

    Attributes:
        pool: plain features; only the rows that are drawn are read.
        space: in which the batches are given.
        members: for each of h heads, the samples that it may keep, by row of the law.
        batch_size: mixups a batch.
        mix_low: the coefficient lam of the kept sample is uniform on [mix_low, 1].
        generator: source of randomness, on the device of the features; the same for all processes.
        smoothing: label smoothing of each class, [k], in the dtype of the features.
        groups: rows of the law per class, G; row = label * G + group.
        partners: likewise the samples that these are mixed with; `members`, if not given.
    """

    pool: Pool
    space: FeatureSpace
    members: list[ClassMembers]
    batch_size: int
    mix_low: float
    generator: torch.Generator
    smoothing: torch.Tensor
    groups: int = 1
    partners: list[ClassMembers] | None = None

    def draw(self, distribution: torch.Tensor, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield `steps` batches: encoded mixtures [h, b, d + 1], and smoothed targets [b, k] of the classes kept.

        Of several processes each yields its part of the mixtures: their sum is the batch.

        The heads share classes and coefficients; each mixes members of its own. What is drawn is drawn for all steps
        at once; features are read for a few steps at a time.

        Args:
            distribution: [r, r] law over (kept, partner).
            steps: batches to draw.
        """
        shape = (steps, self.batch_size)
        drawn_pairs = draw_pairs(distribution, steps * self.batch_size, generator=self.generator)
        # the law comes from arithmetic that may differ in the last bits between processors: one process draws for all
        pairs = self.pool.ranks.first(torch.stack(drawn_pairs)).view(2, *shape)
        uniform = torch.rand(shape, generator=self.generator, device=pairs.device, dtype=self.pool.dtype)
        mix = self.mix_low + (1 - self.mix_low) * uniform
        drawn = torch.stack([self._drawn(pairs, head) for head in range(len(self.members))], dim=2)
        drawn = self.pool.any_version(drawn, generator=self.generator)

        step_cells = self.batch_size * (len(self.members) * (self.pool.width + 1) + len(self.smoothing))
        at_once = max(1, _CELLS // step_cells)
        for start in range(0, steps, at_once):
            block = slice(start, start + at_once)
            mixed = self.pool.mixtures(self.space, drawn[:, block], mix[block, None])
            targets = smoothed_targets(pairs[0, block] // self.groups, self.smoothing)
            yield from zip(mixed, targets, strict=True)

    def _drawn(self, pairs: torch.Tensor, head: int) -> torch.Tensor:
        """Return a member of each row of the pairs, int64 [2, ...], for one head."""
        if self.partners is None:
            return self.members[head].draw(pairs, generator=self.generator)
        sources = self.members[head], self.partners[head]
        return torch.stack([own.draw(rows, generator=self.generator) for own, rows in zip(sources, pairs, strict=True)])
