"""Policies with what they need: heads fitted on random bags, and a small model with random weights."""

from functools import cache

import numpy as np

from parfocal.bags import Bag, TileDecoder
from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.heads import FittedProbe, ProbeSettings, fit_attention, fit_contrast, fit_mean, fit_mlp, fit_region_mlp
from parfocal.zoom import POLICIES, HeadOfBags, Policy

from ..region_encoder.toy import model_of

BAGS = ("2", "1", "0.5")
SLIDES, REGIONS = 30, 8
LABEL = np.arange(SLIDES) % 2 == 0
SETTINGS = ProbeSettings(components=(3, 4), inner_folds=2, attention_steps=8, growth=1, lifted=(2,))


def bag_of(name: str, seed: int, dim: int) -> Bag:
    """Random regions, in whose first two columns the bags agree or disagree with one another by the label."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).choice([-1.0, 1.0], (SLIDES, REGIONS))
    means = rng.standard_normal((SLIDES, REGIONS, dim))
    means[:, :, 0] += 2 * shared * (np.where(LABEL, 1, -1)[:, None] if name == "0.5" else 1)
    rows = means.reshape(-1, dim).astype(np.float32)
    start = np.arange(SLIDES + 1) * REGIONS
    return Bag(
        name=name,
        slides=tuple(f"s{number}" for number in range(SLIDES)),
        rows=rows,
        start=start,
        n_instances=np.full(SLIDES, REGIONS),
        mean=rows.reshape(SLIDES, REGIONS, dim).mean(axis=1),
        region_mean=rows,
        region_start=start,
        region_present=np.ones(len(rows), dtype=bool),
    )


def bags(dim: int) -> list[Bag]:
    return [bag_of(name, seed, dim) for seed, name in enumerate(BAGS)]


@cache
def head(kind: str, dim: int) -> FittedProbe:
    """A head on all three magnifications."""
    train = np.arange(SLIDES)
    fold = Fold(0, 0, train, train[:0], deal_folds(train, LABEL, 2, np.random.default_rng(0)))
    fit = {
        "contrast": fit_contrast,
        "attention": fit_attention,
        "mean": fit_mean,
        "mlp": fit_mlp,
        "region_mlp": fit_region_mlp,
    }[kind]
    (probe,) = fit(bags(dim), Outcome.binary(LABEL), [fold], SETTINGS)
    return probe


def bound(name: str, *, dim: int) -> Policy:
    policy = POLICIES.get(name)
    kind = name.split("-")[0] if name != "value" else "mean"
    found = {
        "head": lambda: HeadOfBags(head(kind, dim), BAGS),
        "model": lambda: TileDecoder(model_of(dims=(dim,) * 3), 0.5, whitened=False),
    }
    return policy.bound(*(found[need]() for need in policy.needs)) if policy.needs else policy
