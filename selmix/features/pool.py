"""What linear heads learn from: features that may lie on several processes, some of them with augmented views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from selmix.features.rows import Rows, StackedRows, gather, read_dtype
from selmix.features.space import FeatureSpace
from selmix.mixup import mix_features
from selmix.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Pool:
    """Samples to draw from, by position; -1 stands for a sample that another process holds.

    Attributes:
        features: [n, d], clean.
        views: one range of `viewed` after another, each view by view; None if there are none.
        num_views: v, of each sample that has some.
        viewed: samples that have views.
        ranks: the processes that share the samples.
        spanning: the samples that the space is fitted to; all, if not given.
    """

    features: Rows
    views: Rows | None = None
    num_views: int = 0
    viewed: Sequence[range] = ()
    ranks: Ranks = ALONE
    spanning: Rows | None = None

    def __post_init__(self) -> None:
        """Views are of somebody."""
        assert (self.views is None) == (not self.viewed)

    @property
    def width(self) -> int:
        """Return d."""
        return self.features.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Return what features are read as."""
        return read_dtype(self.features)

    @property
    def total(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Return how to add up over the processes; None if there is one."""
        return self.ranks.total if self.ranks.count > 1 else None

    @property
    def space(self) -> FeatureSpace:
        """Return the space of the clean features of all processes, those that span it; they are read once for it."""
        # not a cached_property: before Python 3.12 that holds a lock, in which ranks that are threads would wait
        if "_space" not in self.__dict__:
            self.__dict__["_space"] = FeatureSpace.fit(
                self.features if self.spanning is None else self.spanning, ranks=self.ranks
            )
        return self.__dict__["_space"]

    @cached_property
    def _versions(self) -> Rows:
        return self.features if self.views is None else StackedRows([self.features, self.views])

    def any_version(self, positions: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """Replace each position by that of one of the v + 1 versions of the sample, uniformly, where it has views."""
        if self.views is None:
            return positions
        view = torch.randint(self.num_views + 1, positions.shape, generator=generator) - 1
        versions, before = positions.clone(), len(self.features)
        for own in self.viewed:
            chosen = (view >= 0) & (positions >= own.start) & (positions < own.stop)
            versions[chosen] = before + view[chosen] * len(own) + positions[chosen] - own.start
            before += self.num_views * len(own)
        return versions

    def encoded(self, space: FeatureSpace, positions: torch.Tensor) -> torch.Tensor:
        """Return the encoded features [..., d + 1] at positions [...]: zeros for what another process holds."""
        if self.ranks.count == 1:
            return space.encode(gather(self._versions, positions))
        held = positions >= 0
        part = torch.zeros(*positions.shape, self.width + 1, dtype=self.dtype)
        part[held] = space.encode(gather(self._versions, positions[held]))
        return part

    def mixtures(self, space: FeatureSpace, pairs: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
        """Return this process's part of encoded mixtures, [..., d + 1]; over all processes the parts add up to them.

        Encoding is affine and the coefficients add up to 1, so a mixture may be taken apart after encoding.

        Args:
            space: of the result.
            pairs: int64 [2, ...], positions of the kept samples and of their partners.
            mix: [...], coefficients of the kept samples.
        """
        if self.ranks.count == 1:
            kept, partner = (gather(self._versions, own) for own in pairs)
            return space.encode(mix_features(kept, partner, mix))
        return mix_features(self.encoded(space, pairs[0]), self.encoded(space, pairs[1]), mix)
