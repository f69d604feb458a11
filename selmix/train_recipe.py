"""The recipe of stage one, and the settings in its tables."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from selmix.errors import UsageError, suggestion
from selmix.faults import STRICT
from selmix.recipe import build_settings
from selmix.semi.methods import METHODS
from selmix.semi.settings import SemiSettings
from selmix.stage1.autobalance_settings import AutoBalanceSettings
from selmix.stage1.loss_settings import LOSSES, LdamSettings, SigmoidFocalSettings, SigmoidSettings
from selmix.stage1.loss_weights import LossSettings
from selmix.stage1.retraining import RetrainSettings
from selmix.stage1.settings import SupervisedSettings

_Built = TypeVar("_Built")


class TrainRecipe(BaseModel):
    """A stage-one run: which architecture, which data, which loss; what is None is measured or left as it is.

    Attributes:
        start: a backbone whose weights are the first ones, as `--backbone` names it; none: random weights.
        trains: beginnings of the names of the modules that learn, such as `layer4` or `fc`; empty: all.
            With `classifier` they say whose batch norms may shift.
        val_fraction: of train that is set aside, class by class, as val, if the data have none.
        stage1: of the loop.
        loss: its `name` and settings.
        classifier: of the retraining of the classifier alone; without it the network is trained.
        search: of the loop that searches a loss; its keys replace those of `stage1`.
        autobalance: of the search of a loss (AutoBalance); without it there is none.
        semi: of learning from unlabeled images as well; without it there is none.
    """

    model_config = STRICT

    name: str
    architecture: str
    data: str
    input_size: tuple[int, int] = (32, 32)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    licence: str = ""
    seed: int = 0
    start: str | None = None
    trains: list[str] = []
    val_fraction: float | None = Field(default=None, gt=0, lt=1)
    stage1: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    classifier: dict[str, Any] | None = None
    search: dict[str, Any] | None = None
    autobalance: dict[str, Any] | None = None
    semi: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The settings of a stage-one run, checked.

    Attributes:
        stage1: of the loop.
        loss: of the loss.
        classifier: of the retraining of the classifier; None where the network is trained.
        search: of the loop that searches a loss; None where there is none.
        autobalance: of the search; None where there is none.
        semi: of learning from unlabeled images; None where there is none.
    """

    stage1: SupervisedSettings
    loss: LossSettings
    classifier: RetrainSettings | None
    search: SupervisedSettings | None
    autobalance: AutoBalanceSettings | None
    semi: SemiSettings | None

    def resolved(self) -> dict[str, Any]:
        """Return the tables of the recipe with every default filled in; None for those that are absent."""
        tables = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: None if table is None else dataclasses.asdict(table) for name, table in tables.items()}


def train_settings(recipe: TrainRecipe) -> TrainSettings:
    """Check and build all settings of a stage-one run.

    Raises:
        UsageError: with the faults of all tables.
    """
    faults: list[str] = []

    def table(name: str, build: Callable[[dict[str, Any]], _Built], values: dict[str, Any]) -> _Built | None:
        try:
            return build(values)
        except UsageError as error:
            faults.append(f"[{name}] {error}")
            return None

    stage1 = table("stage1", supervised_settings, recipe.stage1)
    loss = table("loss", loss_settings, recipe.loss)
    retrain = partial(build_settings, RetrainSettings)
    classifier = None if recipe.classifier is None else table("classifier", retrain, recipe.classifier)
    find = partial(build_settings, AutoBalanceSettings)
    autobalance = None if recipe.autobalance is None else table("autobalance", find, recipe.autobalance)
    semi = None if recipe.semi is None else table("semi", semi_settings, recipe.semi)
    searched = (recipe.stage1 if stage1 else {}) | (recipe.search or {})
    search = None if recipe.autobalance is None else table("search", supervised_settings, searched)
    for name, other in (("loss", recipe.loss), ("classifier", recipe.classifier)):
        if recipe.autobalance is not None and other:
            faults.append(f"[{name}] does not go with [autobalance], which finds the loss of the whole network")
    if recipe.classifier is not None and isinstance(loss, LdamSettings | SigmoidSettings | SigmoidFocalSettings):
        faults.append(
            f"[loss] {loss.name} changes the last layer, and [classifier] learns that of start again; drop one"
        )
    if recipe.semi is not None:
        faults += _beside_semi(recipe, stage1, loss, semi)
    if recipe.search is not None and recipe.autobalance is None:
        faults.append("[search] goes with [autobalance]")
    if stage1 and loss and loss.weights_from >= stage1.epochs:
        faults.append(f"[loss] weights_from must be below epochs, got {loss.weights_from} and {stage1.epochs}")
    if autobalance and search:
        try:
            autobalance.check_beside(search)
        except UsageError as error:
            faults.append(f"[autobalance] {error}")
    if faults or stage1 is None or loss is None:
        raise UsageError("; ".join(faults))
    return TrainSettings(stage1, loss, classifier, search, autobalance, semi)


def _beside_semi(
    recipe: TrainRecipe, stage1: SupervisedSettings | None, loss: LossSettings | None, semi: SemiSettings | None
) -> list[str]:
    """Return what does not go with [semi]."""
    faults = [
        f"[semi] does not go with [{name}]; drop one"
        for name, other in (("classifier", recipe.classifier), ("autobalance", recipe.autobalance))
        if other is not None
    ]
    if isinstance(loss, LdamSettings | SigmoidSettings | SigmoidFocalSettings):
        faults.append(f"[semi] takes pseudo-labels from a softmax, and the loss {loss.name} has none; name another")
    if stage1 and stage1.mixup_alpha > 0:
        faults.append(f"[semi] mixes no images, so mixup_alpha must be 0, got {stage1.mixup_alpha:g}")
    if stage1 and stage1.accumulation > 1:
        faults.append(f"[semi] cuts no batch into parts, so accumulation must be 1, got {stage1.accumulation}")
    if semi and semi.own_loss and recipe.loss:
        faults.append(f"[loss] does not go with the method {semi.method}, which has a loss of its own; drop one")
    return faults


def supervised_settings(values: dict[str, Any]) -> SupervisedSettings:
    """Check and build the settings of the supervised loop; faults are raised as UsageError."""
    return build_settings(SupervisedSettings, values)


def semi_settings(values: dict[str, Any]) -> SemiSettings:
    """Check and build the settings of the method that `method` says; faults are raised as UsageError."""
    method = values.get("method", "fixmatch")
    if method not in METHODS:
        raise UsageError(f"method: there is no method {method!r}: {suggestion(str(method), METHODS)}")
    return build_settings(METHODS[method], values)


def loss_settings(values: dict[str, Any]) -> LossSettings:
    """Check and build the settings of the loss that `name` says; faults are raised as UsageError."""
    name = values.get("name", "cross_entropy")
    if name not in LOSSES:
        raise UsageError(f"name: there is no loss {name!r}: {suggestion(str(name), LOSSES)}")
    return build_settings(LOSSES[name], values)
