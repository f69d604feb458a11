"""AutoBalance: a loss learnt on validation while the network learns from it on train.

Every step of SGD descends the training loss in theta; every so often a step of another optimiser descends the
validation loss of the raw logits in alpha, the loss's factors and offsets, through the minimiser theta*(alpha).

Source: Li et al., "AutoBalance: Optimized Loss Functions for Imbalanced Data", NeurIPS 2021, algorithm 1.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from selmix.ranks import ALONE
from selmix.seeding import derived_seed
from selmix.stage1.autobalance_settings import AutoBalanceSettings
from selmix.stage1.design import LossDesign, LossTables
from selmix.stage1.hypergradient import Tree, dot, largest_eigenvalue, safe_step, through_minimiser
from selmix.stage1.hyperstep import trained_parameters, training_products, validation_gradient
from selmix.stage1.images import TrainingImages
from selmix.stage1.personal import perturb, spherical_noise
from selmix.stage1.placing import in_order
from selmix.stage1.plan import EpochPlan, plan_epoch
from selmix.stage1.schedules import learning_rate, steps, warmup
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import Batch, check_finite, gradient_step, own_stream, planned_batches, prepare_network

logger = logging.getLogger("selmix")

# power iteration: at the first step on the loss, then one product every so many steps, going on from its last vector
_FIRST_ITERATIONS, _REFRESH_EVERY, _MEMORY = 10, 5, 0.9
_BLOWN_UP = 100.0  # a series whose last term is that much longer than its first tells nothing


@dataclass
class SearchState:
    """What the search changes beside the network; `state_dict` goes into the checkpoint.

    Attributes:
        alpha: what is learnt of the loss.
        optimizer: of alpha.
        best: alpha at the best validation so far.
        best_score: its loss of errors there, to be small.
        eigenvalue: estimate of the training loss's largest.
        direction: its eigenvector, as far as it is known.
        hyper_steps: steps on the loss so far.
        skipped: those of them that were not taken, as the series had blown up.
    """

    alpha: Tree
    optimizer: torch.optim.Optimizer
    best: Tree
    best_score: float = float("inf")
    eigenvalue: float = 0.0
    direction: Tree = field(default_factory=dict)
    hyper_steps: int = 0
    skipped: int = 0

    @classmethod
    def begin(cls, design: LossDesign, settings: AutoBalanceSettings) -> "SearchState":
        """Return the state before the first step."""
        alpha = {name: values.clone() for name, values in design.start.items()}
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            optimizer = torch.optim.SGD(alpha.values(), lr=rate, momentum=settings.momentum, weight_decay=decay)
        else:
            betas = (float(settings.momentum), 0.999)
            optimizer = torch.optim.Adam(alpha.values(), lr=rate, betas=betas, weight_decay=decay)
        return cls(alpha, optimizer, dict(design.start))

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, values in content["alpha"].items():
            self.alpha[name].copy_(values)
        self.optimizer.load_state_dict(content["optimizer"])
        for name in content.keys() - {"alpha", "optimizer"}:
            setattr(self, name, content[name])


def search(
    state: TrainingState,
    searching: SearchState,
    train: TrainingImages,
    val: TrainingImages,
    design: LossDesign,
    settings: AutoBalanceSettings,
    supervised: SupervisedSettings,
    *,
    seed: int,
    advance: Callable[[int], object] = lambda count: None,
) -> Iterator[dict[str, float]]:
    """Train the network and its loss in place from where they stand, and yield a record after each epoch.

    The labels of all images are cells (`selmix.stage1.cells`): classes, where there are no groups. One process only.

    Args:
        state: network, optimiser and finished epochs.
        searching: what is learnt of the loss; `design.tables(searching.best)` is the result.
        train: what the network learns from.
        val: what the loss learns from; not augmented.
        design: the loss.
        settings: of the search.
        supervised: of the loop.
        seed: of order, augmentation and mixing.
        advance: is told after each step how many images it took, to show progress.

    Raises:
        UsageError: if the search would begin after the last epoch.
        DivergedError: at the first loss that is not finite.
    """
    settings.check_beside(supervised)
    absent = settings.goals(design).num_cells - len(val.labels.unique())
    if absent:
        logger.warning("%d classes (in their groups) have no image in val, which cannot balance them; add some", absent)
    network = prepare_network(state.model, supervised, ALONE)
    for epoch in range(state.epochs, supervised.epochs):
        plan = plan_epoch(train.labels, supervised, epoch=epoch, seed=seed)
        losses: list[torch.Tensor] = []
        began = time.monotonic()
        state.model.train()
        with own_stream(state.model, seed=seed, epoch=epoch):
            for step, batch in enumerate(planned_batches(plan, train, parts=supervised.accumulation)):
                here = derived_seed(seed, f"autobalance/epoch {epoch}, step {step}")
                tables = design.tables(searching.alpha)
                batch = _perturbed(batch, tables, seed=here) if design.noise_max else batch
                rate = learning_rate(supervised, epoch=epoch, step=step, steps_per_epoch=len(plan.mix))
                losses.append(
                    gradient_step(state, network, batch, tables.objective(), supervised, rate=rate, epoch=epoch)
                )
                if epoch >= settings.start_epoch and (epoch * len(plan.mix) + step) % settings.interval == 0:
                    for group in searching.optimizer.param_groups:
                        group["lr"] = loss_learning_rate(settings, at=epoch + (step + 1) / len(plan.mix))
                    hyper_step(state, searching, train, val, design, settings, supervised, seed=here)
                    check_finite(losses, epoch=epoch)
                advance(len(batch.labels))
        mean_loss = check_finite(losses, epoch=epoch)
        state.model.eval()
        state.epochs = epoch + 1
        record = {
            "epoch": epoch + 1,
            "loss": mean_loss,
            "learning_rate": rate,
            "images_per_second": plan.positions.numel() / (time.monotonic() - began),
            "hyper_steps": searching.hyper_steps,
            "skipped_hyper_steps": searching.skipped,
            "largest_eigenvalue": searching.eigenvalue,
        }
        last = epoch + 1 == supervised.epochs
        if epoch >= settings.start_epoch and (last or (epoch + 1) % supervised.evaluate_every == 0):
            record["val_error"] = score = validation_error(state, val, design, settings)
            if score < searching.best_score:
                searching.best_score = score
                searching.best = {name: values.clone() for name, values in searching.alpha.items()}
        yield record


def hyper_step(
    state: TrainingState,
    searching: SearchState,
    train: TrainingImages,
    val: TrainingImages,
    design: LossDesign,
    settings: AutoBalanceSettings,
    supervised: SupervisedSettings,
    *,
    seed: int,
) -> None:
    """Take one step on the loss, down the gradient of validation through the network's training.

    Args:
        state: the network, in training mode; it is not changed.
        searching: what is learnt, in place.
        train: what the network learns from.
        val: what the loss learns from.
        design: the loss.
        settings: of the search.
        supervised: of the loop.
        seed: of the batches.
    """
    theta = trained_parameters(state.model)
    outer = replace(supervised, mixup_alpha=0.0, sampler="instance")
    rows = _first_rows(plan_epoch(val.labels, outer, epoch=0, seed=derived_seed(seed, "val")), settings.val_batches)
    order = torch.channels_last if supervised.channels_last else torch.contiguous_format
    # validation is to do well in the network as it will be used, by statistics of train, not of its own batches
    state.model.eval()
    vector, _ = validation_gradient(state.model, theta, val, rows, settings.goals(design), memory_format=order)
    state.model.train()
    vector = {name: part.contiguous() for name, part in vector.items()}

    series, auto = settings.method == "neumann", settings.step == "auto"
    refresh = series and auto and (searching.hyper_steps % _REFRESH_EVERY == 0 or searching.eigenvalue == 0)
    iterations = (1 if searching.eigenvalue else _FIRST_ITERATIONS) if refresh else 0
    calls = settings.terms + 1 + iterations if series else 1
    epoch_plan = plan_epoch(train.labels, supervised, epoch=state.epochs, seed=derived_seed(seed, "train"))
    rows = _first_rows(epoch_plan, calls * settings.train_batches)
    fresh = settings.train_batches if series else None
    products = training_products(
        state.model, theta, searching.alpha, design, train, rows, fresh=fresh, seed=derived_seed(seed, "noise")
    )
    if iterations:
        found, searching.direction = largest_eigenvalue(products, searching.direction or vector, iterations=iterations)
        searching.eigenvalue = max(found, _MEMORY * searching.eigenvalue)

    step = safe_step(searching.eigenvalue, damping=settings.damping) if auto else float(settings.step)
    change, growth = through_minimiser(
        products, vector, method=settings.method, step=step, terms=settings.terms, damping=settings.damping
    )
    searching.hyper_steps += 1
    if not float(growth) <= _BLOWN_UP or not float(dot(change, change)) < torch.inf:
        searching.skipped += 1
        searching.eigenvalue = 0.0  # measured anew at the next step
        return
    for name, values in searching.alpha.items():
        values.grad = change[name]
    searching.optimizer.step()


def loss_learning_rate(settings: AutoBalanceSettings, *, at: float) -> float:
    """Return the learning rate of the loss, `at` epochs from the start of training."""
    factor = warmup(max(0.0, at - settings.start_epoch), warmup_epochs=settings.warmup_epochs)
    return settings.learning_rate * factor * steps(at, at=settings.step_epochs, factors=settings.step_factors)


@torch.no_grad()
def validation_error(
    state: TrainingState, images: TrainingImages, design: LossDesign, settings: AutoBalanceSettings
) -> float:
    """Return the errors of the raw logits on all of validation, put together as the search's goals say."""
    goals = settings.goals(design)
    outputs = images.loads(in_order(torch.arange(len(images.labels))))
    wrong = torch.cat([state.kept(inputs).argmax(1).cpu() for inputs in outputs]) != images.labels // goals.num_groups
    sums = torch.bincount(images.labels, wrong.double(), minlength=goals.num_cells)
    counts = torch.bincount(images.labels, minlength=goals.num_cells)
    return float(goals.of(sums, counts))


def _first_rows(plan: EpochPlan, count: int) -> EpochPlan:
    return EpochPlan(plan.positions[:count], plan.seeds[:count], plan.partners[:count], plan.mix[:count])


def _perturbed(batch: Batch, tables: LossTables, *, seed: int) -> Batch:
    """Return the batch with the personal noise of its cells."""
    generator = torch.Generator(batch.inputs.device).manual_seed(seed)
    noise = spherical_noise(batch.inputs, generator)
    return replace(batch, inputs=perturb(batch.inputs, noise, tables.noise.flatten()[batch.labels]))
