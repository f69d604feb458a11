"""What a page is made of."""

from typing import NamedTuple

from markupsafe import Markup

TRACKED = 40  # classes up to which each has a line of its own


class Section(NamedTuple):
    """A part of a page.

    Attributes:
        key: its anchor.
        title: its heading.
        lead: what there is to see, in plain words and numbers.
        body: tables and figures.
        short: in the table of contents; its key, if not given.
    """

    key: str
    title: str
    lead: str
    body: Markup
    short: str = ""
