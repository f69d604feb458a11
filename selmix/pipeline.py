"""Stage two on ready features: set validation aside where it is missing, tune, evaluate."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.confusion import class_confusion, confusion_counts, joint_confusion
from selmix.constraints import Constraint
from selmix.data.splits import stratified_holdout
from selmix.errors import DataError, UsageError
from selmix.evaluation import ClassGroups, Evaluation, evaluate
from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import Metric
from selmix.pairs import ClassMembers
from selmix.seeding import numpy_generator, torch_generator
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.diagnose import Diagnosis, diagnose
from selmix.stage2.refine import Refined, refine
from selmix.stage2.settings import RefineSettings
from selmix.stage2.starts import best_start, starting_heads

logger = logging.getLogger("selmix")

VALIDATION_FRACTION = 0.2
SMALL_PRODUCT = 1 << 23  # multiplications in one product of a step
LARGEST_LOGIT = 1e30  # beyond it float32 arithmetic on logits overflows
FEW = 10  # validation samples of a class below which a warning is due


@dataclass(frozen=True)
class Tuning:
    """What stage two did.

    Attributes:
        data: the features it worked on, validation split included.
        head: the tuned head.
        start: name of the head that the loop started from.
        refined: what the loop returned.
        groups: head, medium and tail classes.
        evaluations: split -> head -> evaluation, for the heads `before` (given, or a linear probe), `balanced`
            (retrained with class-balanced sampling on the same labels) and `after`. On val, no sample is judged by a
            head that has learnt from it; but val steered the pairs and chose the step, so `after` is still a little
            optimistic there. Test is looked at once, at the end.
        seconds: what was spent: `extract`, `tune`, and `diagnose` where that was asked for.
        diagnoses: of the `start` head and the `tuned` one, where that was asked for.
    """

    data: FeatureData
    head: LinearHead
    start: str
    refined: Refined
    groups: ClassGroups
    evaluations: dict[str, dict[str, Evaluation]]
    seconds: dict[str, float]
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)


def tune(
    data: FeatureData,
    metric: Metric,
    settings: RefineSettings,
    *,
    seed: int,
    constraints: Sequence[Constraint] = (),
    diagnosed: bool = False,
) -> Tuning:
    """Run stage two and evaluate it: the validation split steers, the test split is looked at once, at the end.

    With `diagnosed`, the gains are also compared with what single steps do (`selmix.stage2.diagnose`).

    Raises:
        DataError: if there is no validation split and none can be set aside, if there is one class, if all features
            are the same, or if the given head overflows on them.
    """
    train = data.splits["train"]
    if len(data.class_names) < 2:
        raise DataError(f"there is one class, {data.class_names[0]}; a classifier needs at least 2")
    if (train.features == train.features[0]).all():
        raise DataError("all training features are the same; is this the right backbone, or the right file?")
    if data.head and not all(_largest_logit(data.head, split) < LARGEST_LOGIT for split in data.splits.values()):
        raise DataError(
            "the given head has logits beyond 1e30 on these features; do head and features belong together?"
        )
    data = _with_validation(data, seed)
    _warn_of_few(data)
    with _threads_that_pay(data, settings):
        return _tune(data, metric, settings, constraints, seed, diagnosed)


@contextmanager
def _threads_that_pay(data: FeatureData, settings: RefineSettings) -> Iterator[None]:
    """Use one thread for small heads: their products end before a second thread has woken up."""
    threads = torch.get_num_threads()
    width = data.splits["train"].features.shape[1]
    if len(data.class_names) * width * settings.batch_size_for(len(data.class_names)) < SMALL_PRODUCT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _tune(
    data: FeatureData,
    metric: Metric,
    settings: RefineSettings,
    constraints: Sequence[Constraint],
    seed: int,
    diagnosed: bool,
) -> Tuning:
    train, val = data.splits["train"], data.splits["val"]
    num_classes = len(data.class_names)
    train_members = ClassMembers.from_labels(train.labels, num_classes)
    started = time.perf_counter()
    before = data.head or _linear_probe(train, train_members, settings.start_steps, seed)
    plan = CrossFit.plan(train, val, num_classes, folds=settings.folds, generator=torch_generator(seed, "folds"))
    _check_judged(plan, metric, data.class_names)
    starts = starting_heads(
        before,
        train_members.counts,
        plan,
        smoothing=settings.smoothing,
        steps=settings.start_steps,
        generator=torch_generator(seed, "balanced"),
    )
    start = settings.start
    if start == "best":
        support = torch.bincount(plan.rows[plan.num_train :], minlength=num_classes * plan.groups).double()
        objective = metric.objective(support, settings.rounding)
        start = best_start(starts, plan, val, objective, pseudo_count=settings.pseudo_count)
    refined = refine(
        starts[start],
        plan,
        metric,
        settings,
        constraints=constraints,
        knows_train=start != "balanced",
        generator=torch_generator(seed, "pairs"),
    )
    seconds = data.seconds | {"tune": time.perf_counter() - started}

    candidates = {"before": [before] * len(plan.members), "balanced": starts["balanced"], "after": refined.heads}
    groups, num_groups = ClassGroups.from_counts(train_members.counts), data.num_groups
    val_rows = val.rows(num_groups)
    evaluations = {
        "val": {
            name: evaluate(
                plan.val_logits(heads, val), val.labels, groups, metric, rows=val_rows, num_groups=num_groups
            )
            for name, heads in candidates.items()
        }
    }
    if "test" in data.splits:
        test = data.splits["test"]
        test_rows = test.rows(num_groups)
        evaluations["test"] = {
            name: evaluate(
                heads[-1].logits(test.features), test.labels, groups, metric, rows=test_rows, num_groups=num_groups
            )
            for name, heads in candidates.items()
        }
    diagnoses = {}
    if diagnosed:
        started = time.perf_counter()
        for name, heads in (("start", starts[start]), ("tuned", refined.heads)):
            diagnoses[name] = diagnose(
                heads, plan, metric, settings, generator=torch_generator(seed, f"diagnose/{name}")
            )
        seconds["diagnose"] = time.perf_counter() - started
    return Tuning(data, refined.heads[-1], start, refined, groups, evaluations, seconds, diagnoses)


def _largest_logit(head: LinearHead, split: LabeledFeatures) -> float:
    return float(head.logits(split.features).abs().amax())


def _check_judged(plan: CrossFit, metric: Metric, class_names: list[str]) -> None:
    """Refuse a metric without a value where the classes that nobody judges are left out."""
    rows = plan.rows[torch.cat(plan.judged)]
    counts = confusion_counts(rows, rows // plan.groups, plan.num_classes, groups=plan.groups)
    if not torch.isfinite(metric(joint_confusion(counts))):
        missing = (class_confusion(counts).sum(1) == 0).nonzero().flatten().tolist()
        names = ", ".join(class_names[label] for label in missing)
        raise DataError(
            f"{metric.name} has no value without class {names}, whose only sample is learnt and cannot be judged; "
            "bring more samples, or a metric that leaves classes without samples out"
        )


def _linear_probe(train: LabeledFeatures, members: ClassMembers, steps: int, seed: int) -> LinearHead:
    generator = torch_generator(seed, "probe")
    (head,) = retrain_heads(
        train.features, [members], sampling_power=1, settings=RetrainSettings(steps=steps), generator=generator
    )
    return head


def _warn_of_few(data: FeatureData) -> None:
    support = torch.bincount(data.splits["val"].labels, minlength=len(data.class_names))
    label = int(support.argmin())
    if int(support[label]) == 0:
        logger.warning(
            "class %s has no validation sample: figures on validation leave it out, and nothing honest watches over it",
            data.class_names[label],
        )
    elif int(support[label]) < FEW:
        logger.warning(
            "class %s has %d validation sample(s): its recall is a rough guess, and so is what rests on it",
            data.class_names[label],
            int(support[label]),
        )


def _with_validation(data: FeatureData, seed: int) -> FeatureData:
    """Set a part of train aside, stratified by class and group, when there is no validation split."""
    if "val" in data.splits:
        return data
    train = data.splits["train"]
    rows = train.rows(data.num_groups)
    # the only sample of a row stays; below, it is learnt by all heads and judged by none
    stay, held_out = stratified_holdout(
        rows.numpy(),
        [str(row) for row in range(len(data.class_names) * data.num_groups)],
        fraction=VALIDATION_FRACTION,
        generator=numpy_generator(seed, "validation"),
        lone_stay=True,
    )
    parts = {"train": stay, "val": held_out}
    logger.info("no validation split: %d of %d training samples set aside for it", len(held_out), len(train.labels))
    return replace(
        data,
        splits=data.splits | {name: train.subset(torch.from_numpy(part)) for name, part in parts.items()},
        ids=data.ids | {name: [data.ids["train"][position] for position in part] for name, part in parts.items()},
    )


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: if this machine does not have it.
    """
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if have[device])
    if not have[name]:
        raise UsageError(f"this machine has no {name} device; use --device auto or cpu")
    return torch.device(name)
