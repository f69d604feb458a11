"""Stage two from what the user named to a result: load, extract, tune, evaluate."""

import time
from dataclasses import dataclass, replace

import torch

from selmix.backbones import Backbone, load_backbone
from selmix.baselines.retrain import RetrainSettings, retrain_head
from selmix.confusion import confusion_counts
from selmix.data.images import ImageData
from selmix.data.sources import open_images
from selmix.data.splits import stratified_holdout
from selmix.errors import DataError
from selmix.evaluation import ClassGroups, Evaluation, evaluate
from selmix.features.extract import Track, extract_features
from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import Metric
from selmix.seeding import numpy_generator, torch_generator
from selmix.stage2.refine import Refined, RefineSettings, refine, score
from selmix.stage2.starts import starting_heads

VALIDATION_FRACTION = 0.2


@dataclass(frozen=True)
class Tuning:
    """What stage two did.

    Attributes:
        data: the features it worked on, validation split included.
        heads: `before` (given, or a linear probe), `balanced` (retrained with class-balanced sampling), `after`.
        start: name of the head that the loop started from.
        refined: what the loop returned.
        groups: head, medium and tail classes.
        evaluations: split -> head name -> evaluation; test, where there is one, is looked at once, at the end.
        seconds: what was spent: `extract`, `tune`.
    """

    data: FeatureData
    heads: dict[str, LinearHead]
    start: str
    refined: Refined
    groups: ClassGroups
    evaluations: dict[str, dict[str, Evaluation]]
    seconds: dict[str, float]


def features_of_images(
    backbone_spec: str, data_spec: str, *, device: torch.device, track: Track | None = None
) -> FeatureData:
    """Open images and backbone, and extract the features of train, val and test.

    Raises:
        UsageError: for an unknown name.
        DataError: for faulty data or weights.
    """
    images = open_images(data_spec)
    backbone = load_backbone(backbone_spec)
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
        head=_matching_head(backbone, images),
        unlabeled_count=len(images.splits["unlabeled"].ids) if "unlabeled" in images.splits else 0,
        digests={"data": images.digest, "backbone": backbone.digest},
        seconds={"extract": time.perf_counter() - started},
    )


def _matching_head(backbone: Backbone, images: ImageData) -> LinearHead | None:
    """Return the backbone's head in the order of the data's class table, or None if it knows other classes."""
    if backbone.head is None or backbone.class_names is None:
        return None
    if sorted(backbone.class_names) != sorted(images.class_names):
        return None
    order = [backbone.class_names.index(name) for name in images.class_names]
    return LinearHead(backbone.head.weight[order], backbone.head.bias[order])


def tune(data: FeatureData, metric: Metric, settings: RefineSettings, *, seed: int) -> Tuning:
    """Run stage two and evaluate it: the validation split steers, the test split is looked at once, at the end.

    Raises:
        DataError: if there is no validation split and none can be set aside.
    """
    data = _with_validation(data, seed)
    train, val = data.splits["train"], data.splits["val"]
    num_classes = len(data.class_names)
    started = time.perf_counter()
    before = data.head or retrain_head(
        train, num_classes, sampling_power=1, settings=RetrainSettings(), generator=torch_generator(seed, "probe")
    )
    starts = starting_heads(before, train, generator=torch_generator(seed, "balanced"))
    start = settings.start
    if start == "best":
        start = max(starts, key=lambda name: score(_counts(starts[name], val), metric, settings))
    refined = refine(starts[start], train, val, metric, settings, generator=torch_generator(seed, "pairs"))
    seconds = data.seconds | {"tune": time.perf_counter() - started}

    heads = {"before": before, "balanced": starts["balanced"], "after": refined.head}
    groups = ClassGroups.from_counts(torch.bincount(train.labels, minlength=num_classes))
    evaluations: dict[str, dict[str, Evaluation]] = {
        split: {name: evaluate(head, data.splits[split], groups) for name, head in heads.items()}
        for split in ("val", "test")
        if split in data.splits
    }
    return Tuning(data, heads, start, refined, groups, evaluations, seconds)


def _counts(head: LinearHead, split: LabeledFeatures) -> torch.Tensor:
    return confusion_counts(split.labels, head.predict(split.features), head.num_classes)


def _with_validation(data: FeatureData, seed: int) -> FeatureData:
    """Set a stratified part of train aside when there is no validation split."""
    if "val" in data.splits:
        return data
    train = data.splits["train"]
    stay, held_out = stratified_holdout(
        train.labels.numpy(),
        data.class_names,
        fraction=VALIDATION_FRACTION,
        generator=numpy_generator(seed, "validation"),
    )
    parts = {"train": stay, "val": held_out}
    return replace(
        data,
        splits=data.splits | {name: train.subset(torch.from_numpy(part)) for name, part in parts.items()},
        ids=data.ids | {name: [data.ids["train"][position] for position in part] for name, part in parts.items()},
    )


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        DataError: if this machine does not have it.
    """
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if have[device])
    if not have[name]:
        raise DataError(f"this machine has no {name} device; use --device auto or cpu")
    return torch.device(name)
