"""The manifest of a trained backbone: what it is, what it was trained on, and what it can do."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import selmix
from selmix.checkpoints import file_digest, read_metadata
from selmix.data.images import ImageData
from selmix.evaluation import ClassGroups, evaluate
from selmix.features.extract import extract_features
from selmix.heads import LinearHead
from selmix.predictions import predict
from selmix.training_run import MANIFEST, MODEL
from selmix.writing import write_atomically

if TYPE_CHECKING:
    from selmix.backbones import Backbone


def write_manifest(
    out: Path,
    identity: dict[str, Any],
    request: dict[str, Any],
    data: ImageData,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Write the manifest of the backbone in `out`, with its metrics on val and test, and return it.

    Args:
        out: folder with the weights.
        identity: architecture, class table, input size, normalisation and data.
        request: the recipe, every default filled in.
        data: what it was trained on.
        device: where to evaluate.
    """
    from selmix.backbones import load_backbone

    train = data.splits["train"]
    assert train.labels is not None
    counts = torch.bincount(torch.from_numpy(train.labels), minlength=len(data.class_names))
    backbone = load_backbone(str(out / MODEL))  # as a user gets it, from disk
    assert backbone.head is not None
    manifest = identity | {
        "name": request["name"],
        "num_features": backbone.head.weight.shape[1],
        "epoch": read_metadata(out / MODEL)["epoch"],
        "class_counts": counts.tolist(),
        "recipe": request,
        "licence": request["licence"],
        "versions": {"selmix": selmix.__version__, "torch": torch.__version__},
        "sha256": file_digest(out / MODEL),
    }
    if request.get("start") and (Path(request["start"]) / MANIFEST).is_file():
        earlier = json.loads((Path(request["start"]) / MANIFEST).read_text())
        manifest["start"] = {key: earlier.get(key) for key in ("name", "recipe", "sha256", "start")}
    manifest["metrics"] = _metrics(backbone, backbone.head, data, ClassGroups.from_counts(counts), device)
    # last of all: a folder with a manifest is a finished training
    write_atomically(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _metrics(
    backbone: "Backbone", head: LinearHead, data: ImageData, groups: ClassGroups, device: torch.device
) -> dict[str, dict[str, float | None]]:
    metrics: dict[str, dict[str, float | None]] = {}
    for split in ("val", "test"):
        if split in data.splits:
            images = data.splits[split]
            predictions = predict(head, extract_features(backbone, images, device=device))
            labels = torch.from_numpy(images.labels)
            metrics[split] = evaluate(predictions, labels, groups, num_classes=head.num_classes).metrics
    return metrics
