"""What the file of a tuned head says of itself: names, preprocessing and scores, and nobody's paths."""

import os
from typing import Any

from selmix.shipped import PREFIX

_PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def head_metadata(document: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of the head that a `result.json` tells of.

    `architecture`, `input_size`, `mean`, `std` and what else happens to an image are missing where the head was tuned
    on features of unknown origin. `scores` are those of the tuned head; `val` is out of fold.
    """
    origin = document["origin"] or {}
    return {
        "class_names": document["class_names"],
        "metric": public_metric(document["metric"]),
        "subject_to": document["subject_to"],
        "scores": {
            split: {public_metric(name): value for name, value in own.items()}
            for split, own in document["after"].items()
        },
        "temperature": document["calibration"]["temperature"],
        **({"backbone": public_name(origin)} if origin else {}),
        **(backbone_metadata(origin["architecture"], origin["preprocessing"]) if origin else {}),
        "support": document["support"],
        "digests": document["digests"],
        "version": document["versions"]["selmix"],
    }


def backbone_metadata(architecture: str, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of the network, and of what happens to an image before it, in timm's words."""
    known = {name: preprocessing[name] for name in _PREPROCESSING if name in preprocessing}
    return {"architecture": architecture} | known


def public_name(origin: dict[str, Any]) -> str:
    """Return how to call a backbone before people who do not have its file."""
    spec = str(origin["backbone"])
    named = spec.startswith((PREFIX, "timm:"))
    return spec.partition("@")[0] if named else str(origin["architecture"])


def public_metric(name: str) -> str:
    """Return the name of a metric; of a function in a file without the folders.

    >>> public_metric("/home/me/gain.py:profit"), public_metric("0.5*recall[a/b] + 0.5*min_recall")
    ('gain.py:profit', '0.5*recall[a/b] + 0.5*min_recall')
    """
    path, colon, function = name.rpartition(":")
    return f"{os.path.basename(path)}:{function}" if colon and path.endswith(".py") else name
