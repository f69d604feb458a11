"""What a step on the loss needs of a network: gradients on validation, second derivatives on train, batch by batch.

Each batch's graph is gone before the next is made, so that memory does not grow with their number. The network runs in
the mode that it is in, on copies of its buffers: no batch of validation gets into the statistics of batch norm.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from selmix.ranks import ALONE
from selmix.stage1.cells import Goals
from selmix.stage1.design import LossDesign
from selmix.stage1.hypergradient import Products, Tree, add, gradient, second_products
from selmix.stage1.images import TrainingImages
from selmix.stage1.personal import perturb, spherical_noise
from selmix.stage1.plan import EpochPlan
from selmix.stage1.supervised import Batch, planned_batches


def trained_parameters(model: nn.Module) -> Tree:
    """Return the parameters that training changes."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def protected_logits(model: nn.Module, theta: Tree, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits [b, k] of a model with the parameters theta, in float32; its buffers stay as they are."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits: torch.Tensor = functional_call(model, (theta, buffers), (inputs,))
    return logits


def validation_gradient(
    model: nn.Module,
    theta: Tree,
    images: TrainingImages,
    plan: EpochPlan,
    goal: Goals,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[Tree, torch.Tensor]:
    """Return the gradient in theta of what the raw logits lose on some batches, and that loss.

    A loss that is balanced over classes is no mean over batches that miss some of them: the losses of all batches are
    summed up in their cells, and divided once. So each sample's share in the whole is known from the labels before its
    batch is loaded; only equalised odds must know first which groups do worse, which takes a forward pass more.

    Args:
        model: the network.
        theta: its parameters.
        images: of validation.
        plan: the batches.
        goal: what the losses amount to.
        memory_format: of the inputs.
    """
    device = next(iter(theta.values())).device
    counts = torch.bincount(images.labels[plan.positions].flatten(), minlength=goal.num_cells).to(device)

    def cell_sums(theta: Tree, batch: Batch) -> torch.Tensor:
        logits = protected_logits(model, theta, batch.inputs.contiguous(memory_format=memory_format))
        losses = F.cross_entropy(logits, batch.labels // goal.num_groups, reduction="none")
        return losses.new_zeros(goal.num_cells).index_add(0, batch.labels, losses)

    sums = torch.zeros(goal.num_cells, device=device, dtype=next(iter(theta.values())).dtype)
    if not goal.linear:
        with torch.no_grad():
            sums = sum((cell_sums(theta, batch) for batch in planned_batches(plan, images, ALONE)), sums)
    shares = gradient(lambda tree: goal.of(tree["sums"], counts), {"sums": sums})["sums"]
    total = {name: torch.zeros_like(part) for name, part in theta.items()}
    sums = torch.zeros_like(sums)
    for batch in planned_batches(plan, images, ALONE):

        def part(theta: Tree, batch: Batch = batch) -> torch.Tensor:
            nonlocal sums
            own = cell_sums(theta, batch)
            sums = sums + own.detach()
            return (shares * own).sum()

        total = add(total, gradient(part, theta))
    return total, goal.of(sums, counts)


def training_products(
    model: nn.Module,
    theta: Tree,
    alpha: Tree,
    design: LossDesign,
    images: TrainingImages,
    plan: EpochPlan,
    *,
    fresh: int | None,
    seed: int,
) -> Products:
    """Return products with the second derivatives of the training loss.

    Args:
        model: the network.
        theta: its parameters.
        alpha: what is learnt of the loss.
        design: the loss.
        images: of train.
        plan: the batches.
        fresh: batches that each product takes for itself, the plan's over and over; None for all of them every time.
        seed: of the personal noise.
    """
    # double backward passes are fastest in this order of memory
    theta = {name: part.contiguous() for name, part in theta.items()}
    stream = _endless(plan, images, design, seed)

    def products(vector: Tree, *, hessian: bool = True) -> tuple[Tree, Tree]:
        count = fresh or len(plan.mix)
        chosen = islice(stream if fresh else _endless(plan, images, design, seed), count)
        curved: Tree = {}
        mixed: Tree = {}
        for batch, noise in chosen:

            def inner(
                theta: Tree, alpha: Tree, batch: Batch = batch, noise: torch.Tensor | None = noise
            ) -> torch.Tensor:
                return training_loss(model, theta, alpha, design, batch, noise) / count

            found = second_products(inner, theta, alpha, vector, hessian=hessian)
            curved, mixed = (
                add(total, part) if total else part for total, part in zip((curved, mixed), found, strict=True)
            )
        return curved, mixed

    return products


def training_loss(
    model: nn.Module, theta: Tree, alpha: Tree, design: LossDesign, batch: Batch, noise: torch.Tensor | None
) -> torch.Tensor:
    """Return the mean loss of a batch, a function of parameters and of what is learnt of the loss."""
    tables = design.tables(alpha)
    inputs = batch.inputs.contiguous()
    if noise is not None:
        inputs = perturb(inputs, noise, tables.noise.flatten()[batch.labels])
    logits = protected_logits(model, theta, inputs)
    loss = batch.mix * tables.losses(logits, batch.labels).mean()
    if batch.mix < 1:
        loss = loss + (1 - batch.mix) * tables.losses(logits, batch.partner_labels).mean()
    return loss


def _endless(
    plan: EpochPlan, images: TrainingImages, design: LossDesign, seed: int
) -> Iterator[tuple[Batch, torch.Tensor | None]]:
    """Yield the batches of a plan over and over, each with its personal noise where that is learnt."""
    generator = None
    while True:
        for batch in planned_batches(plan, images, ALONE):
            if design.noise_max:
                generator = generator or torch.Generator(batch.inputs.device).manual_seed(seed)
                yield batch, spherical_noise(batch.inputs, generator)
            else:
                yield batch, None
