"""Matrices as pictures: a square a cell, its strength in a few levels, its sign in two colours."""

import json
import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

LEVELS = 10
_NUMBERED = 12  # classes up to which a cell bears its number
_NAMED = 30  # classes up to which rows and columns bear names
_LETTERS = 14  # of a name that is too long
_CELL = 24  # units of the drawing
_NOTHING = 0.002  # of the largest, under which a cell stays empty


def heat(
    matrix: np.ndarray,
    names: Sequence[str],
    *,
    label: str,
    cell: str,
    digits: int = 0,
    signed: bool = False,
    largest: float | None = None,
    faint: float = 0.5,
) -> Markup:
    """Return a picture of a matrix.

    Up to 12 rows have their numbers in the cells, and up to 30 every cell has a title; of more, the page's script says
    where the pointer is.

    Args:
        matrix: [b, b], of shares; negative cells have another colour, and NaN none.
        names: of rows and columns.
        label: what is to be seen, for screen readers.
        cell: what a cell is, with {row}, {column} and {value}, in percent.
        digits: of the numbers.
        signed: whether numbers bear their signs.
        largest: what has full colour; the largest absolute number, if not given.
        faint: power of the scale: below 1, small numbers are seen better.
    """

    def show(value: float) -> str:
        text = f"{100 * value:{'+' if signed else ''}.{digits}f}"
        return f"{0:.{digits}f}" if not float(text) else text.replace("-", "−")

    size = len(matrix)
    margin = _margin(names) if size <= _NAMED else 0
    strength = np.nan_to_num(np.abs(matrix))
    largest = largest or float(strength.max()) or 1.0
    relative = np.clip(strength / largest, 0, 1)
    level = np.where(relative < _NOTHING, 0, np.ceil(relative**faint * LEVELS)).astype(int)
    parts = [_cells(matrix, level, margin)]
    if size <= _NAMED:
        parts += [_named(names, margin, matrix, cell, show)]
    if size <= _NUMBERED:
        parts += [_numbers(matrix, level, margin, show)]
    unit = 1 if size > _NAMED else _CELL
    edge = margin + unit * size
    frame = Markup('<path class="frame" d="M{0} {0}H{1}V{1}H{0}Z"/>').format(margin, edge)
    data: Markup | str = ""
    if size > _NAMED:
        flat = [None if math.isnan(value) else float(f"{100 * value:.3g}") for value in matrix.flatten().tolist()]
        data = Markup(' data-cell="{}" data-rows="{}" data-values="{}"').format(
            cell, json.dumps(list(names)), json.dumps(flat, separators=(",", ":"))
        )
    width = Markup(' style="max-width:{}px"').format(2 * edge) if size <= _NAMED else ""
    return Markup('<svg class="heat" viewBox="0 0 {0} {0}" role="img" aria-label="{1}"{2}{3}>{4}{5}</svg>').format(
        edge, label, width, data, Markup("").join(parts), frame
    )


def _cells(matrix: np.ndarray, level: np.ndarray, margin: int) -> Markup:
    """Return one path for each level and sign: runs of equal cells in a row are one rectangle."""
    unit = 1 if len(matrix) > _NAMED else _CELL
    paths: dict[str, list[str]] = {}
    for row, (values, levels) in enumerate(zip(matrix, level, strict=True)):
        codes = [
            0 if not own else int(own) if value > 0 else -int(own) for own, value in zip(levels, values, strict=True)
        ]
        start = 0
        for column in range(1, len(codes) + 1):
            if column == len(codes) or codes[column] != codes[start]:
                if codes[start]:
                    tone = f"q{'p' if codes[start] > 0 else 'n'}{abs(codes[start])}"
                    width = unit * (column - start)
                    place = f"M{margin + unit * start} {margin + unit * row}h{width}v{unit}h-{width}z"
                    paths.setdefault(tone, []).append(place)
                start = column
    return Markup("").join(
        Markup('<path class="{}" d="{}"/>').format(tone, "".join(own)) for tone, own in paths.items()
    )


def _named(names: Sequence[str], margin: int, matrix: np.ndarray, cell: str, show: Callable[[float], str]) -> Markup:
    parts = []
    for number, name in enumerate(names):
        short = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
        place = margin + _CELL * number + 16
        parts.append(Markup('<text class="rowname" x="{}" y="{}">{}</text>').format(margin - 6, place, short))
        parts.append(
            Markup('<text class="colname" transform="translate({} {}) rotate(-90)">{}</text>').format(
                place, margin - 6, short
            )
        )
    for row, values in enumerate(matrix.tolist()):
        for column, value in enumerate(values):
            if math.isnan(value):
                continue
            text = cell.format(row=names[row], column=names[column], value=show(value))
            parts.append(
                Markup('<rect class="hit" x="{}" y="{}" width="24" height="24"><title>{}</title></rect>').format(
                    margin + _CELL * column, margin + _CELL * row, text
                )
            )
    return Markup("").join(parts)


def _numbers(matrix: np.ndarray, level: np.ndarray, margin: int, show: Callable[[float], str]) -> Markup:
    parts = []
    for row, values in enumerate(matrix.tolist()):
        for column, value in enumerate(values):
            if level[row, column]:
                strong = " strong" if level[row, column] > 0.65 * LEVELS else ""
                place = margin + _CELL * column + _CELL // 2, margin + _CELL * row + 15
                parts.append(
                    Markup('<text class="number{}" x="{}" y="{}">{}</text>').format(strong, *place, show(value))
                )
    return Markup("").join(parts)


def _margin(names: Sequence[str]) -> int:
    return 14 + 7 * min(_LETTERS, max(map(len, names)))
