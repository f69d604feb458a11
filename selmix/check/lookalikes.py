"""Near duplicates between splits: what remains of two images once what all images share is taken out."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.fft
import torch

from selmix.check.pixels import BLANK
from selmix.check.reading import SIDE, Reading, class_of, place_of
from selmix.data.findings import Finding, caution
from selmix.data.images import ImageData
from selmix.features.extract import Track
from selmix.neighbours import Kind, NeighbourIndex, Neighbours, faiss_or_none

logger = logging.getLogger("selmix")

# cosines from which a pair is reported; docs/check.md says what they find, and how often they are wrong
SIMILAR = 0.9  # of thumbnails
SIMILAR_FEATURES = 0.8
TOO_MANY = 0.05  # share of images beyond which features are taken to know classes, not images
PAIR_LIMIT = 5 * 10**9
# who may not look like whom: a sample of the second kind judges what was learnt from the first
SIDES = {"test": ("train", "val", "unlabeled"), "val": ("train", "unlabeled")}
_FEW_ALARMS = 20  # images that may always look alike
_FOUND = 3  # near duplicates of an image
_AT_ONCE = 1024  # images compared at once
_WIDTH, _FEATURE_WIDTH = 128, 256  # directions kept
_LEARNT_FROM = 20_000  # images
_PRIOR_WEIGHT = 100  # images that the assumed covariance counts as


@dataclass(frozen=True)
class Whitening:
    """The map to a space in which the images of a data set have no common shape, so that a small angle is news.

    Attributes:
        mean: float32 [d].
        directions: float32 [d, q], each divided by the standard deviation along it.
    """

    mean: torch.Tensor
    directions: torch.Tensor

    @classmethod
    def fit(cls, rows: torch.Tensor, prior: torch.Tensor, *, width: int) -> "Whitening":
        """Learn it from unit rows [n, d]; the covariance is shrunk towards the diagonal `prior` [d], up to a factor.

        The `width` directions in which the images differ most are kept.
        """
        own = rows.double()  # a covariance in float32 loses the small directions
        count = len(own)
        share = count / (count + _PRIOR_WEIGHT)
        mean = own.sum(0) / max(1, count)
        covariance = (own - mean).T @ (own - mean) / max(1, count)
        # no row, one, or equal ones have no spread: rely on the length of a row, 1
        scale = covariance.trace() if covariance.trace() > 1e-9 else 1.0
        assumed = prior.double() * scale / prior.double().sum()
        values, vectors = torch.linalg.eigh(share * covariance + (1 - share) * assumed.diag())
        kept = values.argsort(descending=True)[:width]
        kept = kept[values[kept] > 1e-9 * values.max()]
        return cls((share * mean).float(), (vectors[:, kept] / values[kept].sqrt()).float())

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Map unit rows [n, d] to unit rows [n, q]; a row of zeros, which says nothing, stays one."""
        known = rows.square().sum(1, keepdim=True) > 0
        return torch.nn.functional.normalize((rows - self.mean) @ self.directions) * known


class _Views:
    """The rows in which images are compared: of thumbnails, mirrored or not, or of a backbone's features."""

    def __init__(self, readings: dict[str, Reading], features: dict[str, torch.Tensor] | None) -> None:
        self._readings, self._features = readings, features
        self._whitening: Whitening | None = None
        count = len(readings["train"].facts)
        learnt_from = np.linspace(0, count - 1, min(count, _LEARNT_FROM)).astype(np.int64)
        rows = self("train", learnt_from)
        prior = _thumbnail_prior() if features is None else torch.ones(rows.shape[1])
        width = _WIDTH if features is None else _FEATURE_WIDTH
        self._whitening = Whitening.fit(rows[rows.square().sum(1) > 0], prior, width=width)

    def __call__(self, split: str, positions: np.ndarray, *, mirrored: bool = False) -> torch.Tensor:
        facts = self._readings[split].facts[positions]
        rows = _thumbnail_rows(facts, mirrored) if self._features is None else self._features[split][positions].float()
        told = torch.from_numpy(facts["readable"] & (facts["spread"] >= BLANK)) & rows.isfinite().all(1)
        rows = torch.nn.functional.normalize(rows).where(told[:, None], torch.zeros(()))
        return rows if self._whitening is None else self._whitening(rows)

    def all_of(self, split: str) -> torch.Tensor:
        """Return the whitened rows of a split, made some at a time."""
        positions = np.arange(len(self._readings[split].facts))
        parts = np.array_split(positions, max(1, len(positions) // _AT_ONCE))
        return torch.cat([self(split, part) for part in parts])


def _thumbnail_rows(facts: np.ndarray, mirrored: bool) -> torch.Tensor:
    """Return the cosine transform of thumbnails without its mean, [n, d]."""
    pixels = facts["thumbnail"][:, :, ::-1] if mirrored else facts["thumbnail"]
    waves = scipy.fft.dctn(pixels.astype(np.float32), axes=(1, 2), norm="ortho")
    waves[:, 0, 0] = 0
    return torch.from_numpy(waves.reshape(len(facts), -1))


def _thumbnail_prior() -> torch.Tensor:
    """Return the spectrum of natural images, 1 / frequency^2 (Field, 1987), for every entry of a row."""
    square = np.add.outer(np.arange(SIDE) ** 2, np.arange(SIDE) ** 2).astype(np.float32)
    square[0, 0] = np.inf
    return torch.from_numpy(np.repeat(1 / square.ravel(), 3))


def lookalike_findings(
    data: ImageData,
    readings: dict[str, Reading],
    features: dict[str, torch.Tensor] | None = None,
    *,
    similar: float | None = None,
    track: Track | None = None,
) -> list[Finding]:
    """Return the images of test, and of val, that look like one of another split, the most alike first.

    The same file twice is no part of it.

    Args:
        data: the images.
        readings: of every split; at least one image of train is readable.
        features: of every split, [n, d]; None to compare thumbnails, and mirrored ones.
        similar: cosine in the whitened space from which a pair is reported; None for the default.
        track: shows progress.
    """
    sides = {split: [other for other in SIDES[split] if other in readings] for split in SIDES if split in readings}
    pairs = sum(len(readings[split].facts) * len(readings[other].facts) for split in sides for other in sides[split])
    if similar is None:
        similar = SIMILAR if features is None else SIMILAR_FEATURES
    how = "" if features is None else " to the backbone"
    turns = (False, True) if features is None else (False,)
    kind, stride = _economy(pairs * len(turns))
    if not pairs:
        return []
    views = _Views(readings, features)
    findings = []
    for other in dict.fromkeys(other for others in sides.values() for other in others):
        index = NeighbourIndex(views.all_of(other), kind=kind)
        for split in [split for split, others in sides.items() if other in others]:
            queries = np.arange(0, len(readings[split].facts), stride)
            blocks = range(0, len(queries), _AT_ONCE)
            description = f"comparing {split} with {other}"
            for start in blocks if track is None else track(blocks, description, len(blocks)):
                block = queries[start : start + _AT_ONCE]
                found = [index.search(views(split, block, mirrored=turn), _FOUND) for turn in turns]
                for hit in _hits(found, block, similar):
                    if not _same_file(readings, split, hit.position, other, hit.other):
                        findings.append(_finding(data, split, other, hit, how))
    return sorted(findings, key=lambda finding: (-(finding.similarity or 0), finding.path))


def distinct(data: ImageData, by_thumbnails: list[Finding], by_features: list[Finding]) -> list[Finding]:
    """Return both without repeats; without the second where features find so much that they cannot tell images apart.

    A backbone that was trained on the very classes maps an image to its class, and little more.
    """
    known = {(finding.path, finding.other_path) for finding in by_thumbnails}
    judged = sum(len(data.splits[split].ids) for split in SIDES if split in data.splits)
    alarmed = len({finding.path for finding in by_features})
    if alarmed > TOO_MANY * judged and alarmed > _FEW_ALARMS:
        logger.warning("the features of the backbone make %d of %d images look alike: they tell classes apart, not "
                       "images, and are left aside; bring one trained on other data", alarmed, judged)  # fmt: skip
        return by_thumbnails
    return by_thumbnails + [finding for finding in by_features if (finding.path, finding.other_path) not in known]


def _economy(pairs: int) -> tuple[Kind, int]:
    """Return the kind of search, and the stride of the queries; say what is left out."""
    if pairs <= PAIR_LIMIT:
        return "flat", 1
    if faiss_or_none() is not None:
        logger.info(
            "near duplicates: %.1e pairs, so faiss looks into some lists of like images; a few are missed", pairs
        )
        return "lists", 1
    stride = -(-pairs // PAIR_LIMIT)
    logger.warning("near duplicates: %.1e pairs and no faiss, so only each %dth image of val and test is compared; "
                   "install faiss-cpu", pairs, stride)  # fmt: skip
    return "flat", stride


class _Hit(NamedTuple):
    """A pair that looks alike."""

    position: int
    other: int
    similarity: float
    mirrored: bool


def _hits(found: list[Neighbours], block: np.ndarray, similar: float) -> Iterator[_Hit]:
    """Yield the pairs of a block of queries, each once, with the turn that fits best."""
    best: dict[tuple[int, int], tuple[float, bool]] = {}
    for mirrored, neighbours in enumerate(found):
        for query, column in (neighbours.values >= similar).nonzero().tolist():
            pair = query, int(neighbours.positions[query, column])
            best[pair] = max(best.get(pair, (-1.0, False)), (float(neighbours.values[query, column]), bool(mirrored)))
    for (query, other), (similarity, mirrored) in sorted(best.items()):
        yield _Hit(int(block[query]), other, min(1.0, similarity), mirrored)


def _same_file(readings: dict[str, Reading], split: str, position: int, other: str, other_position: int) -> bool:
    digests = readings[split].facts["digest"][position], readings[other].facts["digest"][other_position]
    return bool((digests[0] == digests[1]).all())


def _finding(data: ImageData, split: str, other: str, hit: _Hit, how: str) -> Finding:
    places = (split, hit.position), (other, hit.other)
    paths = [place_of(name, data.splits[name], position) for name, position in places]
    names = [class_of(data, name, position) for name, position in places]
    classes = f", {names[0]} and {names[1]}" if names[1] and names[1] != names[0] else ""
    message = (
        f"looks like an image of {other}{how}{' mirrored' if hit.mirrored else ''} ({hit.similarity:.3f}{classes})"
    )
    remedy = f"look at both; if they show the same, move one out of {split}"
    made = caution("near duplicate", message, remedy, path=paths[0], split=split, class_name=names[0])
    return replace(made, other_path=paths[1], similarity=round(hit.similarity, 4))
