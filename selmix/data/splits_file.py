"""Splits stored as ids: what was drawn can be had again on another machine, whatever the random generator."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from selmix.data.assembly import digest_of_images
from selmix.data.findings import Finding, Survey, fault, listed
from selmix.data.images import ImageData, ImageSplit
from selmix.data.rows import SPLITS
from selmix.errors import suggestion
from selmix.writing import write_atomically

_REMEDY = "mend the file, or write it anew with write_splits"


def write_splits(data: ImageData, path: Path) -> None:
    """Store the ids of every split, and the digest of the data, as JSON."""
    content = {"digest": data.digest, "splits": {split: part.ids for split, part in data.splits.items()}}
    write_atomically(path, json.dumps(content, indent=0, ensure_ascii=True) + "\n")


def select_splits(source: ImageData, path: Path) -> Survey:
    """Take the splits of a file from a data set, by id.

    The ids of a split are looked for in the source's split of the same name, then in its train, then in the others. The
    file is `{"splits": {"train": [ids], ...}}`; where it has a `digest`, the result must have the same.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        wanted = content["splits"]
        if not isinstance(wanted, dict) or not all(_is_ids(ids) for ids in wanted.values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON where every split is a list of ids"
        remedy = 'it looks like {"splits": {"train": ["an id", ...], ...}}'
        return None, [fault("splits", f"{path} is no file of splits ({reason})", remedy, path=path)]
    findings = [
        fault("split name", f"{path}: unknown split {name!r}", suggestion(name, SPLITS), path=path)
        for name in wanted
        if name not in SPLITS
    ]
    splits: dict[str, ImageSplit] = {}
    origin: dict[tuple[str, str], str] = {}
    for split in [split for split in SPLITS if wanted.get(split)]:
        splits[split], own = _selected(source, split, wanted[split], path, origin)
        findings += own
    if "train" not in splits:
        findings.append(fault("no train", f"{path} has no ids of train", _REMEDY, path=path, split="train"))
        return None, findings
    data = replace(source, splits=splits, digest=digest_of_images(source.class_names, splits, source.group_names))
    if not findings and content.get("digest", data.digest) != data.digest:
        message = f"the data that {path} was made from are not these: their digest differs"
        findings.append(fault("digest", message, "bring those data, or remove the digest from the file", path=path))
    return data, findings


def _selected(
    source: ImageData, split: str, ids: list[str], path: Path, origin: dict[tuple[str, str], str]
) -> tuple[ImageSplit, list[Finding]]:
    """Return the known ids of one split; `origin`, which new split has an image of the source, grows."""
    candidates = [name for name, part in source.splits.items() if split == "unlabeled" or part.labels is not None]
    candidates.sort(key=lambda name: (name != split, name != "train"))
    rows_of = {name: {word: row for row, word in enumerate(source.splits[name].ids)} for name in candidates}
    known_count = {name: sum(word in rows for word in ids) for name, rows in rows_of.items()}
    chosen = max(candidates, key=lambda name: known_count[name])  # the first of equals
    rows = rows_of[chosen]
    unknown = [word for word in ids if word not in rows]
    twice = [word for word in ids if word in rows and origin.setdefault((chosen, word), split) != split]
    twice += [word for word, count in Counter(ids).items() if count > 1]
    findings = []
    if unknown:
        message = f"{path}: {len(unknown)} id(s) of {split} are not in {chosen} of the data: {listed(unknown)}"
        findings.append(fault("unknown id", message, _REMEDY, path=path, split=split))
    if twice:
        message = f"{path}: {len(twice)} id(s) of {split} stand twice or in another split, too: {listed(twice)}"
        findings.append(fault("repeated image", message, "keep each id once", path=path, split=split))
    part = source.splits[chosen].subset(np.array([rows[word] for word in ids if word in rows], dtype=np.int64))
    return (part.as_pool() if split == "unlabeled" else part), findings


def _is_ids(ids: object) -> bool:
    return isinstance(ids, list) and all(isinstance(word, str) for word in ids)
