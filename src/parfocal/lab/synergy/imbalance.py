"""What a permutation test takes for granted and a cohort may not give: classes that are alike but for their label.

Where the slides of a class are smaller, fewer, noisier or less complete, its within-region moments have another noise,
and leading directions fit it. Each such difference is looked for and named beside the p-values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from parfocal.geometry import format_mpp
from parfocal.lab.synergy.moments import CohortRows, PairMoments, Units, units_of

__all__ = ["Nuisance", "differences", "nuisances"]

_LEVEL = 0.002  # of one comparison; a cohort has about eight


@dataclass(frozen=True, eq=False)
class Nuisance:
    """A number of every unit that should have nothing to do with the label.

    Attributes:
        name: with its unit.
        values: of the units; NaN where there is none.
    """

    name: str
    values: Float64[np.ndarray, " unit"]


def nuisances(rows: CohortRows, units: Units, pairs: Sequence[PairMoments]) -> list[Nuisance]:
    """Regions per slide, slides per patient and, at each magnification, tiles per region, absence, variance."""
    n_regions = np.diff(rows.start).astype(np.float64)
    found = [
        Nuisance("regions per slide", units_of(n_regions, units.of_slide)),
        Nuisance(f"slides per {units.called}", np.bincount(units.of_slide).astype(np.float64)),
    ]
    variance = {pair.mpps[0]: pair.first for pair in reversed(pairs)} | {pair.mpps[1]: pair.second for pair in pairs}
    for mpp in rows.mpps:
        at = f"at {format_mpp(mpp)} um per pixel"
        there = np.bincount(rows.of_region, rows.present(mpp), minlength=len(n_regions))
        spread = np.trace(variance[mpp], axis1=1, axis2=2)
        found += [
            Nuisance(f"tiles per region {at}", units_of(rows.tiles[mpp] / np.maximum(there, 1), units.of_slide)),
            Nuisance(f"share of regions without a tile {at}", units_of(1 - there / n_regions, units.of_slide)),
            Nuisance(f"variance within slides {at}", spread / max(float(spread.mean()), 1e-300)),
        ]
    return found


def differences(found: Sequence[Nuisance], label: Float64[np.ndarray, " unit"], *, is_class: bool) -> tuple[str, ...]:
    """A phrase for each nuisance that goes with the label beyond chance."""
    said = []
    for one in found:
        if np.ptp(one.values) <= 1e-9 * max(float(np.abs(one.values).max()), 1e-300):
            continue
        if is_class:
            inside, outside = one.values[label > 0.5], one.values[label <= 0.5]
            if _differ(inside, outside) <= _LEVEL:
                said.append(f"{one.name} ({inside.mean():.3g} in this class, {outside.mean():.3g} in the rest)")
        else:
            rank = stats.spearmanr(one.values, label)
            if rank.pvalue <= _LEVEL:
                said.append(f"{one.name} (rank correlation {rank.statistic:.2f})")
    return tuple(said)


def _differ(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p-value of a difference in means, each side with its own variance (Welch), which may be nothing."""
    error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    difference = abs(float(a.mean() - b.mean()))
    return 2 * float(stats.t.sf(difference / max(error, 1e-12 * difference, 1e-300), min(len(a), len(b)) - 1))
