"""The audit of pseudo-labels as a page: `audit.html`, one file that needs no other."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selmix.audit.document import PoolAudit
from selmix.audit.table import NO_CLASS
from selmix.audit.words import headline, remedy
from selmix.checkpoints import write_atomically
from selmix.errors import DataError

PAGE = "audit.html"
_SIDE = 64  # pixels of a thumbnail
_A_CLASS, _SHOWN = 8, 500  # thumbnails of a class, and of all
_QUALITY = 75


@dataclass(frozen=True)
class Sample:
    """A pseudo-labeled image.

    Attributes:
        name: its id.
        confidence: of its pseudo-label.
        selected: whether rules and guard let it pass.
        truth: its class where somebody knows it.
        right: whether that is the pseudo-label; None where nobody knows.
        picture: a data URL.
    """

    name: str
    confidence: float
    selected: bool
    truth: str | None
    right: bool | None
    picture: str


def write_page(out: Path, audit: PoolAudit, metric: str) -> None:
    """Write the page.

    Args:
        out: the run folder.
        audit: of the pool; of several processes, samples are shown of this one.
        metric: name of what was tuned for.
    """
    from jinja2 import Environment  # with the page alone

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _percent
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    document = audit.document
    words = headline(document, metric)
    text = template.render(
        document=document,
        headline=words[0],
        lines=words[1:],
        remedy=remedy(document),
        agreed=" and ".join(audit.told),
        grid=_grid(audit),
        part=audit.data.ranks.count > 1,
    )
    write_atomically(out / PAGE, text.encode(errors="replace"))


def chosen(audit: PoolAudit) -> list[torch.Tensor]:
    """Return for each class the positions of samples to look at, from the surest to the least sure, evenly spread.

    They are selected ones, where the class has some. Many classes have fewer samples each; beyond 500 classes, those of
    the lowest bound of precision have one.
    """
    found, selected = audit.labels.found, audit.labels.of_head[-1] >= 0
    num_classes = len(audit.data.class_names)
    most = max(1, min(_A_CLASS, _SHOWN // num_classes))
    doubtful = audit.labels.precision.lower.argsort(stable=True)[:_SHOWN].tolist()
    order = found.confidence.argsort(descending=True, stable=True)
    order = order[found.classes[order].argsort(stable=True)]
    sizes = torch.bincount(found.classes + 1, minlength=num_classes + 1).tolist()
    samples = list(order.split(sizes))[1:]
    for label, own in enumerate(samples):
        kept = own[selected[own]] if bool(selected[own].any()) else own
        count = min(most, len(kept)) if num_classes <= _SHOWN or label in doubtful else 0
        samples[label] = kept[torch.linspace(0, max(len(kept) - 1, 0), count).round().long()]
    return samples


def _grid(audit: PoolAudit) -> list[tuple[str, list[Sample]]]:
    pool = audit.data.unlabeled
    if pool is None or pool.images is None:
        return []
    rows = []
    for name, positions in zip(audit.data.class_names, chosen(audit), strict=True):
        samples = [_sample(audit, position) for position in positions.tolist()]
        rows.append((name, [own for own in samples if own is not None]))
    return [row for row in rows if row[1]]


def _sample(audit: PoolAudit, position: int) -> Sample | None:
    """Return a sample to look at; None if its file has gone."""
    pool, found, names = audit.data.unlabeled, audit.labels.found, audit.data.class_names
    assert pool is not None
    assert pool.images is not None
    try:
        image = pool.images.open(position)
    except DataError:
        return None
    image.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_QUALITY)
    truth = None if pool.audit is None else int(pool.audit[position])
    return Sample(
        name=audit.data.ids["unlabeled"][position],
        confidence=float(found.confidence[position]),
        selected=bool(audit.labels.of_head[-1][position] >= 0),
        truth=None if truth is None else names[truth] if truth >= 0 else NO_CLASS,
        right=None if truth is None else truth == int(found.classes[position]),
        picture=f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}",
    )


def _percent(value: Any) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
