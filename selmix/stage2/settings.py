"""Settings of the SelMix loop."""

from dataclasses import dataclass
from functools import partial

from selmix.baselines.retrain import batch_size_for
from selmix.errors import check_settings
from selmix.metrics import SoftMinimum, soft_minimum

STARTS = ("best", "given", "logit_adjusted", "balanced")


@dataclass(frozen=True)
class RefineSettings:
    """Settings of the SelMix loop; rates and decay are those of centred features of unit mean square.

    Attributes:
        folds: parts into which all labels are dealt, so that every sample is judged by a head that has not learnt it.
        start: head to begin with: balanced, given, logit_adjusted, or best: balanced, unless another is better on
            validation by two standard errors.
        start_steps: SGD steps of each head that is retrained to start from.
        steps: SGD steps of the loop.
        refresh: steps between two updates of confusion matrix, gains and pair law.
        batch_size: mixups a step; None for two a class, at least 64 and at most 1024.
        learning_rate: at the start of the cosine to 0.
        weight_decay: L2 coefficient.
        inverse_temperature: s of the pair law, on gains divided by the largest.
        exploration: share of the pair law that is spread evenly over all pairs.
        mix_low: the kept sample's coefficient is uniform on [mix_low, 1].
        smoothing: label-aware smoothing of the largest class; the smallest has none.
        sharpness: of the soft minimum in metrics that have a minimum, per standard error of what it compares.
        pseudo_count: samples per class (and group) that smooth the confusion matrix of the gains.
        averaging: decay per step of the exponential average of the iterates; 0 keeps the last iterate.
        multiplier_rate: step of dual ascent at the start, per unit of violation; it falls with the learning rate.
    """

    folds: int = 5
    start: str = "best"
    start_steps: int = 5000
    steps: int = 5000
    refresh: int = 50
    batch_size: int | None = None
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    inverse_temperature: float = 10.0
    exploration: float = 0.0
    mix_low: float = 0.6
    smoothing: float = 0.3
    sharpness: float = 2.0
    pseudo_count: float = 1.0
    averaging: float = 0.99
    multiplier_rate: float = 10.0

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_settings(
            self,
            {
                "folds": (">= 2", self.folds >= 2),
                "start": (f"one of {', '.join(STARTS)}", self.start in STARTS),
                "start_steps": (">= 1", self.start_steps >= 1),
                "steps": (">= 1", self.steps >= 1),
                "refresh": (">= 1", self.refresh >= 1),
                "batch_size": (">= 1", self.batch_size is None or self.batch_size >= 1),
                "learning_rate": ("> 0 and <= 1e6", 0 < self.learning_rate <= 1e6),
                "weight_decay": (">= 0 and <= 1e6", 0 <= self.weight_decay <= 1e6),
                "inverse_temperature": (">= 0", self.inverse_temperature >= 0),
                "exploration": ("in [0, 1)", 0 <= self.exploration < 1),
                "mix_low": ("in [0, 1]", 0 <= self.mix_low <= 1),
                "smoothing": ("in [0, 1)", 0 <= self.smoothing < 1),
                "sharpness": ("> 0", self.sharpness > 0),
                "pseudo_count": ("> 0", self.pseudo_count > 0),
                "averaging": ("in [0, 1)", 0 <= self.averaging < 1),
                "multiplier_rate": ("> 0", self.multiplier_rate > 0),
            },
        )

    @property
    def rounding(self) -> SoftMinimum:
        """Return how minima in metrics and constraints are rounded."""
        return partial(soft_minimum, sharpness=self.sharpness)

    def batch_size_for(self, num_classes: int) -> int:
        """Return the batch size, chosen by the number of classes where it is None."""
        return self.batch_size or batch_size_for(num_classes)
