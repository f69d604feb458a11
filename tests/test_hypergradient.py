"""Hypergradients against the closed form, finite differences and explicit matrices, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import hessian, jacobian

from selmix.stage1.hypergradient import (
    conjugate_gradient,
    dot,
    gradient,
    implicit_hypergradient,
    largest_eigenvalue,
    neumann,
    second_products,
)

PRIOR = torch.tensor([100.0, 10.0, 1.0], dtype=torch.float64) / 111
RIDGE = 0.05


def bias_inner(theta, alpha):
    """The bias-only model: every image has the logits b."""
    logits = alpha["delta"].sigmoid() * theta["b"] + alpha["l"]
    return -(PRIOR * logits.log_softmax(0)).sum() + RIDGE * theta["b"].square().sum()


def bias_outer(theta):
    return -theta["b"].log_softmax(0).mean()


def minimiser(alpha, inner=bias_inner, size=3):
    """Newton's method with dense derivatives."""
    b = torch.zeros(size, dtype=torch.float64)
    for _ in range(30):
        slope = jacobian(lambda b: inner({"b": b}, alpha), b)
        step = torch.linalg.solve(hessian(lambda b: inner({"b": b}, alpha), b), slope)
        b = b - step
        if float(step.abs().max()) < 1e-13:
            break
    return {"b": b}


def alpha_at(delta=1.0, l=(0.0, 0.0, 0.0)):  # noqa: E741 - the paper's letter
    return {
        "delta": torch.full((3,), delta, dtype=torch.float64),
        "l": torch.as_tensor(l, dtype=torch.float64).clone(),
    }


EXACT = {"method": "conjugate_gradient", "terms": 3}
TABLE = [  # values to six digits, from the specification's oracle
    (EXACT, (-0.045122, -0.011939, -0.008646), (-0.405294, 0.207015, 0.198278)),
    (
        {"method": "neumann", "terms": 5, "step": 1.0},
        (-0.038276, -0.009917, -0.007673),
        (-0.342128, 0.181120, 0.161009),
    ),
    ({"method": "identity"}, (-0.012151, -0.003093, -0.002525), (-0.108174, 0.058950, 0.049225)),
]


@pytest.mark.parametrize(("how", "delta", "offset"), TABLE, ids=["exact", "neumann", "identity"])
def test_bias_model_as_tabulated(how, delta, offset):
    alpha = alpha_at()
    theta = minimiser(alpha)
    assert theta["b"].tolist() == pytest.approx([1.432858, -0.550366, -0.882492], abs=1e-6)
    assert float(bias_outer(theta)) == pytest.approx(1.645027, abs=1e-6)
    assert gradient(bias_outer, theta)["b"].tolist() == pytest.approx([0.475495, -0.222019, -0.253476], abs=1e-6)
    found = implicit_hypergradient(bias_inner, bias_outer, theta, alpha, **how)
    assert found["delta"].tolist() == pytest.approx(delta, abs=1e-6)
    assert found["l"].tolist() == pytest.approx(offset, abs=1e-6)
    assert float(found["l"].sum()) == pytest.approx(0, abs=1e-12)
    # descent raises l of the head and lowers that of the tail: towards log prior
    assert found["l"][0] < 0 < found["l"][2]


def test_bias_model_against_finite_differences():
    h = 1e-5
    found = implicit_hypergradient(bias_inner, bias_outer, minimiser(alpha_at()), alpha_at(), **EXACT)
    for name in ("delta", "l"):
        for k in range(3):
            ends = []
            for sign in (1, -1):
                alpha = alpha_at()
                alpha[name][k] += sign * h
                ends.append(float(bias_outer(minimiser(alpha))))
            assert float(found[name][k]) == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-8)


@pytest.mark.parametrize("how", [how for how, _, _ in TABLE], ids=["exact", "neumann", "identity"])
def test_logit_adjustment_is_stationary(how):
    alpha = alpha_at(l=PRIOR.log())
    theta = minimiser(alpha)
    assert theta["b"].tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    assert float(bias_outer(theta)) == pytest.approx(math.log(3), abs=1e-12)
    found = implicit_hypergradient(bias_inner, bias_outer, theta, alpha, **how)
    assert all(float(part.abs().max()) < 1e-12 for part in found.values())


def test_descent_on_the_offsets_ends_at_logit_adjustment():
    alpha = alpha_at()
    for _ in range(400):
        theta = minimiser(alpha)
        alpha["l"] = alpha["l"] - 2.0 * implicit_hypergradient(bias_inner, bias_outer, theta, alpha, **EXACT)["l"]
    assert (alpha["l"] - alpha["l"][0]).tolist() == pytest.approx([0, -2.3056, -4.5461], abs=1e-4)
    assert float(bias_outer(minimiser(alpha))) == pytest.approx(1.098616, abs=1e-6)


@settings(max_examples=40)
@given(st.floats(0.2, 3), st.floats(0.05, 1), st.integers(0, 8), st.floats(-2, 2), st.floats(-2, 2))
def test_scalar_in_closed_form(curvature, step, terms, at, target):
    alpha = {"a": torch.tensor(at, dtype=torch.float64)}
    theta = {"x": alpha["a"] / curvature}

    def inner(theta, alpha):
        return 0.5 * curvature * theta["x"] ** 2 - alpha["a"] * theta["x"]

    def outer(theta):
        return 0.5 * (theta["x"] - target) ** 2

    # d theta* / d alpha = 1 / curvature, of which the series has its first terms
    inverse = step * sum((1 - step * curvature) ** j for j in range(terms + 1))
    slope = at / curvature - target
    found = implicit_hypergradient(inner, outer, theta, alpha, step=step, terms=terms)
    assert float(found["a"]) == pytest.approx(slope * inverse, rel=1e-9, abs=1e-12)
    for how in ({"method": "conjugate_gradient", "terms": 1}, {"step": "auto", "terms": 0}):
        exact = implicit_hypergradient(inner, outer, theta, alpha, **how)
        assert float(exact["a"]) == pytest.approx(slope / curvature, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("curvature", "inverse"), [(0.5, 1.96875), (2.5, -4.156), (10, -53144)])
def test_series_at_step_one(curvature, inverse):
    """Beyond an eigenvalue of 2 it diverges, and says so."""
    theta, alpha = {"x": torch.ones((), dtype=torch.float64)}, {"a": torch.ones((), dtype=torch.float64)}

    def products(vector, *, hessian=True):
        return second_products(
            lambda t, a: 0.5 * curvature * t["x"] ** 2 - a["a"] * t["x"], theta, alpha, vector, hessian=hessian
        )

    found, growth = neumann(products, theta, step=1.0, terms=5)
    assert float(found["a"]) == pytest.approx(inverse, rel=1e-3)
    assert float(growth) == pytest.approx(abs(1 - curvature) ** 5)


def softmax_regression(ridge=0.02):
    """Return inner, outer and alpha of a softmax regression with nine parameters."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    labels = torch.arange(60) % 10 % 7 % 3
    inputs[torch.arange(60), labels] += 0.7

    def inner(theta, alpha):
        logits = alpha["delta"].sigmoid() * (inputs @ theta["b"].view(3, 3)) + alpha["l"]
        return torch.nn.functional.cross_entropy(logits, labels) + ridge * theta["b"].square().sum()

    def outer(theta):
        losses = torch.nn.functional.cross_entropy(inputs @ theta["b"].view(3, 3), labels, reduction="none")
        return torch.stack([losses[labels == k].mean() for k in range(3)]).mean()

    return inner, outer, alpha_at()


def dense(inner, alpha, theta):
    """Return Hessian [9, 9] and mixed derivative [6, 9]."""
    joint = torch.cat([alpha["delta"], alpha["l"]])

    def at(b, joint):
        return inner({"b": b}, {"delta": joint[:3], "l": joint[3:]})

    blocks = hessian(at, (theta["b"], joint))
    return blocks[0][0], blocks[1][0]


def test_softmax_regression_against_dense_matrices():
    inner, outer, alpha = softmax_regression()
    theta = minimiser(alpha, inner, 9)
    curvature, mixed = dense(inner, alpha, theta)
    eigenvalues = torch.linalg.eigvalsh(curvature)
    vector = gradient(outer, theta)
    exact = -mixed @ torch.linalg.solve(curvature, vector["b"])

    def flat(tree):
        return torch.cat([tree["delta"], tree["l"]])

    products = second_products(inner, theta, alpha, vector)
    torch.testing.assert_close(products[0]["b"], curvature @ vector["b"])
    torch.testing.assert_close(flat(products[1]), mixed @ vector["b"])
    found = implicit_hypergradient(inner, outer, theta, alpha, method="conjugate_gradient", terms=9)
    torch.testing.assert_close(flat(found), exact)
    shifted = torch.linalg.solve(curvature + 0.3 * torch.eye(9, dtype=torch.float64), vector["b"])
    damped = implicit_hypergradient(inner, outer, theta, alpha, method="conjugate_gradient", terms=9, damping=0.3)
    torch.testing.assert_close(flat(damped), -mixed @ shifted)
    damped = implicit_hypergradient(inner, outer, theta, alpha, terms=200, damping=0.3)
    torch.testing.assert_close(flat(damped), -mixed @ shifted)
    # direction is easy, magnitude is not: the series has the share 1 - (1 - eigenvalue)^6 of each eigenvector
    short = flat(implicit_hypergradient(inner, outer, theta, alpha, step=1.0, terms=5))
    assert torch.cosine_similarity(short, exact, dim=0) > 0.98
    share = 1 - (1 - eigenvalues) ** 6
    assert share[0] < short.norm() / exact.norm() < share[-1]
    plain = flat(implicit_hypergradient(inner, outer, theta, alpha, method="identity"))
    assert torch.cosine_similarity(plain, exact, dim=0) > 0.95
    assert eigenvalues[0] < plain.norm() / exact.norm() < eigenvalues[-1]


def test_power_iteration_and_the_safe_step():
    inner, outer, alpha = softmax_regression()
    theta = minimiser(alpha, inner, 9)
    curvature, mixed = dense(inner, alpha, theta)

    def products(vector, *, hessian=True):
        return second_products(inner, theta, alpha, vector, hessian=hessian)

    largest, direction = largest_eigenvalue(products, gradient(outer, theta), iterations=1000)
    assert largest == pytest.approx(float(torch.linalg.eigvalsh(curvature)[-1]), rel=1e-6)
    torch.testing.assert_close(curvature @ direction["b"], largest * direction["b"], rtol=1e-3, atol=1e-4)
    again, _ = largest_eigenvalue(products, direction, iterations=1)
    assert again == pytest.approx(largest)
    # times 100, where step 1 diverges, the automatic step converges to the same solution
    found = implicit_hypergradient(lambda t, a: 100 * inner(t, a), outer, theta, alpha, terms=400)
    exact = -mixed @ torch.linalg.solve(curvature, gradient(outer, theta)["b"])
    torch.testing.assert_close(torch.cat([found["delta"], found["l"]]), exact, rtol=1e-4, atol=1e-6)


def test_negative_curvature_and_none():
    theta, alpha = {"x": torch.ones(2, dtype=torch.float64)}, {"a": torch.ones(2, dtype=torch.float64)}

    def products(vector, *, hessian=True):
        return second_products(
            lambda t, a: (a["a"] * t["x"]).sum() - 0.5 * (t["x"] ** 2).sum(), theta, alpha, vector, hessian=hessian
        )

    vector = {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    assert conjugate_gradient(products, vector, terms=5)["a"].tolist() == [-1, -2]  # p = v
    assert float(neumann(products, vector, step=0.5, terms=3)[1]) == pytest.approx(1.5**3)

    def flat(vector, *, hessian=True):
        return second_products(lambda t, a: (a["a"] * t["x"]).sum(), theta, alpha, vector, hessian=hessian)

    assert largest_eigenvalue(flat, vector, iterations=3) == (0.0, vector)
    assert neumann(flat, vector, step=1.0, terms=2)[0]["a"].tolist() == [-3, -6]
    constant = second_products(lambda t, a: t["x"].sum() * 1.0, theta, alpha, vector)
    assert constant[0]["x"].tolist() == constant[1]["a"].tolist() == [0, 0]


def test_a_batch_for_each_term_is_right_on_average():
    """For quadratic losses of independent batches the mean over all choices is the series of the mean loss."""
    curvatures, slopes = torch.tensor([0.2, 0.6], dtype=torch.float64), torch.tensor([0.5, 1.5], dtype=torch.float64)
    theta, alpha = {"x": torch.ones(1, dtype=torch.float64)}, {"a": torch.ones(1, dtype=torch.float64)}
    vector = {"x": torch.tensor([2.0], dtype=torch.float64)}

    def of_batches(choice):
        batches = iter(choice)

        def products(vector, *, hessian=True):
            batch = next(batches)

            def inner(t, a):
                return (0.5 * curvatures[batch] * t["x"] ** 2 - slopes[batch] * a["a"] * t["x"]).sum()

            return second_products(inner, theta, alpha, vector, hessian=hessian)

        return float(neumann(products, vector, step=1.0, terms=2)[0]["a"])

    choices = torch.cartesian_prod(*[torch.arange(2)] * 3).tolist()
    mean = sum(of_batches(choice) for choice in choices) / len(choices)
    assert mean == pytest.approx(2 * 1.0 * (1 + 0.6 + 0.6**2))
    assert float(dot(vector, vector)) == 4
