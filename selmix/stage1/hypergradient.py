"""The gradient of an outer loss through the minimiser of an inner one.

For theta*(alpha) = argmin inner(theta, alpha), with v = grad outer(theta*), H the Hessian of inner in theta, and M its
mixed derivative, the implicit function theorem says d outer / d alpha = -M^T H^-1 v. H is never formed. The Neumann
series H^-1 v = step * sum_j r_j, r_j = (I - step H)^j v, converges for step < 2 / (largest eigenvalue). As M^T is
linear, M^T H^-1 v = step * sum_j M^T r_j: one pass backwards through the gradient gives M^T r_j beside the H r_j that
makes r_{j+1}, and each term may come from a batch of its own, for those of r_j are independent of it.

Source: Lorraine, Vicol and Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation", AISTATS
2020, algorithm 3; Li et al., "AutoBalance", NeurIPS 2021, section 3; for batches of their own Ghadimi and Wang,
"Approximation Methods for Bilevel Programming", 2018.
"""

import warnings
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch.func import grad, jvp

Tree = dict[str, torch.Tensor]
Method = Literal["neumann", "conjugate_gradient", "identity"]


class Products(Protocol):
    """Products of a vector with the second derivatives of an inner loss, or of a fresh estimate of it at each call."""

    def __call__(self, vector: Tree, *, hessian: bool = True) -> tuple[Tree, Tree]:
        """Return H vector, shaped as theta (empty unless `hessian`), and M^T vector, shaped as alpha."""
        ...


def second_products(
    inner: Callable[[Tree, Tree], torch.Tensor], theta: Tree, alpha: Tree, vector: Tree, *, hessian: bool = True
) -> tuple[Tree, Tree]:
    """Multiply a vector by the Hessian of `inner` in theta, and by its mixed derivative.

    Args:
        inner: (theta, alpha) -> scalar.
        theta: where to differentiate.
        alpha: likewise.
        vector: shaped as theta.
        hessian: whether the first product is wanted. Both take one pass backwards through the gradient in theta; the
            second alone one forward pass with derivatives, where alpha comes after the network.

    Returns:
        H vector, shaped as theta (empty unless `hessian`), and M^T vector = d <d inner / d theta, vector> / d alpha.
    """
    if not hessian:
        return {}, _mixed_product(inner, theta, alpha, vector)
    theta, alpha = leaves(theta), leaves(alpha)
    wanted = [*theta.values(), *alpha.values()]
    slope = torch.autograd.grad(inner(theta, alpha), list(theta.values()), create_graph=True, materialize_grads=True)
    along = dot(dict(zip(theta, slope, strict=True)), vector)
    if not along.requires_grad:  # inner is linear in theta, and alpha is not in its slope
        return _zeros(theta), _zeros(alpha)
    found = torch.autograd.grad(along, wanted, allow_unused=True, materialize_grads=True)
    return dict(zip(theta, found, strict=False)), dict(zip(alpha, found[len(theta) :], strict=True))


def _mixed_product(inner: Callable[[Tree, Tree], torch.Tensor], theta: Tree, alpha: Tree, vector: Tree) -> Tree:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own, as it loads its forward derivatives
        product = jvp(lambda theta: grad(inner, argnums=1)(theta, alpha), (theta,), (vector,))[1]
    return {name: part.detach() for name, part in product.items()}


def neumann(
    products: Products, vector: Tree, *, step: float, terms: int, damping: float = 0.0
) -> tuple[Tree, torch.Tensor]:
    """Return -M^T step sum_{j=0..terms} (I - step (H + damping))^j vector, and by how much the series has grown.

    Args:
        products: of the inner loss; asked `terms` times for both, and once for the mixed one.
        vector: gradient of the outer loss in theta.
        step: below 2 / (largest eigenvalue of H + damping), or the series diverges.
        terms: powers beyond the first.
        damping: added to the eigenvalues of H.

    Returns:
        The hypergradient, shaped as alpha, and the last term's norm over that of `vector`, a scalar: beyond 1 the step
        is too long, or H has a negative eigenvalue.
    """
    remainder, total = vector, Tree()
    for term in range(terms + 1):
        curved, mixed = products(remainder, hessian=term < terms)
        total = add(total, mixed, -step) if total else {name: -step * part for name, part in mixed.items()}
        if term < terms:
            remainder = {name: (1 - step * damping) * r - step * curved[name] for name, r in remainder.items()}
    return total, dot(remainder, remainder).sqrt() / dot(vector, vector).sqrt().clamp_min(1e-300)


def conjugate_gradient(products: Products, vector: Tree, *, terms: int, damping: float = 0.0) -> Tree:
    """Return -M^T p, where p solves (H + damping) p = vector by at most `terms` steps of conjugate gradients.

    They stop early at a direction of negative curvature, of which H has some away from a minimum, and at p = vector
    where the first is one. `products` must be of one and the same loss at each call.

    Source: Nocedal and Wright, "Numerical Optimization", 2nd edition, algorithms 5.2 and 7.1.
    """
    solution = {name: torch.zeros_like(part) for name, part in vector.items()}
    residual = direction = vector
    square = start = dot(vector, vector)
    for term in range(terms):
        curved = add(products(direction)[0], direction, damping)
        curvature = dot(direction, curved)
        if square <= 1e-20 * start or curvature <= 0:
            solution = vector if term == 0 else solution
            break
        rate = float(square / curvature)
        solution, residual = add(solution, direction, rate), add(residual, curved, -rate)
        previous, square = square, dot(residual, residual)
        direction = add(residual, direction, float(square / previous))
    return {name: -part for name, part in products(solution, hessian=False)[1].items()}


def largest_eigenvalue(products: Products, start: Tree, *, iterations: int) -> tuple[float, Tree]:
    """Return the magnitude of the Hessian's largest eigenvalue, by power iteration, and its direction to go on from.

    Args:
        products: of the inner loss.
        start: shaped as theta; eigenvectors orthogonal to it are not found.
        iterations: products with the Hessian, >= 1; the estimate comes from below.
    """
    direction, value = start, float(dot(start, start).sqrt())
    for _ in range(iterations):
        if value == 0:  # nothing to follow
            return 0.0, start
        direction = products({name: part / value for name, part in direction.items()})[0]
        value = float(dot(direction, direction).sqrt())
    return value, direction


def implicit_hypergradient(
    inner: Callable[[Tree, Tree], torch.Tensor],
    outer: Callable[[Tree], torch.Tensor],
    theta: Tree,
    alpha: Tree,
    *,
    method: Method = "neumann",
    terms: int = 5,
    step: float | Literal["auto"] = "auto",
    damping: float = 0.0,
) -> Tree:
    """Return the derivative in alpha of outer(argmin_theta inner(theta, alpha)).

    Args:
        inner: (theta, alpha) -> scalar.
        outer: theta -> scalar.
        theta: the minimiser.
        alpha: where to differentiate.
        method: `identity` takes v for H^-1 v.
        terms: powers of the Neumann series beyond the first, or steps of conjugate gradients.
        step: of the Neumann series; `auto` is 1 / (largest eigenvalue of H + damping), by 50 power iterations.
        damping: added to the eigenvalues of H.
    """

    def products(vector: Tree, *, hessian: bool = True) -> tuple[Tree, Tree]:
        return second_products(inner, theta, alpha, vector, hessian=hessian)

    vector = gradient(outer, theta)
    if step == "auto":
        found = largest_eigenvalue(products, vector, iterations=50)[0] if method == "neumann" else 0.0
        step = safe_step(found, damping=damping)
    return through_minimiser(products, vector, method=method, step=step, terms=terms, damping=damping)[0]


def through_minimiser(
    products: Products, vector: Tree, *, method: Method, step: float, terms: int, damping: float
) -> tuple[Tree, torch.Tensor]:
    """Return -M^T p, where p is what `method` takes for (H + damping)^-1 vector, and the growth of its series.

    Args:
        products: of the inner loss.
        vector: gradient of the outer loss in theta.
        method: `identity` takes the vector itself.
        step: of the Neumann series.
        terms: its powers beyond the first, or steps of conjugate gradients.
        damping: added to the eigenvalues of H.

    Returns:
        The hypergradient, shaped as alpha, and what `neumann` says of its series; 1 for the others.
    """
    if method == "neumann":
        return neumann(products, vector, step=step, terms=terms, damping=damping)
    if method == "conjugate_gradient":
        return conjugate_gradient(products, vector, terms=terms, damping=damping), torch.ones(())
    return {name: -part for name, part in products(vector, hessian=False)[1].items()}, torch.ones(())


def safe_step(eigenvalue: float, *, damping: float = 0.0) -> float:
    """Return the step of a Neumann series that converges for every estimate above half the largest eigenvalue."""
    return 1 / max(eigenvalue + damping, 1e-12)


def gradient(function: Callable[[Tree], torch.Tensor], theta: Tree) -> Tree:
    """Return the gradient of a scalar function."""
    theta = leaves(theta)
    parts = torch.autograd.grad(function(theta), list(theta.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(theta, parts, strict=True))


def leaves(tree: Tree) -> Tree:
    """Return the same values as leaves of a new graph."""
    return {name: part.detach().requires_grad_() for name, part in tree.items()}


def add(tree: Tree, other: Tree, factor: float = 1.0) -> Tree:
    """Return tree + factor * other."""
    return {name: part + factor * other[name] for name, part in tree.items()}


def dot(tree: Tree, other: Tree) -> torch.Tensor:
    """Return the inner product of two trees; in float64, for millions of terms are added up."""
    return torch.stack([(part.double() * other[name].double()).sum() for name, part in tree.items()]).sum()


def _zeros(tree: Tree) -> Tree:
    return {name: torch.zeros_like(part) for name, part in tree.items()}
