"""Stage one from a recipe to files: a checkpoint and the manifest that says what it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import selmix
from selmix.backbones import build_model, load_backbone_folder
from selmix.checkpoints import file_digest, save_tensors, write_atomically
from selmix.data.images import ImageData, stack_images
from selmix.data.sources import open_images
from selmix.evaluation import ClassGroups, evaluate
from selmix.features.extract import Track, extract_features
from selmix.predictions import predict
from selmix.recipe import TrainRecipe, supervised_settings
from selmix.seeding import derived_seed, torch_generator
from selmix.stage1.supervised import train_supervised


def train_backbone(
    recipe: TrainRecipe, out: Path, *, device: torch.device, track: Track | None = None
) -> dict[str, Any]:
    """Train a backbone on the train split alone, write `model.safetensors` and `manifest.json`, return the manifest.

    Args:
        recipe: what to train on what.
        out: folder to write to; made if missing.
        device: where to train.
        track: wraps the loop over epochs to show progress.

    Raises:
        UsageError: for a faulty recipe.
        DataError: for missing or faulty data.
    """
    settings = supervised_settings(recipe.stage1)
    data = open_images(recipe.data)
    train = data.splits["train"]
    assert train.labels is not None
    images = torch.from_numpy(stack_images(train, recipe.input_size))
    mean, std = _channel_statistics(images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(recipe.seed, "initialisation"))
        model = build_model(recipe.architecture, num_classes=len(data.class_names))
    records = train_supervised(
        model.to(device),
        images.to(device),
        torch.from_numpy(train.labels).to(device),
        mean=mean,
        std=std,
        settings=settings,
        generator=torch_generator(recipe.seed, "stage1"),
    )
    epochs = track(range(settings.epochs), "epochs", settings.epochs) if track else range(settings.epochs)
    history = [record for _, record in zip(epochs, records, strict=True)]

    out.mkdir(parents=True, exist_ok=True)
    manifest = {
        "name": recipe.name,
        "architecture": recipe.architecture,
        "num_features": model.num_features,
        "input_size": [3, *recipe.input_size],
        "mean": mean,
        "std": std,
        "class_names": data.class_names,
        "class_counts": np.bincount(train.labels, minlength=len(data.class_names)).tolist(),
        "data": {"name": recipe.data, "split": "train", "digest": data.digest},
        "recipe": recipe.model_dump() | {"stage1": vars(settings)},
        "final_loss": history[-1]["loss"],
        "licence": recipe.licence,
        "versions": {"selmix": selmix.__version__, "torch": torch.__version__},
    }
    # the weights say by themselves what they need: they are also opened as a plain checkpoint
    own = {key: manifest[key] for key in ("architecture", "class_names", "input_size", "mean", "std")}
    save_tensors(model.state_dict(), out / "model.safetensors", own)
    manifest["sha256"] = file_digest(out / "model.safetensors")
    write_atomically(out / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    manifest["metrics"] = _metrics(out, data, device)
    write_atomically(out / "manifest.json", json.dumps(manifest, indent=1) + "\n")
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
