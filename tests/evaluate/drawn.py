"""Arms whose scores are drawn rather than fitted: what is measured of them is known, and it takes no time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parfocal.cohort import Cohort, Fold, Outcome, Splits, make_splits
from parfocal.evaluate import ArmFits, TargetResult, compare_arms
from parfocal.evaluate.arm import Arm
from parfocal.heads import FoldPrediction

ARMS = (
    Arm("2", "gated-attention", "single", "5x", "One magnification", "gated attention"),
    Arm("0.5", "gated-attention", "single", "20x", "One magnification", "gated attention"),
    Arm("0.5", "mean", "single", "20x", "One magnification", "mean"),
    Arm("", "union", "late", "5x + 20x", "Late fusion", "gated attention over all tiles"),
    Arm(
        "mem/tokens", "mean", "mixed", "contextual tokens", "Region encoder mem", "mean", model="mem", readout="tokens"
    ),
    Arm(
        "mem/tokens", "gated-attention", "mixed", "contextual tokens", "Region encoder mem", "gated attention",
        model="mem", readout="tokens",
    ),
)  # fmt: skip
SIGNAL = (0.2, 0.6, 0.8, 0.7, 1.5, 1.3)


def outcome_of(kind: str, n: int, rng: np.random.Generator, target: str = "t") -> Outcome:
    """A label of a kind that follows one hidden number."""
    hidden, seen = rng.normal(size=n), np.ones(n, dtype=bool)
    if kind == "binary":
        return Outcome(target, "binary", ("no", "yes"), (hidden > 0).astype(float), seen)
    if kind in ("multiclass", "ordinal"):
        value = np.digitize(hidden, [-0.5, 0.5]).astype(float)
        return Outcome(target, kind, ("low", "middle", "high"), value, seen)  # type: ignore[arg-type]
    if kind == "continuous":
        return Outcome(target, "continuous", (), hidden, seen)
    return Outcome(target, "survival", (), np.exp(-hidden) * 12, rng.uniform(size=n) < 0.7)


def score_of(outcome: Outcome, signal: float, rng: np.random.Generator) -> np.ndarray:
    """Scores of every column that know the label up to noise; a higher risk dies earlier."""
    columns = []
    for column in outcome.columns:
        value = -np.log(column.value) if column.family == "cox" else column.value
        columns.append(2 * signal * (value - value.mean()) + rng.normal(size=len(outcome)))
    return np.stack(columns, axis=1)


@dataclass(frozen=True, eq=False)
class Drawn:
    cohort: Cohort
    splits: Splits
    folds: list[Fold]
    fits: list[ArmFits]

    def result(self, **other: object) -> TargetResult:
        return compare_arms(ARMS, self.fits, self.cohort, self.splits, self.folds, **other)  # type: ignore[arg-type]


def cohort_of(
    kind: str,
    *,
    n: int = 60,
    per_patient: int = 1,
    seed: int = 0,
    by: Mapping[str, Sequence[str]] | None = None,
    target: str = "t",
) -> Cohort:
    outcome = outcome_of(kind, n, np.random.default_rng(seed), target)
    own = outcome.of(np.repeat(np.arange(n), per_patient))
    slides = tuple(f"s{number:03d}" for number in range(n * per_patient))
    groups = tuple(f"p{number // per_patient:03d}" for number in range(n * per_patient))
    return Cohort(slides, groups, own, by={name: tuple(values) for name, values in (by or {}).items()})


def drawn(
    cohort: Cohort,
    *,
    seed: int = 1,
    repeats: int = 2,
    signal: Sequence[float] = SIGNAL,
    external: Cohort | None = None,
    seeds: int = 0,
) -> Drawn:
    """Every arm on the same folds; in each repeat its scores have other noise."""
    rng = np.random.default_rng(seed)
    splits = make_splits(cohort, folds=4, repeats=repeats)
    folds = splits.folds(cohort, inner=3, seed=0)

    def predictions(strength: float) -> tuple[FoldPrediction, ...]:
        scores = [score_of(cohort.outcome, strength, rng) for _ in range(repeats)]
        return tuple(FoldPrediction(scores[fold.repeat][fold.test], "plain") for fold in folds)

    fits = [
        ArmFits(
            predictions(strength),
            instances_per_slide=10.0 + place,
            seconds=0.5,
            encodings_per_slide=21.0,
            external=None if external is None else FoldPrediction(score_of(external.outcome, strength, rng), "plain"),
            by_seed=tuple(predictions(strength) for _ in range(seeds)),
        )
        for place, strength in enumerate(signal)
    ]
    return Drawn(cohort, splits, folds, fits)
