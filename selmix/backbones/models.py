"""Architectures by name: those of timm and our own, which timm builds as well."""

from typing import Any

import timm

import selmix.cifar_resnet
import selmix.wide_resnet  # noqa: F401  both register their networks with timm
from selmix.errors import UsageError, suggestion

OWN = ("cifar_resnet20", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56", "wrn_28_2")


def build_model(arch: str, **options: Any) -> Any:
    """Build a timm model by name.

    Raises:
        UsageError: if timm knows no such name; the message lists near ones.
    """
    check_arch(arch)
    return timm.create_model(arch, **options)


def check_arch(arch: str) -> None:
    """Refuse a name, or the tag behind its dot, that timm does not know, with the nearest one that it knows."""
    if not timm.is_model(arch):
        raise UsageError(f"timm has no model {arch!r}: {suggestion(arch, timm.list_models(), listed=False)}")
    base, dot, _ = arch.partition(".")
    tagged = timm.list_models(base, pretrained=True)
    if dot and arch not in tagged:
        raise UsageError(f"timm has no weights {arch!r}: {suggestion(arch, tagged)}")


def classifiers_of(model: Any) -> list[str]:
    """Return the names of a timm model's classifiers: one, or two where it was distilled."""
    names = model.pretrained_cfg.get("classifier") or ()
    return [names] if isinstance(names, str) else list(names)
