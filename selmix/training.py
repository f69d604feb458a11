"""Stage one from a recipe to a run folder: a backbone, and the manifest that says what it is."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import selmix
from selmix.backbones import build_model, load_backbone_folder
from selmix.checkpoints import file_digest, save_tensors, write_atomically
from selmix.data.images import ImageData, ImageSplit, stack_images
from selmix.data.sources import open_images
from selmix.errors import DivergedError
from selmix.evaluation import ClassGroups, evaluate
from selmix.features.extract import Track, extract_features
from selmix.predictions import predict
from selmix.recipe import TrainRecipe, supervised_settings
from selmix.seeding import derived_seed
from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import train_supervised
from selmix.stage1.validation import validate
from selmix.training_run import BEST, CHECKPOINT, LAST, MANIFEST, MODEL, begin_run, log_epoch

SELECTED_BY = "mean_recall"


def train_backbone(
    recipe: TrainRecipe, out: Path, *, device: torch.device, resume: bool = False, track: Track | None = None
) -> dict[str, Any]:
    """Train a backbone, and return its manifest.

    Args:
        recipe: what to train on what.
        out: the run folder: `checkpoint.pt`, from which training goes on after an interruption, `metrics.jsonl` with a
            line an epoch, `last.safetensors` and, with a val split, `best.safetensors`; at the end `model.safetensors`,
            the best or else the last, and `manifest.json`.
        device: where to train.
        resume: go on from the checkpoint in `out`, if there is one.
        track: wraps the loop over epochs to show progress.

    Raises:
        UsageError: for a faulty recipe, or one that is not that of the checkpoint.
        DataError: for missing or faulty data.
        DivergedError: for a loss that is not finite.
    """
    settings = supervised_settings(recipe.stage1)
    data = open_images(recipe.data)
    begin_run(out, recipe.model_dump() | {"stage1": asdict(settings)}, resume=resume)

    pixels = torch.from_numpy(stack_images(data.splits["train"], recipe.input_size))
    mean, std = (recipe.mean, recipe.std) if recipe.mean and recipe.std else _channel_statistics(pixels)
    padding = settings.crop_padding if settings.augmentation == "padded_crop" else None

    def on_device(split: ImageSplit, pixels: torch.Tensor, padding: int | None) -> DeviceImages:
        assert split.labels is not None
        return DeviceImages(pixels.to(device), torch.from_numpy(split.labels), mean, std, padding)

    train = on_device(data.splits["train"], pixels, padding)
    val = None
    if "val" in data.splits:
        val_pixels = torch.from_numpy(stack_images(data.splits["val"], recipe.input_size))
        val = on_device(data.splits["val"], val_pixels, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(recipe.seed, "initialisation"))
        model = build_model(recipe.architecture, num_classes=len(data.class_names))
    state = TrainingState.begin(model.to(device), settings)
    best = state.load(out / CHECKPOINT)["best"] if (out / CHECKPOINT).is_file() else -1.0
    # the weights say by themselves what they need: they are also opened as a plain checkpoint
    identity = {
        "architecture": recipe.architecture,
        "class_names": data.class_names,
        "input_size": [3, *recipe.input_size],
        "mean": mean,
        "std": std,
    }

    records = train_supervised(state, train, Objective(), settings, seed=recipe.seed)
    left = range(state.epochs, settings.epochs)
    try:
        for epoch, record in zip(track(left, "epochs", len(left)) if track else left, records, strict=True):
            last = epoch + 1 == settings.epochs
            if val is not None and (last or (epoch + 1) % settings.evaluate_every == 0):
                record |= {f"val_{name}": value for name, value in validate(state.kept, val).items()}
                if record[f"val_{SELECTED_BY}"] > best:
                    best = record[f"val_{SELECTED_BY}"]
                    save_tensors(state.kept.state_dict(), out / BEST, identity | {"epoch": epoch + 1})
            log_epoch(out, record)
            if last or (epoch + 1) % settings.checkpoint_every == 0:
                state.save(out / CHECKPOINT, {"best": best})
    except DivergedError as error:
        raise DivergedError(f"{error}; {out / CHECKPOINT} is the last good checkpoint") from error
    save_tensors(state.kept.state_dict(), out / LAST, identity | {"epoch": settings.epochs})
    shutil.copyfile(out / (BEST if best >= 0 else LAST), out / MODEL)
    return _describe(recipe, settings, data, identity, out, device)


def _describe(
    recipe: TrainRecipe,
    settings: SupervisedSettings,
    data: ImageData,
    identity: dict[str, Any],
    out: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Write the manifest of the finished backbone, with its metrics on the splits that did not train it."""
    train = data.splits["train"]
    assert train.labels is not None
    manifest = identity | {
        "name": recipe.name,
        "class_counts": np.bincount(train.labels, minlength=len(data.class_names)).tolist(),
        "data": {"name": recipe.data, "split": "train", "digest": data.digest},
        "recipe": recipe.model_dump() | {"stage1": asdict(settings)},
        "licence": recipe.licence,
        "versions": {"selmix": selmix.__version__, "torch": torch.__version__},
        "sha256": file_digest(out / MODEL),
    }
    backbone_file = out / MANIFEST
    write_atomically(backbone_file, json.dumps(manifest, indent=1) + "\n")
    manifest["metrics"] = _metrics(out, data, device)
    write_atomically(backbone_file, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 images [n, c, h, w] scaled to [0, 1]."""
    pixels = images.double().div_(255).transpose(0, 1).flatten(1)
    return tuple(round(float(value), 6) for value in pixels.mean(1)), tuple(
        round(float(value), 6) for value in pixels.std(1)
    )


def _metrics(folder: Path, data: ImageData, device: torch.device) -> dict[str, dict[str, float | None]]:
    """Evaluate the written checkpoint, read back from disk, on the splits that did not train it."""
    backbone = load_backbone_folder(folder)
    assert backbone.head is not None
    train = data.splits["train"]
    assert train.labels is not None
    groups = ClassGroups.from_counts(torch.bincount(torch.from_numpy(train.labels)))
    metrics: dict[str, dict[str, float | None]] = {}
    for split in ("val", "test"):
        if split in data.splits:
            images = data.splits[split]
            features = extract_features(backbone, images, device=device)
            labels = torch.from_numpy(images.labels)
            predictions = predict(backbone.head, features)
            metrics[split] = evaluate(predictions, labels, groups, num_classes=backbone.head.num_classes).metrics
    return metrics
