"""Recipes: TOML files that say what to run, checked completely before anything starts."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from selmix.errors import UsageError, suggestion
from selmix.stage1.supervised import SupervisedSettings
from selmix.stage2.settings import RefineSettings

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_Settings = TypeVar("_Settings")


class _Source(BaseModel):
    """What to work on: either `features`, or `backbone` and `data`, and then how features are extracted."""

    model_config = _STRICT

    backbone: str | None = None
    data: str | None = None
    features: str | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    views: int = Field(default=0, ge=0)
    on_bad_image: Literal["error", "skip"] = "error"
    cache: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        images, features = (self.backbone, self.data), self.features
        if (features is None) == (images == (None, None)) or (features is None and None in images):
            raise ValueError("give either --features, or --backbone and --data")
        if features is not None and (self.views or self.cache is not None):
            raise ValueError("--views and --cache go with --backbone and --data; ready features are what they are")
        return self


class FinetuneRecipe(_Source):
    """A stage-two run: which metric, kept within which constraints, on what."""

    metric: str
    subject_to: list[str] = []
    diagnose: bool = False
    seed: int = 0
    stage2: dict[str, Any] = {}


class CompareRecipe(_Source):
    """A comparison: which metrics, methods (none named: all) and seeds, on what; `stage2` are settings of SelMix."""

    metrics: list[str]
    methods: list[str] = []
    seeds: list[int] = [0]
    val_per_class: int | None = Field(default=None, ge=1)
    stage2: dict[str, Any] = {}


class TrainRecipe(BaseModel):
    """A stage-one run: which architecture, which data."""

    model_config = _STRICT

    name: str
    architecture: str
    data: str
    input_size: tuple[int, int] = (32, 32)
    licence: str = ""
    seed: int = 0
    stage1: dict[str, Any] = {}


_Recipe = TypeVar("_Recipe", FinetuneRecipe, CompareRecipe, TrainRecipe)


def load_recipe(path: Path, kind: type[_Recipe], overrides: dict[str, Any]) -> _Recipe:
    """Read a recipe and set the overridden keys (`section.key` inside a section).

    Raises:
        UsageError: naming the file and every fault.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"recipe {path} cannot be read: {error}") from error
    for key, value in overrides.items():
        section, dot, name = key.rpartition(".")
        target = content.setdefault(section, {}) if dot else content
        if not isinstance(target, dict):
            raise UsageError(f"recipe {path}: {section} is no section, so {key} cannot be set")
        target[name] = value
    try:
        return build_recipe(kind, content)
    except UsageError as error:
        raise UsageError(f"recipe {path}: {error}") from error


def build_recipe(kind: type[_Recipe], content: dict[str, Any]) -> _Recipe:
    """Check a recipe's content; all faults at once are raised as UsageError."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(_all_faults(error, list(kind.model_fields))) from error


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
            raise UsageError(f"the setting {key} is given twice")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
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
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds is a range such as 0..4 or a list such as 0,1,2, each seed once, got {text!r}")
    return seeds


def parse_names(text: str | None) -> list[str]:
    """Turn `a,b` into its parts; nothing into an empty list.

    >>> parse_names("min_recall, accuracy"), parse_names(None)
    (['min_recall', 'accuracy'], [])
    """
    return [word.strip() for word in text.split(",")] if text else []


def supervised_settings(values: dict[str, Any]) -> SupervisedSettings:
    """Check and build the settings of stage one; faults are raised as UsageError."""
    return _build(SupervisedSettings, values)


def refine_settings(values: dict[str, Any]) -> RefineSettings:
    """Check and build the settings of stage two; faults are raised as UsageError."""
    return _build(RefineSettings, values)


def _build(kind: type[_Settings], values: dict[str, Any]) -> _Settings:
    """Check types and names by a pydantic model of the dataclass's fields, values by the dataclass itself."""
    fields = {field.name: (field.type, field.default) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    model: type[BaseModel] = create_model(kind.__name__, __config__=_STRICT, **fields)  # type: ignore[call-overload]
    try:
        return kind(**model.model_validate(values).model_dump())
    except ValidationError as error:
        raise UsageError(_all_faults(error, list(fields))) from error


def _all_faults(error: ValidationError, known: list[str]) -> str:
    return "; ".join(
        _fault(detail["loc"], detail["type"], detail["msg"], detail["input"], known) for detail in error.errors()
    )


def _fault(location: tuple[int | str, ...], kind: str, message: str, value: Any, known: list[str]) -> str:
    key = ".".join(str(part) for part in location)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key}: {suggestion(key, known)}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, got {value!r}"
