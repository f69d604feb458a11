"""From what the user named, ready features or images and a backbone, to the features that stage two works on."""

import time
from pathlib import Path

import torch

from selmix.backbones import Preprocessing, load_backbone
from selmix.data.sources import open_images
from selmix.features.extract import Track, extract_features
from selmix.features.file import load_features
from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.recipe import CompareRecipe, FinetuneRecipe


def named_features(
    recipe: FinetuneRecipe | CompareRecipe, *, device: torch.device, track: Track | None = None
) -> FeatureData:
    """Return the features that a recipe names: ready ones, or those of its images through its backbone.

    Raises:
        UsageError: for an unknown name.
        DataError: for faulty data, features or weights.
    """
    if recipe.features is not None:
        return load_features(Path(recipe.features))
    assert recipe.backbone is not None
    assert recipe.data is not None
    return features_of_images(
        recipe.backbone, recipe.data, arch=recipe.arch, overrides=recipe.overrides(), device=device, track=track
    )


def features_of_images(
    backbone_spec: str,
    data_spec: str,
    *,
    device: torch.device,
    arch: str | None = None,
    overrides: Preprocessing | None = None,
    track: Track | None = None,
) -> FeatureData:
    """Open images and backbone, and extract the features of train, val and test.

    Raises:
        UsageError: for an unknown name.
        DataError: for faulty data or weights.
    """
    images = open_images(data_spec)
    backbone = load_backbone(backbone_spec, arch=arch, overrides=overrides)
    started = time.perf_counter()
    splits: dict[str, LabeledFeatures] = {}
    for name in ("train", "val", "test"):
        if name in images.splits:
            split = images.splits[name]
            features = extract_features(backbone, split, device=device, track=track)
            splits[name] = LabeledFeatures(features, torch.from_numpy(split.labels))
    return FeatureData(
        class_names=images.class_names,
        splits=splits,
        ids={name: images.splits[name].ids for name in splits},
        head=backbone.head_for(images.class_names),
        unlabeled_count=len(images.splits["unlabeled"].ids) if "unlabeled" in images.splits else 0,
        digests={"data": images.digest, "backbone": backbone.digest},
        seconds={"extract": time.perf_counter() - started},
    )
