"""How well features tell the classes apart before any head is tuned: nearest neighbours and class means."""

from dataclasses import dataclass

import torch

from selmix.features.labeled import LabeledFeatures
from selmix.features.rows import gather
from selmix.neighbours import NeighbourIndex, search_kind

NEIGHBOURS = 10
_SAMPLES, _A_CLASS = 5000, 5  # that are compared: of all classes, but at least so many of each


@dataclass(frozen=True)
class Geometry:
    """What the features of train say of each class.

    Attributes:
        recall: float64 [k], leave-one-out recall of the neighbours' vote; NaN for a class with fewer than two samples.
        compared: int64 [k], samples of each class that were compared.
        nearest: int64 [k], the class whose mean is nearest; -1 if there is none.
        separation: float64 [k], the distance to that mean over the root mean square distance of the class's samples
            to their own mean; NaN for a class with fewer than two samples.
    """

    recall: torch.Tensor
    compared: torch.Tensor
    nearest: torch.Tensor
    separation: torch.Tensor


def class_geometry(train: LabeledFeatures, num_classes: int) -> Geometry:
    """Compare samples of train with their neighbours by cosine similarity of centred features.

    A neighbour of a class with n others in the comparison speaks with weight 1/n: the vote estimates which class is the
    likeliest if all are equally frequent, so a small class is not outvoted by a large one that merely lies around it.
    Large classes are thinned to evenly spaced samples, so that the comparison stays small beside a tuning.

    Args:
        train: its features and labels; of several processes, of one.
        num_classes: k.
    """
    positions = _evenly(train.labels, max(_A_CLASS, _SAMPLES // num_classes))
    features, labels = gather(train.features, positions).float(), train.labels[positions]
    features = features - features.mean(0)
    counts = torch.bincount(labels, minlength=num_classes)
    means, spread = _means_and_spread(features, labels, counts)
    kind = search_kind(len(labels), len(labels), features.shape[1])
    rows = torch.nn.functional.normalize(features, dim=1)
    found = NeighbourIndex(rows, kind=kind).search(rows, NEIGHBOURS, own=torch.arange(len(rows))).positions
    right = _vote(found, labels, counts) == labels
    recall = torch.bincount(labels, right.double(), minlength=num_classes) / counts
    recall[counts < 2] = torch.nan

    present = (counts > 0).nonzero()[:, 0]
    nearest = torch.full((num_classes,), -1)
    separation = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    if len(present) > 1:
        own = means[present].float()
        beside = NeighbourIndex(own, euclidean=True).search(own, 1, own=torch.arange(len(own))).positions[:, 0]
        nearest[present] = present[beside]
        separation[present] = (means[present] - means[present[beside]]).norm(dim=1) / spread[present]
        separation[counts < 2] = torch.nan
    return Geometry(recall, counts, nearest, separation)


def _evenly(labels: torch.Tensor, most: int) -> torch.Tensor:
    """Return the positions of at most so many samples of each class, evenly spaced, in order."""
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    size, wanted = counts[labels[order]], counts.clamp_max(most)[labels[order]]
    # the place is the first one of its step where the scaled place passes a whole number
    kept = (place * wanted) // size != ((place - 1) * wanted).div(size, rounding_mode="floor")
    return order[kept].sort().values


def _means_and_spread(
    features: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return class means [k, d] and the root mean square distance to them [k]; zeros without samples."""
    width, size = features.shape[1], counts.clamp_min(1)
    means = torch.zeros(len(counts), width, dtype=torch.float64).index_add_(0, labels, features.double())
    means /= size[:, None]
    squares = (features.double() - means[labels]).square().sum(1)
    return means, (torch.bincount(labels, squares, minlength=len(counts)) / size).sqrt()


def _vote(found: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the class [n] that the neighbours `found` [n, m] vote for; of equals the one named by the nearest."""
    named = torch.where(found >= 0, labels[found.clamp(min=0)], -1)
    others = (counts[named.clamp(min=0)] - (named == labels[:, None]).long()).clamp_min(1)
    weight = torch.where(named >= 0, 1 / others.double(), 0.0)
    same = (named[:, :, None] == named[:, None, :]).double()
    votes = (same @ weight[:, :, None])[:, :, 0].masked_fill(named < 0, -1)
    return named.gather(1, votes.argmax(1, keepdim=True))[:, 0]
