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

three products of k x k matrices give all k^2 gains; no tensor has more than k^2 entries. With several groups of samples
a class, rows i, j and m run over the r = k G groups, and a row keeps the label of its class.
Source: SelMix (ICLR 2024) defines the gain; the factorised form is ours.
"""

import torch

_CELLS = 1 << 23  # pairs at a time: bounds the temporaries to a few 64 MB matrices
# exp(x) of float64 is normal for |x| < 708. Exponents, at most 0, are cut off at _FLOOR and shifted up by _SHIFT: each
# factor is at least exp(-700); of N, one factor of one term is at its top, so exp(-400) <= N <= k exp(600). There is
# room for entries of A up to 10^40.
_FLOOR = -1000.0
_SHIFT = 300.0


def gain_matrix(
    class_means: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    logit_gradient: torch.Tensor,
    *,
    mix: float,
    smoothing: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the directional derivative of the metric along one unit-rate SGD step on each pair's mixup.

    Computed in float64: gains are differences of nearly equal numbers, and their signs decide which pairs are drawn.
    Never NaN where the arguments are finite, and no device is waited for. A pair (i, j) is exact as long as one of its
    two means spans few enough logits: lam (largest - smallest) of i, or (1 - lam) (largest - smallest) of j, is at most
    960 nats. Beyond that, logits further below the top than 1000 / lam or 1000 / (1 - lam) count as that far.

    Args:
        class_means: [r, d] mean feature per class; or per class and group, row = label * G + group, r = k G.
        weight: [k, d] of the head.
        bias: [k] of the head, or None when the head has no bias (then the step moves none).
        logit_gradient: [r, k] from `selmix.metrics.logit_gradient`.
        mix: coefficient lam of the row that keeps its label, in [0, 1].
        smoothing: [r] label smoothing eps of each row when it keeps its label: the step is (t_i - p_ij) z_ij^T with
            t_i = (1 - eps_i) e_i + eps_i / k; none, if not given.

    Returns:
        float64 [r, r]; entry (i, j) is the gain of mixing row i, which keeps its label, with j.
    """
    rows, num_classes = len(class_means), len(weight)
    sensitivity, logits = _sensitivity_and_logits(class_means.double(), weight, bias, logit_gradient)
    labels = torch.arange(rows, device=logits.device) // (rows // num_classes)

    # a constant in a row of A changes nothing, as e_i - p_ij sums to 0; with A_ii = 0 fewer digits cancel
    sensitivity -= sensitivity.gather(1, labels[:, None])
    logits -= logits.amax(1, keepdim=True)
    partner_exp = _bounded_exp_((1 - mix) * logits)
    kept_exp = _bounded_exp_(logits.mul_(mix))  # in place: there is room for few matrices when k is 10^4
    weighted_partner = (partner_exp * sensitivity).mul_(1 - mix)
    average = sensitivity.mean(1)
    eps = torch.zeros_like(average) if smoothing is None else smoothing.to(average)

    gains = logits.new_empty(rows, rows)
    height = max(1, _CELLS // rows)
    for start in range(0, rows, height):
        block = slice(start, start + height)
        weighted_kept = (kept_exp[block] * sensitivity[block]).mul_(mix)
        out = torch.mm(weighted_kept, partner_exp.T, out=gains[block])
        out.addmm_(kept_exp[block], weighted_partner.T).div_(-(kept_exp[block] @ partner_exp.T))
        # t_i . A_i = eps_i mean(A_i), and t_i . A_j = (1 - eps_i) A_j,i + eps_i mean(A_j)
        own = sensitivity.index_select(1, labels[block]).T.lerp(average, eps[block, None])
        out.add_(own, alpha=1 - mix).add_((mix * eps * average)[block, None])
    return gains


def _sensitivity_and_logits(
    class_means: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, logit_gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A = (Z Z^T + 1[bias]) M and B = Z W^T + b, both [r, k], without forming Z Z^T."""
    logit_gradient = logit_gradient.to(class_means)
    sensitivity = class_means @ (class_means.T @ logit_gradient)
    logits = class_means @ weight.to(class_means).T
    if bias is not None:
        sensitivity += logit_gradient.sum(0)
        logits += bias.to(class_means)
    return sensitivity, logits


def _bounded_exp_(exponents: torch.Tensor) -> torch.Tensor:
    """Take the exponential in place, of exponents <= 0, cut off and shifted so that products do not underflow."""
    return exponents.clamp_min_(_FLOOR).add_(_SHIFT).exp_()
