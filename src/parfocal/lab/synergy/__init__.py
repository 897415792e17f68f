"""Can pairing magnifications help on a label at all? A test, its power, its directions and a page."""

from parfocal.lab.synergy.analysis import SynergySettings
from parfocal.lab.synergy.run import SynergyResult, measure_synergy

__all__ = [
    "SynergyResult",
    "SynergySettings",
    "measure_synergy",
]
