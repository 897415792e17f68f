"""What a metric counts: patients, not slides, however many slides a patient has."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.cohort.labels import Cohort


@dataclass(frozen=True, eq=False)
class Units:
    """Some slides, joined to what a metric counts once.

    Attributes:
        slides: the number of the first slide of each unit; label, group, site are those of this slide.
        of_slide: the unit of each slide that was joined.
    """

    slides: Int64[np.ndarray, " unit"]
    of_slide: Int64[np.ndarray, " joined"]

    def __len__(self) -> int:
        return len(self.slides)

    def mean(self, score: Float64[np.ndarray, "joined column"]) -> Float64[np.ndarray, "unit column"]:
        """The mean score of each unit's slides."""
        total = np.zeros((len(self.slides), score.shape[1]))
        np.add.at(total, self.of_slide, score)
        return total / np.bincount(self.of_slide, minlength=len(self.slides))[:, None]


def units(cohort: Cohort, slides: Int64[np.ndarray, " joined"]) -> Units:
    """Join slides of one group (patient) that have the same label; each slide stays alone where the cohort says so.

    Slides of one patient are not independent: counted one by one, a patient with ten would weigh ten times, and an
    interval that takes them for ten patients would be too narrow. Slides of different labels stay apart, because no
    single label is right for their mean. They are joined only among the slides that are given, such as those that one
    fold tests, because scores of different fits have no common scale.

    Args:
        cohort: groups, labels, and what counts.
        slides: numbers.
    """
    if cohort.count == "slide":
        return Units(slides, np.arange(len(slides), dtype=np.int64))
    outcome = cohort.outcome
    place: dict[tuple[str, float, bool], int] = {}
    first: list[int] = []
    of_slide = []
    for slide in slides.tolist():
        key = (cohort.groups[slide], float(outcome.value[slide]), bool(outcome.event[slide]))
        if key not in place:
            place[key] = len(first)
            first.append(slide)
        of_slide.append(place[key])
    return Units(np.array(first, dtype=np.int64), np.array(of_slide, dtype=np.int64))
