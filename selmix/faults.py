"""TOML files read, and their content checked: every fault at once, in the words of selmix."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from selmix.errors import UsageError, suggestion

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: of the file.
        what: `recipe`, `data spec`: how messages call it.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{what} {path} cannot be read: {error}") from error


def all_faults(error: ValidationError, known: list[str]) -> str:
    """Return every fault that a model found, in one line.

    Args:
        error: of the model.
        known: its keys, to suggest; those of a table as `table.key`.
    """
    return "; ".join(
        _fault(detail["loc"], detail["type"], detail["msg"], detail["input"], known) for detail in error.errors()
    )


def _fault(location: tuple[int | str, ...], kind: str, message: str, value: Any, known: list[str]) -> str:
    key = ".".join(str(part) for part in location)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        table = key.rpartition(".")[0]
        return f"unknown key {key}: {suggestion(key, [name for name in known if name.rpartition('.')[0] == table])}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key}: " * bool(key) + message.removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, got {value!r}"
