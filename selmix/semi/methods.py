"""The methods, by name."""

from selmix.semi.abc import AbcSettings
from selmix.semi.crest import CrestSettings
from selmix.semi.csst import CsstSettings
from selmix.semi.daso import DasoSettings
from selmix.semi.fixmatch import FixMatchSettings
from selmix.semi.settings import SemiSettings

METHODS: dict[str, type[SemiSettings]] = {
    "fixmatch": FixMatchSettings,
    "abc": AbcSettings,
    "daso": DasoSettings,
    "crest_plus": CrestSettings,
    "csst": CsstSettings,
}
