"""Settings of pseudo-labels in stage two."""

from dataclasses import dataclass
from typing import Literal

from selmix.errors import check_settings
from selmix.pseudo.selection import Selection

Source = Literal["auto", "head", "corrected", "neighbours", "propagation", "agreement"]
ASKS_NEIGHBOURS = ("neighbours", "propagation", "agreement")
Draws = Literal["partner", "both"]


@dataclass(frozen=True)
class PseudoSettings(Selection):
    """What stage two does with a pool of unlabeled samples; `Selection` has the rules that it selects them by.

    Attributes:
        threshold: least confidence; a half is more than all other classes together.
        source: of pseudo-labels: the head as it is; all others answer for the estimated class prior of the pool: the
            head; the vote of nearest labeled samples; label propagation on the graph of neighbours; or the head and
            propagation (the vote, where the pool is too large for a graph) together, which is what auto takes.
        draws: who is drawn from the pool: partners, as in the paper, or both samples of a pair.
        label_weight: a labeled sample is drawn as often as so many pseudo-labeled ones of its class, where both are.
        refresh: steps after which the tuned head labels the pool anew.
        bound: precision of the pseudo-labels of a class, estimated out of fold, under which they are not used.
    """

    threshold: float = 0.5
    source: Source = "auto"
    draws: Draws = "both"
    label_weight: int = 3
    refresh: int = 1000
    bound: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        super().__post_init__()
        check_settings(
            self,
            {
                "label_weight": (">= 1", self.label_weight >= 1),
                "refresh": (">= 1", self.refresh >= 1),
                "bound": ("in [0, 1]", 0 <= self.bound <= 1),
            },
        )
