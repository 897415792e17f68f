"""Which slides are tested together: patients at random, whole sites, one site, or one patient."""

import warnings
from typing import Literal

import numpy as np
from jaxtyping import Int64

from parfocal.cohort.labels import Cohort
from parfocal.cohort.splits import Splits, deal_folds
from parfocal.cohort.strata import strata
from parfocal.errors import ConfigError, ParfocalWarning

__all__ = ["Scheme", "make_splits"]

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
