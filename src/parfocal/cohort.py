"""Step 8, the labels' half: which slide belongs to whom and has which label, and how slides are dealt to folds.

In: a CSV with a slide column, target columns and a group column. Out: a `Cohort` for one target, and `Splits` that
keep a group (a patient) together, can be saved, and can be read back.
"""

import csv
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.provenance import writing

__all__ = [
    "MISSING",
    "Cohort",
    "Fold",
    "Splits",
    "deal_folds",
    "make_splits",
    "read_cohort",
    "read_splits",
    "read_table",
    "some_of",
    "write_splits",
]

MISSING = frozenset({"", "na", "n/a", "nan", "none", "null"})
"""What a cell says, in lower case, that has no value."""
_FEWEST_GROUPS = 3
# More different numbers than this are a measurement, not classes.
_MOST_CLASSES = 10


@dataclass(frozen=True, eq=False)
class Cohort:
    """Slides with the label of one target.

    Attributes:
        target: name of the label's column.
        positive: the class that counts as positive.
        negative: the other class, or `not ...` where there are several.
        slides: ids, sorted.
        groups: what stays together in a split, such as the patient; the slide itself where no column was named.
        is_positive: the label.
        notes: what was dropped or is remarkable, one sentence each, with counts.
    """

    target: str
    positive: str
    negative: str
    slides: tuple[str, ...]
    groups: tuple[str, ...]
    is_positive: Bool[np.ndarray, " slide"]
    notes: tuple[str, ...] = ()

    def restricted_to(self, available: Iterable[str], source: str) -> "Cohort":
        """The cohort without the slides that have no embeddings; what is missing on either side is a warning.

        Args:
            available: the slides that have embeddings.
            source: how to call the place they are in.

        Raises:
            ConfigError: no slide is left, or one class or too few groups.
        """
        there = set(available)
        keep = np.array([slide in there for slide in self.slides], dtype=bool)
        unknown = [slide for slide in self.slides if slide not in there]
        unlabelled = sorted(there - set(self.slides))
        if not keep.any():
            hint = ""
            if any(slide.rsplit(".", 1)[0] in there for slide in unknown):
                hint = " Write the slides without their suffix."
            raise ConfigError(
                f"no slide with a label in {self.target!r} has embeddings in {source}: the labels name "
                f"{some_of(unknown)}, the embeddings {some_of(sorted(there)) or 'none at all'}.{hint}"
            )
        notes = list(self.notes)
        if unknown:
            notes.append(f"{len(unknown)} slides with a label have no embeddings in {source}: {some_of(unknown)}.")
            warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
        if unlabelled:
            notes.append(
                f"{len(unlabelled)} slides in {source} have no label in {self.target!r}: {some_of(unlabelled)}."
            )
            warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
        result = replace(
            self,
            slides=tuple(slide for slide in self.slides if slide in there),
            groups=tuple(group for group, kept in zip(self.groups, keep, strict=True) if kept),
            is_positive=self.is_positive[keep],
            notes=tuple(notes),
        )
        _check_classes(result)
        return result

    def count_groups(self, *, positive: bool) -> int:
        """How many groups (patients) have a slide of this class."""
        return len({group for group, label in zip(self.groups, self.is_positive, strict=True) if label == positive})

    def group_numbers(self) -> Int64[np.ndarray, " slide"]:
        """The groups as numbers from 0, in the order of their names."""
        return np.unique(np.array(self.groups), return_inverse=True)[1].astype(np.int64).reshape(-1)


def read_cohort(
    path: Path, target: str, *, group: str | None = None, slide: str = "slide", positive: str | None = None
) -> Cohort:
    """Read the labels of one target from a CSV; slides whose label is missing are dropped with a warning that counts.

    Args:
        path: the CSV, with a header.
        target: the label's column. `1` and `1.0` are one class; empty, `na`, `nan`, `none`, `null` are missing.
        group: the column of what stays together in a split; None takes every slide for itself.
        slide: the column of the slide's id.
        positive: the class that counts as positive, against all others; of two classes the later one, by number or
            by alphabet, where None.

    Raises:
        ConfigError: a column is absent, a slide is named twice or has no group, or the classes do not make two.
    """
    rows, columns = read_table(path)
    for column in [slide, target, *([group] if group else [])]:
        if column not in columns:
            raise ConfigError(f"{path} has no column {column!r}; it has {', '.join(columns)}.")
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if not row[slide]:
            raise ConfigError(f"line {number} of {path} names no slide in the column {slide!r}.")
        if row[slide] in first:
            raise ConfigError(
                f"{path} names the slide {row[slide]} twice, in lines {first[row[slide]]} and {number}. Keep one."
            )
        first[row[slide]] = number
    labelled = [row for row in rows if row[target].lower() not in MISSING]
    notes = []
    if len(labelled) < len(rows):
        gone = [row[slide] for row in rows if row[target].lower() in MISSING]
        notes.append(
            f"{len(gone)} of {len(rows)} slides have no value in {target!r} and are left out: {some_of(gone)}."
        )
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
    if group:
        homeless = [row[slide] for row in labelled if row[group].lower() in MISSING]
        if homeless:
            raise ConfigError(f"{len(homeless)} slides in {path} have no value in {group!r}: {some_of(homeless)}.")
    values = {row[slide]: _class_name(row[target]) for row in labelled}
    chosen, other = _two_classes(path, target, Counter(values.values()), positive)
    slides = tuple(sorted(values))
    by_slide = {row[slide]: row[group] if group else row[slide] for row in labelled}
    cohort = Cohort(
        target=target,
        positive=chosen,
        negative=other,
        slides=slides,
        groups=tuple(by_slide[name] for name in slides),
        is_positive=np.array([values[name] == chosen for name in slides], dtype=bool),
        notes=tuple(notes),
    )
    _check_classes(cohort)
    both = cohort.count_groups(positive=True) + cohort.count_groups(positive=False) - len(set(cohort.groups))
    if both:
        note = (
            f"{both} of {len(set(cohort.groups))} groups have slides of both classes of {target!r}; each stays whole."
        )
        cohort = replace(cohort, notes=(*cohort.notes, note))
    return cohort


@dataclass(frozen=True, eq=False)
class Fold:
    """One outer fold: numbers of training and test slides, and how the training slides are dealt to inner folds."""

    repeat: int
    number: int
    train: Int64[np.ndarray, " train"]
    test: Int64[np.ndarray, " test"]
    inner: Int64[np.ndarray, " train"]


@dataclass(frozen=True, eq=False)
class Splits:
    """In which fold each slide is tested, for every repeat."""

    slides: tuple[str, ...]
    fold: Int64[np.ndarray, "repeat slide"]

    @property
    def n_repeats(self) -> int:
        """How often all slides are tested."""
        return len(self.fold)

    @property
    def n_folds(self) -> int:
        """Folds of one repeat."""
        return int(self.fold.max()) + 1

    def folds(self, cohort: Cohort, *, inner: int, seed: int) -> list[Fold]:
        """The outer folds in order, repeats outermost, each with its own inner folds.

        Args:
            cohort: the slides, in the order that the numbers in a `Fold` mean.
            inner: how many inner folds, fewer where a class has fewer groups.
            seed: decides the inner folds; the labels of test slides have no say.

        Raises:
            ConfigError: a slide has no fold, a group lies in two folds, or a training set holds one class.
        """
        place = {slide: number for number, slide in enumerate(self.slides)}
        absent = [slide for slide in cohort.slides if slide not in place]
        if absent:
            raise ConfigError(f"the splits do not name {len(absent)} slides of the cohort: {some_of(absent)}.")
        fold = self.fold[:, [place[slide] for slide in cohort.slides]]
        groups = cohort.group_numbers()
        result = []
        for repeat, of_slide in enumerate(fold):
            torn = [group for group in np.unique(groups) if len(np.unique(of_slide[groups == group])) > 1]
            if torn:
                names = sorted({cohort.groups[int(np.flatnonzero(groups == group)[0])] for group in torn})
                raise ConfigError(f"the splits tear {len(names)} groups apart in repeat {repeat}: {some_of(names)}.")
            for number in range(int(of_slide.max()) + 1):
                train, test = np.flatnonzero(of_slide != number), np.flatnonzero(of_slide == number)
                label = cohort.is_positive[train]
                fewest = min(len(np.unique(groups[train][label])), len(np.unique(groups[train][~label])))
                if fewest < 2:
                    raise ConfigError(
                        f"the training set of fold {number} of {cohort.target!r} has {fewest} groups of one class; "
                        "2 are needed. Use more folds."
                    )
                rng = np.random.default_rng([seed, 1, repeat, number])
                dealt = deal_folds(groups[train], label, min(inner, fewest), rng)
                result.append(Fold(repeat, number, train, test, dealt))
        return result


def make_splits(cohort: Cohort, *, folds: int = 5, repeats: int = 5, seed: int = 0) -> Splits:
    """Deal groups to folds at random, classes and numbers of slides as even as the groups allow, `repeats` times.

    Raises:
        ConfigError: there are fewer groups than folds.
    """
    groups = cohort.group_numbers()
    n_groups = len(np.unique(groups))
    if n_groups < folds:
        raise ConfigError(f"cannot make {folds} folds of {cohort.target!r}: it has {n_groups} groups. Use fewer folds.")
    dealt = [
        deal_folds(groups, cohort.is_positive, folds, np.random.default_rng([seed, 0, repeat]))
        for repeat in range(repeats)
    ]
    return Splits(cohort.slides, np.stack(dealt))


def deal_folds(
    groups: Int64[np.ndarray, " slide"], is_positive: Bool[np.ndarray, " slide"], folds: int, rng: np.random.Generator
) -> Int64[np.ndarray, " slide"]:
    """The fold of each slide: groups stay whole, and each goes where it leaves the classes most even.

    Groups come in random order, larger ones first: a large group dealt last could no longer be balanced.
    """
    names, member = np.unique(groups, return_inverse=True)
    member = member.reshape(-1)
    counts = np.zeros((len(names), 2))
    np.add.at(counts, (member, is_positive.astype(int)), 1)
    total = np.maximum(counts.sum(axis=0), 1)
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    filled = np.zeros((folds, 2))
    fold_of_group = np.zeros(len(names), dtype=np.int64)
    for group in order:
        # The sum of squares of the classes' shares is least where they are even; ties are broken at random, else the
        # first fold would always be the largest.
        after = ((filled + counts[group]) / total) ** 2 - (filled / total) ** 2
        cost = after.sum(axis=1)
        best = np.flatnonzero(cost <= cost.min() + 1e-12)
        slides = filled[best].sum(axis=1)
        best = best[slides == slides.min()]
        choice = int(rng.choice(best))
        filled[choice] += counts[group]
        fold_of_group[group] = choice
    return fold_of_group[member]


def write_splits(path: Path, splits: Mapping[str, Splits]) -> None:
    """Write splits as a CSV with the columns target, repeat, slide, fold."""
    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["target", "repeat", "slide", "fold"])
        for target, split in splits.items():
            for repeat in range(split.n_repeats):
                for slide, fold in zip(split.slides, split.fold[repeat], strict=True):
                    table.writerow([target, repeat, slide, int(fold)])


def read_splits(path: Path) -> dict[str, Splits]:
    """The splits of each target in a CSV that `write_splits` wrote, or that someone else made with its columns.

    Raises:
        ConfigError: a column is absent, a number is none, or a slide has not exactly one fold in each repeat.
    """
    rows, columns = read_table(path)
    if not {"target", "repeat", "slide", "fold"} <= set(columns):
        raise ConfigError(f"{path} is not a table of splits: it needs the columns target, repeat, slide, fold.")
    table: dict[str, dict[tuple[int, str], int]] = {}
    for line, row in enumerate(rows, start=2):
        if not (row["repeat"].isdigit() and row["fold"].isdigit()):
            raise ConfigError(f"line {line} of {path}: repeat and fold are whole numbers from 0.")
        place = table.setdefault(row["target"], {})
        key = (int(row["repeat"]), row["slide"])
        if key in place:
            raise ConfigError(f"line {line} of {path} deals {row['slide']} a second time in repeat {row['repeat']}.")
        place[key] = int(row["fold"])
    result = {}
    for target, place in table.items():
        slides = tuple(sorted({slide for _, slide in place}))
        repeats = sorted({repeat for repeat, _ in place})
        absent = [(repeat, slide) for repeat in repeats for slide in slides if (repeat, slide) not in place]
        if absent:
            raise ConfigError(f"{path} has no fold for {absent[0][1]} in repeat {absent[0][0]} of {target!r}.")
        fold = np.array([[place[repeat, slide] for slide in slides] for repeat in repeats], dtype=np.int64)
        result[target] = Splits(slides, fold)
    return result


def read_table(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of a CSV as text without blanks around it, and its columns.

    Raises:
        ConfigError: it is absent, or has no row.
    """
    if not path.is_file():
        raise ConfigError(f"cannot read {path}: there is no such file.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        columns = [name.strip() for name in table.fieldnames or []]
        rows = [
            {name.strip(): (value or "").strip() for name, value in row.items() if isinstance(name, str)}
            for row in table
        ]
    if not rows:
        raise ConfigError(f"{path} has no rows below its header.")
    return rows, columns


def _class_name(value: str) -> str:
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def _two_classes(path: Path, target: str, counts: Counter[str], positive: str | None) -> tuple[str, str]:
    """The names of the positive and of the negative class."""
    listed = ", ".join(f"{name}: {n}" for name, n in sorted(counts.items())[:8])
    if len(counts) < 2:
        raise ConfigError(
            f"{target!r} in {path} has one class only ({listed or 'no label at all'}); two are needed to tell apart."
        )
    if positive is not None:
        chosen = _class_name(positive)
        if chosen not in counts:
            raise ConfigError(f"{target!r} in {path} has no class {positive!r}; it has {listed}.")
        others = [name for name in counts if name != chosen]
        return chosen, others[0] if len(others) == 1 else f"not {chosen}"
    if len(counts) > _MOST_CLASSES and all(_number_then_name(name)[0] == 0 for name in counts):
        raise ConfigError(
            f"{target!r} in {path} holds {len(counts)} different numbers, and two classes are needed. "
            "Make a column of two classes of it, such as above and below a threshold."
        )
    if len(counts) > 2:
        raise ConfigError(
            f"{target!r} in {path} has {len(counts)} classes ({listed}). "
            "Name the one to set against the rest: --positive NAME (positive=...)."
        )
    negative, chosen = sorted(counts, key=_number_then_name)
    return chosen, negative


def _number_then_name(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _check_classes(cohort: Cohort) -> None:
    for positive, name in ((True, cohort.positive), (False, cohort.negative)):
        n = cohort.count_groups(positive=positive)
        if n < _FEWEST_GROUPS:
            raise ConfigError(
                f"{cohort.target!r} has {n} groups (patients) of the class {name!r}; "
                f"cross-validation needs {_FEWEST_GROUPS} of each."
            )


def some_of(names: Collection[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
