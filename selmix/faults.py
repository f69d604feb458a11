"""TOML files read, and their content checked: every fault at once, in the words of selmix."""

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from selmix.errors import UsageError, suggestion

_RULES = {
    "int_": "an integer",
    "float_": "a number",
    "finite_number": "a finite number",
    "bool_": "true or false",
    "string_type": "a text in quotes",
    "dict_type": "a table",
    "model_": "a table",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
}  # the first letters of a type of pydantic's errors: what the value must be

_TYPE = re.compile(r"\[|^(str|int|float|bool)$")

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
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {path} cannot be read: it is not written in UTF-8; save it as UTF-8") from error
    except RecursionError as error:
        raise UsageError(f"{what} {path} cannot be read: its brackets are nested too deep; mend them") from error
    except ValueError as error:  # an integer of more than 4300 digits is no TOMLDecodeError
        raise UsageError(
            f"{what} {path} cannot be read: it is no TOML, {str(error)[0].lower()}{str(error)[1:]}; mend it there (a "
            "text stands in quotes)"
        ) from error


def all_faults(error: ValidationError, known: list[str]) -> str:
    """Return every fault that a model found, in one line.

    Args:
        error: of the model.
        known: its keys, to suggest; those of a table as `table.key`.
    """
    faults: dict[str, str] = {}
    for detail in error.errors():
        fault = _fault(detail, known)
        what, must, rule = fault.partition(" must be ")
        if must and what in faults:  # the value may be of two types, and is of neither
            faults[what] = f"{what}{must}{rule.rpartition(', got ')[0]} or {faults[what].partition(must)[2]}"
        else:
            faults[what] = fault
    return "; ".join(faults.values())


def _fault(detail: ErrorDetails, known: list[str]) -> str:
    kind, message, value = detail["type"], detail["msg"], detail["input"]
    # beside names there are positions in a list, and types of which the value may be one
    names = [part for part in detail["loc"] if isinstance(part, str) and not _TYPE.search(part)]
    key = ".".join(names) + "".join(f", item {part + 1}," for part in detail["loc"] if isinstance(part, int))
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        key, table = (".".join(str(part) for part in parts) for parts in (detail["loc"], detail["loc"][:-1]))
        near = [name for name in known if name.rpartition(".")[0] == table]
        # one word may say table and key, where the table is known already: stage2.steps for steps
        wrong = key.rpartition(".")[2] if not table else key
        return f"unknown key {key}: {suggestion(wrong, near)}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key}: " * bool(key) + message.removeprefix("Value error, ")
    shown = str(value).lower() if isinstance(value, bool) else f"{value!r:.80}"
    rule = next((f"must be {words}" for start, words in _RULES.items() if kind.startswith(start)), None)
    return f"{key} {rule or message.replace('Input should', 'must', 1)}, got {shown}"
