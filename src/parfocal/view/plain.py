"""Numbers as a page takes them: JSON has no NaN, and a page needs few digits and names."""

import json
import math
from typing import Any

import numpy as np


def plain_list(values: np.ndarray, digits: int) -> list[float | None]:
    """Rounded numbers, None for what is not finite."""
    rounded = np.round(np.asarray(values, np.float64), digits) + 0.0
    listed: list[float | None] = rounded.tolist()
    if not np.isfinite(rounded).all():
        listed = [value if value is not None and math.isfinite(value) else None for value in listed]
    return listed


def plain_number(value: float, digits: int = 6) -> float | None:
    """A number in so many significant digits; None where it is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def as_json(content: Any) -> bytes:
    """Content as JSON, without a blank."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def magnification_label(mpp: float) -> str:
    """What people call a magnification: `5x` for 2 mpp."""
    return f"{10 / mpp:.3g}x"
