"""The keys of a data spec: a TOML file that says where the splits are, and what to draw from them (docs/data.md)."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from selmix.data.longtail import exponential_counts, pareto_counts, step_counts
from selmix.data.rows import SPLITS
from selmix.data.semi import UnlabeledProfile, unlabeled_counts
from selmix.errors import UsageError
from selmix.faults import STRICT, all_faults, read_toml

_Seed = Field(default=0, ge=0, lt=2**32)


class SplitPlace(BaseModel):
    """Where one split is."""

    model_config = STRICT

    folder: str | None = None
    list: str | None = None
    manifest: str | None = None
    rewrite: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(place is not None for place in (self.folder, self.list, self.manifest)) != 1:
            raise ValueError("give one of folder, list and manifest")
        if self.folder is not None and self.rewrite is not None:
            raise ValueError("rewrite goes with list or manifest")
        return self


class _LongTail(BaseModel):
    """A long-tailed train drawn from train, and where wanted a balanced val from the rest."""

    model_config = STRICT

    profile: Literal["exponential", "step", "pareto"] = "exponential"
    head_count: int = Field(ge=1)
    imbalance_factor: float | None = None
    tail_count: int | None = None
    exponent: float | None = None
    val_per_class: int | None = Field(default=None, ge=1)
    seed: int = _Seed

    @model_validator(mode="after")
    def _keys_of_profile(self) -> Self:
        own = {"tail_count"} if self.profile == "pareto" else {"imbalance_factor"}
        allowed = own | {"exponent"} if self.profile == "pareto" else own
        given = {name for name in ("imbalance_factor", "tail_count", "exponent") if getattr(self, name) is not None}
        if not own <= given <= allowed:
            wanted = ", ".join(["head_count", *sorted(allowed)])
            raise ValueError(
                f"profile {self.profile} goes with {wanted}, got {', '.join(['head_count', *sorted(given)])}"
            )
        return self

    def counts(self, num_classes: int) -> dict[str, list[int]]:
        """Return images per class of each new split."""
        if self.profile == "pareto":
            assert self.tail_count is not None
            exponent = 6.0 if self.exponent is None else self.exponent
            train = pareto_counts(self.head_count, self.tail_count, num_classes, exponent=exponent)
        else:
            assert self.imbalance_factor is not None
            profile = step_counts if self.profile == "step" else exponential_counts
            train = profile(self.head_count, self.imbalance_factor, num_classes)
        return {"train": train} | _balanced(self.val_per_class, num_classes)


class _Semi(BaseModel):
    """A labeled and an unlabeled part of train, both with an exponential profile, and where wanted a balanced val."""

    model_config = STRICT

    head_count: int = Field(ge=1)
    imbalance_factor: float
    unlabeled_head_count: int = Field(ge=1)
    unlabeled_profile: UnlabeledProfile = "consistent"
    unlabeled_imbalance_factor: float | None = None
    val_per_class: int | None = Field(default=None, ge=1)
    seed: int = _Seed

    def counts(self, num_classes: int) -> dict[str, list[int]]:
        """Return images per class of each new split."""
        factor = self.imbalance_factor if self.unlabeled_imbalance_factor is None else self.unlabeled_imbalance_factor
        unlabeled = unlabeled_counts(
            self.unlabeled_head_count, factor, num_classes, profile=self.unlabeled_profile, seed=self.seed
        )
        train = exponential_counts(self.head_count, self.imbalance_factor, num_classes)
        return {"train": train, "unlabeled": unlabeled} | _balanced(self.val_per_class, num_classes)


def _balanced(per_class: int | None, num_classes: int) -> dict[str, list[int]]:
    return {} if per_class is None else {"val": [per_class] * num_classes}


class DataSpec(BaseModel):
    """The content of a data spec."""

    model_config = STRICT

    source: str | None = None
    root: str | None = None
    classes: list[str] | str | None = None
    train: SplitPlace | None = None
    val: SplitPlace | None = None
    test: SplitPlace | None = None
    unlabeled: SplitPlace | None = None
    splits: str | None = None
    longtail: _LongTail | None = None
    semi: _Semi | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        own = [name for name in ("root", "classes", *SPLITS) if getattr(self, name) is not None]
        if self.source is not None and own:
            raise ValueError(f"source stands for all splits, so {', '.join(own)} cannot be given beside it")
        if self.source is None and self.train is None:
            raise ValueError("give source, or a table [train] with folder, list or manifest")
        chosen = [name for name in ("splits", "longtail", "semi") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"give one of splits, [longtail] and [semi], got {', '.join(chosen)}")
        return self


def load_data_spec(path: Path) -> DataSpec:
    """Read a data spec.

    Raises:
        UsageError: naming every fault of the file.
    """
    content = read_toml(path, "data spec")
    try:
        return DataSpec.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"data spec {path}: {all_faults(error, _known_keys())}") from error


def _known_keys() -> list[str]:
    tables: dict[str, type[BaseModel]] = {**dict.fromkeys(SPLITS, SplitPlace), "longtail": _LongTail, "semi": _Semi}
    return [*DataSpec.model_fields] + [f"{name}.{key}" for name, table in tables.items() for key in table.model_fields]
