"""Drawings as SVG that fill the width they are given: what stretches is the picture, not its lines and letters.

Colours are those of the page's style sheet. *before* is a ring, *after* a dot, *balanced* an upright line: they can be
told apart without colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

RATES = [(value / 5, str(20 * value)) for value in range(6)]  # ticks of an axis from 0 to 100 %
_SIZE = 1000  # of the drawing's own units, either way


@dataclass(frozen=True)
class Series:
    """Points of a plot.

    Attributes:
        name: in the legend; nothing is said there of a series without one.
        points: (x, y).
        kind: style: `line`, `step`, `dots`, `rings`, `squares` or `stems` (a vertical line from y to `to`).
        tone: class of the style sheet.
        to: for stems, the other end.
    """

    name: str
    points: Sequence[tuple[float, float]]
    kind: str = "line"
    tone: str = "after"
    to: Sequence[float] = ()


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        name: what it measures.
        low: its lower end.
        high: its upper end.
        ticks: (value, text).
    """

    name: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def axis(name: str, values: Sequence[float], *, scale: float = 1.0, zero: bool = False) -> Axis:
    """Return an axis with about five round ticks that holds all values; texts are of `scale` times the value.

    >>> [text for _, text in axis("%", [0.31, 0.74], scale=100).ticks]
    ['30', '40', '50', '60', '70', '80']
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        low, high = low - 0.05, high + 0.05
    rough = (high - low) * scale / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low * scale / step + 1e-9), math.ceil(high * scale / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [(number * step / scale, f"{number * step:,.{digits}f}") for number in range(first, last + 1)]
    return Axis(name, ticks[0][0], ticks[-1][0], ticks)


def track(
    before: float | None, balanced: float | None, after: float | None, *, span: Sequence[float] | None = None
) -> Markup:
    """Return the change of a rate on a line from 0 to 1, for a cell of a table, with the interval of its end.

    The numbers stand in the cells beside it, so screen readers pass over it.
    """
    parts = ['<path class="rail" d="M0 10H1000"/>']
    if before is not None and after is not None:
        tone = "rise" if after >= before else "fall"
        parts.append(f'<path class="move {tone}" d="M{_unit(before)} 10H{_unit(after)}"/>')
    if span is not None:
        low, high = map(_unit, span)
        parts.append(f'<path class="span" d="M{low} 6V14M{low} 10H{high}M{high} 6V14"/>')
    if balanced is not None:
        parts.append(f'<path class="balanced" d="M{_unit(balanced)} 3V17"/>')
    if before is not None:
        spot = f"M{_unit(before)} 10h.01"
        parts.append(f'<path class="ring" d="{spot}"/><path class="hole" d="{spot}"/>')
    if after is not None:
        parts.append(f'<path class="dot" d="M{_unit(after)} 10h.01"/>')
    opening = '<svg class="track" viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true">'
    return Markup(f"{opening}{''.join(parts)}</svg>")


def plot(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    label: str,
    notes: Sequence[tuple[float, str]] = (),
    bands: Sequence[tuple[float, float, str]] = (),
    diagonal: bool = False,
    square: bool = False,
) -> Markup:
    """Return a plot with its axes and a legend.

    Args:
        series: drawn one over the other.
        x: axis.
        y: axis.
        label: what is to be seen, for screen readers.
        notes: vertical lines at x, each with a text.
        bands: stretches (from, to) of x with a text, shaded in turn.
        diagonal: draw the line y = x.
        square: as high as wide, and small.
    """
    lines, texts = [], []
    for number, (start, end, text) in enumerate(bands):
        left, right = x.place(start), x.place(end)
        shade = Markup('<path class="band{}" d="M{} 0H{}V1000H{}Z"/>')
        lines.append(shade.format(number % 2, _unit(left), _unit(right), _unit(left)))
        texts.append(Markup('<span class="bandname" style="left:{:.2f}%">{}</span>').format(50 * (left + right), text))
    for value, text in y.ticks:
        lines.append(Markup('<path class="grid" d="M0 {}H1000"/>').format(_down(y.place(value))))
        texts.append(Markup('<span class="ty" style="top:{:.2f}%">{}</span>').format(100 * (1 - y.place(value)), text))
    for value, text in x.ticks:
        texts.append(Markup('<span class="tx" style="left:{:.2f}%">{}</span>').format(100 * x.place(value), text))
    if diagonal:
        lines.append(Markup('<path class="diagonal" d="M0 1000L1000 0"/>'))
    for value, text in notes:
        place = x.place(value)
        lines.append(Markup('<path class="note" d="M{0} 0V1000"/>').format(_unit(place)))
        side = "right:{:.2f}%;text-align:right" if place > 0.5 else "left:{:.2f}%"
        shift = 100 * (1 - place if place > 0.5 else place)
        texts.append(Markup('<span class="noted" style="{}">{}</span>').format(side.format(shift), text))
    lines += [_drawn(own, x, y) for own in series]
    svg = Markup('<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("").join(lines)
    )
    texts.append(Markup('<span class="xname">{} →</span>').format(x.name))
    return Markup('{}<p class="axis">↑ {}</p><div class="plot{}">{}{}</div>').format(
        _legend(series), y.name, " square" if square else "", svg, Markup("").join(texts)
    )


def _drawn(series: Series, x: Axis, y: Axis) -> Markup:
    places = [(_unit(x.place(a)), _down(y.place(b))) for a, b in series.points]
    if series.kind == "stems":
        ends = [_down(y.place(end)) for end in series.to]
        path = "".join(f"M{a} {b}V{end}" for (a, b), end in zip(places, ends, strict=True))
        return Markup('<path class="stems {}" d="{}"/>').format(series.tone, path)
    if series.kind in ("line", "step"):
        join = "L{} {}" if series.kind == "line" else "H{}V{}"
        path = "".join((join if number else "M{} {}").format(a, b) for number, (a, b) in enumerate(places))
        return Markup('<path class="line {}" d="{}"/>').format(series.tone, path)
    path = "".join(f"M{a} {b}h.01" for a, b in places)
    if series.kind == "rings":
        return Markup('<path class="ring {0}" d="{1}"/><path class="hole" d="{1}"/>').format(series.tone, path)
    return Markup('<path class="{} {}" d="{}"/>').format(series.kind.rstrip("s"), series.tone, path)


def _legend(series: Sequence[Series]) -> Markup:
    keys = {"rings": "○", "dots": "●", "squares": "■", "line": "━", "step": "━", "stems": "┃"}
    named = [own for own in series if own.name]
    if not named:
        return Markup("")
    items = Markup("").join(
        Markup('<li><span class="key {}" aria-hidden="true">{}</span> {}</li>').format(
            own.tone, keys[own.kind], own.name
        )
        for own in named
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def _unit(place: float) -> str:
    return f"{_SIZE * min(max(place, 0.0), 1.0):.1f}".removesuffix(".0")


def _down(place: float) -> str:
    return _unit(1 - place)
