"""Which samples of a pool to look at."""

import torch

from selmix.audit.document import PoolAudit

_A_CLASS, _SHOWN = 8, 500  # samples of a class, and of all


def chosen(audit: PoolAudit) -> list[torch.Tensor]:
    """Return for each class the positions of samples to look at, from the surest to the least sure, evenly spread.

    They are selected ones, where the class has some. Many classes have fewer samples each; beyond 500 classes, those of
    the lowest bound of precision have one.
    """
    found, selected = audit.labels.found, audit.labels.of_head[-1] >= 0
    num_classes = len(audit.data.class_names)
    most = max(1, min(_A_CLASS, _SHOWN // num_classes))
    doubtful = audit.labels.precision.lower.argsort(stable=True)[:_SHOWN].tolist()
    order = found.confidence.argsort(descending=True, stable=True)
    order = order[found.classes[order].argsort(stable=True)]
    sizes = torch.bincount(found.classes + 1, minlength=num_classes + 1).tolist()
    samples = list(order.split(sizes))[1:]
    for label, own in enumerate(samples):
        kept = own[selected[own]] if bool(selected[own].any()) else own
        count = min(most, len(kept)) if num_classes <= _SHOWN or label in doubtful else 0
        samples[label] = kept[torch.linspace(0, max(len(kept) - 1, 0), count).round().long()]
    return samples
