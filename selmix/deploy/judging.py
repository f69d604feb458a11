"""Every metric of a tuned head on labeled samples, and of the head that it started from where that is known."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selmix.bootstrap import bootstrap_statistics, percentile_interval
from selmix.calibration import expected_calibration_error, negative_log_likelihood
from selmix.deploy.labeled import labeled_images, own_features, read_features, split_of
from selmix.deploy.opening import Run
from selmix.deploy.predicting import Predictor
from selmix.errors import DataError
from selmix.evaluation import ClassGroups, defined_statistics, evaluate, margins_suffice
from selmix.features.extract import Track
from selmix.features.rows import row_blocks
from selmix.heads import LinearHead
from selmix.metrics import MetricContext, parse_metric
from selmix.predictions import Predictions
from selmix.result import BOOTSTRAP, REPLICATES, undefined, versions
from selmix.seeding import torch_generator

_Blocks = Generator[tuple[torch.Tensor, torch.Tensor], None, None]


@dataclass(frozen=True)
class Samples:
    """What a head is judged by.

    Attributes:
        split: of which they are.
        blocks: positions, int64 [b], and features [b, d]; positions without features are left out.
        labels: int64 [n], as the head counts classes.
        groups: int64 [n], the group of each sample; None if there are none.
        group_names: the groups.
        before: the head that came with the features, for the same classes; None if it is not known.
        digest: of the data.
    """

    split: str
    blocks: _Blocks
    labels: torch.Tensor
    groups: torch.Tensor | None
    group_names: list[str]
    before: LinearHead | None
    digest: str


def samples_of_features(run: Run, path: Path | None, split: str) -> Samples:
    """Return a split of ready features, or of those that the run was tuned on.

    Raises:
        UsageError: if there is no such split.
        DataError: if they are gone, changed or faulty, or do not go with the head.
    """
    data = own_features(run) if path is None else read_features(run, path)
    own = split_of(data, split, str(path or run.folder))
    blocks = ((torch.arange(place.start, place.stop), rows) for place, rows in row_blocks(own.features))
    return Samples(split, blocks, own.labels, own.groups, data.group_names, data.head, data.digests["data"])


def samples_of_images(run: Run, predictor: Predictor, spec: str, split: str, *, track: Track | None = None) -> Samples:
    """Return a split of images, which go through the backbone as they are judged.

    Raises:
        UsageError: if there is no such split.
        DataError: for faulty data, or other classes than the run's, by name.
    """
    images, data = labeled_images(spec, split, run)
    labels, groups = (None if own is None else torch.from_numpy(own) for own in (images.labels, images.groups))
    assert labels is not None
    blocks, before = predictor.features(images, track=track), predictor.backbone.head_for(run.class_names)
    return Samples(split, blocks, labels, groups, data.group_names, before, data.digest)


def judge(run: Run, samples: Samples) -> dict[str, Any]:
    """Return every metric of the tuned head and of the one before on samples, as one JSON document.

    The figures, and on test the draws of the bootstrap, are those of `selmix finetune`. `optimistic` is true for labels
    that the head has learnt.
    """
    names, num_groups = run.class_names, len(samples.group_names) or 1
    heads = {"after": run.head} | ({} if samples.before is None else {"before": samples.before})
    predictions, losses, rows = _predicted(heads, samples, run.temperature)
    counts = torch.tensor(run.result["support"]["train"])
    context = MetricContext(names, counts, num_groups)
    metric, groups = parse_metric(run.recipe["metric"]).bind(context), ClassGroups.from_counts(counts)
    evaluations = {
        name: evaluate(own, rows, groups, metric, num_classes=len(names), num_groups=num_groups)
        for name, own in predictions.items()
        if name in heads
    }
    drawn = bootstrap_statistics(
        rows,
        [evaluations[name].predictions for name in heads],
        defined_statistics(groups, metric),
        len(names),
        replicates=REPLICATES,
        generator=torch_generator(run.result["seed"], BOOTSTRAP),
        groups=num_groups,
        margins=margins_suffice(metric, len(names), num_groups),
    )
    replicates = dict(zip(heads, drawn, strict=True))
    values = {"after": replicates["after"]}
    if "before" in replicates:
        before = replicates["before"]
        values["change"] = {name: own - before[name] for name, own in replicates["after"].items()}
    labels = rows // num_groups
    own_data = samples.digest == run.result["digests"]["data"]
    return {
        "schema": 1,
        "command": "evaluate",
        "run": str(run.folder),
        "split": samples.split,
        "metric": metric.name,
        "class_names": names,
        "support": torch.bincount(labels, minlength=len(names)).tolist(),
        **{name: evaluations[name].metrics if name in evaluations else None for name in ("before", "after")},
        "recall": {name: own.recall for name, own in evaluations.items()},
        "interval": {
            key: {name: percentile_interval(value) for name, value in named.items()} for key, named in values.items()
        },
        "undefined": undefined(evaluations["after"].metrics),
        "calibration": {
            "temperature": run.temperature,
            **{
                name: {
                    "nll": float(losses[name].mean()),
                    "ece": expected_calibration_error(own.confidence, own.classes == labels),
                }
                for name, own in (("plain", predictions["after"]), ("calibrated", predictions["calibrated"]))
            },
        },
        "optimistic": own_data and samples.split != "test",
        "left_out": len(samples.labels) - len(rows),
        "digests": run.result["digests"] | {"data": samples.digest},
        "versions": versions(),
    }


def _predicted(
    heads: dict[str, LinearHead], samples: Samples, temperature: float
) -> tuple[dict[str, Predictions], dict[str, torch.Tensor], torch.Tensor]:
    """Return predictions of each head, and of the tuned one at its temperature as `calibrated`; losses; rows [m]."""
    parts: dict[str, list[Predictions]] = {name: [] for name in (*heads, "calibrated")}
    losses: dict[str, list[torch.Tensor]] = {"plain": [], "calibrated": []}
    kept = []
    with closing(samples.blocks) as blocks:
        for positions, features in blocks:
            kept.append(positions)
            for name, head in heads.items():
                logits = head.logits(features)
                parts[name].append(Predictions.of_logits(logits))
                if name == "after":
                    tempered, labels = logits.double() / temperature, samples.labels[positions]
                    parts["calibrated"].append(Predictions.of_logits(tempered))
                    losses["plain"].append(negative_log_likelihood(logits, labels))
                    losses["calibrated"].append(negative_log_likelihood(tempered, labels))
    if not any(map(len, kept)):
        raise DataError(f"no sample of {samples.split} could be read; mend the images, or name others")
    positions = torch.cat(kept)
    rows = samples.labels[positions]
    if samples.groups is not None:
        rows = rows * len(samples.group_names) + samples.groups[positions]
    predictions = {
        name: Predictions(torch.cat([own.classes for own in of_name]), torch.cat([own.confidence for own in of_name]))
        for name, of_name in parts.items()
    }
    return predictions, {name: torch.cat(own) for name, own in losses.items()}, rows
