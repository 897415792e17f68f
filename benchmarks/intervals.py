"""How often the 95 % interval of `evaluate` holds, how often it tells two equal arms apart, and what it can still see.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py [--cohorts 400] [--folds 5] [--repeats 5]

Cohorts of slides, one of each patient, whose means are normal numbers of which one carries the label; arms are the mean
and a logistic regression. Two arms have numbers of their own, or half of their variance in common. Folds, fits, metric,
interval and test are the package's (`make_splits`, `fit_logistic`, `compare_arms`). A fit is a direction, so that its
AUC on all patients there could be is known in closed form; what an interval has to hold is the mean of that over all
fits of all cohorts, and "these fits" is the same within one cohort.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from parfocal.cohort import Cohort, Fold, Outcome, Splits, make_splits
from parfocal.evaluate import ArmFits, compare_arms
from parfocal.evaluate.arm import Arm
from parfocal.evaluate.held_out import HeldOut
from parfocal.heads import FoldPrediction
from parfocal.heads.regression import fit_logistic
from parfocal.stats import (
    CrossValidated,
    Interval,
    auc_interval,
    detectable_difference,
    newcombe_interval,
    paired_test,
    standard_error,
)

PENALTY, DRAWS, DEALS = 0.01, 400, 40
ARMS = (
    Arm("", "a", "single", "a", "drawn", "mean"),
    Arm("", "b", "mixed", "b", "drawn", "mean"),
)


def nadeau_bengio_se(values: np.ndarray, test_over_train: float) -> float:
    """The standard error of the mean of the folds of a repeated cross-validation (Nadeau and Bengio 2003).

    A plain t test over folds takes each fold for a new experiment. They correct the variance for the overlap of the
    training sets: se^2 = (1/J + n_test/n_train) * variance of the J values, with J - 1 degrees of freedom. It is a
    correction, not a proof: where features say little it is too small.
    """
    # Equal values leave 1e-17 of rounding, which would look like a very small but honest variance.
    variance = 0.0 if np.ptp(values) < 1e-12 else float(np.var(values, ddof=1))
    return float(np.sqrt((1 / len(values) + test_over_train) * variance))


def nadeau_bengio_interval(values: np.ndarray, test_over_train: float) -> Interval:
    """The mean of the folds with the corrected t interval at 95 %."""
    reach = nadeau_bengio_se(values, test_over_train) * float(stats.t.ppf(0.975, len(values) - 1))
    mean = float(np.mean(values))
    return Interval(mean, mean - reach, mean + reach, method="Nadeau-Bengio")


@dataclass(frozen=True)
class Cell:
    """Cohorts of one kind: patients, positive ones, numbers of each arm, what arms share, and the AUC of each."""

    patients: int
    positives: int
    dims: int
    shared: float
    auc: tuple[float, float]


def equal(patients: int, positives: int, dims: int, shared: float = 0.0) -> list[Cell]:
    return [Cell(patients, positives, dims, shared, (value, value)) for value in (0.5, 0.65, 0.8)]


EQUAL = [
    *equal(100, 50, 8),
    *equal(100, 50, 8, shared=0.5),
    *equal(100, 50, 32),
    *equal(100, 20, 8),
    *equal(40, 20, 8),
]
POWER = [
    Cell(patients, patients // 2, 8, shared, (value, value + more))
    for patients, shared in ((100, 0.0), (100, 0.5), (40, 0.5))
    for value in (0.65, 0.8)
    for more in (0.05, 0.1)
]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A cohort with the fits of two arms and what each of them would reach on all patients."""

    cohort: Cohort
    splits: Splits
    folds: list[Fold]
    fits: list[ArmFits]
    true: tuple[float, float]


@cache
def dealt(patients: int, positives: int, folds: int, repeats: int, number: int) -> tuple[Cohort, Splits, list[Fold]]:
    """A cohort's labels and folds; they know nothing of the numbers, so that a few of them serve many cohorts."""
    label = np.random.default_rng(number).permutation(np.arange(patients) < positives)
    names = tuple(f"{one:03d}" for one in range(patients))
    cohort = Cohort(names, names, Outcome.binary(label))
    splits = make_splits(cohort, folds=folds, repeats=repeats, seed=number)
    none = np.zeros(0, dtype=np.int64)
    outer = [
        Fold(repeat, one, np.flatnonzero(own != one), np.flatnonzero(own == one), none)
        for repeat, own in enumerate(splits.fold)
        for one in range(folds)
    ]
    return cohort, splits, outer


def draw(cell: Cell, shift: tuple[float, float], folds: int, repeats: int, number: int) -> Drawn:
    """The cohort of a number."""
    rng = np.random.default_rng([number, cell.patients, cell.positives, cell.dims, int(1e3 * sum(cell.auc))])
    n = cell.patients
    cohort, splits, outer = dealt(n, cell.positives, folds, repeats, number % DEALS)
    label = cohort.outcome.value
    weight = np.stack([np.isin(np.arange(n), fold.train).astype(float) for fold in outer])
    common = rng.standard_normal((n, cell.dims))
    fits, true = [], []
    for size in shift:
        x = np.sqrt(cell.shared) * common + np.sqrt(1 - cell.shared) * rng.standard_normal((n, cell.dims))
        x[:, 0] += size * label
        scaled = x / np.sqrt(cell.dims)
        direction = fit_logistic(scaled[None], label, weight, np.full(len(outer), PENALTY))
        score = scaled @ direction[:, :-1].T + direction[:, -1]
        predictions = tuple(FoldPrediction(score[fold.test, [j]][:, None], "") for j, fold in enumerate(outer))
        fits.append(ArmFits(predictions, 1.0, 0.0))
        cosine = direction[:, 0] / np.linalg.norm(direction[:, :-1], axis=1)
        true.append(float(stats.norm.cdf(size / np.sqrt(2) * cosine).mean()))
    return Drawn(cohort, splits, outer, fits, (true[0], true[1]))


@cache
def shift_for(patients: int, positives: int, dims: int, value: float, folds: int) -> float:
    """How far classes must lie apart for fits on such cohorts to reach an AUC on average."""
    if value == 0.5:
        return 0.0
    low, high = 0.0, 4.0
    cell = Cell(patients, positives, dims, 0.0, (value, value))
    for _ in range(9):
        middle = (low + high) / 2
        reached = np.mean([draw(cell, (middle, middle), folds, 1, number).true for number in range(40)])
        low, high = (middle, high) if reached < value else (low, middle)
    return (low + high) / 2


Found = tuple[float, float]
"""The lower and the upper end."""

BEFORE, NOW = "Nadeau-Bengio, widened to Newcombe (before)", "over patients + fits (now)"


@dataclass(frozen=True, eq=False)
class TwoArms:
    """What candidates are made of: two arms over the same folds, and draws of their patients."""

    arms: tuple[CrossValidated, CrossValidated]
    drawn: np.ndarray
    positives: int
    negatives: int

    @property
    def fewest(self) -> int:
        """How many the smaller class has."""
        return min(self.positives, self.negatives)


def before(of: TwoArms) -> tuple[Found, Found, Found]:
    """Nadeau and Bengio, of an AUC widened to Newcombe."""
    ends = []
    for one in of.arms:
        own = nadeau_bengio_interval(one.value, one.test_over_train).clipped(0, 1)
        floor = newcombe_interval(own.estimate, of.positives, of.negatives)
        ends.append((min(own.low, floor.low), max(own.high, floor.high)))
    between = nadeau_bengio_interval(of.arms[0].value - of.arms[1].value, of.arms[0].test_over_train)
    return ends[0], ends[1], (between.low, between.high)


def wider_overlap(of: TwoArms) -> tuple[Found, Found, Found]:
    """The same with twice the share of the test fold."""
    result = []
    for value in (of.arms[0].value, of.arms[1].value, of.arms[0].value - of.arms[1].value):
        reach = nadeau_bengio_se(value, 2 * of.arms[0].test_over_train) * stats.t.ppf(0.975, len(value) - 1)
        result.append((float(value.mean() - reach), float(value.mean() + reach)))
    return result[0], result[1], result[2]


def patient_draws(of: TwoArms) -> tuple[Found, Found, Found]:
    """Percentiles of the mean over folds where patients are drawn again and fits stay."""
    result = [np.quantile(one, (0.025, 0.975)) for one in (*of.drawn, of.drawn[0] - of.drawn[1])]
    return tuple((float(low), float(high)) for low, high in result)  # type: ignore[return-value]


def of_variance(spread: Callable[[CrossValidated, int], tuple[float, float]]) -> Callable[[TwoArms], tuple[Found, ...]]:
    """A variance and its degrees of freedom as an interval: on the logit scale for an AUC, plain for a difference."""

    def ends(of: TwoArms) -> tuple[Found, ...]:
        result: list[Found] = []
        for one in (*of.arms, of.arms[0].minus(of.arms[1])):
            variance, degrees = spread(one, of.fewest)
            reach = float(stats.t.ppf(0.975, degrees) * np.sqrt(variance))
            middle = one.mean
            if len(result) < 2:
                middle = min(max(middle, 1e-3), 1 - 1e-3)
                reach /= middle * (1 - middle)
                odds = logit(middle)
                result.append((float(expit(odds - reach)), float(expit(odds + reach))))
            else:
                result.append((middle - reach, middle + reach))
        return tuple(result)

    return ends


def over_patients(one: CrossValidated, fewest: int) -> float:
    return float((one.pull**2).sum()) * fewest / (fewest - 1)


def between_repeats(share: float) -> Callable[[CrossValidated, int], tuple[float, float]]:
    """The variance over patients plus a multiple of that between repeats."""

    def spread(one: CrossValidated, fewest: int) -> tuple[float, float]:
        patients, repeats = over_patients(one, fewest), len(np.unique(one.repeat))
        of_fits = share * float(one.value.reshape(repeats, -1).mean(axis=1).var(ddof=1)) if repeats > 1 else np.nan
        total = max(patients + of_fits, 1e-12)
        degrees = total**2 / max(patients**2 / (len(one.pull) - 1) + of_fits**2 / max(repeats - 1, 1), 1e-24)
        return total, degrees

    return spread


def package(of: TwoArms) -> tuple[Found, ...]:
    """What the reports print."""
    found = [auc_interval(one, n_positive=of.positives, n_negative=of.negatives) for one in of.arms]
    between = of.arms[0].minus(of.arms[1])
    se, degrees = standard_error(between, of.fewest)
    reach = se * float(stats.t.ppf(0.975, degrees))
    return (*((one.low, one.high) for one in found), (between.mean - reach, between.mean + reach))


CANDIDATES: dict[str, Callable[[TwoArms], tuple[Found, ...]]] = {
    BEFORE: before,
    "Nadeau-Bengio with twice the overlap": wider_overlap,
    "patients drawn again, percentiles": patient_draws,
    "over patients (DeLong of held-out placements)": of_variance(lambda one, n: (over_patients(one, n), 1e9)),
    "over patients, twice": of_variance(lambda one, n: (2 * over_patients(one, n), len(one.pull) - 1)),
    "over patients, 2.5 times": of_variance(lambda one, n: (2.5 * over_patients(one, n), len(one.pull) - 1)),
    "over patients + 2 between repeats": of_variance(between_repeats(2.0)),
    "over patients + 4 between repeats": of_variance(between_repeats(4.0)),
    NOW: package,
}


@dataclass(frozen=True, eq=False)
class Cohorts:
    """What is found in one cohort.

    Attributes:
        ends: of each candidate: the lower and upper ends for the first arm, the second, and their difference.
        true: what fits like these reach on all patients.
        shown: whether the difference is significant, before and now.
        difference: of the arms.
    """

    ends: dict[str, np.ndarray]
    true: tuple[float, float]
    shown: tuple[bool, bool]
    difference: CrossValidated


def run(cell: Cell, number: int, shift: tuple[float, float], folds: int, repeats: int) -> Cohorts:
    """The ends of every candidate for both arms and their difference, and what is true."""
    one = draw(cell, shift, folds, repeats, number)
    held_out = HeldOut.of(one.cohort, one.folds)
    first, second = (held_out.over_folds(fit.predictions) for fit in one.fits)
    of = TwoArms(
        (first, second), draws_of(one, np.random.default_rng(number)), cell.positives, cell.patients - cell.positives
    )
    ends = {name: np.array(candidate(of)) for name, candidate in CANDIDATES.items()}
    test = paired_test(first, second, n_patients=of.fewest)
    if number < 3:  # that these are the numbers that a report prints
        result = compare_arms(ARMS, one.fits, one.cohort, one.splits, one.folds)
        assert result.picked is not None
        assert result.picked.test.p_value in (test.p_value, paired_test(second, first, n_patients=of.fewest).p_value)
        assert [tuple(ends[NOW][arm]) for arm in (0, 1)] == [(r.interval.low, r.interval.high) for r in result.runs]
    shown = (not ends[BEFORE][2, 0] <= 0 <= ends[BEFORE][2, 1], test.p_value <= 0.05)
    return Cohorts(ends, one.true, shown, first.minus(second))


def draws_of(one: Drawn, rng: np.random.Generator) -> np.ndarray:
    """The mean AUC over folds of both arms, fits as they are, where patients are drawn again within their class."""
    is_positive = one.cohort.is_positive
    weight = np.zeros((DRAWS, len(is_positive)))
    for own in (np.flatnonzero(is_positive), np.flatnonzero(~is_positive)):
        weight[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=DRAWS)
    means = np.zeros((2, DRAWS))
    for j, fold in enumerate(one.folds):
        truth = is_positive[fold.test]
        positive, negative = weight[:, fold.test[truth]], weight[:, fold.test[~truth]]
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        for arm, fit in enumerate(one.fits):
            score = fit.predictions[j].score[:, 0]
            won = ((positive @ (score[truth][:, None] > score[~truth])) * negative).sum(axis=1)
            means[arm] += np.divide(won, pairs, out=np.full(DRAWS, 0.5), where=pairs > 0) / len(one.folds)
    return means


def holds(ends: np.ndarray, value: np.ndarray | float) -> float:
    return float(((ends[..., 0] <= value) & (value <= ends[..., 1])).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=400)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--power", type=int, default=200, help="cohorts of each true difference; 0 leaves them out")
    given = parser.parse_args()
    start = time.perf_counter()

    def cohorts(cell: Cell, n: int) -> list[Cohorts]:
        first, second = (shift_for(cell.patients, cell.positives, cell.dims, one, given.folds) for one in cell.auc)
        return [run(cell, number, (first, second), given.folds, given.repeats) for number in range(n)]

    heading(
        "patients (positive)", "numbers", "shared", "AUC", "coverage before", "now", "of these fits",
        "half width before", "now", "equal arms differ, before", "now",
    )  # fmt: skip
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in CANDIDATES}
    for cell in EQUAL:
        found = cohorts(cell, given.cohorts)
        true = np.array([one.true for one in found])
        for name, own in rows.items():
            own.append(measured(np.array([one.ends[name] for one in found]), true))
        first, last = rows[BEFORE][-1], rows[NOW][-1]
        before_now = np.mean([one.shown for one in found], axis=0)
        print(
            f"| {cell.patients} ({cell.positives}) | {cell.dims} | {cell.shared:g} | {true.mean():.2f} | "
            f"{first[0]:.3f} | {last[0]:.3f} | {last[1]:.3f} | {first[2]:.3f} | {last[2]:.3f} | "
            f"{before_now[0]:.3f} | {before_now[1]:.3f} |",
            flush=True,
        )
    print()
    heading(
        "interval",
        "lowest coverage",
        "mean",
        "half width",
        "equal arms differ, most",
        "mean",
        "half width of a difference",
    )
    for name, own in rows.items():
        cover, _, width, differ, wide = np.array(own).T
        print(
            f"| {name} | {cover.min():.3f} | {cover.mean():.3f} | {width.mean():.3f} | {differ.max():.3f} | "
            f"{differ.mean():.3f} | {wide.mean():.3f} |"
        )
    if given.power:
        print()
        heading("patients", "shared", "AUC", "true difference", "found before", "now", "80 % power at, as a page says")
    for cell in POWER if given.power else []:
        found = cohorts(cell, given.power)
        true = np.array([one.true for one in found]).mean(axis=0)
        before_now = np.mean([one.shown for one in found], axis=0)
        says = np.median([detectable_difference(one.difference, n_patients=cell.positives) for one in found[:40]])
        print(
            f"| {cell.patients} | {cell.shared:g} | {true[0]:.2f} | {true[1] - true[0]:.2f} | {before_now[0]:.2f} | "
            f"{before_now[1]:.2f} | {says:.2f} |",
            flush=True,
        )
    print(f"\n{given.cohorts} cohorts a row, {time.perf_counter() - start:.0f} s")


def measured(ends: np.ndarray, true: np.ndarray) -> tuple[float, ...]:
    """Coverage of the mean over cohorts and of these fits, half width, how often equal arms differ, and half width."""
    half = (ends[..., 1] - ends[..., 0]) / 2
    return (
        holds(ends[:, :2], float(true.mean())),
        holds(ends[:, :2], true),
        float(half[:, :2].mean()),
        1 - holds(ends[:, 2], 0.0),
        float(half[:, 2].mean()),
    )


def heading(*names: str) -> None:
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|", flush=True)


if __name__ == "__main__":
    main()
