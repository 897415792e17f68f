"""What a user says of labels: each field is a flag, a key of study files and a Python argument, in these words."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from parfocal.cohort.outcome import OutcomeKind
from parfocal.cohort.words import class_name
from parfocal.config import Settings, renamed

AskedKind = Literal["auto", OutcomeKind]
CountedBy = Literal["group", "slide"]


class TargetSettings(Settings):
    """What a column that is to be predicted holds."""

    kind: AskedKind = Field(
        "auto",
        description="What the target is. Auto sees it: with an event survival, with an order ordinal, with a positive "
        "class or two values binary, of 3 to 6 whole numbers or texts multiclass, else continuous.",
    )
    positive: str | None = Field(
        None, description="The class that counts as positive, against all others, where it is not the later of two."
    )
    event: str | None = Field(
        None,
        description="Column that is 1 where the target is the time of an event, 0 where that of censoring: survival.",
    )
    order: tuple[str, ...] = Field(
        (), description="The classes of an ordinal target from low to high; numbers need none."
    )

    @field_validator("positive", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """`positive: 1` is the class 1."""
        return _word(value)

    @field_validator("order", mode="before")
    @classmethod
    def _all_as_text(cls, value: Any) -> Any:
        return list(map(_word, value)) if isinstance(value, (list, tuple)) else value


class Target(TargetSettings):
    """One column that is to be predicted, and what it holds."""

    name: str = Field(description="The column.")


class LabelColumns(Settings):
    """The columns of a table of labels beside the target, and how its cells are read."""

    slide_column: str = Field("slide", description="Column of the slide's id.")
    group: str | None = Field(
        None,
        description="Column of what must stay together, such as the patient; without it slides are taken as "
        "independent.",
    )
    patient_of: str | None = Field(
        None,
        description="A regular expression whose match in a slide's id is its patient, such as 'TCGA-..-....'; then a "
        "row of the labels may be a patient.",
    )
    missing: tuple[str, ...] = Field(
        (),
        description="Words that stand for a missing value beside the usual ones, such as NA, unknown and Not Reported.",
    )
    not_missing: tuple[str, ...] = Field(
        (), description="Words that are values, such as none, although they are usual for a missing one."
    )

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        return renamed(values, {"slide": "slide_column"})

    @field_validator("missing", "not_missing", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """`missing: -999` is the word -999, alone or in a list."""
        return [_word(word) for word in (value if isinstance(value, (list, tuple)) else [value])]


class CohortColumns(LabelColumns):
    """The columns that a comparison of arms knows as well."""

    site: str | None = Field(
        None, description="Column of the site a slide comes from, for schemes that keep sites apart."
    )
    by: tuple[str, ...] = Field(
        (), description="Columns by which results are shown too, such as cancer_type or scanner; values may be missing."
    )
    count: CountedBy = Field(
        "group", description="What a metric counts once: a group's slides with the same label, or every slide."
    )


def _word(value: Any) -> Any:
    """A number in a file of settings as the word that it is in a table."""
    return class_name(repr(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
