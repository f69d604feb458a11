"""Images to look at, as they are kept in a run folder: test images that changed most, samples of the pool."""

import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from selmix.audit.choice import chosen
from selmix.audit.document import PoolAudit
from selmix.data.images import ImageSource
from selmix.errors import DataError
from selmix.pipeline import Tuning
from selmix.writing import write_atomically

logger = logging.getLogger(__name__)

SAMPLES = "samples.json"
SCHEMA = 1
CHANGED = 12  # test images that improved most, and that were harmed most
_SIDE = 64  # pixels of a thumbnail
_QUALITY = 75


def write_samples(out: Path, tuning: Tuning, audit: PoolAudit | None) -> None:
    """Write `samples.json`.

    Keys: `test`, of which `improved` and `harmed` are lists of `position` in the test split, `id` and `picture`; and
    `pool`, a list of a class's `label` and its `samples`: `id`, `confidence`, `selected`, `truth` (a label, -1 for an
    image of no known class, null where nobody knows) and `picture`. A picture is a data URL, null where there is none.

    Args:
        out: the run folder.
        tuning: what stage two did; of several processes, images are those of the first.
        audit: of the pool, if there is one.
    """
    changed = _changed(tuning)
    gone = sum(sample["picture"] is None for samples in changed.values() for sample in samples)
    if gone and tuning.data.ranks.count == 1 and tuning.data.splits["test"].images is not None:
        logger.warning("%d images that the report would show cannot be read any more: it has their names alone", gone)
    content = {"schema": SCHEMA, "test": changed, "pool": [] if audit is None else _pool(audit)}
    write_atomically(out / SAMPLES, json.dumps(content) + "\n")


def thumbnail(images: ImageSource, position: int) -> str | None:
    """Return an image, made small, as a data URL; None if its file has gone."""
    try:
        image = images.open(position)
    except DataError:
        return None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def most_changed(before: torch.Tensor, after: torch.Tensor, count: int) -> tuple[list[int], list[int]]:
    """Return the positions of the largest rises and of the largest falls, the largest first; none that did not change.

    Args:
        before: [n], probability of the true class.
        after: [n].
        count: of each, at most.

    >>> most_changed(torch.tensor([0.5, 0.5, 0.5, 0.5]), torch.tensor([0.5, 0.9, 0.6, 0.1]), 2)
    ([1, 2], [3])
    """
    change = after - before
    order = change.argsort(descending=True, stable=True).tolist()
    risen = [position for position in order[:count] if change[position] > 0]
    return risen, [position for position in order[: -count - 1 : -1] if change[position] < 0]


def _changed(tuning: Tuning) -> dict[str, list[dict[str, Any]]]:
    if "test" not in tuning.evaluations:
        return {"improved": [], "harmed": []}
    before, after = (tuning.evaluations["test"][head].predicted.of_truth for head in ("before", "after"))
    assert before is not None
    assert after is not None
    ids, images = tuning.data.ids.get("test", []), tuning.data.splits["test"].images

    def sample(position: int) -> dict[str, Any]:
        own = position < len(ids)  # the samples of other processes come after those of this one
        picture = thumbnail(images, position) if own and images is not None else None
        return {"position": position, "id": ids[position] if own else None, "picture": picture}

    improved, harmed = most_changed(before, after, CHANGED)
    return {"improved": list(map(sample, improved)), "harmed": list(map(sample, harmed))}


def _pool(audit: PoolAudit) -> list[dict[str, Any]]:
    pool, found, selected = audit.data.unlabeled, audit.labels.found, audit.labels.of_head[-1] >= 0
    if pool is None or pool.images is None:
        return []
    rows = []
    for label, positions in enumerate(chosen(audit)):
        samples = [
            {
                "id": audit.data.ids["unlabeled"][position],
                "confidence": float(found.confidence[position]),
                "selected": bool(selected[position]),
                "truth": None if pool.audit is None else int(pool.audit[position]),
                "picture": picture,
            }
            for position in positions.tolist()
            if (picture := thumbnail(pool.images, position)) is not None
        ]
        rows.append({"label": label, "samples": samples})
    return [row for row in rows if row["samples"]]
