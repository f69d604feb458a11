"""The page itself: `report.html` of a run, of several seeds or metrics, or of a comparison."""

import contextlib
import logging
import tomllib
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

import selmix
from selmix.audit.document import PoolAudit
from selmix.errors import DataError, SelmixError
from selmix.pipeline import Tuning
from selmix.report.course import constraints, pairs, steps
from selmix.report.features import calibration, geometry
from selmix.report.material import images, pool, repeat
from selmix.report.outcome import headline, metrics, overview
from selmix.report.perclass import classes, confusion
from selmix.report.reading import Run, read_json, read_text
from selmix.report.record import REPORT, write_record
from selmix.report.samples import write_samples
from selmix.report.section import Section
from selmix.report.several import comparison, seeds
from selmix.report.tradeoff import tradeoff
from selmix.run_folders import no_run
from selmix.writing import write_atomically

logger = logging.getLogger("selmix")

_HERE = Path(__file__).parent


def write_report(folder: Path, *, each: bool = False) -> Path:
    """Write the report of a run folder from what lies in it, and return where it is.

    Args:
        folder: of one run, of several seeds or metrics, or of a comparison.
        each: of several runs, write that of each as well.

    Raises:
        UsageError: if it is none of these.
        DataError: if a file is missing or damaged, or belongs to another run.
    """
    try:
        page = _page_of(folder)
    except SelmixError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder} holds files that are damaged or do not belong together ({error}); repeat the run"
        ) from error
    if each and not (folder / "result.json").is_file():
        for name, folders in (("seeds.json", _seed_folders), ("sweep.json", _swept_folders)):
            for own in folders(folder, read_json(folder / name)) if (folder / name).is_file() else []:
                write_report(own)
    try:
        write_atomically(folder / REPORT, page.encode(errors="replace"))
    except OSError as error:
        raise DataError(
            f"{folder / REPORT} cannot be written ({error.strerror}); make room, or make it writable"
        ) from error
    return folder / REPORT


def report_or_warn(folder: Path, tuning: Tuning | None = None, audit: PoolAudit | None = None) -> None:
    """Write the report of a run that is complete; what goes wrong is one line, and the run stays what it is.

    Args:
        folder: of the run.
        tuning: of a single run, what stage two did; of this is written first what reports are made of.
        audit: of its pool, if there is one.
    """
    try:
        if tuning is not None:
            write_record(folder, tuning)
            write_samples(folder, tuning, audit)
        write_report(folder)
    except Exception as error:  # whatever it is, it must not cost a finished run
        with contextlib.suppress(OSError):
            (folder / REPORT).unlink(missing_ok=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("the run is complete in %s, but there is no report of it: %s", folder, reason)


def _page_of(folder: Path) -> str:
    if (folder / "result.json").is_file():
        return _page_of_run(Run.read(folder))
    if (folder / "seeds.json").is_file():
        document = read_json(folder / "seeds.json")
        folders = _seed_folders(folder, document)
        runs = [read_json(own / "result.json") for own in folders]
        title, lines, sections = seeds(document, runs, tomllib.loads(read_text(folders[0] / "recipe.toml")))
        return _rendered(title, lines, sections, eyebrow=document["command"], optimistic=document["optimistic"])
    if (folder / "sweep.json").is_file():
        document = read_json(folder / "sweep.json")
        recipe = tomllib.loads(read_text(_swept_folders(folder, document)[0] / "recipe.toml"))
        title, lines, sections = tradeoff(document, read_text(folder / "pareto.svg"), recipe)
        return _rendered(title, lines, sections, eyebrow=document["command"], optimistic=document["optimistic"])
    if (folder / "compare.json").is_file():
        title, lines, sections = comparison(read_json(folder / "compare.json"))
        return _rendered(title, lines, sections, eyebrow="compare")
    raise no_run(
        folder,
        written_by="`selmix demo`, `finetune` or `compare`",
        lacks="result.json, seeds.json, sweep.json or compare.json",
    )


def _seed_folders(folder: Path, document: dict[str, Any]) -> list[Path]:
    return [folder / f"seed{seed}" for seed in document["seeds"]]


def _swept_folders(folder: Path, document: dict[str, Any]) -> list[Path]:
    return [folder / row["folder"] for row in document["rows"] if row["folder"] is not None]


def _page_of_run(run: Run) -> str:
    title, lines = headline(run)
    makers = (classes, confusion, metrics, steps, pairs, geometry, calibration, constraints, pool, images, repeat)
    found = [make(run) for make in makers]
    document = run.document
    eyebrow = f"{document['command']} · seed {document['seed']} · {len(run.names):,} classes"
    return _rendered(
        title,
        lines,
        [own for own in found if own is not None],
        eyebrow=eyebrow,
        hero=overview(run),
        optimistic=document["optimistic"],
    )


def _rendered(
    title: str,
    lines: list[str],
    sections: list[Section],
    *,
    eyebrow: str,
    hero: Markup | str = "",
    optimistic: bool = False,
) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    content: dict[str, Any] = {
        "title": title,
        "lines": lines,
        "sections": sections,
        "eyebrow": eyebrow,
        "hero": hero,
        "optimistic": optimistic,
        "version": selmix.__version__,
        "style": Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup((_HERE / "page.js").read_text(encoding="utf-8")),
    }
    return environment.from_string((_HERE / "page.html").read_text(encoding="utf-8")).render(content)
