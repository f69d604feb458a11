"""What a TAB completes, known without PyTorch: a shell does not wait seconds for a word."""

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
