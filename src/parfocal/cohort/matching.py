"""Which slide a row of a label table is about: the one place where ids of tables and of embeddings meet."""

import re
import warnings
from collections.abc import Collection, Mapping, Sequence

from parfocal.cohort.patients import PatientRule
from parfocal.cohort.words import id_key, number_of
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.slides.folders import PICTURE_SUFFIXES, SLIDE_SUFFIXES
from parfocal.table import some_of
from parfocal.terminal import printable

_OF_FEATURES = (".h5", ".hdf5", ".zarr", ".pt", ".pth", ".npy", ".npz", ".pkl", ".safetensors", ".isyntax", ".vsi")
_SUFFIXES = (*sorted(SLIDE_SUFFIXES | PICTURE_SUFFIXES), *_OF_FEATURES)


def match_slides(
    ids: Sequence[str], available: Collection[str], target: str, source: str, rule: PatientRule | None = None
) -> tuple[dict[str, int], list[str]]:
    """The number of each slide's row, slides in order of their ids, and notes: what is missing on either side.

    An id is met by the same id, with or without the suffix of a file and the folders before it. Nothing else is
    taken for it: an id that differs in case, in zeros in front or in the kind of dash is refused and shown, because
    left out silently it would make another cohort.

    Args:
        ids: those of the rows: slides, or patients where there is a rule.
        available: the slides with embeddings.
        target: the label's column.
        source: how to call the place of the embeddings.
        rule: which patient a slide comes from, where a row is a patient.

    Raises:
        ConfigError: no slide is left, or ids fit in two ways or nearly.
    """
    slides = sorted(set(available))
    if rule is None:
        pairs = _slides_of_rows(ids, slides, source)
    else:
        number = {one: place for place, one in enumerate(ids)}
        patients = rule.patients(slides, source)
        pairs = {slide: number[patient] for slide, patient in patients.items() if patient in number}
    rows, what = set(pairs.values()), "slides" if rule is None else "patients"
    unknown = [one for place, one in enumerate(ids) if place not in rows]
    unlabelled = [slide for slide in slides if slide not in pairs]
    there = unlabelled if rule is None else sorted({patients[slide] for slide in unlabelled})
    _refuse_near(unknown, there, source, what)
    if not pairs:
        raise ConfigError(
            f"no {what[:-1]} with a label in {target!r} has embeddings in {source}: the labels name "
            f"{some_of(unknown)}, the embeddings {some_of(there) or 'none at all'}.{_hint(unknown, there, rule)}"
        )
    notes = []
    if unknown:
        notes.append(f"{len(unknown)} {what} with a label have no embeddings in {source}: {some_of(unknown)}.")
    if unlabelled:
        whose = "" if rule is None else f" of {len(there)} patients"
        notes.append(f"{len(unlabelled)} slides{whose} in {source} have no label in {target!r}: {some_of(unlabelled)}.")
    notes = [printable(note) for note in notes]
    for note in notes:
        warnings.warn(note, ParfocalWarning, stacklevel=3)
    return {slide: pairs[slide] for slide in slides if slide in pairs}, notes


def ids_of_slides(ids: Sequence[str], slides: Collection[str]) -> dict[str, list[str]]:
    """The ids that each slide may have, by the same rule: one of them where all is well, several where it is open.

    Args:
        ids: those of files, such as of slide vectors.
        slides: those that are looked for.
    """
    exact, by_name = set(slides), _by_name(slides)
    found: dict[str, list[str]] = {slide: [] for slide in slides}
    for one in ids:
        for slide in [one] if one in exact else _fitting(one, by_name):
            found[slide].append(one)
    return found


def _slides_of_rows(ids: Sequence[str], slides: Sequence[str], source: str) -> dict[str, int]:
    """The row of each slide that has one."""
    exact, by_name = set(slides), _by_name(slides)
    pairs: dict[str, int] = {}
    example: dict[bool, str] = {}  # of a row with a suffix that its slide has not, or the reverse, and of one without
    for place, one in enumerate(ids):
        # A slide with the very same id is meant, whatever others the id would fit too.
        found = [one] if one in exact else _fitting(one, by_name)
        if len(found) > 1:
            raise ConfigError(
                f"the labels name the slide {one}, which {len(found)} slides in {source} are called: {some_of(found)}. "
                "Write it with its folder."
            )
        for slide in found:
            if slide in pairs:
                raise ConfigError(
                    f"the labels name {ids[pairs[slide]]} and {one}, and both are the slide {slide} of {source}. "
                    "Keep one."
                )
            pairs[slide] = place
            example.setdefault(_suffix(one) != _suffix(slide), one)
    if len(example) > 1:
        raise ConfigError(
            f"the labels write some slides of {source} with the suffix of a file and some without, such as "
            f"{example[True]} and {example[False]}. Write all in one way."
        )
    return pairs


def _by_name(slides: Collection[str]) -> dict[str, list[str]]:
    by_name: dict[str, list[str]] = {}
    for slide in slides:
        by_name.setdefault(_parts(slide)[-1], []).append(slide)
    return by_name


def _fitting(one: str, by_name: Mapping[str, Sequence[str]]) -> list[str]:
    parts = _parts(one)
    return [slide for slide in by_name.get(parts[-1], []) if _fits(parts, _parts(slide))]


def _suffix(name: str) -> str:
    """The suffix of a file that an id ends in, as it stands there; other points are a part of the id."""
    found = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")
    return name[-len(found) :] if found and len(found) < len(name) else ""


def _parts(name: str) -> list[str]:
    """Folders and name, without the suffix of a file."""
    plain = name.replace("\\", "/").strip("/")
    return plain.removesuffix(_suffix(plain)).split("/")


def _fits(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the shorter of two paths is the end of the longer."""
    shared = min(len(one), len(other))
    return one[-shared:] == other[-shared:]


def _refuse_near(unknown: Sequence[str], unlabelled: Sequence[str], source: str, what: str) -> None:
    """Raise where ids on both sides that nothing fits would be one but for how they are written."""
    near: dict[str, list[str]] = {}
    for other in unlabelled:
        near.setdefault(_near(other)[-1], []).append(other)
    found = [
        (one, other) for one in unknown for other in near.get(_near(one)[-1], []) if _fits(_near(one), _near(other))
    ]
    if not found:
        return
    one, other = found[0]
    count = len({one for one, _ in found})
    raise ConfigError(
        f"{count} {what} of the labels have no embeddings in {source} only because they are written otherwise: "
        f"{printable(one)} in the labels is {printable(other)} there ({_how(one, other)}). "
        "Write them as they are there, or leave them out."
    )


def _near(name: str) -> list[str]:
    """Equal for ids that differ in case, blanks, dashes, letters' coding, suffix, or zeros in front of numbers."""
    keys = [id_key(part) for part in _parts(name.strip().removesuffix(".0"))]
    return [re.sub(r"(?<!\d)0+(?=\d)", "", key) for key in keys]


def _how(one: str, other: str) -> str:
    first, second = _parts(one)[-1], _parts(other)[-1]
    if first.casefold() == second.casefold():
        return "upper and lower case"
    if id_key(first) == id_key(second) and number_of(first) is None:
        return "blanks, dashes or the coding of letters"
    return "zeros, as spreadsheets take them from numbers"


def _hint(unknown: Sequence[str], there: Sequence[str], rule: PatientRule | None) -> str:
    if rule is not None:
        return " The rule of patients must find what the labels call a patient."
    known = {slide.rsplit("/", 1)[-1] for slide in there}
    if any(one.rsplit(".", 1)[0] in known for one in unknown):
        return " Write the slides without their suffix."
    heads: Mapping[str, int] = {one: sum(name.startswith(one) for name in known) for one in unknown[:3]}
    if any(heads.values()):
        return (
            " The labels name the beginnings of these ids: where a row is a patient, or a slide in short, say how to "
            "find it in an id, such as --patient-of 'TCGA-..-....'."
        )
    return " Use the ids of the embeddings; --slide-column names their column."
