"""How long the fits of an evaluation would take: one fit of each sort is done on random numbers, and multiplied."""

import os
import time
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome
from parfocal.probes import Fit, ProbeSettings, fit_attention, fit_contrast, fit_mean
from parfocal.studies.arm import Arm
from parfocal.studies.chain.settings import Study
from parfocal.studies.fitting import one_thread_each

__all__ = ["fit_hours"]

_SLIDES, _REGIONS, _WIDTH = 24, 8, 64
_SORTS: Mapping[str, Fit] = {"a mean": fit_mean, "gated attention": fit_attention, "contrast": fit_contrast}
_MEANS, _CONTRASTS = frozenset({"mean", "concat"}), frozenset({"contrast", "pseudo-contrast", "second-moment"})


def fit_hours(study: Study, arms: Sequence[Arm], folds: Mapping[str, Sequence[Fold]]) -> tuple[float | None, str]:
    """The hours that all fits would take here, and what that is based on; None where it is not known.

    Args:
        study: its evaluation.
        arms: what would be fitted.
        folds: of each target; none where they are not known.
    """
    settings = study.evaluation
    fitted = [arm for arm in arms if arm.pool is not None and arm.method != "finetune"]
    slow = [arm.id for arm in arms if arm.method == "finetune"]
    if not folds or not fitted:
        return None, "no time, because nothing is known to be fitted"
    sorts = {arm.id: _sort(arm) for arm in fitted}
    seconds = {sort: _seconds(_SORTS[sort], settings.probes) for sort in dict.fromkeys(sorts.values())}
    total = 0.0
    for of_target in folds.values():
        train = sum(len(fold.train) for fold in of_target)
        if study.test is not None:
            train += len(of_target[0].train) + len(of_target[0].test)
        for arm in fitted:
            seeds = settings.seeds if arm.is_random else 1
            total += seconds[sorts[arm.id]] * train / (_SLIDES * 3 / 4) * seeds
    side_by_side = min(settings.arms_at_a_time, os.cpu_count() or 1)
    basis = (
        f"one fit each of {', '.join(seconds)} on random numbers of {_SLIDES} slides of {_REGIONS} regions, times the "
        f"slides and fits of this study; wider vectors take longer, and what is kept already is not subtracted"
    )
    if slow:
        basis += f"; without {', '.join(slow)}, which trains a region encoder in every fold"
    return total / side_by_side / 3600, basis


def _sort(arm: Arm) -> str:
    """Which of the measured fits an arm is like; networks cost about what gated attention does."""
    if arm.method in _MEANS:
        return "a mean"
    return "contrast" if arm.method in _CONTRASTS else "gated attention"


def _seconds(fit: Fit, probes: ProbeSettings) -> float:
    """Of one fit on random numbers, which is not done with more of anything than the study asks for."""
    rng = np.random.default_rng(0)
    numbers = np.arange(_SLIDES)
    fold = Fold(0, 0, numbers[numbers % 4 > 0], numbers[numbers % 4 == 0], np.arange(_SLIDES * 3 // 4) % 2)
    outcome = Outcome.binary(rng.permutation(numbers % 2 == 1))
    bags = [_bag(name, rng) for name in ("0.5", "2")]
    own = probes.model_copy(update={"device": "cpu"})
    with warnings.catch_warnings(), one_thread_each():
        warnings.simplefilter("ignore")
        started = time.monotonic()
        fit(bags if fit is fit_contrast else bags[:1], outcome, [fold], own)
        return time.monotonic() - started


def _bag(name: str, rng: np.random.Generator) -> Bag:
    rows = rng.standard_normal((_SLIDES * _REGIONS, _WIDTH)).astype(np.float32)
    start = np.arange(_SLIDES + 1) * _REGIONS
    return Bag(
        name=name,
        slides=tuple(f"s{number:02d}" for number in range(_SLIDES)),
        rows=rows,
        start=start,
        n_instances=np.full(_SLIDES, _REGIONS),
        mean=rows.reshape(_SLIDES, _REGIONS, _WIDTH).mean(axis=1),
        region_mean=rows,
        region_start=start,
        region_present=np.ones(len(rows), dtype=bool),
    )
