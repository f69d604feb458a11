"""Numbers and short sentences of a report."""

from collections.abc import Sequence
from typing import Any

COST = 0.005  # a class that fell by less than half a point is not called a cost
SHOWN = 8  # classes named
LOWER_IS_BETTER = {"ece"}


def percent(value: float | None) -> str:
    """Return a rate as a percentage with one decimal, a dash where it is undefined.

    >>> percent(0.738), percent(None)
    ('73.8', '–')
    """
    return "–" if value is None or value != value else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """Return a change in points, with its sign.

    >>> points(0.468), points(-0.172), points(0.00001)
    ('+46.8', '−17.2', '0.0')
    """
    if value is None or value != value:
        return "–"
    text = f"{100 * abs(value):.1f}"
    return text if text == "0.0" else ("+" if value > 0 else "−") + text


def between(bounds: Sequence[float], show: Any = points) -> str:
    """Return an interval.

    >>> between([0.43, 0.503])
    '+43.0 to +50.3'
    """
    return f"{show(bounds[0])} to {show(bounds[1])}"


def listed(parts: Sequence[str], *, most: int = SHOWN) -> str:
    """Return some parts as a phrase.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], most=1)
    ('a, b and c', 'a and 2 more')
    """
    shown = list(parts[:most])
    if len(parts) > most:
        return f"{', '.join(shown)} and {len(parts) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def count(number: int, what: str, plural: str = "") -> str:
    """Return a number of things.

    >>> count(1, "class", "classes"), count(1200, "image")
    ('1 class', '1,200 images')
    """
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


def changes_of_recall(document: dict[str, Any], split: str) -> list[tuple[float, str]]:
    """Return the change of recall and the name of each class that has samples, the largest fall first."""
    recalls = (document["recall"][head][split] for head in ("before", "after"))
    return sorted(
        (after - before, name)
        for name, before, after in zip(document["class_names"], *recalls, strict=True)
        if after is not None
    )


def costs(document: dict[str, Any], split: str) -> list[tuple[float, str]]:
    """Return the classes that lost half a point of recall or more, as `changes_of_recall`."""
    return [(fall, name) for fall, name in changes_of_recall(document, split) if fall < -COST]
