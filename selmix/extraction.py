"""From what the user named, ready features or images and a backbone, to the features that stage two works on."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from selmix.backbones import Backbone, load_backbone
from selmix.data.images import ImageData
from selmix.data.sources import open_images
from selmix.features.cached import load_cache
from selmix.features.extract import Track, resolved_dtype
from selmix.features.file import load_features
from selmix.features.filling import Filled, Filling, fill_cache
from selmix.features.labeled import FeatureData
from selmix.features.survey import bad_images
from selmix.heads import LinearHead
from selmix.ranks import ALONE, Ranks
from selmix.recipe import CompareRecipe, FinetuneRecipe


@dataclass(frozen=True)
class ImageRequest:
    """Images, the backbone that they go through, and how.

    Attributes:
        backbone: as the user names it.
        data: as the user names it.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        views: augmented views of each training image.
        skip_bad: whether unreadable images are left out; else they are an error.
        cache: folder of the cache; None for one under the cache root.
        workers: processes that decode; None for as many as pay.
    """

    backbone: str
    data: str
    dtype: str = "auto"
    views: int = 0
    skip_bad: bool = False
    cache: Path | None = None
    workers: int | None = None


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
        return load_cache(path, ranks=ranks) if path.is_dir() else load_features(path)
    assert recipe.backbone is not None
    assert recipe.data is not None
    request = ImageRequest(
        recipe.backbone,
        recipe.data,
        dtype=recipe.dtype,
        views=recipe.views,
        skip_bad=recipe.on_bad_image == "skip",
        cache=None if recipe.cache is None else Path(recipe.cache),
    )
    return features_of_images(request, device=device, ranks=ranks, track=track)


def features_of_images(
    request: ImageRequest, *, device: torch.device, ranks: Ranks = ALONE, track: Track | None = None
) -> FeatureData:
    """Return the features of train, val and test, from the cache; what is not there is extracted.

    Raises:
        UsageError: for an unknown name.
        DataError: for faulty data or weights, or a cache that cannot be written.
    """
    started = time.perf_counter()
    filled, head = _filled(request, device, ranks, track)
    data = load_cache(filled.folder, ranks=ranks)
    return replace(
        data,
        head=head,
        seconds={"extract": time.perf_counter() - started},
        cache=data.cache | {"reused": filled.images == 0},
    )


def extract_to_cache(
    request: ImageRequest, *, device: torch.device, ranks: Ranks = ALONE, track: Track | None = None
) -> Filled:
    """Bring the features of train, val and test into a cache.

    Raises:
        UsageError: for an unknown name.
        DataError: for faulty data or weights, or a cache that cannot be written.
    """
    return _filled(request, device, ranks, track)[0]


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


def _filled(
    request: ImageRequest, device: torch.device, ranks: Ranks, track: Track | None
) -> tuple[Filled, LinearHead | None]:
    images = open_images(request.data)
    backbone = load_backbone(request.backbone)
    head = _matching_head(backbone, images)
    filling = Filling(
        images,
        backbone,
        device,
        dtype=resolved_dtype(request.dtype, device),
        views=request.views,
        skip_bad=request.skip_bad,
        head=head,
        workers=request.workers,
        about={"backbone": request.backbone, "data": request.data},
        ranks=ranks,
        track=track,
    )
    return fill_cache(filling, request.cache), head


def _matching_head(backbone: Backbone, images: ImageData) -> LinearHead | None:
    """Return the backbone's head in the order of the data's class table, or None if it knows other classes."""
    if backbone.head is None or backbone.class_names is None:
        return None
    if sorted(backbone.class_names) != sorted(images.class_names):
        return None
    order = [backbone.class_names.index(name) for name in images.class_names]
    return LinearHead(backbone.head.weight[order], backbone.head.bias[order])
