"""The audit of pseudo-labels in plain words."""

from typing import Any

ENOUGH_ROOM = 0.01  # in the metric, under which more samples are said to bring little
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
    if strangers:
        lines.append(f"at least {100 * strangers:.0f} % of the pool look like no known class")
    return lines


def remedy(document: dict[str, Any]) -> str | None:
    """Say what to do where a pool brings little to a head on frozen features; None where it does bring something."""
    if document["used"] and document["room"] >= ENOUGH_ROOM:
        return None
    return (
        f"features seem to be the limit (more samples could bring a head about {100 * document['room']:.1f} points on "
        f"these): a backbone can learn from the pool itself, {STAGE_ONE}; see docs/semi-supervised.md"
    )


def _reason(document: dict[str, Any], metric: str) -> str:
    if not document["selected"]:
        return "no class has pseudo-labels that can be trusted"
    change, error = (100 * document[key] for key in ("difference", "standard_error"))
    verdict = ""
    if document["used"] and not document["proven"]:
        verdict = "; it is taken as long as they are not worse, since it has many images of classes with few labels"
    elif not document["used"] and change > 0:
        verdict = ", which may be luck"
    return (
        f"heads that learn from its pseudo-labels, too, differ by {change:+.1f} points in {metric} "
        f"(standard error {error:.1f}) on labels that they have not learnt{verdict}"
    )
