"""How a network does on a split while it is trained."""

import torch
from torch import nn

from selmix.confusion import confusion_counts
from selmix.evaluation import class_recalls
from selmix.stage1.images import TrainingImages

_BATCH = 256


@torch.no_grad()
def validate(network: nn.Module, images: TrainingImages) -> dict[str, float]:
    """Return accuracy, mean recall and minimum recall of a network in eval mode.

    Args:
        network: image -> logits [b, k].
        images: not augmented.
    """
    chunks = torch.arange(len(images.labels)).split(_BATCH)
    outputs = [network(inputs) for inputs in images.loads((chunk, torch.zeros_like(chunk)) for chunk in chunks)]
    logits = torch.cat(outputs).cpu()
    counts = confusion_counts(images.labels, logits.argmax(1), num_classes=logits.shape[1])
    recalls = class_recalls(counts)
    return {
        "accuracy": float(counts.diagonal().sum() / counts.sum()),
        "mean_recall": float(recalls.nanmean()),
        "min_recall": float(recalls[~recalls.isnan()].min()),
    }
