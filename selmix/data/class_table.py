"""One class table for all splits, compared by name."""

import difflib
import unicodedata
from collections.abc import Iterator, Sequence

from selmix.data.findings import Finding, caution, fault, listed

# nobody reads more suggestions, and each compares a name with all that are missing
_SHOWN, _COMPARED = 5, 1000


def order_findings(names: Sequence[str], place: str) -> Iterator[Finding]:
    """Warn of names that are numbers and stand in another order as strings."""
    if not all(name.isdecimal() for name in names):
        return
    in_order = sorted(names, key=int)
    if list(names) == sorted(names) != in_order:
        label = next(label for label, name in enumerate(names) if name != in_order[label])
        yield caution(
            "numeric order",
            f"the classes of {place} are numbers and sorted as strings, as torchvision does: label {label} is class "
            f"{names[label]}, not {in_order[label]}",
            "labels follow names; for another order pad them with zeros, or list them as `classes` of a data spec",
            path=place,
            split="train",
        )


def twin_findings(names: Sequence[str], *, split: str, place: str) -> Iterator[Finding]:
    """Refuse names of one split that differ in case, in blanks or in the way accents are encoded."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(folded(name), name)
        if other != name:
            yield _twins(other, name, f"both in {place}", split=split, place=place)


def name_findings(
    names: Sequence[str], table: Sequence[str], *, split: str, place: str, table_place: str
) -> Iterator[Finding]:
    """Compare the classes of a split with the class table: case twins, then missing and extra ones, in one finding."""
    known, own = set(table), set(names)
    missing = [name for name in table if name not in own]
    extra = [name for name in names if name not in known]
    twin_of = {folded(name): name for name in missing}
    twins = {name: twin_of[folded(name)] for name in extra if folded(name) in twin_of}
    for name, twin in twins.items():
        yield _twins(twin, name, f"the first in {table_place}, the second in {place}", split=split, place=place)
    found = set(twins.values())
    missing = [name for name in missing if name not in found]
    extra = [name for name in extra if name not in twins]
    if not missing and not extra:
        return
    near = {name: difflib.get_close_matches(name, missing[:_COMPARED], n=1) for name in extra[:_SHOWN]}
    meant = [f"{name} is near {match[0]}" for name, match in near.items() if match]
    faults = [f"lacks {listed(missing)}"] * bool(missing) + [f"adds {listed(extra)}"] * bool(extra)
    yield fault(
        "classes",
        f"the classes of {place} are not those of {table_place}: it {' and '.join(faults)}"
        + (f" ({listed(meant)}: did you mean the same?)" if meant else ""),
        "every split needs the same classes, by name",
        path=place,
        split=split,
        class_name=[*missing, *extra][0] if len(missing) + len(extra) == 1 else "",
    )


def folded(name: str) -> str:
    """Return a name without case, blanks at its ends, and the choice between composed and decomposed accents."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def _twins(first: str, second: str, where: str, *, split: str, place: str) -> Finding:
    return fault(
        "case twins",
        f"the classes {first!r} and {second!r} differ in case, blanks or encoding of accents alone ({where})",
        "give them one name, or two that nobody can mix up",
        path=place,
        split=split,
        class_name=second,
    )
