"""What people type behind options, turned into keys of a recipe."""

import re
import tomllib
from pathlib import Path
from typing import Any

from selmix.errors import UsageError
from selmix.metrics import is_reference, parse_metric, split_texts


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `key=value` words into a mapping; a value is read as TOML, and as a plain string where it is none.

    >>> parse_assignments(["steps=200", "start=given", "mix_low=0.5"])
    {'steps': 200, 'start': 'given', 'mix_low': 0.5}

    Raises:
        UsageError: for a word without `=` or a key given twice.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UsageError(f"a setting is key=value, got {assignment!r}")
        if key in values:
            raise UsageError(f"the setting {key} is given twice; keep one")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            values[key] = text
    return values


def parse_seeds(text: str) -> list[int]:
    """Turn `0..4` or `0,1,2` into a list of seeds.

    >>> parse_seeds("0..2"), parse_seeds("7,3")
    ([0, 1, 2], [7, 3])

    Raises:
        UsageError: for anything else, an empty range or a seed named twice.
    """
    first, dots, last = text.partition("..")
    try:
        seeds = list(range(int(first), int(last) + 1)) if dots else [int(word) for word in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(
            f"--seeds is a range such as 0..4 or a list such as 0,1,2, each seed >= 0 and once, got {text!r}"
        )
    return seeds


def parse_metrics(text: str) -> list[str]:
    """Turn `a,b` into metrics, each once and by its own name; each may be an expression or FILE.py:FUNCTION.

    >>> parse_metrics("balanced_accuracy, 0.5*accuracy + 0.5*min(recall[0], recall[1]), mean_recall")
    ['mean_recall', '0.5*accuracy + 0.5*min(recall[0], recall[1])']

    Raises:
        UsageError: for all that can be wrong with a metric before the data are known.
    """
    one = is_reference(text) and Path(text.rpartition(":")[0]).is_file()  # whose path may have commas
    texts = [text] if one else split_texts(text)
    if "" in texts:
        raise UsageError(f"--metric is a metric, or several with commas between them, got {text!r}")
    return list(dict.fromkeys(parse_metric(own).name for own in texts))


def parse_names(text: str | None) -> list[str]:
    """Turn `a,b` into its parts; nothing into an empty list.

    >>> parse_names("min_recall, accuracy"), parse_names(None)
    (['min_recall', 'accuracy'], [])
    """
    return [word.strip() for word in text.split(",")] if text else []


def parse_preprocessing(input_size: str | None, mean: str | None, std: str | None) -> dict[str, Any]:
    """Turn the words behind `--input-size`, `--mean` and `--std` into keys of a recipe.

    >>> parse_preprocessing("128", "0.5,0.5,0.5", None)
    {'input_size': (128, 128), 'mean': (0.5, 0.5, 0.5), 'std': None}

    Raises:
        UsageError: for a size that is no number of pixels, what is not three numbers, or what no image can have.
    """
    given = {
        "input_size": None if input_size is None else _pixels(input_size),
        "mean": None if mean is None else _three_numbers("--mean", mean),
        "std": None if std is None else _three_numbers("--std", std),
    }
    if any(value is not None for value in given.values()):
        from selmix.backbones import Preprocessing  # timm takes a while to import

        try:
            Preprocessing(**given)  # type: ignore[arg-type]
        except UsageError as error:
            raise UsageError(re.sub(r"\b(input_size|mean|std) must", _as_option, str(error))) from error
    return given


def _as_option(found: re.Match[str]) -> str:
    return f"--{found[1].replace('_', '-')} must"


def _pixels(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise UsageError(
            f"--input-size is a number of pixels, 128, or height and width, 96x128; got {text!r}"
        ) from None


def _three_numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise UsageError(f"{option} is three numbers, one a channel, such as 0.5,0.5,0.5; got {text!r}")
    return numbers
