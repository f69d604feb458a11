"""List files, as long-tail benchmarks come: a line is an image's path, a blank, and its label from 0."""

from pathlib import Path

import numpy as np

from selmix.data.findings import Finding, fault, listed
from selmix.data.images import FileImages
from selmix.data.listing import Listing, audited, coded, image_ids, in_class_table, refuse_files
from selmix.data.rows import Coded, PathsUnder, Rows, is_integer


def read_list(
    path: Path,
    *,
    split: str,
    root: Path,
    prefix: str,
    findings: list[Finding],
    class_names: list[str] | None = None,
    rewrite: tuple[str, str] | None = None,
) -> Rows | None:
    """Read a list file; lines at fault are left out and make a finding for each kind of fault.

    Args:
        path: of the list file.
        split: which it is; lines of `unlabeled` may lack the label, and a label there serves the audit alone.
        root: folder that ids are relative to.
        prefix: folder under `root` that the paths in the file are relative to.
        findings: grows.
        class_names: an explicit class table; a label is a position in it. Else the label is the name.
        rewrite: beginning of a path to replace, and by what.

    Returns:
        The rows; None if there are none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not written in UTF-8"
        findings.append(fault("list", f"{path} cannot be read ({reason})", "check the file", path=path, split=split))
        return None
    words = [line.rsplit(None, 1) for line in lines]
    filled = [position for position, parts in enumerate(words) if parts]
    listing = Listing(path, "line", np.array(filled, dtype=np.int64) + 1, findings)
    words = [words[position] for position in filled]
    if split == "unlabeled":
        # a label may be there: a path ends in .jpg or the like, never in a blank and digits
        words = [
            parts if len(parts) == 2 and parts[1].isdecimal() else [lines[position].strip()]
            for position, parts in zip(filled, words, strict=True)
        ]
        bad: list[int] = []
    else:
        bad = [position for position, parts in enumerate(words) if len(parts) < 2 or not is_integer(parts[1])]
    listing.refuse(bad, "label", "no integer label from 0 after the path", "a line is: path label", split=split)
    chosen = np.delete(np.arange(len(words)), bad)
    paths = [words[position][0] for position in chosen]
    ids = image_ids(paths, prefix, rewrite)
    classes = audit = None
    if split == "unlabeled":
        audit = audited([words[position][1] if len(words[position]) > 1 else "" for position in chosen], class_names)
    else:
        classes = coded([words[position][1] for position in chosen])
        if split == "train":
            findings += _holes(classes, class_names, path)
        classes = in_class_table(classes, class_names)
    gone = refuse_files(
        listing, chosen, paths, ids, root=root, prefix=prefix, rewrite=rewrite, split=split, classes=classes
    )
    if len(gone) == len(ids):
        line = "a line is: path label" if split != "unlabeled" else "a line is a path"
        findings.append(fault("no rows", f"{path} has no usable line", line, path=path, split=split))
        return None
    place = f"{split} ({path})"
    rows = Rows(place, ids, FileImages(PathsUnder(root, ids)), classes, None, listing.numbers[chosen], "line", audit)
    return rows.without(gone)


def _holes(classes: Coded, class_names: list[str] | None, path: Path) -> list[Finding]:
    """Find labels of train below the largest that no line has."""
    if class_names is not None or not classes.names:
        return []
    largest = int(classes.names[-1])
    if largest + 1 == len(classes.names):
        return []
    # the first holes lie within one more than there are labels, however large the largest label is
    present = set(classes.names)
    absent = [str(label) for label in range(len(present) + 1) if str(label) not in present]
    hint = " (labels start at 0; are these one too high?)" if absent[0] == "0" else ""
    count = largest + 1 - len(present)
    message = f"{path} has labels up to {largest}, but {count} of them never{hint}: {listed(absent)}"
    return [fault("label hole", message, "number the classes from 0 without a gap", path=path, split="train")]
