"""Tables and figures of a page as HTML; whatever is no Markup is escaped."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape


class Cell(NamedTuple):
    """A cell that is more than its text.

    Attributes:
        text: what is shown.
        value: what the column is sorted by; a text sorts by itself.
        tone: `up` or `down`, for changes; `best`; `text`, for what may be long; or nothing.
    """

    text: str
    value: float | None = None
    tone: str = ""


Content = str | Cell | Markup
Row = Sequence[Content]


def table(
    columns: Sequence[str], bodies: Iterable[tuple[str, Sequence[Row]]], *, label: str, tall: bool = False
) -> Markup:
    """Return a table that scrolls inside its own box; the first cell of a row is its heading.

    Args:
        columns: headings; those that begin with a space are of drawings and cannot be sorted by.
        bodies: a heading, which may be empty, and its rows; with a single body columns can be sorted by.
        label: what the table has, for screen readers.
        tall: give the box a limited height.
    """
    bodies = [(title, rows) for title, rows in bodies if rows]
    sortable = len(bodies) == 1 and len(bodies[0][1]) > 2
    head = Markup("").join(_heading(column, sortable=sortable) for column in columns)
    parts = []
    for title, rows in bodies:
        span = Markup('<tr class="band"><th scope="rowgroup" colspan="{}">{}</th></tr>').format(len(columns), title)
        lines = Markup("\n").join(_row(row) for row in rows)
        parts.append(Markup("<tbody>{}\n{}</tbody>").format(span if title else "", lines))
    return Markup(
        '<div class="box{}" tabindex="0" role="region" aria-label="{}"><table{}>'
        "<thead><tr>{}</tr></thead>\n{}</table></div>"
    ).format(" tall" if tall else "", label, Markup(" data-sort") if sortable else "", head, Markup("").join(parts))


def figure(content: Markup, *, label: str, caption: str = "") -> Markup:
    """Return a figure with what screen readers say of it, and a caption."""
    text = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup("")
    return Markup('<figure aria-label="{}"><div>{}</div>{}</figure>\n').format(label, content, text)


def details(summary: str, content: Markup) -> Markup:
    """Return content that is folded away."""
    return Markup("<details><summary>{}</summary>\n{}</details>\n").format(summary, content)


def soft(name: str) -> Markup:
    """Return a name that may be broken after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def change(value: float | None, text: str, *, lower_is_better: bool = False) -> Cell:
    """Return the cell of a change, toned by whether it is for the better."""
    if value is None or value != value or round(1000 * value) == 0:
        return Cell(text, value)
    return Cell(text, value, "down" if (value < 0) != lower_is_better else "up")


def _heading(column: str, *, sortable: bool) -> Markup:
    if column.startswith(" "):
        return Markup('<th scope="col" class="drawn">{}</th>').format(column.strip())
    return Markup('<th scope="col">{}</th>').format(
        Markup('<button type="button">{}</button>').format(column) if sortable else column
    )


def _row(row: Row) -> Markup:
    first, *others = row
    return Markup(f"<tr>{_cell(first, 'th')}{''.join(_cell(own, 'td') for own in others)}</tr>")


def _cell(content: Content, tag: str) -> str:
    """Return a cell; plain strings, put together by hand, as there are tens of thousands."""
    scope = ' scope="row"' if tag == "th" else ""
    if not isinstance(content, Cell):
        drawn = ' class="drawn"' if isinstance(content, Markup) and tag == "td" else ""
        return f"<{tag}{scope}{drawn}>{escape(content)}</{tag}>"
    value = "" if content.value is None else f' data-v="{content.value:.6g}"'
    tone = f' class="{escape(content.tone)}"' if content.tone else ""
    return f"<{tag}{scope}{value}{tone}>{escape(content.text)}</{tag}>"
