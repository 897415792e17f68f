"""XScale cohorts as bags, without a store between: what the benchmarks of probes have in common."""

from collections.abc import Sequence

import numpy as np

from parfocal.bags import Bag
from parfocal.cohort import Fold, deal_folds
from parfocal.lab.synthetic.ceilings import strat_log_likelihood_ratio
from parfocal.lab.synthetic.feature_model import COARSE, FINE, MIDDLE
from parfocal.lab.synthetic.xscale import FeatureCohort

NAMES = {COARSE: "5x", MIDDLE: "10x", FINE: "20x"}
MOST_INSTANCES = 64


def draw_bags(cohort: FeatureCohort, *, instances: bool, seed: int) -> dict[str, Bag]:
    """Draw slides one by one and keep region means, and a part of the tiles where networks need them."""
    n, n_regions, dim = len(cohort.slides), len(cohort.factors[0]), cohort.settings.model.dim
    rng = np.random.default_rng([seed, 9])
    region = {mpp: np.empty((n, n_regions, dim), dtype=np.float32) for mpp in NAMES}
    rows: dict[float, list[np.ndarray]] = {mpp: [] for mpp in NAMES}
    for number, tokens in enumerate(cohort):
        for mpp in NAMES:
            flat = tokens.features[mpp]
            region[mpp][number] = flat.reshape(n_regions, -1, dim).mean(axis=1)
            rows[mpp].append(rng.choice(flat, MOST_INSTANCES, replace=False) if instances else flat[:1])
    return {NAMES[mpp]: _bag(NAMES[mpp], cohort.slides, region[mpp], rows[mpp]) for mpp in NAMES}


def best_scores(cohort: FeatureCohort, numbers: np.ndarray) -> np.ndarray:
    """The exact log likelihood ratio of an XScale-strat label for some slides: nothing better can be computed."""
    evidence = []
    for number in numbers:
        factors, tokens = cohort.factors[number], cohort.tokens(int(number))
        strata = factors.tissue_type + 8 * (factors.h1 > 0) + 16 * (factors.h2 > 0)
        order = np.argsort(strata, kind="stable").reshape(-1, cohort.settings.stratum)
        evidence.append((cohort.space.log_odds_a(tokens)[order], cohort.space.log_odds_c(tokens)[order]))
    coarse, fine = np.stack([a for a, _ in evidence]), np.stack([c for _, c in evidence])
    return strat_log_likelihood_ratio(coarse, fine, cohort.settings.omega)


def one_fold(label: np.ndarray, train: np.ndarray, test: np.ndarray, *, inner: int = 5) -> Fold:
    """A training and a test set; every slide is a patient."""
    dealt = deal_folds(np.arange(len(train)), label[train], inner, np.random.default_rng([len(train), 1]))
    return Fold(0, 0, train, test, dealt)


def _bag(name: str, slides: Sequence[str], region: np.ndarray, rows: list[np.ndarray]) -> Bag:
    n, n_regions, dim = region.shape
    return Bag(
        name=name,
        slides=tuple(slides),
        rows=np.concatenate(rows).astype(np.float32),
        start=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        n_instances=np.array([len(one) for one in rows], dtype=np.int64),
        mean=region.mean(axis=1),
        region_mean=region.reshape(-1, dim),
        region_start=np.arange(n + 1, dtype=np.int64) * n_regions,
        region_present=np.ones(n * n_regions, dtype=bool),
    )
