"""How many micrometres a level-0 pixel has: from the metadata, from the caller, or refused in one line."""

import math
import warnings
from dataclasses import dataclass

from parfocal.errors import CalibrationError, ConfigError, ParfocalWarning

__all__ = ["COARSEST_MPP", "FINEST_MPP", "Calibration", "MppClaim", "calibrate", "check_slide_mpp"]

FINEST_MPP = 0.05
COARSEST_MPP = 20.0
# How far two statements of one resolution may lie apart before one of them must be wrong.
_AGREEMENT = 0.05
# What desktop software writes when nobody measured anything.
_SCREEN_DPI = (72, 75, 96, 100, 120, 150, 200, 240, 300, 600, 1200)
_REMEDY = "Pass --slide-mpp (slide_mpp=...) if you know it."


@dataclass(frozen=True)
class Calibration:
    """The resolution of level 0, in micrometres per pixel, and where it was found."""

    mpp: float
    source: str


@dataclass(frozen=True)
class MppClaim:
    """What a file says of itself, unchecked: micrometres per pixel along x and y."""

    x: float
    y: float
    source: str

    @property
    def mean(self) -> float:
        """The mean of x and y."""
        return (self.x + self.y) / 2

    def problem(self) -> str | None:
        """Why this claim cannot be believed, as the middle of a sentence; None where it can."""
        for value in (self.x, self.y):
            if not _is_plausible(value):
                why = f"its {self.source}{_screen_resolution(value)}"
                return f"claims {value:.4g} microns per pixel ({why}); slides have {FINEST_MPP:g} to {COARSEST_MPP:g}"
        if abs(self.x - self.y) > _AGREEMENT * min(self.x, self.y):
            return (
                f"claims {self.x:.4g} microns per pixel along x and {self.y:.4g} along y (its {self.source}); "
                f"they must agree within {_AGREEMENT:.0%}"
            )
        return None


def check_slide_mpp(slide_mpp: float | None, what: str = "--slide-mpp (slide_mpp=...)") -> None:
    """Refuse a resolution that no slide has, before any slide is opened; None stands for what the file says.

    Args:
        slide_mpp: what somebody says of slides, in micrometres per level-0 pixel.
        what: where it was said, as the beginning of the message.

    Raises:
        ConfigError: it is not finite, or outside 0.05 to 20.
    """
    if slide_mpp is not None and not _is_plausible(slide_mpp):
        raise ConfigError(
            f"{what} cannot be {slide_mpp:g}: slides have {FINEST_MPP:g} to {COARSEST_MPP:g} microns per pixel "
            "(20x is about 0.5, 40x about 0.25). Correct it, or leave it out to use what the file says."
        )


def calibrate(
    name: str,
    claim: MppClaim | None,
    objective_power: float | None,
    *,
    slide_mpp: float | None,
    mpp_from_objective: bool,
) -> Calibration:
    """Decide what the resolution of a slide is.

    The caller's value wins over the file's; a nominal objective power is used only when that was asked for, because
    scanners of one nominal power differ by a fifth.

    Raises:
        CalibrationError: nothing plausible is known.
    """
    problem = claim.problem() if claim else None
    if slide_mpp is not None:
        if not _is_plausible(slide_mpp):
            raise CalibrationError(
                f"{name} cannot have {slide_mpp:g} microns per pixel (--slide-mpp, slide_mpp=...): "
                f"slides have {FINEST_MPP:g} to {COARSEST_MPP:g}. 20x is about 0.5, 40x about 0.25."
            )
        if claim and not problem and abs(slide_mpp - claim.mean) > _AGREEMENT * claim.mean:
            warnings.warn(
                f"{name}: using the given {slide_mpp:g} microns per pixel, although its {claim.source} says "
                f"{claim.mean:.4g}.",
                ParfocalWarning,
                stacklevel=3,
            )
        return Calibration(slide_mpp, "--slide-mpp")
    if claim and not problem:
        return Calibration(claim.mean, claim.source)
    if mpp_from_objective and objective_power:
        return Calibration(10.0 / objective_power, f"objective power {objective_power:g}x (asked for)")
    if problem:
        raise CalibrationError(f"{name} {problem}. {_REMEDY}")
    hint = f" Its objective power is {objective_power:g}x, which is only a nominal value." if objective_power else ""
    raise CalibrationError(f"{name} does not say how many microns a pixel has.{hint} {_REMEDY}")


def _is_plausible(mpp: float) -> bool:
    return math.isfinite(mpp) and FINEST_MPP <= mpp <= COARSEST_MPP


def _screen_resolution(mpp: float) -> str:
    """A remark for values that are a screen's or a printer's resolution."""
    if not mpp > 0:
        return ""
    dpi = 25400.0 / mpp
    nearest = min(_SCREEN_DPI, key=lambda known: abs(known - dpi))
    return f": a {nearest}-dpi tag, not a scanner's value" if abs(nearest - dpi) < 0.01 * nearest else ""
