"""How a network does on a split while it is trained."""

import torch
from torch import nn

from selmix.confusion import confusion_counts
from selmix.evaluation import class_recalls
from selmix.ranks import ALONE, Ranks
from selmix.stage1.images import TrainingImages
from selmix.stage1.placing import in_order


@torch.no_grad()
def validate(network: nn.Module, images: TrainingImages, *, ranks: Ranks = ALONE) -> dict[str, float]:
    """Return accuracy, mean recall and minimum recall of a network in eval mode.

    Args:
        network: image -> logits [b, k].
        images: not augmented.
        ranks: the processes that share the images.
    """
    own = torch.arange(len(images.labels)).tensor_split(ranks.count)[ranks.rank]
    predictions, num_classes = [], 0
    for inputs in images.loads(in_order(own)):
        logits = network(inputs)
        predictions.append(logits.argmax(1))
        num_classes = logits.shape[1]
    counts = ranks.total(confusion_counts(images.labels[own], torch.cat(predictions).cpu(), num_classes=num_classes))
    recalls = class_recalls(counts)
    return {
        "accuracy": float(counts.diagonal().sum() / counts.sum()),
        "mean_recall": float(recalls.nanmean()),
        "min_recall": float(recalls[~recalls.isnan()].min()),
    }
