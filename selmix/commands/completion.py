"""What a TAB completes, known without PyTorch: a shell does not wait seconds for a word."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from selmix.shipped import PREFIX, shipped_names, shipped_recipes

# kept equal to the tables in selmix.metrics and selmix.compare by tests/test_help.py
METRICS = (
    "accuracy", "mean_recall", "min_recall", "geometric_mean", "harmonic_mean", "q_mean", "macro_f1", "micro_f1", "mcc",
    "kappa", "min_head_tail_recall", "worst_group_recall", "balanced_accuracy", "recall_macro", "f1_macro", "f1_micro",
    "matthews_corrcoef", "cohen_kappa",
)  # fmt: skip
METHODS = (
    "given", "probe", "crt", "crt_val", "logistic", "logistic_val", "lws", "mislas", "ncm", "knn", "tau_norm",
    "logit_adjustment", "bias", "plug_in", "uniform_mixup", "resampling", "greedy", "selmix",
)  # fmt: skip


@contextmanager
def colons_joined() -> Iterator[None]:
    """Put together the words that bash has parted at colons, `shipped : fash`, when it asks for completion.

    What is offered then begins behind the last colon, where bash lets the word begin.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    if os.environ.get("_SELMIX_COMPLETE") != "complete_bash" or ":" not in words:
        yield
        return
    current, joined, place = int(os.environ["COMP_CWORD"]), [words[0]], 0
    for position, word in enumerate(words[1:], 1):
        if word == ":" or joined[-1].endswith(":"):
            joined[-1] += word
        else:
            joined.append(word)
        place = len(joined) - 1 if position == current else place
    os.environ |= {"COMP_WORDS": "\n".join(joined), "COMP_CWORD": str(place)}
    before, colon, _ = joined[place].rpartition(":")
    offered = io.StringIO()
    try:
        with redirect_stdout(offered):
            yield
    finally:
        for line in offered.getvalue().splitlines():
            print(line.removeprefix(before + colon))


def metric_names(incomplete: str) -> list[str]:
    """Return how a list of metrics may go on: `accuracy,min` with `accuracy,min_recall`."""
    return _listed(incomplete, METRICS)


def method_names(incomplete: str) -> list[str]:
    """Return how a list of methods may go on."""
    return _listed(incomplete, METHODS)


def backbone_names(incomplete: str) -> list[str]:
    """Return the backbones that ship."""
    return _beginning([f"{PREFIX}{name}" for name in shipped_names("model.safetensors")], incomplete)


def recipe_names(incomplete: str) -> list[str]:
    """Return the names of the recipes that ship."""
    return _beginning(list(shipped_recipes()), incomplete)


def recipe_sources(incomplete: str) -> list[str]:
    """Return the recipes that ship as a verb that runs them takes them; files are completed by the shell."""
    return _beginning([f"{PREFIX}{name}" for name in shipped_recipes()], incomplete)


def _listed(incomplete: str, names: tuple[str, ...]) -> list[str]:
    before, comma, _ = incomplete.rpartition(",")
    taken = before.split(",")
    return _beginning([f"{before}{comma}{name}" for name in names if name not in taken], incomplete)


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
