"""Batches of mixed pairs: from a law over class pairs to features and targets."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from selmix.features.rows import Rows, gather
from selmix.features.space import FeatureSpace
from selmix.mixup import mix_features
from selmix.pairs import ClassMembers, draw_pairs
from selmix.smoothing import smoothed_targets

_CELLS = 1 << 17  # numbers of mixed features and targets in memory at a time, but at least one step's


@dataclass(frozen=True)
class PairBatches:
    """Draws batches of feature mixups from labeled features.

    Attributes:
        features: [n, d], plain; they may lie on a memory map, as only the rows that are drawn are read.
        space: in which the batches are given.
        members: for each of h heads, the samples it may learn from, by row of the law.
        batch_size: mixups a batch.
        mix_low: the coefficient lam of the kept sample is uniform on [mix_low, 1].
        generator: source of randomness, on the device of the features.
        smoothing: label smoothing of each class, [k], in the dtype of the features.
        groups: rows of the law per class, G; row = label * G + group.
    """

    features: Rows
    space: FeatureSpace
    members: list[ClassMembers]
    batch_size: int
    mix_low: float
    generator: torch.Generator
    smoothing: torch.Tensor
    groups: int = 1

    def draw(self, distribution: torch.Tensor, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield `steps` batches: encoded mixtures [h, b, d + 1], and smoothed targets [b, k] of the classes kept.

        The heads share classes and coefficients; each mixes members of its own. What is drawn is drawn for all steps
        at once; features are read for a few steps at a time.

        Args:
            distribution: [r, r] law over (kept, partner).
            steps: batches to draw.
        """
        shape = (steps, self.batch_size)
        kept, partner = draw_pairs(distribution, steps * self.batch_size, generator=self.generator)
        uniform = torch.rand(shape, generator=self.generator, device=self.features.device, dtype=self.features.dtype)
        mix = self.mix_low + (1 - self.mix_low) * uniform
        pairs = torch.stack([kept, partner]).view(2, *shape)
        drawn = torch.stack([own.draw(pairs, generator=self.generator) for own in self.members], dim=2)

        step_cells = self.batch_size * (len(self.members) * (self.features.shape[1] + 1) + len(self.smoothing))
        at_once = max(1, _CELLS // step_cells)
        for start in range(0, steps, at_once):
            block = slice(start, start + at_once)
            kept_features, partner_features = (gather(self.features, drawn[side, block]) for side in (0, 1))
            mixed = self.space.encode(mix_features(kept_features, partner_features, mix[block, None]))
            targets = smoothed_targets(pairs[0, block] // self.groups, self.smoothing)
            yield from zip(mixed, targets, strict=True)
