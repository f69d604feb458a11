"""How well features tell the classes apart before any head is tuned: nearest neighbours and class means."""

from dataclasses import dataclass

import torch

from selmix.features.labeled import LabeledFeatures
from selmix.features.rows import StackedRows, gather
from selmix.neighbours import NeighbourIndex, search_kind
from selmix.pairs import sorting

NEIGHBOURS = 10
_SAMPLES, _A_CLASS = 5000, 5  # of either split that are compared: of all classes, but at least so many of each


@dataclass(frozen=True)
class Geometry:
    """What the features say of each class.

    Attributes:
        recall: float64 [k], share of the judged samples for which their neighbours vote rightly; NaN without any.
        judged: int64 [k], validation samples of each class that were judged.
        mistaken_for: int64 [k], the class that is named for most of the others; -1 if there are none.
        nearest: int64 [k], the class whose mean is nearest; -1 if there is none.
        separation: float64 [k], the distance to that mean over the root mean square distance of the judged samples to
            the mean of their own class; NaN without any.
    """

    recall: torch.Tensor
    judged: torch.Tensor
    mistaken_for: torch.Tensor
    nearest: torch.Tensor
    separation: torch.Tensor


def class_geometry(train: LabeledFeatures, val: LabeledFeatures, num_classes: int) -> Geometry:
    """Compare validation samples with their neighbours among train and validation, by cosine of centred features.

    Train samples are not judged, as the backbone may know them by heart. A neighbour of a class with n others in the
    comparison speaks with weight 1/n: the vote estimates which class is the likeliest if all are equally frequent, so
    a small class is not outvoted by a large one that merely lies around it. Classes are thinned to evenly spaced
    samples, so that the comparison stays small beside a tuning.

    Args:
        train: its features and labels; of several processes, of one.
        val: likewise.
        num_classes: k.
    """
    kept = [_evenly(split.labels, max(_A_CLASS, _SAMPLES // num_classes)) for split in (val, train)]
    own, positions = torch.arange(len(kept[0])), torch.cat([kept[0], len(val.labels) + kept[1]])
    features = gather(StackedRows([val.features, train.features]), positions).float()
    labels = torch.cat([val.labels, train.labels])[positions]
    features = features - features.mean(0)
    counts, judged = (torch.bincount(each, minlength=num_classes) for each in (labels, labels[own]))
    truth, rows = labels[own], torch.nn.functional.normalize(features, dim=1)
    index = NeighbourIndex(rows, kind=search_kind(len(rows), len(own), rows.shape[1]))
    vote = _vote(labels, index.search(rows[own], NEIGHBOURS, own=own).positions, truth, counts)
    recall = torch.bincount(truth, (vote == truth).double(), minlength=num_classes) / judged

    means = torch.zeros(num_classes, features.shape[1]).index_add_(0, labels, features) / counts.clamp_min(1)[:, None]
    squares = (features[own] - means[truth]).square().sum(1).double()
    spread = (torch.bincount(truth, squares, minlength=num_classes) / judged).sqrt()
    present = (counts > 0).nonzero()[:, 0]
    nearest, separation = torch.full((num_classes,), -1), torch.full((num_classes,), torch.nan, dtype=torch.float64)
    if len(present) > 1:
        there = means[present]
        beside = NeighbourIndex(there, euclidean=True).search(there, 1, own=torch.arange(len(there))).positions[:, 0]
        nearest[present] = present[beside]
        separation[present] = (there - there[beside]).norm(dim=1) / spread[present]
    return Geometry(recall, judged, _most_named(truth, vote, num_classes), nearest, separation)


def _evenly(labels: torch.Tensor, most: int) -> torch.Tensor:
    """Return the positions of at most so many samples of each class, evenly spaced, in order."""
    counts = torch.bincount(labels)
    kept = []
    for positions in sorting(labels, len(counts)).split(counts.tolist()):
        size, wanted = len(positions), min(len(positions), most)
        # place p is kept where p wanted / size passes a whole number
        kept.append(positions[-(-torch.arange(wanted) * size // max(wanted, 1))])
    return torch.cat(kept).sort().values


def _vote(labels: torch.Tensor, found: torch.Tensor, truth: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the class [m] that neighbours vote for; of equals the one named by the nearest, -1 without neighbours.

    Args:
        labels: int64 [n], of all that are compared.
        found: int64 [m, c], neighbours of those that are judged; -1 where there is none.
        truth: int64 [m], the classes of these.
        counts: int64 [k], of the labels.
    """
    named = torch.where(found >= 0, labels[found.clamp(min=0)], -1)
    others = (counts[named.clamp(min=0)] - (named == truth[:, None]).long()).clamp_min(1)
    weight = torch.where(named >= 0, 1 / others.double(), 0.0)
    votes = ((named[:, :, None] == named[:, None, :]) * weight[:, None, :]).sum(2).masked_fill(named < 0, -1)
    return named.gather(1, votes.argmax(1, keepdim=True))[:, 0]


def _most_named(truth: torch.Tensor, vote: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return, for each class, the wrong one that is named most, the first of equals; -1 where there is none."""
    wrong = (vote != truth) & (vote >= 0)
    pairs, counts = torch.unique(truth[wrong] * num_classes + vote[wrong], return_counts=True)
    order = counts.argsort(stable=True, descending=True).flip(0)  # so that the largest is written last
    result = torch.full((num_classes,), -1)
    for pair in pairs[order].tolist():
        result[pair // num_classes] = pair % num_classes
    return result
