"""What ships with selmix: backbones, images and recipes, found in a checkout and in an installed wheel alike."""

import json
import re
from pathlib import Path
from typing import Any

from selmix.errors import DataError, UsageError, suggestion
from selmix.writing import write_atomically

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


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that ship, by name: `recipes/NAME.toml`, and the data specs beside them."""
    root = _ROOT / "recipes"
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.toml"))}


def shipped_recipe(name: str) -> Path:
    """Return the recipe file `recipes/NAME.toml`.

    Raises:
        UsageError: if there is no such recipe.
    """
    recipes = shipped_recipes()
    if name not in recipes:
        near = suggestion(name, recipes, listed=False)
        raise UsageError(f"no recipe called {name!r} ships: {near}; `selmix recipes ls` lists them")
    return recipes[name]


def recipe_file(text: str) -> Path:
    """Return the recipe that a user names: a file, or shipped:NAME."""
    return shipped_recipe(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else Path(text)


def read_manifest(folder: Path, *required: str) -> dict[str, Any]:
    """Read `manifest.json` of a folder of weights or images.

    Raises:
        DataError: if it is missing, no JSON object, or lacks a required key.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise DataError(f"{path} is not readable ({reason}); fetch the folder again") from error
    missing = [key for key in required if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; fetch the folder again")
    return manifest


def copy_recipe(name: str, folder: Path) -> list[Path]:
    """Copy a recipe that ships, and the data spec that it names, into a folder; return what was written.

    In the copy `data` is the copied spec, as seen from the current folder.

    Raises:
        UsageError: if there is no such recipe, or a file of that name is there already.
    """
    source = shipped_recipe(name)
    text = source.read_text(encoding="utf-8")
    copies = {folder / source.name: text}
    spec = re.search(r'^data = "recipes/(.+)\.toml"$', text, flags=re.MULTILINE)
    if spec is not None:
        own = shipped_recipe(spec[1])
        line = f"data = {json.dumps((folder / own.name).as_posix())}"
        copies[folder / source.name] = text[: spec.start()] + line + text[spec.end() :]
        copies[folder / own.name] = own.read_text(encoding="utf-8")
    there = [str(path) for path in copies if path.exists()]
    if there:
        raise UsageError(f"{', '.join(there)} is there already; name a new folder, or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in copies.items():
            write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
    return list(copies)
