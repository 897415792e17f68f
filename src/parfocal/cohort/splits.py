"""How slides are dealt to folds: groups (patients) stay whole, labels are even; saved as a CSV and read back.

Those that are tested together are patients at random, whole sites, one site, or one patient.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from parfocal.cohort.labels import Cohort
from parfocal.cohort.outcome import Outcome, strata
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.files import write_csv
from parfocal.table import read_table, some_of


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
        _, first, member = np.unique(groups, return_index=True, return_inverse=True)
        result = []
        for repeat, of_slide in enumerate(fold):
            torn = np.unique(groups[of_slide != of_slide[first][member]]).tolist()
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
    total = np.maximum(counts.sum(axis=0), 1).tolist()
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    # In plain numbers, of the strata that the group has: arrays of a few folds and classes take far longer.
    own = [[(of, more) for of, more in enumerate(row) if more] for row in counts.tolist()]
    filled, slides = [[0.0] * len(total) for _ in range(folds)], [0.0] * folds
    fold_of_group = np.zeros(len(names), dtype=np.int64)
    for group in order.tolist():
        # The sum of squares of the strata's shares is least where they are even; ties are broken at random, else the
        # first fold would always be the largest.
        cost = [
            sum([((fold[of] + more) / total[of]) ** 2 - (fold[of] / total[of]) ** 2 for of, more in own[group]])
            for fold in filled
        ]
        even = min(cost) + 1e-12
        best = [number for number, one in enumerate(cost) if one <= even]
        fewest = min([slides[number] for number in best])
        best = [number for number in best if slides[number] == fewest]
        choice = best[int(rng.integers(len(best)))]
        for of, more in own[group]:
            filled[choice][of] += more
            slides[choice] += more
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


Scheme = Literal["grouped", "site-preserved", "leave-one-site-out", "leave-one-group-out"]

_SITE_TRIES = 32


def make_splits(
    cohort: Cohort, *, folds: int = 5, repeats: int = 5, seed: int = 0, scheme: Scheme = "grouped"
) -> Splits:
    """Deal groups to folds at random, labels and numbers of slides as even as the groups allow, `repeats` times.

    Even means: classes, quarters of a number, events early and late.

    `site-preserved` deals whole sites: slides of one site look alike, and a model that recognises the site of a test
    slide profits from the share of positives that it learnt there (Howard and others 2021). `leave-one-site-out` tests
    each site once, by what was learnt at all others; `leave-one-group-out` each group (patient). These two leave
    nothing to chance, so they have one repeat, and `folds` and `repeats` have no say.

    Args:
        cohort: slides, groups, labels, and for two of the schemes sites.
        folds: how many.
        repeats: how often; fewer, with a warning, where sites cannot be dealt in as many ways.
        seed: of the dealing.
        scheme: what is tested together.

    Raises:
        ConfigError: there are fewer groups, or sites, than folds; or no sites are known.
    """
    groups = cohort.group_numbers()
    if scheme == "leave-one-group-out":
        return Splits(cohort.slides, groups[None])
    if scheme == "grouped":
        n_groups = len(np.unique(groups))
        if n_groups < folds:
            raise ConfigError(
                f"cannot make {folds} folds of {cohort.target!r}: it has {n_groups} groups. Use fewer folds."
            )
        stratum = strata(cohort.outcome)
        dealt = [
            deal_folds(groups, stratum, folds, np.random.default_rng([seed, 0, repeat])) for repeat in range(repeats)
        ]
        return Splits(cohort.slides, np.stack(dealt))
    if cohort.sites is None:
        raise ConfigError(f"the scheme {scheme} needs the column of the site: --site COLUMN (site=...).")
    names, of_slide = np.unique(np.array(cohort.sites), return_inverse=True)
    sites = of_slide.reshape(-1).astype(np.int64)
    if len(names) < 2:
        raise ConfigError(f"{cohort.target!r} comes from one site ({names[0]}); the scheme {scheme} needs two.")
    if scheme == "leave-one-site-out":
        return Splits(cohort.slides, sites[None])
    if len(names) < folds:
        raise ConfigError(
            f"cannot make {folds} folds of {len(names)} sites of {cohort.target!r}: a site lies in one fold. "
            f"Use at most {len(names)} folds."
        )
    return Splits(cohort.slides, _deal_sites(sites, strata(cohort.outcome), folds, repeats, seed))


def _deal_sites(
    sites: Int64[np.ndarray, " slide"], stratum: Int64[np.ndarray, " slide"], folds: int, repeats: int, seed: int
) -> Int64[np.ndarray, "repeat slide"]:
    """Whole sites, as even as the best of several tries; no two repeats the same."""
    kept: list[Int64[np.ndarray, " slide"]] = []
    seen: set[bytes] = set()
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, 0, repeat])
        tries = [deal_folds(sites, stratum, folds, rng) for _ in range(_SITE_TRIES)]
        fresh = [one for one in tries if len(np.unique(one)) == folds and _partition(one) not in seen]
        if not fresh:
            continue
        best = min(fresh, key=lambda one: _unevenness(one, stratum, folds))
        seen.add(_partition(best))
        kept.append(best)
    if not kept:
        raise ConfigError(f"sites are too unequal for {folds} folds that all hold one. Use fewer folds.")
    if len(kept) < repeats:
        warnings.warn(
            f"sites can be dealt evenly in {len(kept)} different ways only; {repeats - len(kept)} of {repeats} repeats "
            "are left out.",
            ParfocalWarning,
            stacklevel=3,
        )
    return np.stack(kept)


def _partition(fold: Int64[np.ndarray, " slide"]) -> bytes:
    """The same for folds that are the same but for their numbers."""
    _, first, number = np.unique(fold, return_index=True, return_inverse=True)
    return first[number.reshape(-1)].tobytes()


def _unevenness(fold: Int64[np.ndarray, " slide"], stratum: Int64[np.ndarray, " slide"], folds: int) -> float:
    counts = np.zeros((folds, int(stratum.max()) + 1))
    np.add.at(counts, (fold, stratum), 1)
    share = counts / np.maximum(counts.sum(axis=0), 1)
    return float((share**2).sum())
