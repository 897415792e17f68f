"""The rule that says from a slide's id which patient it comes from."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from parfocal.errors import ConfigError
from parfocal.table import some_of
from parfocal.terminal import printable

_TCGA = re.compile(r"TCGA-[0-9A-Z]{2}-[0-9A-Z]{4}", re.IGNORECASE)


@dataclass(frozen=True)
class PatientRule:
    """A regular expression whose match in a slide's id, or the group in it, is the patient."""

    pattern: "re.Pattern[str]"

    def patient(self, slide: str) -> str | None:
        """The patient; None where the rule finds none.

        Raises:
            ConfigError: it finds two.
        """
        place = self.pattern.groups
        found = list(dict.fromkeys(one[place] for one in self.pattern.finditer(slide) if one[place]))
        if len(found) > 1:
            raise ConfigError(
                f"the rule of patients {self.pattern.pattern!r} finds {found[0]!r} and {found[1]!r} in {slide}. "
                "Make it match one of them, such as by ^ at its beginning."
            )
        return found[0] if found else None

    def patients(self, slides: Iterable[str], source: str) -> dict[str, str]:
        """The patient of every slide.

        Raises:
            ConfigError: the rule finds none, or two, in a slide.
        """
        found = {slide: self.patient(slide) for slide in slides}
        without = [slide for slide, patient in found.items() if patient is None]
        if without:
            raise ConfigError(
                f"the rule of patients {self.pattern.pattern!r} finds nothing in {len(without)} of {len(found)} slides "
                f"of {source}: {some_of(without)}. Make it match all."
            )
        return {slide: patient for slide, patient in found.items() if patient is not None}


def patient_rule(text: str) -> PatientRule:
    """The rule that a regular expression is.

    Raises:
        ConfigError: it is none, or has several groups.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"the rule of patients {text!r} is no regular expression: {error}.") from error
    if pattern.groups > 1:
        raise ConfigError(
            f"the rule of patients {text!r} has {pattern.groups} groups in parentheses. Keep one or none."
        )
    return PatientRule(pattern)


def torn_tcga_patients(slides: Iterable[str], groups: Iterable[str]) -> str | None:
    """What is to be said where slides of one TCGA patient, by their barcode, lie in several groups."""
    found: dict[str, set[str]] = {}
    for slide, group in zip(slides, groups, strict=True):
        barcode = _TCGA.search(slide)
        if barcode is not None:
            found.setdefault(barcode[0], set()).add(group)
    torn = sorted(patient for patient, own in found.items() if len(own) > 1)
    if not torn:
        return None
    return (
        f"{len(torn)} TCGA patients have slides in several groups, which may lie in several folds: "
        f"{printable(some_of(torn))}. Keep them together: --patient-of 'TCGA-..-....'."
    )
