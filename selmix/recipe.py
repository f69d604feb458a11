"""Recipes: TOML files that say what to run, checked completely before anything starts."""

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from selmix.errors import UsageError
from selmix.faults import STRICT, all_faults, read_toml
from selmix.pseudo.settings import PseudoSettings
from selmix.stage2.settings import RefineSettings

if TYPE_CHECKING:
    from selmix.backbones import Preprocessing

_Settings = TypeVar("_Settings")

NO_POOL = "none"


class _Extraction(BaseModel):
    """How images become features; what is None is as the backbone, or the machine, has it."""

    model_config = STRICT

    arch: str | None = None
    input_size: tuple[int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    views: int = Field(default=0, ge=0)
    on_bad_image: Literal["error", "skip"] = "error"
    workers: int | None = Field(default=None, ge=0)
    cache: str | None = None

    @model_validator(mode="after")
    def _preprocessing_has_meaning(self) -> Self:
        if any(given is not None for given in (self.input_size, self.mean, self.std)):
            self.overrides()
        return self

    def overrides(self) -> "Preprocessing":
        """Return what to do otherwise than the backbone's data config says."""
        from selmix.backbones import Preprocessing  # timm takes a while to import

        return Preprocessing(self.input_size, self.mean, self.std)


class ExtractRecipe(_Extraction):
    """Images, and the backbone that they go through."""

    backbone: str
    data: str
    unlabeled: str | None = None


class _Source(_Extraction):
    """What to work on: either `features`, or `backbone` and `data` and how these become features.

    `unlabeled` names an unlabeled pool in place of their own one, or `none`.
    """

    backbone: str | None = None
    data: str | None = None
    features: str | None = None
    unlabeled: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        images, features = (self.backbone, self.data), self.features
        if (features is None) == (images == (None, None)) or (features is None and None in images):
            given = [f"--{name}" for name in ("features", "backbone", "data") if getattr(self, name) is not None]
            raise ValueError(
                f"give either --features, or --backbone and --data; got {' and '.join(given) or 'none of them'}"
            )
        for name, field in _Extraction.model_fields.items():
            if features is not None and getattr(self, name) != field.default:
                raise ValueError(
                    f"--{name.replace('_', '-')} goes with --backbone and --data; ready features are what they are"
                )
        if features is not None and self.unlabeled not in (None, NO_POOL) and not self.unlabeled.endswith(".npz"):
            raise ValueError(f"--unlabeled beside --features is {NO_POOL}, or an .npz; got {self.unlabeled}")
        return self

    def extraction(self) -> ExtractRecipe:
        """Return what is said of images and backbone."""
        return ExtractRecipe(**{name: getattr(self, name) for name in ExtractRecipe.model_fields})


class FinetuneRecipe(_Source):
    """A stage-two run: which metric, kept within which constraints, on what."""

    metric: str
    subject_to: list[str] = []
    diagnose: bool = False
    seed: int = Field(default=0, ge=0)
    stage2: dict[str, Any] = {}
    pseudo: dict[str, Any] = {}


class CompareRecipe(_Source):
    """A comparison: which metrics, methods (none named: all) and seeds, on what; `stage2` are settings of SelMix."""

    metrics: list[str]
    methods: list[str] = []
    seeds: list[int] = [0]
    val_per_class: int | None = Field(default=None, ge=1)
    stage2: dict[str, Any] = {}


_Recipe = TypeVar("_Recipe", bound=BaseModel)


def load_recipe(path: Path, kind: type[_Recipe], overrides: dict[str, Any]) -> _Recipe:
    """Read a recipe and set the overridden keys (`section.key` inside a section).

    Raises:
        UsageError: naming the file and every fault.
    """
    content = read_recipe(path, overrides)
    try:
        return build_recipe(kind, content)
    except UsageError as error:
        raise UsageError(f"recipe {path}: {error}") from error


def read_recipe(path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Read a recipe's content and set the overridden keys, `table.key` or `table.table.key` inside a table.

    Raises:
        UsageError: if it cannot be read, or a key leads into what is no table.
    """
    content = read_toml(path, "recipe")
    for key, value in overrides.items():
        *tables, name = key.split(".")
        target = content
        for position, table in enumerate(tables, 1):
            target = target.setdefault(table, {})
            if not isinstance(target, dict):
                section = ".".join(tables[:position])
                raise UsageError(f"recipe {path}: {section} is no section, so {key} cannot be set; drop one of the two")
        target[name] = value
    return content


def build_recipe(kind: type[_Recipe], content: dict[str, Any]) -> _Recipe:
    """Check a recipe's content; all faults at once are raised as UsageError."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(all_faults(error, list(kind.model_fields))) from error


def stage_two_tables(assignments: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort settings by the table of the recipe that they belong to: `pseudo.KEY` to `pseudo`, others to `stage2`.

    >>> stage_two_tables({"steps": 200, "pseudo.source": "head"})
    {'stage2': {'steps': 200}, 'pseudo': {'source': 'head'}}
    """
    tables: dict[str, dict[str, Any]] = {"stage2": {}, "pseudo": {}}
    for key, value in assignments.items():
        pseudo = key.startswith("pseudo.")
        tables["pseudo" if pseudo else "stage2"][key.removeprefix("pseudo.")] = value
    return tables


def pseudo_settings(values: dict[str, Any]) -> PseudoSettings:
    """Check and build the settings of pseudo-labels; faults are raised as UsageError."""
    try:
        return build_settings(PseudoSettings, values)
    except UsageError as error:
        raise UsageError(f"[pseudo] {error}") from error


def refine_settings(values: dict[str, Any]) -> RefineSettings:
    """Check and build the settings of stage two; faults are raised as UsageError."""
    return build_settings(RefineSettings, values)


def build_settings(kind: type[_Settings], values: dict[str, Any]) -> _Settings:
    """Check types and names by a pydantic model of the dataclass's fields, values by the dataclass itself."""
    fields = {field.name: (field.type, field.default) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    model: type[BaseModel] = create_model(kind.__name__, __config__=STRICT, **fields)  # type: ignore[call-overload]
    try:
        return kind(**model.model_validate(values).model_dump())
    except ValidationError as error:
        faults = [all_faults(error, list(fields))]
        faulty = {detail["loc"][0] for detail in error.errors()}
        with suppress(ValidationError):  # what is right in type and name may still be wrong in value
            rest = model.model_validate({key: value for key, value in values.items() if key not in faulty})
            try:
                kind(**rest.model_dump())
            except UsageError as more:
                faults.append(str(more))
        raise UsageError("; ".join(faults)) from error
