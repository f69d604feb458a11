"""Images that stand twice in one split, or in two."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from selmix.data.findings import Finding, caution, fault
from selmix.data.rows import Rows


def repeat_findings(rows_of_split: dict[str, Rows]) -> Iterator[Finding]:
    """Compare the ids of all splits; one finding for each split, or pair of splits, with an image in common."""
    names = list(rows_of_split)
    all_ids = [name for rows in rows_of_split.values() for name in rows.ids]
    codes = pa.array(all_ids, pa.string()).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    repeated = np.flatnonzero((np.bincount(codes, minlength=1) > 1)[codes]) if len(codes) else codes
    split_of = np.repeat(np.arange(len(names)), [len(rows.ids) for rows in rows_of_split.values()])
    starts = np.searchsorted(split_of, np.arange(len(names)))
    first: dict[int, int] = {}
    pairs: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for row in repeated.tolist():
        other = first.setdefault(int(codes[row]), row)
        if other != row:
            pairs[int(split_of[other]), int(split_of[row])].append(
                (other - starts[split_of[other]], row - starts[split_of[row]])
            )
    for (one, two), found in pairs.items():
        yield _finding(names[one], names[two], rows_of_split[names[one]], rows_of_split[names[two]], found)


def _finding(one: str, two: str, first: Rows, second: Rows, found: list[tuple[int, int]]) -> Finding:
    mine, other = found[0]
    where = f", {first.called(mine)} and {second.called(other)}" if first.numbers is not None else ""
    example = f"the first is {first.ids[mine]}{where}"
    if one == two:
        differ = sum(first.class_of(a) != first.class_of(b) for a, b in found)
        labels = f", {differ} with different labels" if differ else ""
        message = f"{len(found)} row(s) of {first.place} repeat an image{labels}; {example}"
        return fault("repeated image", message, "remove the repeated rows", path=first.ids[mine], split=one)
    message = f"{len(found)} image(s) of {first.place} are in {second.place}, too; {example}"
    remedy = "keep each image in one split"
    make = caution if two == "unlabeled" else fault
    return make(
        "image in two splits", message, remedy, path=first.ids[mine], split=two, class_name=first.class_of(mine)
    )
