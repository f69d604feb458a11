"""Opening a run folder for use: its head, its result, and the backbone that it belongs to."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selmix.backbones import Backbone, Preprocessing, load_backbone
from selmix.checkpoints import read_metadata, read_state_dict
from selmix.errors import DataError, SelmixError, UsageError
from selmix.extraction import plain_preprocessing
from selmix.finetuning import SEEDS
from selmix.heads import LinearHead
from selmix.run_folders import no_run

_HEAD, _RESULT, _RECIPE = "head.safetensors", "result.json", "recipe.toml"
# what other folders of selmix are known by, and what to do with them
_OTHERS = {
    "manifest.json": "holds a backbone of `selmix train`, no tuned head; tune one: selmix finetune --backbone {folder}",
    "compare.json": "holds a comparison, which keeps no heads; tune one: selmix finetune",
    "sweep.json": "holds a run for each metric and seed; name one of them: {folder}/METRIC/seedN",
    "cache.json": "holds features, no tuned head; tune one: selmix finetune --features {folder}",
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        head: the tuned head.
        result: what `result.json` says.
        recipe: what `recipe.toml` says.
        metadata: those of the head's file.
    """

    folder: Path
    head: LinearHead
    result: dict[str, Any]
    recipe: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def class_names(self) -> list[str]:
        """Return the class table."""
        names: list[str] = self.result["class_names"]
        return names

    @property
    def origin(self) -> dict[str, Any]:
        """Return backbone and images that the features come from; empty if they are unknown."""
        return self.result["origin"] or {}

    @property
    def temperature(self) -> float:
        """Return the T of calibrated probabilities, softmax(logits / T)."""
        return float(self.result["calibration"]["temperature"])

    @property
    def dtype(self) -> str:
        """Return that of the features the head was tuned on."""
        return str((self.result["features"] or {}).get("dtype", "float32"))


def open_run(folder: Path) -> Run:
    """Open a run folder of `finetune`.

    Raises:
        UsageError: if the folder is none, with what to name instead.
        DataError: if a file of the run is missing or damaged, or head and result do not belong together.
    """
    if not (folder / _RESULT).is_file():
        raise _no_run(folder)
    try:
        result = json.loads((folder / _RESULT).read_text("utf-8"))
        recipe = tomllib.loads((folder / _RECIPE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder} is damaged ({error}); tune it again, or restore it") from error
    if not isinstance(result, dict) or not {"class_names", "digests", "support"} <= result.keys():
        raise DataError(f"{folder / _RESULT} is no result of selmix finetune; tune it again, or restore it")
    if not {"calibration", "origin"} <= result.keys():
        raise DataError(f"{folder} was written by an older selmix; tune it again (features that are cached are reused)")
    path = folder / _HEAD
    state, metadata = read_state_dict(path), read_metadata(path)
    weight, bias, names = state.get("weight"), state.get("bias"), result["class_names"]
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise DataError(f"{path} holds no linear head (weight [k, d] and bias [k]); tune it again, or restore it")
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise DataError(f"{path} has NaN or infinite values; tune it again, or restore it")
    if metadata.get("class_names") != names or len(weight) != len(names):
        raise DataError(f"{path} and {folder / _RESULT} have different class tables; they are of different runs")
    return Run(folder, LinearHead(weight.float(), bias.float()), result, recipe, metadata)


def _no_run(folder: Path) -> UsageError:
    """Say what a folder is, if it is no run."""
    if (folder / SEEDS).is_file():
        own = sorted(path.parent.name for path in folder.glob(f"seed*/{_RESULT}"))
        example = f": {folder / own[0]}" if own else ""
        return UsageError(f"{folder} holds a run for each of {len(own)} seeds; name one of them{example}")
    for file, what in _OTHERS.items():
        if (folder / file).is_file():
            return UsageError(f"{folder} {what.format(folder=folder)}")
    return no_run(folder, written_by="`selmix finetune` or `selmix demo`", lacks=_RESULT)


def backbone_of(run: Run, spec: str | None = None, *, arch: str | None = None) -> Backbone:
    """Open the backbone that a head belongs to.

    Args:
        run: of the head.
        spec: where the backbone lies now; where it was, if not given.
        arch: of a checkpoint that does not say it itself; what it was, if not given.

    Raises:
        UsageError: for a faulty specification, or where nothing says which backbone it is.
        DataError: if it is gone, or is another one than the head was tuned for.
    """
    origin, digest = run.origin, run.result["digests"].get("backbone")
    if digest is None:
        raise UsageError(
            f"{run.folder} was tuned on ready features ({run.recipe.get('features')}), so there is no backbone to put "
            "images through; `selmix evaluate RUN --features F` and `selmix export RUN --format head` work on features"
        )
    if spec is None and not origin:
        raise UsageError(f"{run.folder} does not say which backbone it belongs to; add --backbone")
    where = spec or origin["backbone"]
    if arch is None and Path(where).expanduser().is_file():
        arch = origin.get("arch") or origin.get("architecture")
    try:
        backbone = load_backbone(where, arch=arch, overrides=Preprocessing(**origin.get("overrides", {})))
    except SelmixError as error:
        if spec is None and isinstance(error, DataError):
            raise DataError(
                f"{error} (where the backbone of {run.folder} lies elsewhere now, add --backbone)"
            ) from error
        raise
    if backbone.digest != digest:
        raise DataError(_other_backbone(run, backbone, where))
    return backbone


def _other_backbone(run: Run, backbone: Backbone, where: str) -> str:
    """Say in what a backbone differs from the one that a head was tuned for."""
    then, now = run.origin.get("preprocessing"), plain_preprocessing(backbone)
    changed = (
        [f"{key} {then.get(key)} then, {now.get(key)} now" for key in now if then.get(key) != now.get(key)]
        if then
        else []
    )
    if run.origin.get("architecture") not in (None, backbone.architecture):
        changed = [f"architecture {run.origin['architecture']} then, {backbone.architecture} now"]
    what = ", ".join(changed) or ("its weights" if then else "its weights or preprocessing")
    return (
        f"{where} is not the backbone that {run.folder} was tuned for; what changed: {what}; name the right one with "
        "--backbone, or tune again"
    )
