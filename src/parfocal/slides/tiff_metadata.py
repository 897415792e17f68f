"""What the tags of a TIFF page say in words and numbers, and how tifffile is kept quiet while they are read."""

import logging
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from parfocal.slides.calibration import MppClaim

__all__ = ["BROKEN_DATA", "aperio_claim", "leading_number", "quiet_log", "quiet_tifffile", "resolution_tag"]

# What tifffile, imagecodecs and the file itself raise on broken data.
BROKEN_DATA = (RuntimeError, ValueError, TypeError, IndexError, KeyError, OSError, struct.error, zlib.error)
_UM_PER_UNIT = {2: (25400.0, "inch"), 3: (10000.0, "cm")}


@contextmanager
def quiet_log(name: str) -> Iterator[None]:
    """Keep a library's log lines off the screen; what matters in them comes back as our one message."""
    logger = logging.getLogger(name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


quiet_tifffile = partial(quiet_log, "tifffile")


def aperio_claim(description: str) -> tuple[MppClaim | None, float | None]:
    """Resolution and objective of an SVS, whose resolution tag is never the scanner's."""
    parts = (part.partition("=") for part in description.split("|"))
    values = {key.strip(): value.strip() for key, _, value in parts}
    mpp, power = leading_number(values.get("MPP")), leading_number(values.get("AppMag"))
    return (MppClaim(mpp, mpp, "MPP of the Aperio description") if mpp is not None else None), power


def resolution_tag(page: Any) -> MppClaim | None:
    """The resolution tag of a TIFF page; None where it is absent, has no unit, or is the 1 x 1 that means "unknown"."""
    if 282 not in page.tags or 283 not in page.tags:
        return None
    unit = page.tags.get(296)
    per_unit, name = _UM_PER_UNIT.get(int(unit.value) if unit is not None else 2, (None, ""))
    x, y = (top / bottom if bottom else 0.0 for top, bottom in (page.tags[282].value, page.tags[283].value))
    if per_unit is None or (x, y) == (1.0, 1.0) or x <= 0 or y <= 0:
        return None
    said = f"{x:.8g} pixels per {name}" if x == y else f"{x:.8g} by {y:.8g} pixels per {name}"
    return MppClaim(per_unit / x, per_unit / y, "TIFF resolution tag", said)


def leading_number(text: str | None) -> float | None:
    """The number that a text begins with, with a point or a comma."""
    match = re.match(r"\s*[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?", text.replace(",", ".")) if text else None
    return float(match.group()) if match else None
