"""The labels of a synergy study: classes or a number, patients, sites; whatever cannot be used is said, with counts."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import LabelledSlides, cohort_of, outcome_of
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.lab.synergy.moments import Units

LabelKind = Literal["auto", "binary", "multiclass", "continuous"]

_FEWEST_UNITS = 3


@dataclass(frozen=True, eq=False)
class StudyLabels:
    """What is tested: units, and one vector of numbers for each class or for the number.

    Attributes:
        units: patients, each with its slides; or slides, where nothing says whose they are.
        labels: name -> 0 and 1 for each class against the rest, or a number's values.
        is_class: whether they are classes.
        notes: what was left out or is remarkable.
        sentence: what the target holds, in one line.
    """

    units: Units
    labels: dict[str, Float64[np.ndarray, " unit"]]
    is_class: bool
    notes: tuple[str, ...]
    sentence: str = ""


def study_labels(given: LabelledSlides, *, kind: LabelKind = "auto", positive: str | None = None) -> StudyLabels:
    """Turn text into what is tested, one value for each patient: the mean over its slides.

    What the labels are is seen as by every command, where it is not named. Of two
    classes the later one (by number or alphabet) is set against the other, of several each against the rest.

    Args:
        given: slides and their labels.
        kind: what they are, where it cannot be seen.
        positive: the only class to test.

    Raises:
        ConfigError: one class or value only, a class with too few patients, a patient at two sites.
    """
    names, of_slide = np.unique(np.array(given.groups), return_inverse=True)
    of_slide = of_slide.reshape(-1).astype(np.int64)
    called: Literal["patient", "slide"] = "patient" if given.is_grouped else "slide"
    units = Units(tuple(names.tolist()), of_slide, _sites(given, of_slide, names.tolist()), called=called)
    outcome = outcome_of(given, kind=kind, positive=positive)
    cohort = cohort_of(given, outcome)
    notes = list(cohort.notes)
    if outcome.kind == "continuous":
        values = _unit_means(outcome.value, of_slide)
        if not values.std() > 0:
            raise ConfigError(f"every {called} has the same value in {given.target!r}; there is nothing to explain.")
        return StudyLabels(units, {given.target: values}, False, tuple(notes), cohort.sentence())
    classes = [outcome.classes[int(value)] for value in outcome.value]
    tested = outcome.classes[1:] if outcome.kind == "binary" else outcome.classes
    labels: dict[str, Float64[np.ndarray, " unit"]] = {}
    for name in tested:
        values = _unit_means(np.array([one == name for one in classes], dtype=np.float64), of_slide)
        fewest = int(min((values > 0.5).sum(), (values <= 0.5).sum()))
        if fewest >= _FEWEST_UNITS:
            labels[name] = values
        elif len(tested) > 1:
            notes.append(f"the class {name!r} has {fewest} {called}s; it is not tested ({_FEWEST_UNITS} are needed).")
            warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
        else:
            raise ConfigError(
                f"{given.target!r} has {fewest} {called}s in one of its classes; {_FEWEST_UNITS} in each are needed."
            )
    if not labels:
        raise ConfigError(f"no class of {given.target!r} has {_FEWEST_UNITS} {called}s on either side.")
    torn = sum(
        len({one for one, unit in zip(classes, of_slide, strict=True) if unit == u}) > 1 for u in range(len(names))
    )
    if torn:
        notes.append(f"{torn} of {len(names)} patients have slides of several classes and count by their share.")
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
    return StudyLabels(units, labels, True, tuple(notes), cohort.sentence())


def _sites(given: LabelledSlides, of_slide: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    if given.sites is None:
        return None
    of_unit = np.zeros(len(names), dtype=np.int64)
    of_unit[of_slide] = np.unique(np.array(given.sites), return_inverse=True)[1].reshape(-1)
    return of_unit


def _unit_means(values: np.ndarray, of_slide: np.ndarray) -> Float64[np.ndarray, " unit"]:
    return np.asarray(np.bincount(of_slide, values) / np.bincount(of_slide))
