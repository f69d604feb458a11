r"""The gain of every class pair: how fast the metric rises when the head takes one SGD step on an (i, j) mixup.

Axes: i the class that keeps its label, j its partner, m the classes whose mean features feel the step, l logits.

The pair (i, j) mixes the class means to z_ij = lam z_i + (1 - lam) z_j with label i. Gradient descent on its
cross-entropy moves the head by dW = (e_i - p_ij) z_ij^T, p_ij = softmax(W z_ij + b), and the bias by e_i - p_ij.
The logits of class m's mean feature then move by (z_m . z_ij + 1) (e_i - p_ij), the 1 being the bias. With
M = dpsi/dA the metric's gradient in logit space, the metric moves by

    G_ij = sum_m (z_m . z_ij + 1) sum_l M_ml (e_i - p_ij)_l
         = (lam A_i + (1 - lam) A_j) . (e_i - p_ij),        A = (Z Z^T + 1) M        [k partner, k logit]
         = lam A_ii + (1 - lam) A_ji - p_ij . (lam A_i + (1 - lam) A_j).

The softmax of a sum factorises. With B = Z W^T + b, E = exp(lam B), F = exp((1 - lam) B), every row shifted by its own
maximum (which cancels), p_ij,l = E_il F_jl / N_ij with N = E F^T, so

    p_ij . (lam A_i + (1 - lam) A_j) = [ (lam E*A) F^T + E ((1 - lam) F*A)^T ]_ij / N_ij :

three products of k x k matrices give all k^2 gains exactly; no tensor has more than k^2 entries.
Source: SelMix (ICLR 2024) defines the gain; the factorised form is ours.
"""

import torch

_ROWS = 1024  # rows of pairs at a time: bounds the temporaries to a few [1024, k] matrices
_CELLS = 1 << 22  # numbers in a block of exactly recomputed pairs


def gain_matrix(
    class_means: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    logit_gradient: torch.Tensor,
    *,
    mix: float,
) -> torch.Tensor:
    """Return the directional derivative of the metric along one unit-rate SGD step on each pair's mixup.

    Args:
        class_means: [k, d] mean feature per class.
        weight: [k, d] of the head.
        bias: [k] of the head, or None when the head has no bias (then the step moves none).
        logit_gradient: [k, k] from `selmix.metrics.logit_gradient`.
        mix: coefficient lam of the class that keeps its label, in [0, 1].

    Returns:
        [k, k] in the dtype of `class_means`; entry (i, j) is the gain of mixing class i, which keeps its label, with j.
    """
    sensitivity, logits = _sensitivity_and_logits(class_means, weight, bias, logit_gradient)
    kept_exp, kept = _shifted_exp(mix * logits), mix * sensitivity
    partner_exp, partner = _shifted_exp((1 - mix) * logits), (1 - mix) * sensitivity
    weighted_partner = partner_exp * partner

    # below this, terms that matter may have lost digits as subnormal numbers
    info = torch.finfo(logits.dtype)
    smallest_normaliser = info.tiny / info.eps

    gains = torch.empty_like(logits)
    for start in range(0, len(gains), _ROWS):
        rows = slice(start, start + _ROWS)
        normaliser = kept_exp[rows] @ partner_exp.T
        expected = ((kept_exp[rows] * kept[rows]) @ partner_exp.T + kept_exp[rows] @ weighted_partner.T) / normaliser
        own = kept.diagonal()[rows, None] + partner.T[rows]
        gains[rows] = own - expected
        underflown = (normaliser < smallest_normaliser).nonzero()
        if len(underflown):
            gains[underflown[:, 0] + start, underflown[:, 1]] = _gain_of_pairs(
                underflown[:, 0] + start, underflown[:, 1], sensitivity, logits, mix
            )
    return gains


def _sensitivity_and_logits(
    class_means: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, logit_gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A = (Z Z^T + 1[bias]) M and B = Z W^T + b, both [k, k], without forming Z Z^T."""
    logit_gradient = logit_gradient.to(class_means)
    sensitivity = class_means @ (class_means.T @ logit_gradient)
    logits = class_means @ weight.to(class_means).T
    if bias is None:
        return sensitivity, logits
    return sensitivity + logit_gradient.sum(0), logits + bias.to(class_means)


def _shifted_exp(logits: torch.Tensor) -> torch.Tensor:
    return (logits - logits.amax(1, keepdim=True)).exp()


def _gain_of_pairs(
    kept: torch.Tensor, partner: torch.Tensor, sensitivity: torch.Tensor, logits: torch.Tensor, mix: float
) -> torch.Tensor:
    """Return the gains of the listed pairs from the definition, softmax and all, in blocks."""
    blocks = []
    step = max(1, _CELLS // len(logits))
    for start in range(0, len(kept), step):
        i, j = kept[start : start + step], partner[start : start + step]
        felt = torch.lerp(sensitivity[j], sensitivity[i], mix)
        probabilities = torch.lerp(logits[j], logits[i], mix).softmax(1)
        own = felt.gather(1, i[:, None]).squeeze(1)
        blocks.append(own - (probabilities * felt).sum(1))
    return torch.cat(blocks)
