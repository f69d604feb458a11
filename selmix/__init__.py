"""selmix: a better linear head for the metric that matters when classes are imbalanced."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selmix.estimator import SelMixClassifier

__all__ = ["SelMixClassifier"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch is imported when it is needed: `selmix --help` and the like are not kept waiting
    if name == "SelMixClassifier":
        from selmix.estimator import SelMixClassifier

        return SelMixClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
