"""Both stages from one recipe: train a backbone, then tune its head; what is finished is not done again."""

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch

from selmix.data.assembly import digest_of_images
from selmix.data.sources import open_images
from selmix.errors import DataError, UsageError, unwritable
from selmix.faults import read_toml
from selmix.features.extract import Track
from selmix.finetuning import SEEDS, check_request
from selmix.option_words import parse_metrics, parse_seeds
from selmix.recipe import FinetuneRecipe, build_recipe, read_recipe
from selmix.run import RESULT
from selmix.sweep import SWEEP, finetune_all
from selmix.train_recipe import TrainRecipe, train_settings
from selmix.training import train_backbone
from selmix.training_job import Bar, no_bar
from selmix.training_run import CHECKPOINT, LOSS, MANIFEST, RECIPE, as_toml, changed_keys
from selmix.writing import write_atomically

logger = logging.getLogger("selmix")

STAGE1, STAGE2, TABLE = "stage1", "stage2", "finetune"
_OWN = set(TrainRecipe.model_fields) - set(FinetuneRecipe.model_fields)


@dataclass(frozen=True)
class Stages:
    """A recipe of one stage or of both, checked.

    Attributes:
        content: as merged from file and flags; it can be run again.
        train: of stage one; None if there is none.
        finetune: of stage two, and
        metrics: what it tunes for,
        seeds: with which seeds; None for the one of the recipe. All three are None or empty without stage two.
    """

    content: dict[str, Any]
    train: TrainRecipe | None
    finetune: FinetuneRecipe | None
    metrics: list[str]
    seeds: list[int] | None


def split_stages(content: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return what a recipe says of stage one and of stage two, each None where it says nothing.

    Stage one stands at the top, as `selmix train` has it, and stage two in a table [finetune]; a recipe without stage
    one may also have the keys of stage two at the top, as in the `recipe.toml` of a finetune run.
    """
    rest = {key: value for key, value in content.items() if key != TABLE}
    if TABLE in content:
        return rest or None, content[TABLE]
    return (rest, None) if _OWN & set(rest) else (None, rest)


def train_recipe(path: Path, overrides: dict[str, Any]) -> TrainRecipe:
    """Read the stage-one part of a recipe; its [finetune] table is for `selmix run`.

    Raises:
        UsageError: naming the file and every fault.
    """
    content = read_recipe(path, overrides)
    if content.pop(TABLE, None) is not None:
        logger.info("the table [finetune] is left aside: `selmix run` does both stages")
    try:
        return build_recipe(TrainRecipe, content)
    except UsageError as error:
        raise UsageError(f"recipe {path}: {error}") from error


def read_stages(path: Path, overrides: dict[str, Any], out: Path, *, seed: int | None = None) -> Stages:
    """Read a recipe of one stage or both, and check it completely, as far as that can be done without data.

    Args:
        path: of the recipe.
        overrides: keys that are set otherwise, as for `selmix.recipe.read_recipe`.
        out: the run folder, where stage two finds what stage one trains.
        seed: of both stages, in place of those of the recipe.

    Raises:
        UsageError: naming the file and the faults.
    """
    content = read_recipe(path, overrides)
    if seed is not None:
        seeds = {f"{TABLE}.seed": seed} if TABLE in content else {}
        overrides = overrides | seeds | ({"seed": seed} if set(content) != {TABLE} else {})
        content = read_recipe(path, overrides)
    # what is set says one of seed and seeds: then the other one of the file does not hold
    for prefix, table in (("", content), (f"{TABLE}.", content.get(TABLE))):
        for kept, dropped in (("seed", "seeds"), ("seeds", "seed")):
            if isinstance(table, dict) and prefix + kept in overrides and prefix + dropped not in overrides:
                table.pop(dropped, None)
    first, second = split_stages(content)
    faults: list[str] = []
    train, tuned = None, None
    try:
        if first is not None:
            train = build_recipe(TrainRecipe, first)
            train_settings(train)
    except UsageError as error:
        faults.append(str(error))
    try:
        if second is not None:
            tuned = stage_two(second, train, str(out / STAGE1))
    except UsageError as error:
        # without stage one, what is said of the backbone that it would train would mislead
        if train is not None or first is None:
            faults.append(f"[{TABLE}] {error}" if TABLE in content else str(error))
    if faults:
        raise UsageError(f"recipe {path}: {'; '.join(faults)}")
    return Stages(content, train, *(tuned or (None, [], None)))


def stage_two(
    table: Any, train: TrainRecipe | None, backbone: str
) -> tuple[FinetuneRecipe, list[str], list[int] | None]:
    """Return recipe, metrics and seeds of stage two, on the backbone and data of stage one where that goes before.

    Raises:
        UsageError: with the faults.
    """
    if not isinstance(table, dict):
        raise UsageError(f"is a table, got {table!r:.80}; put its settings under [{TABLE}]")
    table = dict(table)
    seeds = table.pop("seeds", None)
    if seeds is not None and "seed" in table:
        raise UsageError("seed and seeds exclude each other; give one")
    if seeds is not None:
        seeds = parse_seeds(",".join(map(str, seeds)) if isinstance(seeds, list) else str(seeds))
    if train is not None:
        given = [name for name in ("backbone", "features", "arch") if name in table]
        if given:
            raise UsageError(f"{', '.join(given)} cannot be given: the backbone is the one that stage one trains")
        table = {"data": train.data} | table | {"backbone": backbone}
    recipe = build_recipe(FinetuneRecipe, table)
    metrics = parse_metrics(recipe.metric)
    check_request(recipe.model_copy(update={"metric": metrics[0]}))
    return recipe, metrics, seeds


def run_stages(
    stages: Stages,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    overwrite: bool = False,
    track: Track | None = None,
    bars: Callable[[], AbstractContextManager[Bar]] = lambda: nullcontext(no_bar),
) -> dict[str, Any]:
    """Do what the recipe says, and return the manifest of `stage1` and the result of `stage2`, None without one.

    A recipe of both stages goes to `out/stage1` and `out/stage2`, and is saved as `out/recipe.toml`; one of a single
    stage goes to `out` itself, as its own verb has it.

    Args:
        stages: the recipe.
        out: the run folder.
        device: where to train, and where the backbone runs.
        resume: go on with an unfinished run of the same recipe.
        overwrite: tune again what is finished; a finished stage one stays.
        track: shows the progress of long loops.
        bars: opens what shows the progress of training, which is closed before the next stage.

    Raises:
        UsageError: if `out` holds other files, a run that was not to be resumed, or one of another recipe.
        DataError: for missing or faulty data or weights.
    """
    both = stages.train is not None and stages.finetune is not None
    first, second = (out / STAGE1, out / STAGE2) if both else (out, out)
    if both:
        _enter(stages, out, resume=resume, overwrite=overwrite)
    document: dict[str, Any] = {"stage1": None, "stage2": None}
    try:
        if stages.train is not None:
            with bars() as bar:
                document["stage1"] = _stage_one(stages.train, first, device=device, resume=resume or both, bar=bar)
        if stages.finetune is not None:
            if both and second.is_dir():
                shutil.rmtree(second)  # to be replaced, or of several seeds that were interrupted
            work = {"command": "finetune", "device": device, "overwrite": overwrite, "track": track}
            document["stage2"] = finetune_all(stages.finetune, stages.metrics, stages.seeds, second, **work)
    except BaseException:  # Ctrl-C as well
        if both and not any(any(first.glob(f"**/{name}")) for name in (CHECKPOINT, LOSS, MANIFEST)):
            (out / RECIPE).unlink(missing_ok=True)
            if out.is_dir() and not any(out.iterdir()):
                out.rmdir()
        raise
    return document


def _finished(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RESULT, SEEDS, SWEEP))


def _enter(stages: Stages, out: Path, *, resume: bool, overwrite: bool) -> None:
    """Save the recipe in a new folder, or see that the run in the folder may go on with it."""
    saved, done = out / RECIPE, _finished(out / STAGE2)
    if saved.is_file():
        earlier = read_toml(saved, "recipe")
        if TABLE not in earlier:
            raise UsageError(f"--out {out} holds a run of one stage, and this recipe has both; name a new folder")
        if done and not overwrite:
            raise UsageError(
                f"--out {out} holds a finished run; name a new folder, or add --overwrite to tune it again"
            )
        if not done and not (resume or overwrite):
            raise UsageError(f"--out {out} holds an unfinished run; add --resume to go on, or name a new folder")
        before, after = (_without_finetune(content) for content in (earlier, as_toml(stages.content)))
        changed = changed_keys(_resolved(before), _resolved(after))
        if changed:
            raise UsageError(
                f"--out {out} holds the run of another recipe: {changed} differ, and stage one cannot change when "
                "a run goes on; name a new folder"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise UsageError(f"--out {out} holds files that are no run of both stages; name a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(saved, tomli_w.dumps(as_toml(stages.content)))
    except OSError as error:
        raise unwritable(out, error) from error


def _without_finetune(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != TABLE}


def _resolved(content: dict[str, Any]) -> dict[str, Any]:
    recipe = build_recipe(TrainRecipe, content)
    return as_toml(recipe.model_dump() | train_settings(recipe).resolved())


def _stage_one(recipe: TrainRecipe, out: Path, *, device: torch.device, resume: bool, bar: Bar) -> dict[str, Any]:
    """Train, or take what an earlier run of the same recipe on the same images has trained."""
    if not (resume and (out / MANIFEST).is_file()):
        return train_backbone(recipe, out, device=device, resume=resume, bar=bar)
    request = as_toml(recipe.model_dump() | train_settings(recipe).resolved())
    changed = changed_keys(read_toml(out / RECIPE, "recipe"), request)
    if changed:
        raise UsageError(f"{out} holds a backbone of another recipe: {changed} differ; name another --out")
    manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text())
    data = open_images(recipe.data)
    learnt = digest_of_images(data.class_names, {"train": data.splits["train"]}, data.group_names)
    if manifest["data"]["digest"] != learnt:
        raise DataError(f"{out} holds a backbone of other images than {recipe.data} has now; name another --out")
    logger.info("stage one is finished, of the same recipe and the same images: reused from %s", out)
    return manifest
