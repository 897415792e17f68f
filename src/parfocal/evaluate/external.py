"""Arms on a cohort that no fit has seen: one fixed test set, so that DeLong's test and the bootstrap are valid."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, Float64

from parfocal.cohort import Cohort, Units, units
from parfocal.errors import ConfigError
from parfocal.evaluate.held_out import calibrate
from parfocal.evaluate.metric import can_be_measured, measure_beside, measure_weighted
from parfocal.evaluate.result import ArmFits, Comparison, ExternalRun
from parfocal.stats import delong_interval, delong_test, patient_draws

_FEWEST = 3

_Share = Callable[[Float32[np.ndarray, "draw unit"]], Float64[np.ndarray, " draw"]]


def compare_externally(
    fits: Sequence[ArmFits], cohort: Cohort | None, best_single: int | None, *, baseline: float, seed: int
) -> tuple[ExternalRun | None, ...]:
    """Every arm that has external scores, with its difference to the best single magnification.

    Which single magnification is the best was decided on the training cohort, so nothing is picked on this one.

    Args:
        fits: of each arm.
        cohort: the external one; None gives no result.
        best_single: the place of the best single magnification.
        baseline: the mean value of the training slides, for R2.
        seed: decides the bootstrap's draws; every arm meets the same draws.

    Raises:
        ConfigError: the external cohort is too small or has one class only.
    """
    if cohort is None:
        return (None,) * len(fits)
    joined = check_external(cohort)
    outcome = cohort.outcome.of(joined.slides)
    patients = cohort.group_numbers()[joined.slides]
    scores = [None if one.external is None else joined.mean(one.external.score) for one in fits]
    shares = [None if score is None else measure_weighted(outcome, score) for score in scores]
    strata = {"continuous": None, "survival": outcome.event}.get(outcome.kind, outcome.value)
    draws = patient_draws(patients, rng=np.random.default_rng(seed), strata=strata)
    rival = None if best_single is None else scores[best_single]
    rival_share = None if best_single is None else shares[best_single]
    binary = outcome.kind == "binary"
    results: list[ExternalRun | None] = []
    for place, (score, share) in enumerate(zip(scores, shares, strict=True)):
        if score is None or share is None:
            results.append(None)
            continue
        comparison = None
        if rival is not None and rival_share is not None and place != best_single:
            drawn = draws.interval(_difference(share, rival_share))
            comparison = Comparison(drawn, float("nan"), drawn)
            if binary:
                test = delong_test(outcome.value, score[:, 0], rival[:, 0])
                comparison = Comparison(test.difference, test.p_value, drawn)
        results.append(
            ExternalRun(
                interval=delong_interval(outcome.value, score[:, 0]) if binary else draws.interval(share),
                beside=measure_beside(outcome, score, baseline),
                against_best_single=comparison,
                calibration=calibrate(outcome.value > 0.5, score[:, 0]) if binary else None,
            )
        )
    return tuple(results)


def _difference(first: _Share, second: _Share) -> _Share:
    return lambda weight: first(weight) - second(weight)


def check_external(cohort: Cohort) -> Units:
    """What is counted of an external cohort.

    Raises:
        ConfigError: it is too small or has one class only.
    """
    joined = units(cohort, np.arange(len(cohort.slides), dtype=np.int64))
    outcome, patients = cohort.outcome.of(joined.slides), cohort.group_numbers()[joined.slides]
    if outcome.kind == "binary":
        for label, name in zip((0, 1), outcome.classes, strict=True):
            n = len(np.unique(patients[outcome.value == label]))
            if n < _FEWEST:
                raise ConfigError(
                    f"the external cohort has {n} {cohort.worded('patients')} of the class {name!r} of "
                    f"{cohort.target!r}; a comparison needs {_FEWEST} of each. Leave it out, or take a larger one."
                )
    elif len(np.unique(patients)) < 2 * _FEWEST or not can_be_measured(outcome):
        raise ConfigError(
            f"the external cohort has {len(np.unique(patients))} {cohort.worded('patients')} for {cohort.target!r}, or "
            f"labels that are all alike; a comparison needs {2 * _FEWEST} whose labels differ."
        )
    return joined
