"""What is wrong with a recipe, as far as that can be known without data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from selmix.backbones.models import check_arch
from selmix.constraints import parse_constraint
from selmix.data.spec import DataSpec, load_data_spec
from selmix.errors import UsageError
from selmix.faults import read_toml
from selmix.option_words import parse_metrics
from selmix.recipe import FinetuneRecipe, build_recipe, pseudo_settings, refine_settings
from selmix.shipped import PREFIX, shipped_folder
from selmix.stages import TABLE, split_stages, stage_two
from selmix.train_recipe import TrainRecipe, train_settings

_OF_DATA = set(DataSpec.model_fields) - set(TrainRecipe.model_fields) - set(FinetuneRecipe.model_fields)


def recipe_faults(path: Path) -> list[str]:
    """Return every fault of a recipe, or of a data spec; none for one that is in order.

    Names, types and settings are checked, and what does not go together; not whether data or weights are there.
    """
    faults: list[str] = []

    def check(work: Callable[[], Any], where: str = "") -> Any:
        try:
            return work()
        except UsageError as error:
            said = f"{where}: {error}" if where else str(error)
            if said not in faults:
                faults.append(said)
            return None

    content = check(lambda: read_toml(path, "recipe"))
    if content is None:
        return faults
    if _OF_DATA & set(content):
        check(lambda: load_data_spec(path))
        return faults
    first, second = split_stages(content)
    train = None
    if first is not None:
        train = check(lambda: build_recipe(TrainRecipe, first))
        fields = {name: first.get(name, field.default) for name, field in TrainRecipe.model_fields.items()}
        tables = {name: own for name, own in fields.items() if isinstance(own, dict) or own is None}
        # the tables of a recipe that has other faults are checked as well
        lenient = TrainRecipe.model_construct(**{**_defaults(), **tables})
        check(lambda: train_settings(train or lenient))
        _check_shipped(check, first, ("start", "data"))
        if isinstance(first.get("architecture"), str):
            check(lambda: check_arch(first["architecture"]))
    if second is not None:
        where = f"[{TABLE}]" if TABLE in content else ""
        beside = train or (None if first is None else TrainRecipe.model_construct(data=str(first.get("data"))))
        check(lambda: stage_two(second, beside, "stage1"), where)
        if isinstance(second, dict):
            _check_stage_two(check, second, where)
    return faults


def _defaults() -> dict[str, Any]:
    return {name: field.default for name, field in TrainRecipe.model_fields.items() if not field.is_required()}


def _check_stage_two(check: Callable[..., Any], table: dict[str, Any], where: str) -> None:
    """Check what one fault in a table would hide: each part of it by itself."""
    if isinstance(table.get("metric"), str):
        check(lambda: parse_metrics(table["metric"]), where)
    constraints = table.get("subject_to")
    for text in constraints if isinstance(constraints, list) else []:
        if isinstance(text, str):
            check(lambda text=text: parse_constraint(text), where)
    for name, build in (("stage2", refine_settings), ("pseudo", pseudo_settings)):
        values = table.get(name)
        if isinstance(values, dict):
            check(lambda build=build, values=values: build(values), where)
    _check_shipped(check, table, ("backbone", "data"))


def _check_shipped(check: Callable[..., Any], table: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Check that what is said to ship does."""
    for key in keys:
        name, needed = table.get(key), "train.npz" if key == "data" else "model.safetensors"
        if isinstance(name, str) and name.startswith(PREFIX):
            check(lambda name=name, needed=needed: shipped_folder(name.removeprefix(PREFIX), needed), key)
