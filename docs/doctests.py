"""For the site: show the doctests of a docstring as its examples."""

import re
from textwrap import indent
from typing import Any

from griffe import Extension, Object


class Doctests(Extension):
    """Put each run of doctest lines under a heading that the docstring parser knows."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrite a docstring as it is read; sources stay as they are."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^>>> .*(?:\n.+)*",
                lambda lines: "Examples:\n" + indent(lines[0], "    "),
                obj.docstring.value,
                flags=re.MULTILINE,
            )
