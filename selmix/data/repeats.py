"""Images that stand twice in one split, or in two."""

import os
from collections import defaultdict
from collections.abc import Iterator

from selmix.data.findings import Finding, caution, fault
from selmix.data.rows import Rows


def repeat_findings(rows_of_split: dict[str, Rows]) -> Iterator[Finding]:
    """Compare the ids of all splits; one finding for each split, or pair of splits, with an image in common.

    Where there are absolute paths among them, the same file may have two ids; then places are compared.
    """
    by_place = any(os.path.isabs(name) for rows in rows_of_split.values() for name in rows.ids)
    first: dict[str, tuple[str, int]] = {}
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for split, rows in rows_of_split.items():
        for position, name in enumerate(rows.ids):
            key = os.path.abspath(rows.images.paths[position]) if by_place else name
            where, other = first.setdefault(key, (split, position))
            if other != position or where != split:
                pairs[where, split].append((other, position))
    for (one, two), found in pairs.items():
        yield _finding(one, two, rows_of_split[one], rows_of_split[two], found)


def _finding(one: str, two: str, first: Rows, second: Rows, found: list[tuple[int, int]]) -> Finding:
    mine, other = found[0]
    called = [rows.called(position) for rows, position in ((first, mine), (second, other)) if rows.numbers is not None]
    where = f", {' and '.join(called)}" if called else ""
    example = f"the first is {first.ids[mine]}{where}"
    if one == two:
        differ = sum(first.class_of(a) != first.class_of(b) for a, b in found)
        labels = f", {differ} with different labels" if differ else ""
        message = f"{len(found)} row(s) of {first.place} repeat an image{labels}; {example}"
        return fault("repeated image", message, "remove the repeated rows", path=first.images.paths[mine], split=one)
    message = f"{len(found)} image(s) of {first.place} are in {second.place}, too; {example}"
    remedy = "keep each image in one split"
    make = caution if two == "unlabeled" else fault
    return make(
        "image in two splits",
        message,
        remedy,
        path=first.images.paths[mine],
        split=two,
        class_name=first.class_of(mine),
    )
