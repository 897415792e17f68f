"""How many micrometres a level-0 pixel has: from the metadata, from the caller, or refused in one line."""

import math
import warnings
from dataclasses import dataclass

from parfocal.errors import CalibrationError, ConfigError, ParfocalWarning

# A 100x oil objective comes to about 0.1 on the scanners that have one; finer is a fault of a unit or a power of ten.
FINEST_MPP = 0.08
COARSEST_MPP = 20.0
# How far two statements of one resolution may lie apart before one of them must be wrong.
_AGREEMENT = 0.05
# What desktop software writes when nobody measured anything.
_SCREEN_DPI = (72, 75, 96, 100, 120, 150, 200, 240, 300, 360, 400, 600, 720, 1200)
# Of printers, imagesetters and flatbed scanners: these lie among the values of slides.
# fmt: off
_PRINT_DPI = (
    1270, 1440, 1600, 1800, 2000, 2400, 2540, 2880, 3000, 3200, 3600, 4000, 4800, 5080, 6400, 7200, 8000, 9600,
)
# fmt: on
# Software copies such a value to the last digit, and a scanner meets it only by chance. Pictures round to a whole
# number of dots per centimetre.
_PRINT_AGREEMENT, _PICTURE_AGREEMENT = 1e-4, 5e-4
_REMEDY = "Pass --slide-mpp (slide_mpp=...) if you know it."


@dataclass(frozen=True)
class Calibration:
    """The resolution of level 0, in micrometres per pixel, and where it was found."""

    mpp: float
    source: str


@dataclass(frozen=True)
class MppClaim:
    """What a file says of itself, unchecked: micrometres per pixel along x and y.

    Attributes:
        x: micrometres per pixel along x.
        y: micrometres per pixel along y.
        source: where the file says it, as a noun: `TIFF resolution tag`.
        said: what stands there, in the file's own unit: `200000 pixels per cm`; empty where that is not known.
        of_picture: whether it is the resolution of a picture's print, which is a slide's only by chance.
    """

    x: float
    y: float
    source: str
    said: str = ""
    of_picture: bool = False

    @property
    def mean(self) -> float:
        """The mean of x and y."""
        return (self.x + self.y) / 2

    @property
    def where(self) -> str:
        """Where the claim stands and what it says there, as a clause."""
        return f"its {self.source} says {self.said}" if self.said else f"its {self.source}"

    def problem(self) -> str | None:
        """Why this claim cannot be believed, as the middle of a sentence; None where it can."""
        for value in (self.x, self.y):
            if not _is_plausible(value):
                return (
                    f"claims {value:.4g} microns per pixel ({self.where}{_screen_resolution(value)}); "
                    f"slides have {FINEST_MPP:g} to {COARSEST_MPP:g}"
                )
            dpi = _print_resolution(value, self.of_picture)
            if dpi is not None:
                return (
                    f"claims {value:.4g} microns per pixel ({self.where}), which is {dpi} dots per inch: the "
                    "resolution of a print or of a flatbed scanner, not of a slide scanner"
                )
        if abs(self.x - self.y) > _AGREEMENT * min(self.x, self.y):
            return (
                f"claims {self.x:.4g} microns per pixel along x and {self.y:.4g} along y ({self.where}); "
                f"they must agree within {_AGREEMENT:.0%}"
            )
        return None


def check_slide_mpp(slide_mpp: float | None, what: str = "--slide-mpp (slide_mpp=...)") -> None:
    """Refuse a resolution that no slide has, before any slide is opened; None stands for what the file says.

    Args:
        slide_mpp: what somebody says of slides, in micrometres per level-0 pixel.
        what: where it was said, as the beginning of the message.

    Raises:
        ConfigError: it is not finite, or outside 0.08 to 20.
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
    if mpp_from_objective and objective_power and _is_plausible(10.0 / objective_power):
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


def _print_resolution(mpp: float, of_picture: bool) -> int | None:
    """The dots per inch that a plausible value is, where a print or a flatbed scanner has them; else None.

    Twenty, ten and five micrometres are 1270, 2540 and 5080 dots per inch: only of a picture does that mean a print.
    """
    dpi = 25400.0 / mpp
    near = _PICTURE_AGREEMENT if of_picture else _PRINT_AGREEMENT
    return next(
        (known for known in _PRINT_DPI if abs(known - dpi) < near * known and (of_picture or known % 1270)), None
    )
