"""The ladder on one data set: every method, every metric, every seed, and whether SelMix is the best of them."""

import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import selmix
from selmix.baselines.methods import METHODS, out_of_fold
from selmix.baselines.problem import Problem
from selmix.confusion import confusion_counts, joint_confusion
from selmix.data.splits import draw_per_class, stratified_holdout
from selmix.errors import DataError, UsageError, suggestion
from selmix.extraction import named_features
from selmix.features.extract import Track
from selmix.features.labeled import FeatureData
from selmix.metrics import Metric, MetricContext, parse_metric
from selmix.pipeline import tune
from selmix.preparation import VALIDATION_FRACTION
from selmix.recipe import CompareRecipe, refine_settings
from selmix.report.writer import report_or_warn
from selmix.run import run_folder
from selmix.seeding import numpy_generator, torch_generator
from selmix.stage2.settings import RefineSettings
from selmix.verdict import Scores, summarise
from selmix.writing import write_atomically

logger = logging.getLogger("selmix")

SCHEMA = 1
RESULT = "compare.json"

# SelMix and what is left of it when one of its ideas is taken away: name -> (changed settings, in words)
LOOPS: dict[str, tuple[dict[str, float], str]] = {
    "uniform_mixup": (
        {"inverse_temperature": 0.0, "exploration": 1 - 1e-9},
        "SelMix's loop with all class pairs equally likely",
    ),
    "resampling": ({"mix_low": 1.0}, "SelMix's law over classes, nothing mixed"),
    "greedy": ({"inverse_temperature": 1e6}, "SelMix's loop on the pair of largest gain alone"),
    "selmix": ({}, "SelMix as `selmix finetune` runs it"),
}
ABOUT = {name: method.about for name, method in METHODS.items()} | {name: about for name, (_, about) in LOOPS.items()}


def chosen_methods(names: list[str]) -> list[str]:
    """Return the methods of these names in the order of the table; all of them for an empty list.

    Raises:
        UsageError: for a name that no method has.
    """
    for name in names:
        if name not in ABOUT:
            raise UsageError(f"unknown method {name!r}: {suggestion(name, ABOUT)}")
    return [name for name in ABOUT if name in names or not names]


def compare(
    recipe: CompareRecipe, out: Path, *, device: torch.device, overwrite: bool = False, track: Track | None = None
) -> dict[str, Any]:
    """Run the ladder as the recipe says, write `compare.json`, return its content.

    What can be wrong with the request is checked before anything is loaded.

    Args:
        recipe: metrics, methods, seeds, sources and settings of SelMix.
        out: run folder, made if missing.
        device: where the backbone runs.
        overwrite: replace a finished comparison in `out`.
        track: wraps long loops to show progress.

    Raises:
        UsageError: for a faulty request.
        DataError: for faulty data, features or weights.
    """
    wanted = [parse_metric(name) for name in dict.fromkeys(recipe.metrics)]
    names = chosen_methods(recipe.methods)
    settings = refine_settings(recipe.stage2)
    with run_folder(out, overwrite=overwrite, result=RESULT):
        data = named_features(recipe, device=device, track=track).without_pool().dense()
        if data.group_names:
            logger.warning("the groups of samples are left aside: most methods of the ladder know classes alone")
            splits = {name: replace(split, groups=None) for name, split in data.splits.items()}
            data = replace(data, splits=splits, group_names=[])
        counts = torch.bincount(data.splits["train"].labels, minlength=len(data.class_names))
        metrics = [request.bind(MetricContext(data.class_names, counts)) for request in wanted]
        document = {
            "schema": SCHEMA,
            "command": "compare",
            "request": recipe.model_dump(exclude_none=True) | {"stage2": vars(settings)},
            "version": selmix.__version__,
            "digests": data.digests,
            **run_ladder(data, metrics, names, recipe.seeds, settings, val_per_class=recipe.val_per_class, track=track),
        }
        write_atomically(out / RESULT, json.dumps(document, indent=1, allow_nan=False) + "\n")
        report_or_warn(out)
    return document


def run_ladder(
    data: FeatureData,
    metrics: list[Metric],
    names: list[str],
    seeds: list[int],
    settings: RefineSettings,
    *,
    val_per_class: int | None = None,
    track: Track | None = None,
) -> dict[str, Any]:
    """Fit and score the methods for every metric and seed; the test split is looked at once for each.

    Args:
        data: with a test split; without a validation split every seed sets its own part of train aside.
        metrics: what is measured; methods that can be tuned for a metric are tuned for each.
        names: of the methods.
        seeds: every one changes what is random in the methods, the hold-out and the draw of validation samples.
        settings: of SelMix; its ablations change one thing of them.
        val_per_class: validation samples a class; None takes all there are.
        track: wraps the loop over methods to show progress.

    Returns:
        `rows`: one for each method, metric and seed, with the metric on `val` (where a method learns from validation
        labels: out of fold) and on `test`, and the `seconds` of fitting; what several methods share is counted where it
        is first needed. `summary`: see `summarise`. `left_out`: methods that could not run, and why.

    Raises:
        DataError: if there is no test split or only one class.
    """
    if "test" not in data.splits:
        raise DataError("a comparison needs a test split; add one: whoever is best on validation may be so by luck")
    if len(data.class_names) < 2:
        raise DataError(f"there is one class, {data.class_names[0]}; a classifier needs at least 2: add another")
    left_out = {"given": "no head came with the data"} if data.head is None and "given" in names else {}
    names = [name for name in names if name not in left_out]
    if not names:
        raise DataError("none of the methods can run: no head came with the data; add other --methods")
    rows, predictions, test = [], {}, data.splits["test"]
    once = _Once()
    logger.addFilter(once)
    try:
        for seed in seeds:
            seeded = seeded_validation(data, seed, val_per_class)
            splits, generator = seeded.splits, torch_generator(seed, "ladder")
            problem = Problem.pose(
                splits["train"], splits["val"], data.head, len(data.class_names), generator=generator
            )
            positions: Iterable[int] = range(len(names))
            for position in track(positions, f"seed {seed}", len(names)) if track else positions:
                name = names[position]
                for metric, fit in _fits(name, problem, seeded, metrics, settings, seed):
                    predictions[name, metric.name, seed] = fit.test
                    val = _value(metric, splits["val"].labels, fit.val, problem.num_classes)
                    figures = {
                        "val": val,
                        "test": _value(metric, test.labels, fit.test, problem.num_classes),
                        "seconds": fit.seconds,
                    }
                    rows.append({"method": name, "metric": metric.name, "seed": seed, **figures})
    finally:
        logger.removeFilter(once)
    scores = Scores(rows, predictions, test.labels, len(data.class_names))
    return {
        "methods": {name: ABOUT[name] for name in names},
        "left_out": left_out,
        "val_samples": len(splits["val"].labels),
        "test_samples": len(test.labels),
        "rows": rows,
        "summary": {metric.name: summarise(scores, metric, names, seeds) for metric in metrics},
    }


def seeded_validation(data: FeatureData, seed: int, val_per_class: int | None) -> FeatureData:
    """Return the data with the validation split of a seed: the given one or a part of train, thinned if asked."""
    train, splits = data.splits["train"], dict(data.splits)
    if "val" not in splits:
        generator = numpy_generator(seed, "validation")  # the hold-out that finetune makes
        parts = stratified_holdout(
            train.labels.numpy(), data.class_names, fraction=VALIDATION_FRACTION, generator=generator
        )
        splits["train"], splits["val"] = (train.subset(torch.from_numpy(part)) for part in parts)
    if val_per_class is not None:
        generator = numpy_generator(seed, "val_per_class")
        drawn = draw_per_class(splits["val"].labels.numpy(), val_per_class, generator=generator)
        splits["val"] = splits["val"].subset(torch.from_numpy(drawn))
    return replace(data, splits=splits, ids={})


@dataclass(frozen=True)
class _Fit:
    """Predictions of a fitted method, int64 [n] each, and what the fit took."""

    val: torch.Tensor
    test: torch.Tensor
    seconds: float


def _fits(
    name: str, problem: Problem, data: FeatureData, metrics: list[Metric], settings: RefineSettings, seed: int
) -> Iterator[tuple[Metric, _Fit]]:
    """Yield a fit for every metric; a method that does not depend on the metric is fitted once."""
    if name in LOOPS:
        changed = replace(settings, **LOOPS[name][0])  # type: ignore[arg-type]
        for metric in metrics:
            yield metric, _fit_loop(data, metric, changed, seed)
        return
    if METHODS[name].tuned:
        for metric in metrics:
            yield metric, _fit_method(name, problem, data, metric, seed)
        return
    fit = _fit_method(name, problem, data, metrics[0], seed)
    for metric in metrics:
        yield metric, fit


def _fit_loop(data: FeatureData, metric: Metric, settings: RefineSettings, seed: int) -> _Fit:
    started = time.perf_counter()
    tuning = tune(data, metric, settings, seed=seed)
    seconds = time.perf_counter() - started
    test = tuning.head.predict(data.splits["test"].tensor)
    return _Fit(tuning.evaluations["val"]["after"].predictions, test, seconds)


def _fit_method(name: str, problem: Problem, data: FeatureData, metric: Metric, seed: int) -> _Fit:
    method = METHODS[name]
    stream = f"ladder/{name}/{metric.name if method.tuned else ''}"
    started = time.perf_counter()
    classifier = method.fit(problem, metric, generator=torch_generator(seed, stream))
    seconds = time.perf_counter() - started
    if method.learns_val:
        val = out_of_fold(problem, method, metric, generator=torch_generator(seed, f"{stream}/folds"))
    else:
        val = classifier.logits(problem.val.tensor).argmax(1)
    return _Fit(val, classifier.logits(data.splits["test"].tensor).argmax(1), seconds)


def _value(metric: Metric, labels: torch.Tensor, predictions: torch.Tensor, num_classes: int) -> float:
    return float(metric(joint_confusion(confusion_counts(labels, predictions, num_classes))))


class _Once(logging.Filter):
    """Lets every message through once: all methods of a seed meet the same validation split."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new
