"""What ships with selmix: backbones, images and recipes, found in a checkout and in an installed wheel alike."""

import json
from pathlib import Path
from typing import Any

from selmix.errors import DataError, UsageError, suggestion

_PACKAGE = Path(__file__).parent
# the wheel carries the top-level folders inside the package; a checkout has them beside it
_ROOT = _PACKAGE / "_shipped" if (_PACKAGE / "_shipped").is_dir() else _PACKAGE.parent

PREFIX = "shipped:"


def shipped_names(required_file: str) -> list[str]:
    """Return the names under `pretrained/` whose folder has `required_file`."""
    return sorted(path.parent.name for path in (_ROOT / "pretrained").glob(f"*/{required_file}"))


def shipped_folder(name: str, required_file: str) -> Path:
    """Return the folder `pretrained/NAME`.

    Raises:
        UsageError: if nothing of that name ships; the message lists what does.
    """
    names = shipped_names(required_file)
    if name not in names:
        raise UsageError(f"nothing called {name!r} ships: {suggestion(name, names)}")
    return _ROOT / "pretrained" / name


def shipped_recipe(name: str) -> Path:
    """Return the recipe file `recipes/NAME.toml`.

    Raises:
        UsageError: if there is no such recipe.
    """
    path = _ROOT / "recipes" / f"{name}.toml"
    if not path.is_file():
        names = sorted(path.stem for path in (_ROOT / "recipes").glob("*.toml"))
        raise UsageError(f"no recipe called {name!r} ships: {suggestion(name, names)}")
    return path


def read_manifest(folder: Path, *required: str) -> dict[str, Any]:
    """Read `manifest.json` of a folder of weights or images.

    Raises:
        DataError: if it is missing, no JSON object, or lacks a required key.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable ({error}); fetch the folder again") from error
    missing = [key for key in required if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; fetch the folder again")
    return manifest
