"""What of a feature cache is there and sound: blocks against their checksums, images against what was read."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from selmix.data.images import ImageData, ImageSource, ImageSplit, Stamp
from selmix.errors import DataError
from selmix.features.blocks import Absent, Images, Torn, read_record, verify_block, write_record
from selmix.features.cache import Part, Sidecar, read_fact
from selmix.ranks import Ranks


@dataclass(frozen=True)
class Fault:
    """A block that must be extracted.

    Attributes:
        part: what it belongs to.
        number: of the block.
        reason: what is wrong with it; empty if it was never there.
    """

    part: Part
    number: int
    reason: str


def survey(folder: Path, sidecar: Sidecar, images: ImageData, *, refuse_bad: bool, ranks: Ranks) -> list[Fault]:
    """Return the blocks of this rank that are not there, damaged, or made from other images; each is read once.

    A file whose size or times changed is read again; if its content is what it was, its stamp is renewed.

    Raises:
        DataError: for an image that could not be read and has not changed since, if `refuse_bad`.
    """
    faults = []
    for part in sidecar.parts:
        for number in range(ranks.rank, part.blocks, ranks.count):
            rows = part.rows_of(number)
            try:
                record, read = read_record(
                    folder / part.name, number, key=sidecar.identity.key, rows=len(rows), width=sidecar.width
                )
                verify_block(folder / part.name, number, record)
                stamps = renewed_stamps(images.splits[part.split], rows, read)
                for position, reason in read.bad.items():
                    if refuse_bad:
                        raise bad_image(reason, images, part.split, rows[position])
            except Torn as error:
                faults.append(Fault(part, number, "" if isinstance(error, Absent) else str(error)))
                continue
            if stamps != read.stamps:
                with suppress(OSError):  # a cache that cannot be written is still good to read
                    write_record(folder / part.name, number, record, replace(read, stamps=stamps))
    return faults


def bad_images(folder: Path, sidecar: Sidecar) -> dict[str, list[str]]:
    """Return the ids of the images that could not be read, for each split or view that has some.

    Raises:
        Torn: if a record or the ids are damaged.
    """
    found: dict[str, list[str]] = {}
    for part in sidecar.parts:
        rows = []
        for number in range(part.blocks):
            own = part.rows_of(number)
            _, read = read_record(
                folder / part.name, number, key=sidecar.identity.key, rows=len(own), width=sidecar.width
            )
            rows += [own[position] for position in sorted(read.bad)]
        if rows:
            ids = read_fact(folder, f"{part.split}.ids.json", sidecar)
            found[part.name] = [ids[row] for row in rows]
    return found


def bad_image(reason: str, images: ImageData, split: str, row: int) -> DataError:
    """Return the error that names an image that cannot be read, with its row and class."""
    labels = images.splits[split].labels
    whose = "" if labels is None else f", class {images.class_names[labels[row]]}"
    return DataError(f"{reason} (row {row} of {split}{whose}), or leave such images out with --on-bad-image skip")


def renewed_stamps(split: ImageSplit, rows: range, read: Images) -> list[Stamp | None]:
    """Return the stamps that the files of some rows have now.

    Raises:
        Torn: if the content of some changed.
    """
    source, stamps, changed = split.images, [], []
    for position, row in enumerate(rows):
        stamp = _stamp(source, row)
        if stamp != read.stamps[position] and _digest(source, row) != read.digests[position]:
            changed.append(split.ids[row])
        stamps.append(stamp)
    if changed:
        raise Torn(f"{len(changed)} of its images changed, the first is {changed[0]}")
    return stamps


def _stamp(source: ImageSource, row: int) -> Stamp | None:
    try:
        return source.stamp(row)
    except DataError:
        return None  # it is gone


def _digest(source: ImageSource, row: int) -> str | None:
    try:
        return source.digest(row)
    except DataError:
        return None
