"""From what the user named, ready features or images and a backbone, to the features that stage two works on."""

import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selmix.agreement import together
from selmix.data.assembly import digest_of_images
from selmix.data.cifar import KINDS
from selmix.data.images import ImageData
from selmix.data.sources import open_images
from selmix.data.unlabeled import pool_alone, with_pool
from selmix.features.cached import load_cache
from selmix.features.extract import Track, resolved_dtype
from selmix.features.file import load_features, with_pool_features
from selmix.features.filling import Filled, Filling, fill_cache
from selmix.features.labeled import FeatureData
from selmix.features.survey import bad_images
from selmix.heads import LinearHead
from selmix.ranks import ALONE, Ranks
from selmix.recipe import NO_POOL, CompareRecipe, ExtractRecipe, FinetuneRecipe
from selmix.shipped import PREFIX

if TYPE_CHECKING:
    from selmix.backbones import Backbone  # timm takes a while to import, and ready features need none

logger = logging.getLogger("selmix")


def named_features(
    recipe: FinetuneRecipe | CompareRecipe,
    *,
    device: torch.device,
    ranks: Ranks = ALONE,
    track: Track | None = None,
) -> FeatureData:
    """Return the features that a recipe names: a cache, ready ones, or those of its images through its backbone.

    Raises:
        UsageError: for an unknown name.
        DataError: for faulty data, features or weights.
    """
    if recipe.features is not None:
        path = Path(recipe.features)
        with together(ranks):
            data = load_cache(path, ranks=ranks) if path.is_dir() else load_features(path)
            if recipe.unlabeled == NO_POOL:
                return data.without_pool()
            return data if recipe.unlabeled is None else with_pool_features(data, Path(recipe.unlabeled))
    return features_of_images(recipe.extraction(), device=device, ranks=ranks, track=track)


def features_of_images(
    recipe: ExtractRecipe, *, device: torch.device, ranks: Ranks = ALONE, track: Track | None = None
) -> FeatureData:
    """Return the features of train, val, test and the unlabeled pool, from the cache; what is not there is extracted.

    Raises:
        UsageError: for an unknown name.
        DataError: for faulty data or weights, or a cache that cannot be written.
    """
    started = time.perf_counter()
    images = _images(recipe)
    backbone = _backbone(recipe, images, ranks)
    head = backbone.head_for(images.class_names)
    # a pool named beside the data has a cache of its own: theirs serves with any pool
    apart = recipe.cache is None and recipe.unlabeled not in (None, NO_POOL)
    groups = [with_pool(images, None), pool_alone(images)] if apart else [images]
    filled = [_filled(recipe, own, backbone, head, device, ranks, track) for own in groups]
    data = load_cache(filled[0].folder, ranks=ranks, images=images, pool_folder=filled[1].folder if apart else None)
    return replace(
        data,
        head=head,
        origin=_origin(recipe, backbone),  # that in the cache may be another one of the same digests
        seconds={"extract": time.perf_counter() - started},
        cache=data.cache | {"reused": not any(own.images for own in filled)},
    )


def extract_to_cache(
    recipe: ExtractRecipe, *, device: torch.device, ranks: Ranks = ALONE, track: Track | None = None
) -> Filled:
    """Bring the features of train, val, test and the unlabeled pool into a cache.

    Raises:
        UsageError: for an unknown name.
        DataError: for faulty data or weights, or a cache that cannot be written.
    """
    images = _images(recipe)
    backbone = _backbone(recipe, images, ranks)
    return _filled(recipe, images, backbone, backbone.head_for(images.class_names), device, ranks, track)


def _images(recipe: ExtractRecipe) -> ImageData:
    images = open_images(recipe.data)
    if recipe.unlabeled is None:
        return images
    return with_pool(images, None if recipe.unlabeled == NO_POOL else recipe.unlabeled)


def describe_cache(filled: Filled) -> dict[str, Any]:
    """Return what is in a cache, and what it took, as one JSON document."""
    sidecar = filled.sidecar
    return {
        "schema": 1,
        "command": "extract",
        "cache": str(filled.folder),
        "key": sidecar.identity.key,
        "rows": {part.name: part.rows for part in sidecar.parts},
        "bad_images": bad_images(filled.folder, sidecar),
        "width": sidecar.width,
        "dtype": sidecar.identity.dtype,
        "bytes": sidecar.bytes,
        "extracted": filled.images,
        "seconds": {"extract": round(filled.seconds, 3)},
        "digests": {"data": sidecar.identity.data, "backbone": sidecar.identity.backbone},
    }


def _backbone(recipe: ExtractRecipe, images: ImageData, ranks: Ranks) -> "Backbone":
    """Load the backbone; warn where it knows the images that are to stand in for val."""
    from selmix.backbones import load_backbone

    backbone = load_backbone(recipe.backbone, arch=recipe.arch, overrides=recipe.overrides())
    train = digest_of_images(images.class_names, {"train": images.splits["train"]}, images.group_names)
    if backbone.trained_on == train and "val" not in images.splits and ranks.leads:
        logger.warning(
            f"{recipe.backbone} was trained on these very images of train, and a part of them will stand in for val: "
            "it knows them, so what steers the tuning is too good to be true; bring a val that it has not seen, as "
            "val_fraction in a recipe of `selmix train` sets aside"
        )
    return backbone


def _filled(
    recipe: ExtractRecipe,
    images: ImageData,
    backbone: "Backbone",
    head: LinearHead | None,
    device: torch.device,
    ranks: Ranks,
    track: Track | None,
) -> Filled:
    named = {"backbone", "data"} | ({"unlabeled"} & images.splits.keys())
    filling = Filling(
        images,
        backbone,
        device,
        dtype=resolved_dtype(recipe.dtype, device),
        views=recipe.views,
        skip_bad=recipe.on_bad_image == "skip",
        head=head,
        workers=recipe.workers,
        about=recipe.model_dump(include=named, exclude_none=True),
        origin=_origin(recipe, backbone),
        ranks=ranks,
        track=track,
    )
    return fill_cache(filling, None if recipe.cache is None else Path(recipe.cache))


def _origin(recipe: ExtractRecipe, backbone: "Backbone") -> dict[str, Any]:
    """Return what opens backbone and images again, whatever folder one works in, and what the backbone is."""
    return {
        "backbone": _rooted(recipe.backbone),
        "data": _rooted(recipe.data),
        "arch": recipe.arch,
        "overrides": recipe.model_dump(include={"input_size", "mean", "std"}, mode="json"),
        "architecture": backbone.architecture,
        "preprocessing": plain_preprocessing(backbone),
    }


def plain_preprocessing(backbone: "Backbone") -> dict[str, Any]:
    """Return what happens to an image before the backbone, as JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps(backbone.preprocessing))
    return plain


def _rooted(spec: str) -> str:
    """Return a specification of a backbone or of data with its path, if it has one, from the root."""
    start, mark, path = "", "", spec
    if spec.startswith(PREFIX) or (spec.startswith("timm:") and "@" not in spec):
        return spec
    if spec.startswith("timm:"):
        start, mark, path = spec.partition("@")
    elif spec.partition(":")[0] in KINDS:
        start, mark, path = spec.partition(":")
    return f"{start}{mark}{os.path.abspath(Path(path).expanduser())}"
