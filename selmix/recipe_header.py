"""What the comment at the top of a recipe says of it: source, claim, and the command that runs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selmix.shipped import shipped_recipes

_PARTS = ("Source", "Published", "Here", "Run")


@dataclass(frozen=True)
class Header:
    """What the comment at the top of a recipe says.

    Attributes:
        title: what it is, in a line.
        parts: `Source`, `Published` (what was claimed of it), `Here` (what was run of it by this project).
        commands: that run it, the first as it is.
    """

    title: str
    parts: dict[str, str]
    commands: list[str]

    @property
    def claim(self) -> str:
        """Return the line that `selmix recipes ls` shows."""
        told = [self.title.rstrip(".")]
        if "Published" in self.parts:
            told.append(f"published: {self.parts['Published'].split('. ')[0].rstrip('.')}")
        if "Here" in self.parts:
            told.append(f"here: {self.parts['Here'].split('; ')[0].rstrip('.')}")
        return "; ".join(told)


def read_header(path: Path) -> Header:
    """Read the comment at the top of a recipe: a title, then parts that begin with `Source:` and so on."""
    texts: dict[str, list[str]] = {"": []}
    part = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        word, colon, rest = line.lstrip("# ").partition(":")
        part = word if colon and word in _PARTS else part
        text = rest.strip() if part == word and colon else line.lstrip("# ").strip()
        texts.setdefault(part, []).append(text)
    joined = {name: " ".join(lines) for name, lines in texts.items() if name not in ("", "Run")}
    return Header(" ".join(texts[""]), joined, texts.get("Run", []))


def shipped_headers() -> list[dict[str, Any]]:
    """Return for each recipe that ships its name, the verb that runs it, its claim, and its commands."""
    rows = []
    for name, path in shipped_recipes().items():
        header = read_header(path)
        verb = header.commands[0].split()[1] if header.commands else ""
        rows.append({"name": name, "verb": verb, "claim": header.claim, "commands": header.commands})
    return rows
