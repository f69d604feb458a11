"""Samplers: which images an epoch of training goes through, in which order."""

from typing import Literal

import torch

from selmix.pairs import ClassMembers

Sampler = Literal["instance", "square_root", "class_balanced", "progressive", "class_aware"]

_RUN = 4  # samples of a class in a row, of `class_aware`


def epoch_order(labels: torch.Tensor, sampler: Sampler, *, progress: float, generator: torch.Generator) -> torch.Tensor:
    """Return the positions of an epoch's images, int64 [n]: as many as there are, whatever the sampler.

    Args:
        labels: int64 [n]; classes without a sample are left out.
        sampler: `instance` is a permutation. The law over classes is n_k^(1/2) of `square_root`, uniform of
            `class_balanced`, and of `progressive` goes linearly from n_k to uniform; classes and their members are
            drawn independently. `class_aware` goes through the classes in a random order, over and over, and takes
            four samples of each; no sample comes again before all of its class have come.
        progress: of the training, in [0, 1].
        generator: source of randomness.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, section 4.1
    and its released code (class-aware).
    """
    if sampler == "instance":
        return torch.randperm(len(labels), generator=generator)
    present, own = labels.unique(return_inverse=True)
    members = ClassMembers.from_labels(own, len(present))
    if sampler == "class_aware":
        return _class_aware(members, generator)
    law = _class_law(members.counts.double(), sampler, progress)
    classes = torch.multinomial(law, len(labels), replacement=True, generator=generator)
    return members.draw(classes, generator=generator)


def _class_law(counts: torch.Tensor, sampler: Sampler, progress: float) -> torch.Tensor:
    """Return the law over classes, float64 [k]; `counts` are >= 1."""
    if sampler == "progressive":
        return (1 - progress) * counts / counts.sum() + progress / len(counts)
    law = counts.sqrt() if sampler == "square_root" else torch.ones_like(counts)
    return law / law.sum()


def _class_aware(members: ClassMembers, generator: torch.Generator) -> torch.Tensor:
    total, num_classes = len(members.order), len(members.counts)
    rounds = -(-total // (_RUN * num_classes))
    classes = torch.rand(rounds, num_classes, generator=generator).argsort(1).flatten()
    classes = classes.repeat_interleave(_RUN)[:total]
    drawn = torch.bincount(classes, minlength=num_classes)
    slots = classes.argsort(stable=True).split(drawn.tolist())
    order = torch.empty_like(classes)
    for own, slot in zip(members.order.split(members.counts.tolist()), slots, strict=True):
        cycles = [torch.randperm(len(own), generator=generator) for _ in range(-(-len(slot) // len(own)))]
        order[slot] = own[torch.cat([slot.new_empty(0), *cycles])[: len(slot)]]
    return order
