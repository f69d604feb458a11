"""The loss that AutoBalance learns: a factor, an offset and a weight for each class, or each class within a group.

loss(y, f) = w_y CE(Delta f + l, y), Delta = sigmoid(D a), l = D b, log w = D c: D spreads the values of clusters of
classes, neighbours in frequency, over the classes. Raw logits f decide at the end; tables are of training alone.

Source: Li et al., "AutoBalance: Optimized Loss Functions for Imbalanced Data", NeurIPS 2021, equations 2.1, 2.2,
4.2, and section 3 for the clusters. The initial values are those of the authors' code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch.nn import functional as F

from selmix.losses.parametric import parametric_cross_entropy
from selmix.stage1.hypergradient import Tree
from selmix.stage1.objective import Objective

Learnable = Literal["offset", "scale", "weight", "tau", "noise"]
Transform = Literal["sigmoid", "identity", "softplus"]
Expand = Literal["repeat", "linear"]

_TRANSFORMS = {"sigmoid": torch.sigmoid, "identity": lambda raw: raw, "softplus": F.softplus}
_NOISE_START = -2.0  # before the sigmoid: 12 % of the greatest noise


@dataclass(frozen=True)
class LossTables:
    """A loss with a factor, an offset and a weight for each class in each group, all [k, g].

    Attributes:
        scale: Delta.
        offset: l.
        weight: w.
        noise: of the personal augmentation (`selmix.stage1.personal`); zeros where there is none.
    """

    scale: torch.Tensor
    offset: torch.Tensor
    weight: torch.Tensor
    noise: torch.Tensor

    def losses(self, logits: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Return the loss of every sample, [b].

        Args:
            logits: [b, k].
            cells: int64 [b], class * g + group.
        """
        num_groups = self.scale.shape[1]
        labels, groups = cells // num_groups, cells % num_groups
        losses = parametric_cross_entropy(logits, labels, scale=self.scale, offset=self.offset, groups=groups)
        return self.weight.to(losses)[labels, groups] * losses

    def objective(self) -> Objective:
        """Return what a loop minimises, on images whose labels are cells; the mean is over the images of a batch."""
        return Objective(self.losses)

    def to_dict(self) -> dict[str, list[list[float]]]:
        """Return plain lists, for JSON and TOML."""
        return {field.name: getattr(self, field.name).double().tolist() for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, list[list[float]]], *, device: torch.device | str = "cpu") -> "LossTables":
        """Return the tables of `to_dict`, on a device."""
        return cls(**{field.name: torch.tensor(values[field.name], device=device) for field in fields(cls)})


@dataclass(frozen=True)
class LossDesign:
    """What AutoBalance may change of a loss.

    Attributes:
        clusters: D [k, k'].
        log_prior: [k, g].
        start: the learnable values before the first step: `scale`, `offset`, `weight`, `noise` [k', g], `tau` [].
        transform: from what is learnt to the factor of a logit.
        tau: the offsets are this times `log_prior` where they are not learnt.
        noise_max: greatest noise of the personal augmentation.
    """

    clusters: torch.Tensor
    log_prior: torch.Tensor
    start: Tree
    transform: Transform
    tau: float
    noise_max: float

    @classmethod
    def begin(
        cls,
        cell_counts: torch.Tensor,
        *,
        learn: Sequence[Learnable],
        cluster_size: int = 1,
        expand: Expand = "repeat",
        transform: Transform = "sigmoid",
        scale_start: float = 1.0,
        tau: float = 1.0,
        noise_max: float = 0.0,
    ) -> "LossDesign":
        """Return the design at its start, which is logit adjustment but for the transform of the factors.

        Args:
            cell_counts: [k, g] training samples.
            learn: what of the loss; what is not learnt is 1 for factors and weights, and tau log prior for offsets.
            cluster_size: classes that share their values.
            expand: from clusters to classes: `class_clusters`.
            transform: of the factors.
            scale_start: of the factors, before the transform.
            tau: of the offsets; 0 starts from none.
            noise_max: greatest noise of the personal augmentation, in standard deviations of a pixel.
        """
        counts = cell_counts.float()
        clusters = class_clusters(cell_counts.sum(1), size=cluster_size, expand=expand).to(counts.device)
        repeated = class_clusters(cell_counts.sum(1), size=cluster_size).to(counts.device)
        # a cell without samples counts as if it had one: no logarithm of 0
        log_prior = (counts.clamp_min(1) / counts.sum()).log()
        flat = counts.new_zeros(clusters.shape[1], counts.shape[1])
        start = {
            "scale": flat + scale_start,
            "offset": tau * (repeated.T @ log_prior) / repeated.sum(0)[:, None],
            "weight": flat,
            "noise": flat + _NOISE_START,
            "tau": counts.new_tensor(tau),
        }
        return cls(clusters, log_prior, {name: start[name] for name in learn}, transform, tau, noise_max)

    def tables(self, alpha: Tree) -> LossTables:
        """Return the loss at some values of what is learnt, differentiable in them."""
        ones = torch.ones_like(self.log_prior)
        spread = {name: self.clusters @ values for name, values in alpha.items() if name != "tau"}
        return LossTables(
            _TRANSFORMS[self.transform](spread["scale"]) if "scale" in spread else ones,
            spread["offset"] if "offset" in spread else alpha.get("tau", self.tau) * self.log_prior,
            spread["weight"].exp() if "weight" in spread else ones,
            self.noise_max * spread["noise"].sigmoid() if "noise" in spread else 0 * ones,
        )


def class_clusters(class_counts: torch.Tensor, *, size: int, expand: Expand = "repeat") -> torch.Tensor:
    """Return D [k, k'], k' = ceil(k / size), which takes the values of clusters to classes; its rows sum to 1.

    Args:
        class_counts: [k]; the first cluster has the `size` largest classes, and so on; ties are taken in order.
        size: of a cluster; the last has what is left.
        expand: `repeat` gives a class the value of its cluster: entries are 0 and 1. `linear` puts the values at the
            middle ranks of the clusters, and interpolates, beyond the first and the last one extrapolates.

    >>> class_clusters(torch.tensor([9, 1, 5]), size=2)
    tensor([[1., 0.],
            [0., 1.],
            [1., 0.]])
    """
    order = class_counts.cpu().argsort(descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    columns = -(-len(order) // size)
    left, share = ranks // size, torch.zeros(len(order))
    if expand == "linear" and columns > 1:
        left = ((ranks - size // 2) // size).clamp(0, columns - 2)
        share = (ranks - size // 2) / size - left
    matrix = torch.zeros(len(order), columns)
    matrix[torch.arange(len(order)), left] = 1 - share
    if expand == "linear" and columns > 1:
        matrix[torch.arange(len(order)), left + 1] = share
    return matrix
