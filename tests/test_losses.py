"""Losses against the published oracles, naive second forms, limits and finite differences."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from selmix.losses.class_balanced import (
    class_balanced_weights,
    effective_number,
    one_vs_rest_bias,
    sigmoid_cross_entropy,
    sigmoid_focal,
)
from selmix.losses.focal import focal
from selmix.losses.margin import ldam, ldam_margins
from selmix.losses.parametric import cdt_scale, logit_adjustment, parametric_cross_entropy
from selmix.losses.smoothing import label_aware_smoothing, smoothed_cross_entropy, smoothed_targets

DOUBLE = torch.float64


def numbers(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=DOUBLE)


LOGITS = numbers([2, 1, 0.1], [0.5, -1, 3], [0, 0, 0], [-1, 2, 0.5])
LABELS = torch.tensor([0, 1, 2, 2])
COUNTS = torch.tensor([100, 10, 1])
COSINES = numbers([0.8, 0.1, -0.2], [0.3, 0.2, 0.6], [0, 0, 0], [-0.4, 0.7, 0.2])
CONCAVE = {"head": 0.4, "tail": 0.1}
CROSS_ENTROPY = F.cross_entropy(LOGITS, LABELS, reduction="none")
CIFAR_COUNTS = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])


def vs(gamma: float, tau: float, counts: torch.Tensor = COUNTS):
    return partial(
        parametric_cross_entropy,
        scale=cdt_scale(counts, gamma=gamma),
        offset=logit_adjustment(counts, tau=tau),
    )


def adjusted(tau: float):
    return partial(parametric_cross_entropy, offset=logit_adjustment(COUNTS, tau=tau))


def cdt(gamma: float):
    return partial(parametric_cross_entropy, scale=cdt_scale(COUNTS, gamma=gamma))


def smoothed(variant: str, **smoothing):
    return partial(smoothed_cross_entropy, smoothing=label_aware_smoothing(COUNTS, **smoothing), variant=variant)


def sigmoid_scaled(raw: torch.Tensor, offset: torch.Tensor | None = None):
    return partial(parametric_cross_entropy, scale=raw.sigmoid(), offset=offset)


# from the specification of stage one, computed there by other code
PUBLISHED = {
    "cross-entropy": (parametric_cross_entropy, [0.417030, 4.095674, 1.098612, 1.741311]),
    "logit adjustment 1": (adjusted(1), [0.037569, 3.937237, 4.709530, 4.221416]),
    "logit adjustment 0.5": (adjusted(0.5), [0.123359, 3.479324, 2.650582, 2.856680]),
    "logit adjustment 2": (adjusted(2), [0.003687, 6.108614, 9.220390, 7.893748]),
    "cdt 0.3": (cdt(0.3), [0.309081, 1.978029, 1.098612, 1.315767]),
    "vs 0.3 1": (vs(0.3, 1), [0.023450, 3.352210, 4.709530, 4.051393]),
    "vs 0.2 1.2": (vs(0.2, 1.2), [0.016473, 3.921999, 5.591127, 4.808969]),
    "focal 1": (partial(focal, gamma=1), [0.142207, 4.027504, 0.732408, 1.436076]),
    "focal 2": (partial(focal, gamma=2), [0.048492, 3.960468, 0.488272, 1.184346]),
    "sigmoid": (sigmoid_cross_entropy, [2.184586, 5.335926, 2.079442, 2.914267]),
    "sigmoid focal 0.5": (partial(sigmoid_focal, gamma=0.5), [1.706043, 4.866792, 1.470387, 2.449888]),
    "sigmoid focal 1": (partial(sigmoid_focal, gamma=1), [1.365994, 4.470400, 1.039721, 2.136624]),
    "sigmoid focal 2": (partial(sigmoid_focal, gamma=2), [0.908830, 3.845560, 0.519860, 1.740310]),
    "AutoBalance raw 1": (sigmoid_scaled(torch.ones(3)), [0.548538, 3.118565, 1.098612, 1.465092]),
    "AutoBalance raw 0": (sigmoid_scaled(torch.zeros(3)), [0.689777, 2.351952, 1.098612, 1.277976]),
    "smoothing code": (smoothed("code", **CONCAVE), [0.803697, 3.834068, 1.098612, 1.741311]),
    "smoothing paper": (smoothed("paper", **CONCAVE), [0.997030, 3.703265, 1.098612, 1.741311]),
    "uniform smoothing": (smoothed("code", head=0.2, tail=0.2), [0.610363, 3.729008, 1.098612, 1.741311]),
}


def assert_near(actual: torch.Tensor, expected, *, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=atol)


@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_of_the_toy_batch(name):
    loss, expected = PUBLISHED[name]
    assert_near(loss(LOGITS, LABELS), expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_of_float32_stay_float32_and_near(name):
    loss, expected = PUBLISHED[name]
    values = loss(LOGITS.float(), LABELS)
    assert values.dtype == torch.float32
    assert_near(values, expected, atol=3e-6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_gradients_agree_with_finite_differences(name):
    # the others of a row with equal logits are no corner of any of these losses
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: PUBLISHED[name][0](f, LABELS), logits)


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_far_apart_keep_losses_and_gradients_finite(name):
    logits = numbers([800, 0, -800], [-800, 800, 0], [0, 0, -800]).requires_grad_()
    losses = PUBLISHED[name][0](logits, torch.tensor([0, 0, 0]))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()


# --- parametric cross-entropy ---


def test_weighted_and_scaled_by_the_sigmoid():
    loss = sigmoid_scaled(numbers(1, 0, -1), numbers(0.3, -0.2, 0.1))
    weights = numbers(1, 2, 3)[LABELS]
    assert_near(weights * loss(LOGITS, LABELS), [0.355332, 4.586028, 3.257818, 3.558386])


def test_is_the_sum_over_the_other_classes():
    scale, offset = numbers(0.7, 1.3, 0.4), numbers(0.3, -0.2, 0.1)
    for logits, y, loss in zip(
        LOGITS, LABELS.tolist(), parametric_cross_entropy(LOGITS, LABELS, scale=scale, offset=offset), strict=True
    ):
        odds = [
            math.exp(offset[k] - offset[y]) * math.exp(scale[k] * logits[k] - scale[y] * logits[y])
            for k in range(3)
            if k != y
        ]
        assert float(loss) == pytest.approx(math.log(1 + sum(odds)), rel=1e-12)


def test_a_common_offset_changes_nothing_so_the_gradient_of_the_offsets_sums_to_0():
    offset = numbers(0.3, -0.2, 0.1).requires_grad_()
    raw = numbers(1, 0, -1).requires_grad_()
    losses = sigmoid_scaled(raw, offset)(LOGITS, LABELS)
    assert_near(sigmoid_scaled(raw, offset + 5)(LOGITS, LABELS), losses.detach(), atol=1e-12)
    (gradient,) = torch.autograd.grad(losses.sum(), offset)
    assert gradient.abs().max() > 0.1
    assert_near(gradient.sum(), 0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda raw, offset: sigmoid_scaled(raw, offset)(LOGITS, LABELS), (raw, offset))


def test_special_cases_coincide():
    def values(loss):
        return loss(LOGITS, LABELS)

    assert_near(values(vs(0, 0)), CROSS_ENTROPY, atol=1e-12)
    assert_near(values(vs(0.3, 0)), values(cdt(0.3)), atol=1e-12)
    assert_near(values(vs(0, 1.2)), values(adjusted(1.2)), atol=1e-12)
    assert_near(values(cdt(0)), CROSS_ENTROPY, atol=1e-12)
    balanced_softmax = F.cross_entropy(LOGITS + COUNTS.double().log(), LABELS, reduction="none")
    assert_near(values(adjusted(1)), balanced_softmax, atol=1e-12)
    uniform = logit_adjustment(torch.tensor([7, 7, 7]), tau=1)
    assert_near(parametric_cross_entropy(LOGITS, LABELS, offset=uniform), CROSS_ENTROPY, atol=1e-12)


def test_the_adjustment_of_the_loss_undoes_that_after_training():
    # post-hoc: f - tau log prior
    assert_near(LOGITS[0] - logit_adjustment(COUNTS, tau=1), [2.104360, 3.406945, 4.809530])
    assert (LOGITS - logit_adjustment(COUNTS, tau=1)).argmax(1).tolist() == [2, 2, 2, 2]
    assert_near(logit_adjustment(COUNTS, tau=1).exp(), COUNTS.double() / 111, atol=1e-15)
    assert_near(logit_adjustment(COUNTS, tau=2), 2 * (COUNTS.double() / 111).log(), atol=1e-12)


def test_temperatures_by_hand():
    assert_near(cdt_scale(COUNTS, gamma=0.3), [1, 0.501187, 0.251189])
    assert_near(cdt_scale(torch.tensor([4, 16, 1]), gamma=0.5), [0.5, 1, 0.25], atol=1e-15)


def test_groups_take_their_column():
    logits, labels, groups = numbers([1, -0.5], [0.2, 0.7]), torch.tensor([0, 1]), torch.tensor([0, 1])
    raw, offset = numbers([1, 0], [0.5, -0.5]), numbers([0.2, -0.3], [0, 0.4])
    weights = numbers([1, 2], [3, 4])[labels, groups]
    losses = parametric_cross_entropy(logits, labels, scale=raw.sigmoid(), offset=offset, groups=groups)
    assert_near(weights * losses, [0.253652, 1.406444])

    tables = (raw.requires_grad_(), offset.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda raw, offset: parametric_cross_entropy(logits, labels, scale=raw.sigmoid(), offset=offset, groups=groups),
        tables,
    )


# --- class-balanced weights and losses of one class against the rest ---


def test_effective_numbers():
    assert_near(
        effective_number(torch.tensor([1, 10, 100, 5000]), beta=0.999), [1, 9.9551, 95.2079, 993.279], atol=5e-4
    )
    assert_near(effective_number(torch.tensor([100, 5000]), beta=0.9999), [99.5066, 3934.845], atol=5e-4)
    geometric = sum(0.9**power for power in range(7))
    assert float(effective_number(torch.tensor([7]), beta=0.9)) == pytest.approx(geometric, rel=1e-14)
    assert effective_number(torch.tensor([7, 2]), beta=0.0).tolist() == [1, 1]
    assert effective_number(torch.tensor([7, 2]), beta=1.0).tolist() == [7, 2]


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.9, [0.239329, 0.367442, 2.393229]),
        (0.99, [0.042237, 0.280044, 2.677719]),
        (0.999, [0.028363, 0.271256, 2.700381]),
        (0.9999, [0.027159, 0.270369, 2.702472]),
    ],
)
def test_class_balanced_weights_of_three_classes(beta, expected):
    assert_near(class_balanced_weights(COUNTS, beta=beta), expected)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.9, [0.99947] * 8 + [0.99963, 1.00464]),
        (0.99, [0.78383] * 3 + [0.78385, 0.78503, 0.8002, 0.86816, 1.04141, 1.38543, 1.98442]),
        (0.999, [0.18119, 0.18941, 0.21574, 0.27286, 0.37848, 0.56058, 0.8688, 1.38616, 2.25845, 3.68832]),
        (0.9999, [0.05061, 0.0769, 0.12113, 0.19504, 0.31881, 0.52459, 0.86835, 1.44263, 2.40922, 3.99272]),
        (1.0, [0.04024, 0.06713, 0.11202, 0.1868, 0.31191, 0.51985, 0.86717, 1.44736, 2.42389, 4.02365]),
    ],
)
def test_class_balanced_weights_of_cifar10_lt(beta, expected):
    weights = class_balanced_weights(CIFAR_COUNTS, beta=beta)
    assert_near(weights, expected, atol=6e-6)
    assert_near(weights.sum(), 10, atol=1e-12)
    assert (weights.diff() >= 0).all()


def test_limits_of_the_weights():
    assert class_balanced_weights(COUNTS, beta=0).tolist() == [1, 1, 1]
    assert_near(class_balanced_weights(torch.tensor([9, 9]), beta=0.99), [1, 1], atol=1e-15)
    inverse = numbers(0.01, 0.1, 1) * 3 / 1.11
    torch.testing.assert_close(class_balanced_weights(COUNTS, beta=1 - 1e-9), inverse, rtol=1e-3, atol=0)
    assert_near(class_balanced_weights(COUNTS, beta=1), inverse, atol=1e-12)
    scaled = class_balanced_weights(10 * COUNTS, beta=0.999) - class_balanced_weights(COUNTS, beta=0.999)
    assert scaled.abs().max() > 1e-2


def test_sigmoid_losses_are_sums_of_binary_ones():
    truth = F.one_hot(LABELS, 3).double()
    terms = F.binary_cross_entropy_with_logits(LOGITS, truth, reduction="none")
    assert_near(sigmoid_cross_entropy(LOGITS, LABELS), terms.sum(1), atol=1e-12)
    assert_near(sigmoid_focal(LOGITS, LABELS, gamma=0), terms.sum(1), atol=1e-12)
    wrong = (truth - LOGITS.sigmoid()).abs()  # 1 - p_t
    assert_near(sigmoid_focal(LOGITS, LABELS, gamma=1.5), (wrong**1.5 * terms).sum(1), atol=1e-12)


@pytest.mark.parametrize(("k", "expected"), [(10, -2.1972), (100, -4.5951), (1000, -6.9068), (8142, -9.0047)])
def test_bias_of_one_class_against_the_rest(k, expected):
    assert one_vs_rest_bias(k) == pytest.approx(expected, abs=5e-5)
    assert 1 / (1 + math.exp(-one_vs_rest_bias(k))) == pytest.approx(1 / k, rel=1e-12)


# --- focal loss ---


def test_focal_of_gamma_0_is_cross_entropy_and_of_more_is_less():
    assert_near(focal(LOGITS, LABELS, gamma=0), CROSS_ENTROPY, atol=1e-12)
    assert (focal(LOGITS, LABELS, gamma=0.5) < CROSS_ENTROPY).all()
    assert (sigmoid_focal(LOGITS, LABELS, gamma=0.5) < sigmoid_cross_entropy(LOGITS, LABELS)).all()


# --- LDAM ---


def test_ldam_by_the_published_figures():
    margins = ldam_margins(COUNTS, max_margin=0.5)
    assert_near(margins, [0.158114, 0.281171, 0.5])
    losses = ldam(COSINES, LABELS, margins=margins, scale=30)
    assert_near(losses, [8.71e-8, 20.435243, 15.693147, 30.000000])
    assert float(losses[0]) == pytest.approx(8.71e-8, rel=1e-3)
    cifar = [0.158114, 0.179697, 0.204238, 0.232091, 0.263829, 0.299768, 0.340675, 0.387221, 0.440497, 0.5]
    assert_near(ldam_margins(CIFAR_COUNTS, max_margin=0.5), cifar)
    cosines = COSINES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: ldam(c, LABELS, margins=margins, scale=30), cosines)


def test_ldam_without_margin_is_cross_entropy_and_less_than_with():
    free = ldam(COSINES, LABELS, margins=ldam_margins(COUNTS, max_margin=0), scale=1)
    assert_near(free, F.cross_entropy(COSINES, LABELS, reduction="none"), atol=1e-12)
    assert (ldam(COSINES, LABELS, margins=ldam_margins(COUNTS, max_margin=0.5), scale=1) > free).all()


# --- label-aware smoothing ---


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("concave", [0.3, 0.24141, 0.15784, 0.09605, 0.05631, 0.03202, 0.01732, 0.00847, 0.00314, 0]),
        ("linear", [0.3, 0.17861, 0.10582, 0.06224, 0.03606, 0.02042, 0.01103, 0.00539, 0.002, 0]),
        ("convex", [0.3, 0.1219, 0.04488, 0.01579, 0.00533, 0.00171, 0.0005, 0.00012, 0.00002, 0]),
    ],
)
def test_smoothing_of_cifar10_lt(shape, expected):
    assert_near(label_aware_smoothing(CIFAR_COUNTS, head=0.3, shape=shape), expected, atol=6e-6)


def test_smoothing_of_the_middle_class():
    def middle(shape, **options):
        return float(label_aware_smoothing(COUNTS, head=0.4, tail=0.1, shape=shape, **options)[1])

    assert middle("concave") == pytest.approx(0.142694, abs=1e-6)
    assert middle("linear") == pytest.approx(0.127273, abs=1e-6)
    assert middle("convex") == pytest.approx(0.103054, abs=1e-6)
    assert middle("exp", power=0.5) == pytest.approx(0.1 + 0.3 * math.sqrt(9 / 99), rel=1e-12)


@pytest.mark.parametrize("shape", ["concave", "linear", "convex", "exp"])
def test_smoothing_goes_from_head_to_tail_and_does_not_know_the_scale(shape):
    eps = label_aware_smoothing(CIFAR_COUNTS, head=0.3, tail=0.1, shape=shape, power=2)
    assert_near(eps[[0, -1]], [0.3, 0.1], atol=1e-12)
    assert_near(label_aware_smoothing(3 * CIFAR_COUNTS, head=0.3, tail=0.1, shape=shape, power=2), eps, atol=1e-12)
    equal = label_aware_smoothing(torch.tensor([5, 5]), head=0.3, tail=0.1, shape=shape, power=2)
    assert_near(equal, [0.3, 0.3], atol=1e-12)


def test_concave_smooths_more_than_linear_and_that_more_than_convex():
    concave, linear, convex = (
        label_aware_smoothing(CIFAR_COUNTS, head=0.3, tail=0.1, shape=shape)[1:-1]
        for shape in ("concave", "linear", "convex")
    )
    assert (concave > linear).all()
    assert (linear > convex).all()


def test_smoothing_of_nothing_and_of_all_alike():
    assert_near(smoothed("code", head=0)(LOGITS, LABELS), CROSS_ENTROPY, atol=1e-12)
    uniform = F.cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=0.2)
    assert_near(smoothed("code", head=0.2, tail=0.2)(LOGITS, LABELS), uniform, atol=1e-12)


def test_variants_of_smoothing():
    # k = 10: the true class keeps .70 (paper) and .73 (code)
    eps = torch.full((10,), 0.3, dtype=DOUBLE)
    paper, code = (smoothed_targets(torch.tensor(4), eps, variant=variant) for variant in ("paper", "code"))
    assert_near(paper[[4, 0]], [0.7, 0.3 / 9], atol=1e-12)
    assert_near(code[[4, 0]], [0.73, 0.03], atol=1e-12)
    # eps of the code is eps (k - 1) / k of the paper
    as_paper = smoothed_cross_entropy(LOGITS, LABELS, smoothing=numbers(0.3, 0.3, 0.3) * 2 / 3, variant="paper")
    as_code = smoothed_cross_entropy(LOGITS, LABELS, smoothing=numbers(0.3, 0.3, 0.3))
    assert_near(as_paper, as_code, atol=1e-12)


# --- scale of the counts ---


def test_only_effective_numbers_know_the_scale_of_the_counts():
    more = 7 * COUNTS
    assert_near(cdt_scale(more, gamma=0.3), cdt_scale(COUNTS, gamma=0.3), atol=1e-12)
    assert_near(logit_adjustment(more, tau=1), logit_adjustment(COUNTS, tau=1), atol=1e-12)
    assert_near(ldam_margins(more, max_margin=0.5), ldam_margins(COUNTS, max_margin=0.5), atol=1e-12)


def test_label_aware_smoothing_is_concave_towards_zero_and_as_the_released_code_unless_told_otherwise():
    assert label_aware_smoothing(torch.tensor([9, 5, 1]), head=0.4).tolist() == pytest.approx([0.4, 0.08**0.5, 0])
    assert label_aware_smoothing(torch.tensor([9, 5, 1]), head=0.4, shape="exp")[1] == pytest.approx(0.2)
    assert label_aware_smoothing(torch.tensor([2, 1]), head=0.4, tail=0.1).tolist() == pytest.approx([0.4, 0.1])
    eps = torch.tensor([0.3, 0.3, 0.3], dtype=torch.float64)
    assert smoothed_targets(torch.tensor([1]), eps)[0].tolist() == pytest.approx([0.1, 0.8, 0.1])
    # - .1 ln .5 - .8 ln .25 - .1 ln .25
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    loss = smoothed_cross_entropy(logits, torch.tensor([1]), smoothing=eps)
    assert float(loss) == pytest.approx(1.9 * math.log(2))
