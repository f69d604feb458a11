"""From the record of a request back to the command line that asks for it."""

import shlex
from typing import Any

from selmix.pseudo.settings import PseudoSettings
from selmix.recipe import ExtractRecipe
from selmix.stage2.settings import RefineSettings


def command_of(command: str, recipe: dict[str, Any], num_classes: int, *, seeds: list[int] | None = None) -> str:
    """Return the command line that asks for a recipe; what is at its default is left away.

    Args:
        command: `demo`, `finetune` or `compare`.
        recipe: the content of `recipe.toml`, or the request of a comparison.
        num_classes: on which a setting depends.
        seeds: where there were several.
    """
    words = ["selmix", command]
    if command != "demo":
        words += _options(recipe)
    several = command == "compare"
    words += ["--metric", ",".join(recipe["metrics"]) if several else recipe["metric"]]
    for text in recipe.get("subject_to", []):
        words += ["--subject-to", text]
    if recipe.get("methods"):
        words += ["--methods", ",".join(recipe["methods"])]
    if recipe.get("val_per_class") is not None:
        words += ["--val-per-class", str(recipe["val_per_class"])]
    words += ["--diagnose"] if recipe.get("diagnose") else []
    seeds = recipe["seeds"] if several else seeds
    words += ["--seeds", ",".join(map(str, seeds))] if seeds else ["--seed", str(recipe["seed"])]
    plain = vars(RefineSettings())
    usual = {"batch_size": (None, RefineSettings().batch_size_for(num_classes))}
    for name, value in recipe.get("stage2", {}).items():
        words += [f"{name}={value}"] if value not in usual.get(name, (plain.get(name),)) else []
    plain = vars(PseudoSettings())
    words += [f"pseudo.{name}={value}" for name, value in recipe.get("pseudo", {}).items() if value != plain.get(name)]
    return shlex.join([*words, "--out", "RUN"])


def _options(recipe: dict[str, Any]) -> list[str]:
    """Return what is said of the source."""
    words = ["--features", recipe["features"]] if recipe.get("features") else []
    fields = ExtractRecipe.model_fields
    for name in dict.fromkeys(["backbone", "data", "unlabeled", *fields]):
        value = recipe.get(name)
        if name == "workers" or value is None or value == fields[name].default:  # the command line has no --workers
            continue
        glue = "x" if name == "input_size" else ","
        text = glue.join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return words
