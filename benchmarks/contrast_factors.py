"""Whether sharpened directions cost anything where the factors behind a pairing do not fall into two groups.

    python benchmarks/contrast_factors.py

Draws small cohorts whose label is the sign of the correlation of two factors within regions, one seen in each of two
magnifications: two-state, normal and two-sided exponential factors. Both magnifications also show two-state structure
of their own that no label goes with. Prints the AUC on test slides with the sharpened directions and the six numbers
offered beside the ranks, without them, and what was chosen.
"""

import argparse

import numpy as np
from threadpoolctl import threadpool_limits

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.heads import ProbeSettings, fit_contrast
from parfocal.stats import auc

DIM, N_REGIONS, N_TEST, SIZE = 64, 64, 1500, 1.5
KINDS = ("two-state", "normal", "exponential")


def draw_factors(
    kind: str, n: int, correlation: float, label: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two factors of variance about one, correlated by the label's sign."""
    sign = np.where(label, correlation, -correlation)[:, None]
    if kind == "two-state":
        first = rng.choice([-1.0, 1.0], (n, N_REGIONS))
        return first, np.where(rng.random((n, N_REGIONS)) < (1 + sign) / 2, first, -first)
    draw = rng.standard_normal if kind == "normal" else rng.laplace
    first, other = draw(size=(n, N_REGIONS)), draw(size=(n, N_REGIONS))
    return first, sign * first + np.sqrt(1 - correlation**2) * other


def draw_bag(name: str, factor: np.ndarray, rng: np.random.Generator) -> Bag:
    """Region vectors that show a factor, two states without any label, and noise of a falling spectrum."""
    n = len(factor)
    x = rng.standard_normal((n, N_REGIONS, DIM))
    x[:, :, 0] += SIZE * factor
    x[:, :, 1:3] += SIZE * rng.choice([-1.0, 1.0], (n, N_REGIONS, 2))
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    rows = (x * np.arange(1, DIM + 1) ** -0.5 @ turn).astype(np.float32)
    start = np.arange(n + 1, dtype=np.int64)
    return Bag(
        name=name,
        slides=tuple(map(str, range(n))),
        rows=rows[:, 0],
        start=start,
        n_instances=np.ones(n, dtype=np.int64),
        mean=rows.mean(axis=1),
        region_mean=rows.reshape(-1, DIM),
        region_start=start * N_REGIONS,
        region_present=np.ones(n * N_REGIONS, dtype=bool),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 400])
    parser.add_argument("--cohorts", type=int, default=3)
    parser.add_argument("--correlation", type=float, default=0.1)
    arguments = parser.parse_args()
    print(f"{'factors':12s} {'slides':>6s} {'cohort':>6s} {'ranks':>6s} {'all':>6s}  chosen among all")
    with threadpool_limits(1):
        for kind in KINDS:
            for size in arguments.sizes:
                for seed in range(arguments.cohorts):
                    n = size + N_TEST
                    rng = np.random.default_rng([seed, size])
                    label = rng.permutation(np.arange(n) % 2 == 0)
                    factors = draw_factors(kind, n, arguments.correlation, label, rng)
                    bags = [draw_bag(name, one, rng) for name, one in zip(("coarse", "fine"), factors, strict=True)]
                    train = np.arange(size)
                    inner = deal_folds(train, label[:size], 5, np.random.default_rng(0))
                    fold = Fold(0, 0, train, np.arange(size, n), inner)
                    found, chosen = [], ""
                    for sharpen in (False, True):
                        settings = ProbeSettings(components=(16, 32, 64), sharpen=sharpen)
                        (fit,) = fit_contrast(bags, Outcome.binary(label), [fold], settings)
                        found.append(auc(label[fold.test], fit.score(bags, fold.test)[:, 0]))
                        chosen = fit.chosen
                    print(f"{kind:12s} {size:6d} {seed:6d} {found[0]:6.3f} {found[1]:6.3f}  {chosen}", flush=True)


if __name__ == "__main__":
    main()
