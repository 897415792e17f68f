"""Intervals from drawing patients again: BCa, paired over arms, with a patient's slides kept together.

`patient_bootstrap` takes any statistic of drawn cases. `patient_draws` draws once and answers many statistics of
weighted cases, which is quicker where many arms are compared, and gives all of them the same draws.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, Shaped
from scipy import special

from parfocal.stats.interval import Interval

_BLOCK = 256  # draws at a time


def patient_bootstrap(
    statistic: Callable[[Int64[np.ndarray, "draw"]], float],
    patients: Shaped[np.ndarray, "case"],
    *,
    rng: np.random.Generator,
    strata: Shaped[np.ndarray, "case"] | None = None,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The bias-corrected, accelerated bootstrap interval (Efron 1987), with whole patients drawn.

    Args:
        statistic: gets the numbers of the drawn cases (with repetition) and gives a number, such as an AUC or the
            difference of two arms on those cases, which makes the comparison paired.
        patients: whose case it is.
        rng: the source of the draws.
        strata: a class for each case; patients are drawn within their class (that of their first case), so that no
            draw lacks a class. The number of patients of each class is then taken as given.
        draws: number of bootstrap draws.
        level: the share of such intervals that hold the true value.

    Raises:
        ValueError: fewer than two patients, or fewer than 100 draws.
    """
    of_case, pools, spared = _pools(patients, strata, draws)
    order = np.argsort(of_case, kind="stable")
    cases = np.split(order, np.cumsum(np.bincount(of_case))[:-1])

    estimate = float(statistic(np.arange(len(of_case))))
    drawn = np.empty(draws)
    for draw in range(draws):
        chosen = np.concatenate([rng.choice(pool, len(pool)) for pool in pools])
        drawn[draw] = statistic(np.concatenate([cases[patient] for patient in chosen]))
    left_out = np.array([statistic(np.flatnonzero(of_case != patient)) for patient in spared])
    return _bca(estimate, drawn, left_out, level)


@dataclass(frozen=True, eq=False)
class PatientDraws:
    """Draws of whole patients as weights: how often each case is there.

    Attributes:
        weight: of every case in every draw.
        of_case: the number of each case's patient.
        spared: the patients that the jackknife leaves out in turn.
    """

    weight: Float32[np.ndarray, "draw case"]
    of_case: Int64[np.ndarray, " case"]
    spared: Int64[np.ndarray, " patient"]

    def interval(
        self,
        statistic: Callable[[Float32[np.ndarray, "draw case"]], Shaped[np.ndarray, " draw"]],
        level: float = 0.95,
    ) -> Interval:
        """The bias-corrected, accelerated interval of a statistic.

        Args:
            statistic: takes weights, one row for each draw, and gives a number for each row.
            level: the share of such intervals that hold the true value.
        """
        estimate = float(statistic(np.ones((1, self.weight.shape[1]), dtype=np.float32))[0])
        # In blocks, because a matrix of all patients by all cases would not fit for a large cohort.
        drawn = [statistic(self.weight[start : start + _BLOCK]) for start in range(0, len(self.weight), _BLOCK)]
        left_out = [
            statistic((self.of_case != self.spared[start : start + _BLOCK, None]).astype(np.float32))
            for start in range(0, len(self.spared), _BLOCK)
        ]
        return _bca(estimate, np.concatenate(drawn), np.concatenate([*left_out, np.zeros(0)]), level)


def patient_draws(
    patients: Shaped[np.ndarray, "case"],
    *,
    rng: np.random.Generator,
    strata: Shaped[np.ndarray, "case"] | None = None,
    draws: int = 2000,
) -> PatientDraws:
    """Draw whole patients with repetition, as `patient_bootstrap` does.

    Args:
        patients: whose case it is.
        rng: the source of the draws.
        strata: a class for each case; patients are drawn within their class (that of their first case).
        draws: number of draws.

    Raises:
        ValueError: fewer than two patients, or fewer than 100 draws.
    """
    of_case, pools, spared = _pools(patients, strata, draws)
    n_patients = int(of_case.max()) + 1
    counts = np.zeros((draws, n_patients), dtype=np.float32)
    for pool in pools:
        counts[:, pool] = rng.multinomial(len(pool), np.full(len(pool), 1 / len(pool)), size=draws)
    return PatientDraws(counts[:, of_case], of_case, spared)


def _pools(
    patients: Shaped[np.ndarray, "case"], strata: Shaped[np.ndarray, "case"] | None, draws: int
) -> tuple[Int64[np.ndarray, "case"], list[Int64[np.ndarray, "_member"]], Int64[np.ndarray, "patient"]]:
    """The number of each case's patient, the patients that are drawn together, and those of the jackknife."""
    _, first, of_case = np.unique(patients, return_index=True, return_inverse=True)
    if len(first) < 2:
        raise ValueError(f"a bootstrap over patients needs two of them, got {len(first)}")
    if draws < 100:
        raise ValueError(f"an interval needs at least 100 draws, got {draws}")
    classes = np.zeros(len(first), dtype=np.int64)
    if strata is not None:
        classes = np.unique(strata, return_inverse=True)[1].reshape(-1)[first]
    pools = [np.flatnonzero(classes == one) for one in np.unique(classes)]
    # A patient who is alone in a class cannot be left out.
    return of_case.reshape(-1), pools, np.concatenate([pool if len(pool) > 1 else pool[:0] for pool in pools])


def _bca(
    estimate: float, drawn: Shaped[np.ndarray, "draw"], left_out: Shaped[np.ndarray, "patient"], level: float
) -> Interval:
    # Half of the ties count as below: an AUC takes few values on few patients, and sums in another order are no other
    # value. Kept off 0 and 1, where z is infinite.
    is_tie = np.isclose(drawn, estimate, rtol=1e-9, atol=1e-12)
    below = (~is_tie & (drawn < estimate)).mean() + is_tie.mean() / 2
    bias = float(special.ndtri(np.clip(below, 1 / (len(drawn) + 1), len(drawn) / (len(drawn) + 1))))
    pull = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + float(special.ndtri(tail))
        ends.append(float(special.ndtr(bias + z / (1 - acceleration * z))))
    low, high = np.quantile(drawn, ends).tolist()
    method = f"patient bootstrap, BCa, {len(drawn)} draws"
    return Interval(estimate, min(low, estimate), max(high, estimate), level, method)
