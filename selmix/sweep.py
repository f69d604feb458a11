"""Stage two for several metrics and seeds on the same features, and what each head is worth in every metric."""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selmix.confusion import confusion_counts, joint_confusion
from selmix.evaluation import Memory
from selmix.features.extract import Track
from selmix.finetuning import begin_job, check_request, finetune, finetune_seeds, prepare_job, run_job
from selmix.metrics import DEFINITIONS, Metric
from selmix.pareto import WEIGHED, non_dominated, pareto_figure
from selmix.pipeline import Tuning
from selmix.ranks import ALONE, Ranks
from selmix.recipe import FinetuneRecipe
from selmix.report.writer import report_or_warn
from selmix.run import run_folder
from selmix.spread import constraints_over, spread
from selmix.writing import write_atomically

SWEEP, TABLE, FIGURE = "sweep.json", "sweep.csv", "pareto.svg"
SCHEMA = 1
UNTUNED = ("before", "balanced")
_SLUG = 40  # letters of an expression in the name of its folder


def metric_folder(name: str) -> str:
    """Return the name of the folder for a metric: its own; for an expression or function, words of it and a digest.

    >>> metric_folder("min_recall"), metric_folder("0.5*accuracy + 0.5*recall[T-shirt/top]")
    ('min_recall', '0.5_accuracy_0.5_recall_T-shirt_top-9894f5d1')
    """
    if name in DEFINITIONS:
        return name
    words = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:_SLUG].strip("._-")
    return f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def finetune_all(
    recipe: FinetuneRecipe, metrics: Sequence[str], seeds: Sequence[int] | None, out: Path, **work: Any
) -> dict[str, Any]:
    """Do `finetune`, `finetune_seeds` or, for several metrics, `finetune_sweep`; `work` is what all of them take."""
    if len(metrics) > 1:
        return finetune_sweep(recipe, metrics, seeds or [recipe.seed], out, **work)
    recipe = recipe.model_copy(update={"metric": metrics[0]})  # the same metric may have been named twice
    return finetune(recipe, out, **work) if seeds is None else finetune_seeds(recipe, seeds, out, **work)


def finetune_sweep(
    recipe: FinetuneRecipe,
    metrics: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    command: str,
    device: torch.device,
    overwrite: bool = False,
    track: Track | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Tune a head for each metric and seed, in `out/METRIC/seedN`; write and return `sweep.json`.

    Features are read once, and what does not depend on the metric is done once for each seed: the set-aside part of
    train, the linear probe, the heads retrained with class-balanced sampling, the labels of an unlabeled pool. Each run
    is the same as by itself, to the bit; what its seed shares counts in the seconds of the first metric.

    Args:
        recipe: as for `finetune`; its own metric and seed are not used.
        metrics: as `selmix.recipe.parse_metrics` returns them.
        seeds: one run each for every metric.
        out: folder of the runs, made if missing.
        command: as for `finetune`.
        device: as for `finetune`.
        overwrite: replace a finished sweep.
        track: as for `finetune`.
        ranks: as for `finetune`.

    Raises:
        UsageError: for a faulty request.
        DataError: for faulty data, features or weights.
    """
    for name in metrics:
        check_request(recipe.model_copy(update={"metric": name}), ranks)
    with run_folder(out, overwrite=overwrite, result=SWEEP, ranks=ranks) as overwrite:
        if ranks.leads:
            (out / SWEEP).unlink(missing_ok=True)
        job = prepare_job(recipe, metrics, device=device, track=track, ranks=ranks)
        documents: dict[str, list[dict[str, Any]]] = {metric.name: [] for metric in job.metrics}
        rows: list[dict[str, Any]] = []
        for seed in seeds:
            beginning, memory = begin_job(job, seed), Memory()
            for metric in job.metrics:
                folder = f"{metric_folder(metric.name)}/seed{seed}"
                with run_folder(out / folder, overwrite=overwrite, ranks=ranks):
                    document, tuning = run_job(
                        job, metric, beginning, recipe, out / folder, command=command, memory=memory
                    )
                beginning = replace(beginning, seconds=0.0)
                if ranks.leads:
                    heads = {"before": None, "balanced": None} if metric is job.metrics[0] else {}
                    rows += _rows(document, tuning, job.metrics, heads | {"after": folder})
                    documents[metric.name].append(document)
        if not ranks.leads:
            return {}
        summary = _summary(documents, rows, list(seeds))
        write_atomically(out / TABLE, _csv(summary))
        split = "val" if summary["optimistic"] else "test"
        write_atomically(out / FIGURE, pareto_figure(summary, split))
        write_atomically(out / SWEEP, json.dumps(summary, indent=1, allow_nan=False) + "\n")
        report_or_warn(out)
    return summary


def _rows(
    document: dict[str, Any], tuning: Tuning, metrics: Sequence[Metric], folders: dict[str, str | None]
) -> list[dict[str, Any]]:
    """Return a row for each of the named heads of a run: every reported metric, and every metric of the sweep."""
    rows = []
    groups = tuning.data.num_groups
    for head, folder in folders.items():
        row = {"head": document["metric"] if head == "after" else head, "seed": document["seed"], "folder": folder}
        for split, heads in tuning.evaluations.items():
            counts = confusion_counts(
                tuning.rows[split], heads[head].predictions, len(tuning.data.class_names), groups=groups
            )
            own = {name: value for name, value in document[head][split].items() if name != document["metric"]}
            tuned_for = {metric.name: float(metric(joint_confusion(counts))) for metric in metrics}
            row[split] = own | {name: value if math.isfinite(value) else None for name, value in tuned_for.items()}
        rows.append(row)
    return rows


def _summary(
    documents: dict[str, list[dict[str, Any]]], rows: list[dict[str, Any]], seeds: list[int]
) -> dict[str, Any]:
    """Return `sweep.json`: each head's mean and standard deviation over seeds, who is on the front, and all rows."""
    runs = [document for own in documents.values() for document in own]
    first, splits = runs[0], list(runs[0]["after"])
    heads: list[dict[str, Any]] = []
    for name in (*UNTUNED, *documents):
        own = [row for row in rows if row["head"] == name]
        tuned = name not in UNTUNED
        head: dict[str, Any] = {"head": name, "folder": metric_folder(name) if tuned else None}
        for split in splits:
            head[split] = {key: spread([row[split][key] for row in own]) for key in own[0][split]}
        heads.append(head | {"constraints": constraints_over(documents[name]) if tuned else []})
    front = {
        split: non_dominated({head["head"]: [head[split][key]["mean"] for key in WEIGHED] for head in heads})
        for split in splits
    }
    return {
        "schema": SCHEMA,
        "command": first["command"],
        "metrics": list(documents),
        "subject_to": first["subject_to"],
        "seeds": seeds,
        "class_names": first["class_names"],
        "optimistic": first["optimistic"],
        "before_is": first["before_is"],
        "heads": heads,
        "pareto": {"metrics": list(WEIGHED)} | front,
        "rows": rows,
        "seconds": {part: sum(run["seconds"][part] for run in runs) for part in first["seconds"] if part != "extract"}
        | {part: value for part, value in first["seconds"].items() if part == "extract"},
        "versions": first["versions"],
        "digests": first["digests"],
    }


def _csv(summary: dict[str, Any]) -> str:
    """Return a line for each head, split and metric: mean, standard deviation, and the value of each seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["head", "split", "metric", "mean", "std", *(f"seed{seed}" for seed in summary["seeds"]), "pareto"])
    for head in summary["heads"]:
        own = [row for row in summary["rows"] if row["head"] == head["head"]]
        for split in (split for split in own[0] if split in summary["pareto"]):
            on_front = int(head["head"] in summary["pareto"][split])
            for name, figures in head[split].items():
                values = [row[split][name] for row in own]
                mean, std = (None, None) if figures is None else (figures["mean"], figures["std"])
                writer.writerow([head["head"], split, name, mean, std, *values, on_front])
    return text.getvalue()
