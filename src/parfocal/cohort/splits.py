"""How slides are dealt to folds: groups (patients) stay whole, labels are even; saved as a CSV and read back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from parfocal.cohort.labels import Cohort
from parfocal.cohort.outcome import Outcome
from parfocal.cohort.strata import strata
from parfocal.cohort.table import read_table, some_of
from parfocal.errors import ConfigError
from parfocal.tables import write_csv

__all__ = ["Fold", "Splits", "deal_folds", "read_splits", "whole_fold", "write_splits"]


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
            ConfigError: a slide has no fold, a group lies in two folds, or a training set has too few of a class.
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
            for number in np.unique(of_slide).tolist():
                train, test = np.flatnonzero(of_slide != number), np.flatnonzero(of_slide == number)
                rng = np.random.default_rng([seed, 1, repeat, number])
                where = f"the training set of fold {number}"
                dealt = _inner_folds(groups[train], cohort.outcome.of(train), inner, rng, where)
                result.append(Fold(repeat, number, train, test, dealt))
        return result


def whole_fold(cohort: Cohort, *, inner: int, seed: int) -> Fold:
    """All slides as one training set with its inner folds, and nothing to test: for a fit that is used elsewhere.

    Raises:
        ConfigError: there are too few groups of a class.
    """
    everything = np.arange(len(cohort.slides))
    rng = np.random.default_rng([seed, 1])
    dealt = _inner_folds(cohort.group_numbers(), cohort.outcome, inner, rng, "the training set")
    return Fold(0, 0, everything, everything[:0], dealt)


def deal_folds(
    groups: Int64[np.ndarray, " slide"],
    stratum: Int64[np.ndarray, " slide"] | Bool[np.ndarray, " slide"],
    folds: int,
    rng: np.random.Generator,
) -> Int64[np.ndarray, " slide"]:
    """The fold of each slide: groups stay whole, and each goes where it leaves the strata most even.

    Groups come in random order, larger ones first: a large group dealt last could no longer be balanced.

    Args:
        groups: what stays whole, as numbers.
        stratum: what is to be even, such as the class, as numbers from 0.
        folds: how many.
        rng: decides the order and ties.
    """
    names, member = np.unique(groups, return_inverse=True)
    member = member.reshape(-1)
    counts = np.zeros((len(names), max(2, int(stratum.max()) + 1)))
    np.add.at(counts, (member, stratum.astype(int)), 1)
    total = np.maximum(counts.sum(axis=0), 1)
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    filled = np.zeros((folds, counts.shape[1]))
    fold_of_group = np.zeros(len(names), dtype=np.int64)
    for group in order:
        # The sum of squares of the strata's shares is least where they are even; ties are broken at random, else the
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
    rows = (
        (target, repeat, slide, int(fold))
        for target, split in splits.items()
        for repeat in range(split.n_repeats)
        for slide, fold in zip(split.slides, split.fold[repeat], strict=True)
    )
    write_csv(path, ("target", "repeat", "slide", "fold"), rows)


def read_splits(path: Path) -> dict[str, Splits]:
    """The splits of each target in a CSV that `write_splits` wrote, or that someone else made with its columns.

    Raises:
        ConfigError: a column is absent, a number is none, or a slide has not exactly one fold in each repeat.
    """
    found = read_table(path)
    if not {"target", "repeat", "slide", "fold"} <= set(found.columns):
        raise ConfigError(f"{path} is not a table of splits: it needs the columns target, repeat, slide, fold.")
    table: dict[str, dict[tuple[int, str], int]] = {}
    for row in found.rows:
        line = row.line
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


def _inner_folds(
    groups: Int64[np.ndarray, " train"], outcome: Outcome, inner: int, rng: np.random.Generator, where: str
) -> Int64[np.ndarray, " train"]:
    """Deal a training set to inner folds, no more than the rarest class has groups."""
    if outcome.kind == "continuous":
        parts = {"with a value": np.ones(len(groups), dtype=bool)}
    elif outcome.kind == "survival":
        parts = {"with an event": outcome.event}
    else:
        parts = {f"of the class {name!r}": outcome.value == number for number, name in enumerate(outcome.classes)}
    fewest, name = min((len(np.unique(groups[part])), name) for name, part in parts.items())
    if fewest < 2:
        raise ConfigError(
            f"{where} of {outcome.target!r} has {fewest} groups {name}; 2 are needed. Use more or other folds."
        )
    return deal_folds(groups, strata(outcome), min(inner, fewest), rng)
