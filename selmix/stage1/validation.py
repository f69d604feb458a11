"""How a network does on a split while it is trained."""

import torch
from torch import nn

from selmix.confusion import confusion_counts
from selmix.evaluation import class_recalls
from selmix.ranks import ALONE, Ranks
from selmix.stage1.images import TrainingImages
from selmix.stage1.placing import in_order


def validate(network: nn.Module, images: TrainingImages, *, ranks: Ranks = ALONE) -> dict[str, float]:
    """Return accuracy, mean recall and minimum recall of a network in eval mode; arguments as of `confusion_of`."""
    counts = confusion_of(network, images, ranks=ranks)
    recalls = class_recalls(counts)
    return {
        "accuracy": float(counts.diagonal().sum() / counts.sum()),
        "mean_recall": float(recalls.nanmean()),
        "min_recall": float(recalls[~recalls.isnan()].min()),
    }


@torch.no_grad()
def confusion_of(network: nn.Module, images: TrainingImages, *, ranks: Ranks = ALONE) -> torch.Tensor:
    """Return how many images of each class, in rows, a network in eval mode takes for which, [k, k].

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
    return ranks.total(confusion_counts(images.labels[own], torch.cat(predictions).cpu(), num_classes=num_classes))
