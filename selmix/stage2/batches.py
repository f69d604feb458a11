"""Batches of mixed pairs: from a law over class pairs to features and targets."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from selmix.mixup import mix_features
from selmix.pairs import ClassMembers, draw_pairs


@dataclass(frozen=True)
class PairBatches:
    """Draws batches of feature mixups from labeled features.

    Attributes:
        features: [n, d].
        members: for each of h heads, the samples it may learn from, by class.
        batch_size: mixups a batch.
        mix_low: the coefficient lam of the kept sample is uniform on [mix_low, 1].
        generator: source of randomness, on the device of the features.
    """

    features: torch.Tensor
    members: list[ClassMembers]
    batch_size: int
    mix_low: float
    generator: torch.Generator

    def draw(self, distribution: torch.Tensor, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield `steps` batches: mixed features [h, b, d], and one-hot targets [b, k] of the classes kept.

        The heads share classes and coefficients; each mixes members of its own.

        Args:
            distribution: [k, k] law over (kept, partner).
            steps: batches to draw; all are drawn at once, for speed.
        """
        count = steps * self.batch_size
        kept, partner = draw_pairs(distribution, count, generator=self.generator)
        uniform = torch.rand(count, generator=self.generator, device=self.features.device, dtype=self.features.dtype)
        mix = self.mix_low + (1 - self.mix_low) * uniform
        mixed = torch.stack([self._mix(members, kept, partner, mix) for members in self.members])
        targets = F.one_hot(kept, len(self.members[0].counts)).to(mixed)
        return zip(mixed.split(self.batch_size, dim=1), targets.split(self.batch_size), strict=True)

    def _mix(self, members: ClassMembers, kept: torch.Tensor, partner: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
        kept_features = self.features[members.draw(kept, generator=self.generator)]
        return mix_features(kept_features, self.features[members.draw(partner, generator=self.generator)], mix)
