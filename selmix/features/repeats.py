"""Rows of test that stand, bit for bit, in what is learnt from as well."""

import logging

import numpy as np

from selmix.data.arrays import array_blocks

logger = logging.getLogger("selmix")


def warn_of_leaks(features: dict[str, np.ndarray]) -> None:
    """Say how many rows [d] of test are, bit for bit, rows of another split or of the pool as well."""
    own = np.ascontiguousarray(features.get("test", np.empty((0, 1))))
    shared = np.zeros(len(own), dtype=bool)
    where = []
    for name in [name for name in ("train", "val", "unlabeled") if name in features and len(own)]:
        found = _found_in(own, features[name])
        shared |= found
        where += [name] if found.any() else []
    if where:
        logger.warning(
            "%d row(s) of test are in %s, too, bit for bit: test figures are too good if these are the same samples",
            shared.sum(),
            " and ".join(where),
        )


def _found_in(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which rows of one array [m, d] are rows of another [n, d], bool [m]."""
    found = np.zeros(len(own), dtype=bool)
    sums, content = own.sum(1, dtype=np.float64), _as_bytes(own)
    for block in array_blocks(other):
        block = np.ascontiguousarray(block, dtype=own.dtype)
        # few rows have the sum of another one, so that only these are compared
        others = block.sum(1, dtype=np.float64)
        rows = np.flatnonzero(np.isin(others, sums))
        if len(rows):
            near = np.flatnonzero(np.isin(sums, others[rows]))
            found[near] |= np.isin(content[near], _as_bytes(block[rows]))
    return found


def _as_bytes(rows: np.ndarray) -> np.ndarray:
    """Return each row as one value [n] that equals another if all their bits are equal."""
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
