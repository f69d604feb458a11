"""Cross-entropy with a factor and an offset for each class's logit: logit adjustment, CDT and VS are cases of it.

With factors Delta and offsets l, the loss is that of Kini et al. without its weight w_y:
log(1 + sum over k != y of exp(l_k - l_y) exp(Delta_k f_k - Delta_y f_y)) = CE(Delta f + l, y).

| loss | Delta | l |
|---|---|---|
| logit adjustment; balanced softmax at tau = 1 | 1 | tau log prior |
| CDT | (n_k / n_max)^gamma | 0 |
| VS | (n_k / n_max)^gamma | tau log prior |
"""

import torch
from torch.nn import functional as F


def parametric_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    offset: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return CE(scale * logits + offset, y) of every sample, [b], differentiable in logits, scale and offset.

    Args:
        logits: [b, k].
        labels: int64 [b].
        scale: Delta, [k]; [k, g] with groups, of which a sample takes its group's column for all classes; None is 1.
        offset: l, likewise; None is 0.
        groups: int64 [b]; None where samples have no groups.

    Source: Kini et al., "Label-Imbalanced and Group-Sensitive Classification under Overparameterization", NeurIPS 2021;
    Li et al., "AutoBalance", NeurIPS 2021, equations 2.1 and 4.2.
    """
    if scale is not None:
        logits = _of_samples(scale, groups).to(logits) * logits
    if offset is not None:
        logits = logits + _of_samples(offset, groups).to(logits)
    return F.cross_entropy(logits, labels, reduction="none")


def _of_samples(table: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
    return table if groups is None else table.T[groups]


def logit_adjustment(class_counts: torch.Tensor, *, tau: float) -> torch.Tensor:
    """Return the offsets tau log prior, float64 [k].

    Args:
        class_counts: [k] training samples, each >= 1.
        tau: 1 is balanced softmax; 0 changes nothing.

    Source: Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, equation 10; Ren et al., "Balanced
    Meta-Softmax", NeurIPS 2020.
    """
    counts = class_counts.double()
    return tau * (counts / counts.sum()).log()


def cdt_scale(class_counts: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Return the factors (n_k / n_max)^gamma, float64 [k]: 1 for the largest class, less for smaller ones.

    Args:
        class_counts: [k] training samples, each >= 1.
        gamma: >= 0; 0 changes nothing.

    Source: Ye et al., "Identifying and Compensating for Feature Deviation in Imbalanced Deep Learning", 2020.
    """
    counts = class_counts.double()
    return (counts / counts.max()) ** gamma
