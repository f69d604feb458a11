"""The audit of pseudo-labels in plain words."""

from collections.abc import Sequence
from typing import Any

ENOUGH_ROOM = 0.01  # in the metric, under which more samples are said to bring little
FEW_A_CLASS = 10  # images, of a pool or of val, with fewer of which nothing is said of features
MANY_STRANGERS = 0.5  # share of a pool
STAGE_ONE = "`selmix train` with a [semi] table as in recipes/cifar10_lt_ssl/fixmatch_la.toml, and your data"


def headline(document: dict[str, Any], metric: str) -> list[str]:
    """Say what became of a pool, why, and how sure that is.

    Args:
        document: `pseudo_labels` of a run.
        metric: its name.
    """
    fate = "used" if document["used"] else "left aside"
    lines = [f"unlabeled pool: {document['count']:,} images, {fate}: {_reason(document, metric)}"]
    role = "used" if document["used"] else "would have been used"
    sure = ""
    if document["precision"] is not None:
        precision, lower = (f"{100 * document[key]:.0f} %" for key in ("precision", "precision_lower"))
        sure = f", estimated precision {precision} (lower bound {lower})"
    lines.append(f"pseudo-labels: {document['selected']:,} of {document['found']:,} {role}{sure}")
    strangers = document["share_of_no_class"]
    if strangers and strangers >= 0.005:  # which is said as 1 %
        lines.append(f"at least {100 * strangers:.0f} % of the pool look like no known class")
    return lines


def remedy(document: dict[str, Any], val_counts: Sequence[int]) -> str | None:
    """Say what keeps a pool from bringing more, and what to do; None where it does bring something.

    Args:
        document: `pseudo_labels` of a run.
        val_counts: validation images of each class, on which `room` was judged.
    """
    if document["used"] and document["room"] >= ENOUGH_ROOM:
        return None
    return _too_little_known(document, val_counts) or _of_the_features(document)


def _too_little_known(document: dict[str, Any], val_counts: Sequence[int]) -> str | None:
    """Say what forbids to conclude anything of features; None if nothing does."""
    count, classes = document["count"], len(val_counts)
    strangers = document["share_of_no_class"] or 0.0
    if count < FEW_A_CLASS * classes:
        return (
            f"the pool is small: {count:,} image(s) for {classes:,} classes; add unlabeled images, at least "
            f"{FEW_A_CLASS} a class, before you judge what they can bring"
        )
    if strangers >= MANY_STRANGERS:
        return "most of the pool seems to be of no known class: take such images out, or name a pool of your classes"
    if sum(val_counts) < FEW_A_CLASS * classes:
        return (
            f"val is too small to tell what the pool can bring: {sum(val_counts):,} image(s) for {classes:,} classes; "
            f"add labeled images to it, at least {FEW_A_CLASS} a class"
        )
    return None


def _of_the_features(document: dict[str, Any]) -> str:
    points = f"{100 * document['room']:.1f} points"
    stage_one = f"a backbone can learn from the pool itself, {STAGE_ONE}; see docs/semi-supervised.md"
    if document["room"] < ENOUGH_ROOM:
        return f"features seem to be the limit (more samples could bring a head about {points} on these): {stage_one}"
    return (
        f"more labels could bring a head about {points} on these features, where these pseudo-labels bring little: "
        f"label some images of the pool; or {stage_one}"
    )


def _reason(document: dict[str, Any], metric: str) -> str:
    if not document["selected"]:
        return "no class has pseudo-labels that can be trusted"
    change, error = (100 * document[key] for key in ("difference", "standard_error"))
    verdict = ""
    if document["used"] and not document["proven"]:
        verdict = "; it is taken as long as they are not worse, since it has many images of classes with few labels"
    elif document["proven"] and not document["used"]:
        verdict = ", but keep the constraints less well"
    elif not document["used"] and change > 0:
        verdict = ", which may be luck"
    return (
        f"heads that learn from its pseudo-labels, too, differ by {change:+.1f} points in {metric} "
        f"(standard error {error:.1f}) on labels that they have not learnt{verdict}"
    )
