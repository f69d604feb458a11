"""Stage two from a recipe to a run folder, for one seed or for several."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selmix.audit.document import audit_pool
from selmix.beginning import Beginning, begin
from selmix.constraints import Constraint, bind_constraints, parse_constraint
from selmix.diagnosis import describe_diagnosis, write_diagnosis
from selmix.errors import UsageError
from selmix.evaluation import Memory
from selmix.extraction import named_features
from selmix.features.extract import Track
from selmix.features.labeled import FeatureData
from selmix.metrics import Metric, MetricContext, parse_metric
from selmix.pipeline import Tuning, tune_from
from selmix.pseudo.settings import ASKS_NEIGHBOURS, PseudoSettings
from selmix.ranks import ALONE, Ranks
from selmix.recipe import FinetuneRecipe, pseudo_settings, refine_settings
from selmix.report.writer import report_or_warn
from selmix.result import describe
from selmix.run import run_folder, write_run
from selmix.spread import over_seeds
from selmix.stage2.settings import RefineSettings
from selmix.writing import write_atomically

SEEDS = "seeds.json"


@dataclass(frozen=True)
class Job:
    """A recipe with its data in memory; `metrics` are what is tuned for, each in a run of its own."""

    data: FeatureData
    metrics: Sequence[Metric]
    constraints: Sequence[Constraint]
    settings: RefineSettings
    pseudo: PseudoSettings


def finetune(
    recipe: FinetuneRecipe,
    out: Path,
    *,
    command: str,
    device: torch.device,
    overwrite: bool = False,
    track: Track | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Tune a head as the recipe says, write the run folder, return the content of its `result.json`.

    What can be wrong with the request is checked before the first image is read.

    Args:
        recipe: metric, constraints, sources, seed and settings.
        out: run folder, made if missing.
        command: the verb, for the record.
        device: where the backbone runs; the head is tuned on the CPU, so its numbers are the same on every device.
        overwrite: replace a finished run in `out`.
        track: wraps long loops to show progress.
        ranks: the processes of the job: each tunes with the part of the features that it holds, rank 0 writes; the
            others return no figures.

    Raises:
        UsageError: for a faulty request.
        DataError: for faulty data, features or weights.
    """
    check_request(recipe, ranks)
    with run_folder(out, overwrite=overwrite, ranks=ranks):
        job = prepare_job(recipe, [recipe.metric], device=device, track=track, ranks=ranks)
        return run_job(job, job.metrics[0], begin_job(job, recipe.seed), recipe, out, command=command)[0]


def finetune_seeds(
    recipe: FinetuneRecipe,
    seeds: Sequence[int],
    out: Path,
    *,
    command: str,
    device: torch.device,
    overwrite: bool = False,
    track: Track | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Tune a head for each seed, in `out/seed0` and so on; write and return `seeds.json`, means and spreads.

    Features are extracted once. A seed changes what is random in stage two (folds, retrained heads, pairs, members,
    coefficients) and, without a validation split, which part of train is set aside for it; never the backbone or a
    split that the data have.

    Args:
        recipe: as for `finetune`; its own seed is not used.
        seeds: one run each.
        out: folder of the runs, made if missing.
        command: as for `finetune`.
        device: as for `finetune`.
        overwrite: replace finished runs in `out`.
        track: as for `finetune`.
        ranks: as for `finetune`.

    Raises:
        UsageError: for a faulty request.
        DataError: for faulty data, features or weights.
    """
    check_request(recipe, ranks)
    with run_folder(out, overwrite=overwrite, result=SEEDS, ranks=ranks) as overwrite:
        if ranks.leads:
            (out / SEEDS).unlink(missing_ok=True)
        job = prepare_job(recipe, [recipe.metric], device=device, track=track, ranks=ranks)
        documents = []
        for seed in seeds:
            own = out / f"seed{seed}"
            with run_folder(own, overwrite=overwrite, ranks=ranks):
                beginning = begin_job(job, seed)
                documents.append(run_job(job, job.metrics[0], beginning, recipe, own, command=command)[0])
        if not ranks.leads:
            return {}
        document = over_seeds(documents)
        write_atomically(out / SEEDS, json.dumps(document, indent=1, allow_nan=False) + "\n")
        report_or_warn(out)
    return document


def check_request(recipe: FinetuneRecipe, ranks: Ranks = ALONE) -> None:
    """Raise UsageError for what can be wrong with a recipe before its data are read."""
    if recipe.diagnose and ranks.count > 1:
        raise UsageError(f"--diagnose works in one process, and torchrun started {ranks.count}; leave one of them away")
    parse_metric(recipe.metric)
    for text in recipe.subject_to:
        parse_constraint(text)
    refine_settings(recipe.stage2)
    source = pseudo_settings(recipe.pseudo).source
    if source in ASKS_NEIGHBOURS and ranks.count > 1:
        raise UsageError(
            f"pseudo.source={source} asks neighbours, which works in one process, and torchrun started {ranks.count}; "
            "take corrected or head"
        )


def prepare_job(
    recipe: FinetuneRecipe, metrics: Sequence[str], *, device: torch.device, track: Track | None, ranks: Ranks
) -> Job:
    """Read the features that a recipe names, and bind metrics and constraints to them."""
    data = named_features(recipe, device=device, track=track, ranks=ranks)
    if data.ranks != ranks:
        data = data.shard(ranks)
    counts = ranks.total(torch.bincount(data.splits["train"].labels, minlength=len(data.class_names)))
    context = MetricContext(data.class_names, counts, data.num_groups)
    return Job(
        data=data,
        metrics=[parse_metric(name).bind(context) for name in metrics],
        constraints=bind_constraints([parse_constraint(text) for text in recipe.subject_to], context),
        settings=refine_settings(recipe.stage2),
        pseudo=pseudo_settings(recipe.pseudo),
    )


def begin_job(job: Job, seed: int) -> Beginning:
    """Make what the runs of a job with this seed have in common, whatever their metric."""
    return begin(job.data, job.settings, seed=seed, pseudo=job.pseudo)


def run_job(
    job: Job,
    metric: Metric,
    beginning: Beginning,
    recipe: FinetuneRecipe,
    out: Path,
    *,
    command: str,
    memory: Memory | None = None,
) -> tuple[dict[str, Any], Tuning]:
    """Tune for one metric of a job and write the run folder; return `result.json` (rank 0 alone) and what was done."""
    seed = beginning.seed
    tuning = tune_from(beginning, metric, job.settings, constraints=job.constraints, diagnosed=recipe.diagnose)
    audit = audit_pool(tuning, seed=seed)
    document = {}
    if job.data.ranks.leads:
        document = describe(tuning, metric, job.constraints, command=command, seed=seed, audit=audit, memory=memory)
    used = vars(job.settings) | {"batch_size": job.settings.batch_size_for(len(job.data.class_names))}
    request = recipe.model_dump(exclude_none=True) | {"metric": metric.name, "seed": seed, "stage2": used}
    if job.data.unlabeled is not None:
        request["pseudo"] = {name: value for name, value in vars(job.pseudo).items() if value is not None}
    if recipe.diagnose:
        write_diagnosis(out, describe_diagnosis(tuning, metric))
    write_run(out, document, tuning, request, audit=audit)
    if job.data.ranks.leads:
        report_or_warn(out, tuning, audit)
    return document, tuning
