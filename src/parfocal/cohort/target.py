"""What a user says of a target and of the other columns of the labels."""

from dataclasses import dataclass
from pathlib import Path

from parfocal.cohort.classes import AskedKind
from parfocal.cohort.labels import Cohort, CountedBy, read_cohort

__all__ = ["LabelColumns", "Target", "read_target"]


@dataclass(frozen=True)
class Target:
    """One column that is to be predicted, and what it holds.

    Attributes:
        name: the column.
        kind: what it is; see `read_cohort`.
        positive: the class that counts as positive, where it is not the later of two.
        event: the column that is 1 where the target is the time of an event and 0 where that of censoring.
        order: the classes of an ordinal target from low to high.
    """

    name: str
    kind: AskedKind = "auto"
    positive: str | None = None
    event: str | None = None
    order: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelColumns:
    """The columns beside the targets.

    Attributes:
        slide: the slide's id.
        group: what must stay in one fold, such as the patient; None takes slides for independent.
        site: the site that a slide comes from.
        by: columns by which results are shown.
        count: what a metric counts once: a group's slides of one label, or every slide.
        patient_of: a regular expression whose match in a slide's id is its patient, for tables with a row a patient.
        missing: words that stand for a missing value beside the usual ones.
        not_missing: words that are values of the targets, although they are usual ones.
    """

    slide: str = "slide"
    group: str | None = None
    site: str | None = None
    by: tuple[str, ...] = ()
    count: CountedBy = "group"
    patient_of: str | None = None
    missing: tuple[str, ...] = ()
    not_missing: tuple[str, ...] = ()


def read_target(labels: Path, target: Target, columns: LabelColumns) -> Cohort:
    """Read the cohort of one target, as `read_cohort` does.

    Raises:
        ConfigError: what `read_cohort` refuses.
    """
    return read_cohort(
        labels,
        target.name,
        kind=target.kind,
        positive=target.positive,
        event=target.event,
        order=target.order,
        group=columns.group,
        site=columns.site,
        by=columns.by,
        slide=columns.slide,
        count=columns.count,
        patient_of=columns.patient_of,
        missing=columns.missing,
        not_missing=columns.not_missing,
    )
