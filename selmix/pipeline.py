"""Stage two on ready features: set validation aside where it is missing, tune, evaluate."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.confusion import class_confusion, confusion_counts, joint_confusion
from selmix.constraints import Constraint
from selmix.errors import DataError, UsageError
from selmix.evaluation import ClassGroups, Evaluation, evaluate
from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.features.pool import Pool
from selmix.heads import LinearHead
from selmix.metrics import Metric
from selmix.pairs import ClassMembers
from selmix.predictions import Predictions, predict
from selmix.preparation import check_tunable, warn_of_few, with_validation
from selmix.pseudo.settings import PseudoSettings
from selmix.ranks import Ranks
from selmix.seeding import torch_generator
from selmix.stage2.crossfit import CrossFit, members_of
from selmix.stage2.diagnose import Diagnosis, diagnose
from selmix.stage2.pool_labels import PoolLabeler
from selmix.stage2.pool_use import PoolUse, label_pool
from selmix.stage2.refine import Refined, refine
from selmix.stage2.settings import RefineSettings
from selmix.stage2.starts import best_start, starting_heads
from selmix.stage2.tempering import Calibration, calibrate

logger = logging.getLogger("selmix")

SMALL_PRODUCT = 1 << 23  # multiplications in one product of a step


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
    assert data.ranks.count == 1 or not diagnosed  # refused long before
    check_tunable(data)
    data = with_validation(data, seed)
    warn_of_few(data)
    with _threads_that_pay(data, settings):
        return _tune(data, metric, settings, pseudo or PseudoSettings(), constraints, seed, diagnosed)


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
    pseudo: PseudoSettings,
    constraints: Sequence[Constraint],
    seed: int,
    diagnosed: bool,
) -> Tuning:
    train, val = data.splits["train"], data.splits["val"]
    num_classes = len(data.class_names)
    train_members = members_of(train.labels, num_classes, ranks=data.ranks)
    started = time.perf_counter()
    before = data.head or _linear_probe(train, train_members, settings.start_steps, seed, data.ranks)
    uses_pool = data.unlabeled_count > 0
    if uses_pool and data.num_groups > 1:
        logger.warning("the samples of the pool have no groups, which this tuning counts: the pool is left aside")
        uses_pool = False
    plan = CrossFit.plan(
        train,
        val,
        num_classes,
        folds=settings.folds,
        generator=torch_generator(seed, "folds"),
        unlabeled=data.unlabeled if uses_pool else None,
        ranks=data.ranks,
    )
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
    refined, pool = refined_from(starts[start], knows_train=given), None
    if uses_pool:
        pool = label_pool(plan, starts["balanced"], metric, settings, pseudo, class_names=data.class_names, seed=seed)
    if pool is not None and pool.usable:
        fresh = pool.heads is not None and settings.start == "best" and not given
        origin = pool.heads if fresh and pool.heads is not None else starts[start]
        with_pool = refined_from(origin, knows_train=given, labeler=pool.labeler)
        pool = pool.judged(with_pool.heads, refined.heads, metric, settings, constraints)
        if pool.helps:
            refined, start = with_pool, "pseudo_labeled" if fresh else start
            starts[start] = origin
    seconds = data.seconds | {"tune": time.perf_counter() - started}

    candidates = {"before": [before] * len(plan.members), "balanced": starts["balanced"], "after": refined.heads}
    predictions = {"val": {name: plan.val_predictions(heads) for name, heads in candidates.items()}}
    if "test" in data.splits:
        test = data.splits["test"].features
        predictions["test"] = {
            name: predict(heads[-1], test).gathered(data.ranks) for name, heads in candidates.items()
        }
    rows = {name: data.ranks.gathered(data.splits[name].rows(data.num_groups)) for name in predictions}
    groups = ClassGroups.from_counts(train_members.counts)
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


def _linear_probe(train: LabeledFeatures, members: ClassMembers, steps: int, seed: int, ranks: Ranks) -> LinearHead:
    generator = torch_generator(seed, "probe")
    pool, settings = Pool(train.features, ranks=ranks), RetrainSettings(steps=steps)
    (head,) = retrain_heads(pool, [members], sampling_power=1, settings=settings, generator=generator)
    return head


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
