"""Stage two on ready features: set validation aside where it is missing, tune, evaluate."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from selmix.beginning import Beginning, begin, threads_that_pay
from selmix.confusion import class_confusion, confusion_counts, joint_confusion
from selmix.constraints import Constraint
from selmix.errors import DataError, UsageError
from selmix.evaluation import ClassGroups, Evaluation, evaluate
from selmix.features.labeled import FeatureData
from selmix.heads import LinearHead
from selmix.metrics import Metric
from selmix.predictions import Predictions, predict
from selmix.pseudo.settings import PseudoSettings
from selmix.seeding import torch_generator
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.diagnose import Diagnosis, diagnose
from selmix.stage2.pool_labels import PoolLabeler
from selmix.stage2.pool_use import PoolUse, room
from selmix.stage2.refine import Refined, refine
from selmix.stage2.settings import RefineSettings
from selmix.stage2.starts import best_start
from selmix.stage2.tempering import Calibration, calibrate


@dataclass(frozen=True)
class Tuning:
    """What stage two did.

    Attributes:
        data: the features it worked on, validation split included; of several processes, the part of this one. All that
            follows is of all of them, and the same for each.
        head: the tuned head.
        start: name of the head that the loop started from.
        refined: what the loop returned.
        groups: head, medium and tail classes.
        evaluations: split -> head -> evaluation, for the heads `before` (given, or a linear probe), `balanced`
            (retrained with class-balanced sampling on the same labels) and `after`. On val, no sample is judged by a
            head that has learnt from it; but val steered the pairs and chose the step, so `after` is still a little
            optimistic there. Test is looked at once, at the end.
        rows: split -> confusion row of every sample that was evaluated, int64 [n], in the order of the predictions.
        support: split -> samples of each class and group, int64 [k, g].
        calibration: the temperature of the tuned head.
        unlabeled_count: images in the unlabeled pool.
        pool: what became of it, with the pseudo-labels by the tuned heads where it was used; None if there is none.
        seconds: what was spent: `extract`, `tune`, and `diagnose` where that was asked for.
        diagnoses: of the `start` head and the `tuned` one, where that was asked for.
    """

    data: FeatureData
    head: LinearHead
    start: str
    refined: Refined
    groups: ClassGroups
    evaluations: dict[str, dict[str, Evaluation]]
    rows: dict[str, torch.Tensor]
    support: dict[str, torch.Tensor]
    calibration: Calibration
    unlabeled_count: int
    seconds: dict[str, float]
    pool: PoolUse | None = None
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)


def tune(
    data: FeatureData,
    metric: Metric,
    settings: RefineSettings,
    *,
    seed: int,
    pseudo: PseudoSettings | None = None,
    constraints: Sequence[Constraint] = (),
    diagnosed: bool = False,
) -> Tuning:
    """Run stage two and evaluate it: the validation split steers, the test split is looked at once, at the end.

    With `diagnosed`, the gains are also compared with what single steps do (`selmix.stage2.diagnose`); by one process.

    Raises:
        DataError: if there is no validation split and none can be set aside, if there is one class, if all features
            are the same, or if the given head overflows on them.
    """
    beginning = begin(data, settings, seed=seed, pseudo=pseudo)
    return tune_from(beginning, metric, settings, constraints=constraints, diagnosed=diagnosed)


def tune_from(
    beginning: Beginning,
    metric: Metric,
    settings: RefineSettings,
    *,
    constraints: Sequence[Constraint] = (),
    diagnosed: bool = False,
) -> Tuning:
    """Tune for a metric from what does not depend on it, made with the same settings: see `tune`.

    Raises:
        DataError: for a metric without a value on these data.
    """
    assert beginning.data.ranks.count == 1 or not diagnosed  # refused long before
    with threads_that_pay(beginning.data, settings):
        return _tune(beginning, metric, settings, constraints, diagnosed)


def _tune(
    beginning: Beginning,
    metric: Metric,
    settings: RefineSettings,
    constraints: Sequence[Constraint],
    diagnosed: bool,
) -> Tuning:
    data, plan, before, seed = beginning.data, beginning.plan, beginning.before, beginning.seed
    starts, pool = dict(beginning.starts), beginning.pool
    started = time.perf_counter()
    _check_judged(plan, metric, data.class_names)
    start = settings.start
    if start == "best":
        objective = metric.objective(plan.val_counts.double(), settings.rounding)
        start = best_start(starts, plan, objective, pseudo_count=settings.pseudo_count)

    def refined_from(
        heads: list[LinearHead], *, knows_train: bool = False, labeler: PoolLabeler | None = None
    ) -> Refined:
        return refine(
            heads,
            plan,
            metric,
            settings,
            constraints=constraints,
            knows_train=knows_train,
            labeler=labeler,
            generator=torch_generator(seed, "pairs"),
        )

    given = start != "balanced"
    refined = refined_from(starts[start], knows_train=given)
    if pool is not None:
        pool = replace(pool, room=room(plan, starts["balanced"], metric))
    if pool is not None and pool.usable:
        fresh = pool.heads is not None and settings.start == "best"
        origin = pool.heads if fresh and pool.heads is not None else starts[start]
        with_pool = refined_from(origin, knows_train=given and not fresh, labeler=pool.labeler)
        pool = pool.judged(with_pool.heads, refined.heads, metric, settings, constraints, knows_train=given)
        if pool.helps:
            refined, start = with_pool, "pseudo_labeled" if fresh else start
            starts[start] = origin
    seconds = data.seconds | {"tune": beginning.seconds + time.perf_counter() - started}

    candidates = {"before": [before] * len(plan.members), "balanced": starts["balanced"], "after": refined.heads}
    predictions = {"val": {name: plan.val_predictions(heads) for name, heads in candidates.items()}}
    if "test" in data.splits:
        test = data.splits["test"]
        predictions["test"] = {
            name: predict(heads[-1], test.features, labels=test.labels).gathered(data.ranks)
            for name, heads in candidates.items()
        }
    rows = {name: data.ranks.gathered(data.splits[name].rows(data.num_groups)) for name in predictions}
    groups = ClassGroups.from_counts(beginning.train_counts)
    evaluations = {
        split: {name: _evaluated(own, rows[split], groups, metric, data) for name, own in of_split.items()}
        for split, of_split in predictions.items()
    }
    diagnoses = {}
    if diagnosed:
        started = time.perf_counter()
        for name, heads in (("start", starts[start]), ("tuned", refined.heads)):
            diagnoses[name] = diagnose(
                heads, plan, metric, settings, generator=torch_generator(seed, f"diagnose/{name}")
            )
        seconds["diagnose"] = time.perf_counter() - started
    return Tuning(
        data=data,
        head=refined.heads[-1],
        start=start,
        refined=refined,
        groups=groups,
        evaluations=evaluations,
        rows=rows,
        support=_support(data),
        calibration=calibrate(refined.heads, plan, data.splits.get("test")),
        unlabeled_count=data.unlabeled_count,
        seconds=seconds,
        pool=pool,
        diagnoses=diagnoses,
    )


def _evaluated(
    predictions: Predictions, rows: torch.Tensor, groups: ClassGroups, metric: Metric, data: FeatureData
) -> Evaluation:
    return evaluate(predictions, rows, groups, metric, num_classes=len(data.class_names), num_groups=data.num_groups)


def _support(data: FeatureData) -> dict[str, torch.Tensor]:
    shape = len(data.class_names), data.num_groups
    return {
        name: data.ranks.total(torch.bincount(split.rows(shape[1]), minlength=shape[0] * shape[1])).view(shape)
        for name, split in data.splits.items()
    }


def _check_judged(plan: CrossFit, metric: Metric, class_names: list[str]) -> None:
    """Refuse a metric without a value where the classes that nobody judges are left out."""
    rows = plan.rows[torch.cat(plan.judged)]
    counts = plan.ranks.total(confusion_counts(rows, rows // plan.groups, plan.num_classes, groups=plan.groups))
    if not torch.isfinite(metric(joint_confusion(counts))):
        missing = (class_confusion(counts).sum(1) == 0).nonzero().flatten().tolist()
        names = ", ".join(class_names[label] for label in missing)
        raise DataError(
            f"{metric.name} has no value without class {names}, whose only sample is learnt and cannot be judged; "
            "bring more samples, or a metric that leaves classes without samples out"
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
    if name == "cuda":  # torchrun numbers the processes of a machine
        return torch.device(name, int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device(name)
