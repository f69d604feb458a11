"""What a tuning begins with, whatever it is tuned for: the same for all metrics of a seed."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.features.pool import Pool
from selmix.heads import LinearHead
from selmix.pairs import ClassMembers
from selmix.preparation import check_tunable, warn_of_few, with_validation
from selmix.pseudo.settings import PseudoSettings
from selmix.ranks import Ranks
from selmix.seeding import torch_generator
from selmix.stage2.crossfit import CrossFit, members_of
from selmix.stage2.pool_use import PoolUse, label_pool
from selmix.stage2.settings import RefineSettings
from selmix.stage2.starts import starting_heads

logger = logging.getLogger("selmix")

SMALL_PRODUCT = 1 << 23  # multiplications in one product of a step


@dataclass(frozen=True)
class Beginning:
    """What there is before a metric is named; nothing in it is changed by a tuning.

    Attributes:
        data: with a validation split.
        train_counts: int64 [k], samples per class of train.
        before: the given head, or a linear probe.
        plan: who learns from what.
        starts: name -> heads that tuning may start from.
        pool: the unlabeled pool, labeled by the balanced heads, and heads that learn from it; None if there is none.
        seed: of all that.
        seconds: that it took.
    """

    data: FeatureData
    train_counts: torch.Tensor
    before: LinearHead
    plan: CrossFit
    starts: dict[str, list[LinearHead]]
    pool: PoolUse | None
    seed: int
    seconds: float


def begin(data: FeatureData, settings: RefineSettings, *, seed: int, pseudo: PseudoSettings | None = None) -> Beginning:
    """Set validation aside where it is missing, and make what every tuning with this seed begins with.

    Raises:
        DataError: if there is no validation split and none can be set aside, if there is one class, if all features
            are the same, or if the given head overflows on them.
    """
    check_tunable(data)
    data = with_validation(data, seed)
    warn_of_few(data)
    with threads_that_pay(data, settings):
        return _begin(data, settings, pseudo or PseudoSettings(), seed)


@contextmanager
def threads_that_pay(data: FeatureData, settings: RefineSettings) -> Iterator[None]:
    """Use one thread for small heads: their products end before a second thread has woken up."""
    threads = torch.get_num_threads()
    width = data.splits["train"].features.shape[1]
    if len(data.class_names) * width * settings.batch_size_for(len(data.class_names)) < SMALL_PRODUCT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _begin(data: FeatureData, settings: RefineSettings, pseudo: PseudoSettings, seed: int) -> Beginning:
    train, val = data.splits["train"], data.splits["val"]
    num_classes = len(data.class_names)
    train_members = members_of(train.labels, num_classes, ranks=data.ranks)
    started = time.perf_counter()
    before = data.head or _linear_probe(train, train_members, settings.start_steps, seed, data.ranks)
    uses_pool = data.unlabeled_count > 0
    if data.unlabeled is not None and not uses_pool:
        logger.warning("the unlabeled pool is empty: it is left aside")
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
    starts = starting_heads(
        before,
        train_members.counts,
        plan,
        smoothing=settings.smoothing,
        steps=settings.start_steps,
        generator=torch_generator(seed, "balanced"),
    )
    pool = None
    if uses_pool:
        pool = label_pool(plan, starts["balanced"], settings, pseudo, class_names=data.class_names, seed=seed)
    return Beginning(data, train_members.counts, before, plan, starts, pool, seed, time.perf_counter() - started)


def _linear_probe(train: LabeledFeatures, members: ClassMembers, steps: int, seed: int, ranks: Ranks) -> LinearHead:
    generator = torch_generator(seed, "probe")
    pool, settings = Pool(train.features, ranks=ranks), RetrainSettings(steps=steps)
    (head,) = retrain_heads(pool, [members], sampling_power=1, settings=settings, generator=generator)
    return head
