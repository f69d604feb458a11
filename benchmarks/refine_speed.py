"""How fast is the SelMix loop? Steps a second, and the ratio to the bare matrix products of the same steps.

    python benchmarks/refine_speed.py

One run measures both, after a warm-up, as the median of several repeats.
"""

from dataclasses import replace

import torch
from measure import median_seconds

from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import get_metric
from selmix.seeding import torch_generator
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.refine import refine
from selmix.stage2.settings import RefineSettings


def synthetic(count: int, num_classes: int, width: int, *, name: str) -> LabeledFeatures:
    """Return Gaussian classes of equal size that overlap, so that the loop always has something to do."""
    generator = torch_generator(0, name)
    labels = torch.arange(count) % num_classes
    centres = torch.randn(num_classes, width, generator=torch_generator(0, "centres"))
    return LabeledFeatures(0.5 * centres[labels] + torch.randn(count, width, generator=generator), labels)


def measure(*, one_head: bool) -> None:
    """Print the speed at k = 10, d = 64, batch 64, of all six heads or of one that validation judges."""
    num_classes, width = 10, 64
    settings = RefineSettings(batch_size=64)
    train, val = (synthetic(count, num_classes, width, name=name) for name, count in (("train", 2500), ("val", 1000)))
    plan = CrossFit.plan(train, val, num_classes, folds=settings.folds, generator=torch_generator(0, "folds"))
    if one_head:
        judged = torch.arange(plan.num_train, len(plan.labels))
        plan = replace(plan, members=plan.members[-1:], judged=[judged])
    heads = [LinearHead(torch.zeros(num_classes, width), torch.zeros(num_classes))] * len(plan.members)
    taken = []

    def loop() -> None:
        generator = torch_generator(0, "benchmark")
        taken.append(refine(heads, plan, get_metric("min_recall"), settings, generator=generator).steps)

    batch = torch.randn(len(heads), 64, width + 1)
    weight = torch.randn(len(heads), num_classes, width + 1)
    residual = torch.randn(len(heads), num_classes, 64)

    def bare_products() -> None:
        for _ in range(settings.steps):
            torch.bmm(batch, weight.mT)
            torch.bmm(residual, batch)

    loop_seconds, bare_seconds = median_seconds(loop, bare_products)
    assert set(taken) == {settings.steps}, f"the loop stopped early: {taken}"
    print(
        f"{len(heads)} head(s): {settings.steps} steps in {loop_seconds:.3f} s, "
        f"{settings.steps / loop_seconds:.0f} steps/s, {loop_seconds / bare_seconds:.1f} x the bare matrix products"
    )


def main() -> None:
    """Measure one head, and the six heads of five-fold cross-fitting, on one thread as the pipeline has it."""
    torch.set_num_threads(1)
    for one_head in (True, False):
        measure(one_head=one_head)


if __name__ == "__main__":
    main()
