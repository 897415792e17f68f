"""Which slides belong together, where no label is asked for: what pretraining holds out whole."""

from collections.abc import Collection
from pathlib import Path

from parfocal.cohort.patients import patient_rule
from parfocal.cohort.reading import read_labels
from parfocal.cohort.target import LabelColumns

__all__ = ["read_groups"]


def read_groups(labels: Path | None, columns: LabelColumns, available: Collection[str], source: str) -> dict[str, str]:
    """The group, such as the patient, of slides that have embeddings; none where nothing says it.

    Slides without a row are counted in a warning and have no group.

    Args:
        labels: a table with the column of the group.
        columns: the columns of slide and group, and the rule of patients, which needs no table.
        available: the ids that have embeddings.
        source: what has them, for messages.

    Raises:
        ConfigError: the table or a column is absent, no slide of it has embeddings, or the rule does not fit.
    """
    if labels is not None and columns.group is not None:
        given = read_labels(
            labels,
            columns.group,
            slide=columns.slide,
            group=columns.group,
            patient_of=columns.patient_of,
            missing=columns.missing,
        ).restricted_to(available, source)
        return dict(zip(given.slides, given.groups, strict=True))
    return {} if columns.patient_of is None else patient_rule(columns.patient_of).patients(sorted(available), source)
