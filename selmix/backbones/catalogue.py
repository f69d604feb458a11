"""What backbones there are: those that ship, our own architectures, and what timm publishes or this machine holds."""

from typing import Any

import timm

from selmix.backbones.hub import cached_weights
from selmix.backbones.models import OWN, build_model
from selmix.backbones.origin import WEIGHTS
from selmix.errors import UsageError
from selmix.shipped import PREFIX, read_manifest, shipped_folder, shipped_names


def shipped_backbones() -> list[dict[str, Any]]:
    """Return of each backbone that ships what its manifest says."""
    rows = []
    for name in shipped_names(WEIGHTS):
        manifest = read_manifest(shipped_folder(name, WEIGHTS), "architecture", "class_names", "input_size")
        data = manifest.get("data") or {}
        rows.append(
            {
                "name": f"{PREFIX}{name}",
                "architecture": manifest["architecture"],
                "input_size": manifest["input_size"][1:],
                "num_features": manifest.get("num_features"),
                "num_classes": len(manifest["class_names"]),
                "trained_on": f"{data.get('name')} ({data.get('split')})",
                "licence": manifest.get("licence"),
                "test": (manifest.get("metrics") or {}).get("test") or {},
            }
        )
    return rows


def own_architectures() -> list[dict[str, Any]]:
    """Return our own architectures; they have no published weights."""
    rows = []
    for name in OWN:
        model = build_model(name, num_classes=0)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        size = list(model.pretrained_cfg["input_size"][1:])
        rows.append({"name": name, "input_size": size, "num_features": model.num_features, "parameters": parameters})
    return rows


def timm_backbones(pattern: str | None = None) -> list[dict[str, Any]]:
    """Return the models of timm whose names fit a pattern; without one, those in the hub's local cache.

    Args:
        pattern: with `*` for anything; the name of an architecture stands for all its published weights.

    Raises:
        UsageError: if no name fits.
    """
    published = timm.list_models(pattern or "", pretrained=True)
    rows = [_timm_row(name, cached=cached_weights(name) is not None) for name in published]
    if pattern is None:
        return [row for row in rows if row["cached"]]
    having = {name.partition(".")[0] for name in published}
    rows += [_timm_row(name, published=False) for name in timm.list_models(pattern) if name not in having]
    if not rows:
        raise UsageError(
            f"timm has no model that fits {pattern!r}; * stands for anything, as in '*{pattern.strip('*')}*'"
        )
    return sorted(rows, key=lambda row: row["name"])


def _timm_row(name: str, *, published: bool = True, cached: bool = False) -> dict[str, Any]:
    config = timm.models.get_pretrained_cfg(name)
    return {
        "name": f"timm:{name}",
        "input_size": list(config.input_size[1:]) if config else None,
        "licence": config.license if config else None,
        "published": published,
        "cached": cached,
    }
