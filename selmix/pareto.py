"""Heads that no other head beats in everything, and a figure of them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

WEIGHED = ("mean_recall", "min_recall", "accuracy")
_PANELS = (("mean_recall", "min_recall"), ("accuracy", "min_recall"))
_MARKS = {"before": "s", "balanced": "^"}  # a tuned head is a circle
_NEAR = 0.03  # of an axis: labels of points closer than that share a place
_LEAST = 5.0  # points that an axis spans, so that ties look like ties
_LONGEST = 34  # letters of a name in the key


def non_dominated(points: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the names of the points that none of the others equals or exceeds everywhere and exceeds somewhere.

    >>> non_dominated({"a": (0.9, 0.1), "b": (0.8, 0.5), "c": (0.8, 0.4), "d": (0.8, 0.5)})
    ['a', 'b', 'd']
    """

    def beaten(own: Sequence[float]) -> bool:
        return any(
            all(theirs >= mine for theirs, mine in zip(other, own, strict=True)) and tuple(other) != tuple(own)
            for other in points.values()
        )

    return [name for name, own in points.items() if not beaten(own)]


def pareto_figure(document: dict[str, Any], split: str) -> str:
    """Return an SVG of the heads of a sweep: min recall against mean recall and against accuracy, %, mean over seeds.

    Filled marks are heads that no other beats in all three; bars are standard deviations over seeds. It needs no
    colour, and says in its description what it shows.

    Args:
        document: `sweep.json`.
        split: whose figures are drawn.
    """
    import matplotlib as mpl  # takes a while to import, and few need it
    from matplotlib.figure import Figure

    heads, front = document["heads"], set(document["pareto"][split])
    # the same numbers give the same bytes, and letters stay letters
    with mpl.rc_context({"svg.hashsalt": "selmix", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10.5, 3.8), layout="constrained")
        *panels, key = figure.subplots(1, 3, width_ratios=(4, 4, 3))
        outside = set()
        for axes, pair in zip(panels, _PANELS, strict=True):
            points = [[_percent(head[split][name]) for name in pair] for head in heads]
            # a poor head before tuning must not squeeze all others into a corner
            near = [
                own for head, own in zip(heads, points, strict=True) if head["head"] != "before" or "before" in front
            ]
            spans = [_span([own[axis][0] for own in near]) for axis in (0, 1)]
            shown = [all(low <= own[axis][0] <= high for axis, (low, high) in enumerate(spans)) for own in points]
            outside |= {number for number, inside in enumerate(shown) if not inside}
            for head, ((x, dx), (y, dy)) in zip(heads, points, strict=True):
                filled = "black" if head["head"] in front else "white"
                mark = _MARKS.get(head["head"], "o")
                axes.errorbar(x, y, dy, dx, color="0.6", linewidth=0.8, zorder=1)
                axes.scatter(x, y, s=46, marker=mark, facecolor=filled, edgecolor="black", zorder=2)
            axes.set(xlim=spans[0], ylim=spans[1], xlabel=f"{pair[0]} on {split}, %", ylabel=f"{pair[1]} on {split}, %")
            _number(
                axes, [(own[0][0], own[1][0]) if inside else None for own, inside in zip(points, shown, strict=True)]
            )
        key.axis("off")
        lines = [
            f"{number + 1}  {_shortened(head['head'])}{' (outside)' if number in outside else ''}"
            for number, head in enumerate(heads)
        ]
        lines += ["", "filled: Pareto-optimal, no other head beats", f"it in {', '.join(WEIGHED)}"]
        lines += ["square: before, triangle: balanced", *["bars: std over seeds"] * (len(document["seeds"]) > 1)]
        key.text(0, 1, "\n".join(lines).replace("$", r"\$"), va="top", transform=key.transAxes)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return _described(drawn.getvalue(), document, split)


def _percent(figures: dict[str, float | None]) -> tuple[float, float]:
    return 100 * (figures["mean"] or 0.0), 100 * (figures["std"] or 0.0)


def _span(values: list[float]) -> tuple[float, float]:
    """Return limits with room for marks and labels around the values, of five points at least."""
    low, high = min(values), max(values)
    room = max(0.2 * (high - low), (_LEAST - high + low) / 2)
    return low - room, high + room


def _number(axes: Any, points: list[tuple[float, float] | None]) -> None:
    """Write the number of each head that is shown beside its point; heads that lie on one another share a label."""
    sizes = [limits[1] - limits[0] for limits in (axes.get_xlim(), axes.get_ylim())]
    groups: list[tuple[tuple[float, float], list[int]]] = []
    for number, point in enumerate(points, 1):
        if point is None:
            continue
        for first, group in groups:
            if all(abs(a - b) <= _NEAR * size for a, b, size in zip(point, first, sizes, strict=True)):
                group.append(number)
                break
        else:
            groups.append((point, [number]))
    for first, group in groups:
        right = first[0] > sum(axes.get_xlim()) / 2  # there the label goes to the left
        place = {"xytext": (-6, 4), "ha": "right"} if right else {"xytext": (6, 4), "ha": "left"}
        axes.annotate(", ".join(map(str, group)), first, textcoords="offset points", fontsize=8, **place)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def _described(svg: str, document: dict[str, Any], split: str) -> str:
    """Add what a screen reader reads."""
    said = [
        f"{number} {head['head']}: "
        + ", ".join(f"{name} {_percent(head[split][name])[0]:.1f} %" for name in WEIGHED)
        + "; Pareto-optimal" * (head["head"] in document["pareto"][split])
        for number, head in enumerate(document["heads"], 1)
    ]
    title = f"<title>Heads of a sweep on {split}: {', '.join(WEIGHED)}</title>"
    start = svg.index(">", svg.index("<svg ")) + 1
    opening = svg[: start - 1] + ' role="img">'
    return f"{opening}\n{title}\n<desc>{escape('. '.join(said))}.</desc>{svg[start:]}"
