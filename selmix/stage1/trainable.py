"""Training a part of a network."""

from collections.abc import Iterable

from timm.utils import freeze
from torch import nn

from selmix.errors import UsageError, suggestion


def train_only(model: nn.Module, prefixes: Iterable[str]) -> None:
    """Freeze all but some modules, in place: parameters, and the statistics of 2-d batch norms.

    Call it after the weights are loaded: a frozen batch norm has no counter of batches.

    Args:
        model: the network.
        prefixes: names of the modules that go on learning, e.g. `layer4.2`, with all that they contain.

    Raises:
        UsageError: for a name that no module has.
    """
    prefixes = tuple(prefixes)
    modules = dict(model.named_modules())
    for prefix in prefixes:
        if not prefix or prefix not in modules:
            top = ", ".join(name for name, _ in model.named_children())
            near = suggestion(prefix, [*modules][1:], listed=False)
            raise UsageError(f"trains: no part of the network is called {prefix!r}: {near}; at the top there are {top}")

    def learns(name: str) -> bool:
        return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)

    freeze(model, [name for name, module in modules.items() if not learns(name) and not [*module.children()]])
    for name, parameter in model.named_parameters():  # also those that a module with children has of its own
        parameter.requires_grad_(learns(name))
