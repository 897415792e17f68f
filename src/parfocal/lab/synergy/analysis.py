"""One label against the pairing of magnifications: test, effect, power, second opinion, main effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import Field

from parfocal.config import Settings
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.lab.synergy.caveats import Nuisances, differences, nuisances
from parfocal.lab.synergy.crossfit import CrossFitted, ResidualBasis, cross_fitted_test, design, residual_basis
from parfocal.lab.synergy.main_effects import MainEffect, cluster_types, main_effects, types_within, usable_types
from parfocal.lab.synergy.moments import CohortRows, PairMoments, Units, pair_moments, units_of
from parfocal.lab.synergy.permutation import (
    Candidate,
    PairingTest,
    Power,
    debiased_effect,
    draw_permutations,
    measure_power,
    pairing_test,
    residuals_of,
    slides_needed,
)
from parfocal.report import pick, plain
from parfocal.run.cache import StepCache
from parfocal.stats import Interval, holm

_LEAST_COVERED = 0.9
_LEAST_LEFT = 1e-9  # of the label's variance; less is rounding


class SynergySettings(Settings):
    """How the pairing of magnifications is tested."""

    components: tuple[int, ...] = Field(
        (8, 16, 32), min_length=1, description="Numbers of whitened components to try; all count in the one p-value."
    )
    permutations: int = Field(999, ge=99, description="Permutations of the labels; 1 / (this + 1) is the smallest p.")
    types: tuple[int, ...] = Field(
        (4, 8, 16),
        description="Numbers of tissue types for the second opinion, centred within types; none turns it off.",
    )
    power: float = Field(0.8, gt=0, lt=1, description="The power that the detectable effect is found with.")
    level: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Pairing is said where the p-values of both tests are at most this; level of the power line too.",
    )
    power_permutations: int = Field(
        200, ge=0, description="Cohorts that pairs are planted into at each strength; 0 leaves the power line out."
    )
    main_repeats: int = Field(
        4, ge=0, description="Five-fold cross-validations of the slide means; 0 leaves main effects out."
    )
    tiles: int = Field(8, ge=0, description="Tiles shown at each end of each direction; 0 shows none.")
    maps: int = Field(4, ge=0, description="Slides shown as maps; 0 shows none.")
    seed: int = Field(0, ge=0, description="Seed of permutations, planted pairs, types and folds.")


@dataclass(frozen=True, eq=False)
class LabelResult:
    """Everything about one label.

    Attributes:
        label: the class, or the target's name for a number.
        is_class: whether the label is a class against the rest.
        values: of every unit.
        test: of the pairing, by permutation.
        crossed: of the pairing, cross-fitted.
        effect: debiased strength of the best candidate; 0 where none is visible.
        power: what this cohort could have shown; None where it was not asked for.
        needed: units that would show this effect with the asked power; None where no effect is visible.
        opinions: number of tissue types -> p-value of the test on embeddings centred within slide and type.
        main: main effects of each magnification and of all together.
        n_covariates: how many were taken out.
        warnings: in what the classes differ, or what goes with the number, although it should not.
        label_left: share of the label's variance that they leave; (n - n_covariates) / (n - 1) where they know nothing.
        p_holm: of the permutation test after Holm over the classes that were tested.
        p_crossed_holm: of the cross-fitted test, likewise.
        is_paired: whether both reject at the level: then pairing is said.
    """

    label: str
    is_class: bool
    values: Float64[np.ndarray, " unit"]
    test: PairingTest
    crossed: CrossFitted
    effect: float
    power: Power | None
    needed: int | None
    opinions: Mapping[int, float]
    main: tuple[MainEffect, ...]
    n_covariates: int
    label_left: float
    warnings: tuple[str, ...] = ()
    p_holm: float = 1.0
    p_crossed_holm: float = 1.0
    is_paired: bool = False

    def describe(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        candidate = ("mpps", "components", "singular_value", "noise_variance", "z", "p_value")
        power = {"detectable_effect": "detectable", "visible_from": "edge", "planted": "strength", "found": "power"}
        tested = {"p_value": "test", "p_cross_fitted": "crossed"}
        return {
            **pick(self, "label", "is_class", "effect", units_needed="needed", covariates="n_covariates"),
            **pick(self, differs_with_the_label="warnings", label_variance_left="label_left"),
            **pick(self, **{name: f"{test}.p_value" for name, test in tested.items()}),
            "units": len(self.values),
            "p_cross_fitted_of_splits": plain(self.crossed.of_splits),
            "best": pick(self.test.best, "mpps", "components", "z"),
            "power": pick(self.power, "asked", "level", **power),
            "candidates": [pick(one, *candidate) for one in self.test.candidates],
            "within_types": [{"p_value": p, "types": n_types} for n_types, p in self.opinions.items()],
            "main_effects": [{"name": one.name, "measure": one.measure, **one.value.to_dict()} for one in self.main],
            **pick(self, "p_holm", p_cross_fitted_holm="p_crossed_holm", pairing="is_paired"),
        }


_KINDS = (LabelResult, PairingTest, Candidate, CrossFitted, Power, MainEffect, Interval)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Moments of the cohort in the basis of what its covariates leave; the same for every label.

    Attributes:
        covariates: of the units.
        basis: of what they leave.
        site: of each residual; None where there are no sites.
        residuals: the moments of every pair of magnifications in the basis.
    """

    covariates: Float64[np.ndarray, "unit covariate"]
    basis: ResidualBasis
    site: Int64[np.ndarray, " residual"] | None
    residuals: tuple[PairMoments, ...]

    def orders(self, number: int, rng: np.random.Generator) -> Int64[np.ndarray, "permutation residual"]:
        """Permutations of the residuals within sites, the identity first."""
        return draw_permutations(number, self.site, len(self.basis.kept), rng)


@dataclass(frozen=True, eq=False)
class _Cohort:
    """What all labels share.

    Attributes:
        units: who is permuted.
        pairs: moments of every pair of magnifications.
        prepared: these in the basis of what covariates leave; 0: as they are, else within so many types.
        means: slide means of the units by their magnification.
        unlike: what should have nothing to do with a label.
    """

    units: Units
    pairs: tuple[PairMoments, ...]
    prepared: Mapping[int, _Prepared]
    means: Mapping[str, Float64[np.ndarray, "unit _dim"]]
    unlike: Nuisances


def analyse_label(
    rows: CohortRows,
    units: Units,
    labels: Mapping[str, Float64[np.ndarray, " unit"]],
    settings: SynergySettings,
    *,
    is_class: bool,
    also: Nuisances | None = None,
    keep: Path | None = None,
) -> list[LabelResult]:
    """Test every label (one class against the rest each, or one number).

    Args:
        rows: of the cohort.
        units: who is permuted.
        labels: name -> 0 and 1 for a class; for a number its values, which are standardised.
        settings: how.
        is_class: whether labels are classes.
        also: what else of the units should have nothing to do with a label.
        keep: folder of finished labels, which are not tested again; None keeps nothing.

    Raises:
        ConfigError: too few units, or sites and slide means leave nothing of a label.
    """
    means = {format_mpp(mpp): units_of(rows.means[mpp], units.of_slide) for mpp in rows.mpps}
    pairs = _pairs(rows, units, None)
    prepared = {0: _prepare(pairs, units, list(means.values()))}
    for n_types in usable_types(rows, settings.types):
        types = types_within(rows, cluster_types(rows, n_types, seed=settings.seed))
        if _covers(rows, units, types):
            prepared[n_types] = _prepare(_pairs(rows, units, types), units, list(means.values()))
    unlike = {**nuisances(rows, units, pairs), **(also or {})}
    if len(means) > 1:
        means["all together"] = np.concatenate(list(means.values()), axis=1)
    cohort = _Cohort(units, pairs, prepared, means, unlike)
    cache, decisive = StepCache(keep, _KINDS), settings.model_dump(mode="json", exclude={"tiles", "maps"})
    results = []
    for number, (name, values) in enumerate(labels.items()):
        values = values if is_class else (values - values.mean()) / values.std()
        work = partial(_analyse, name, number, values, cohort, settings, is_class=is_class)
        results.append(cache.step(f"label {name}", (rows, units, number, values, is_class, unlike, decisive), work))
    permuted = holm([one.test.p_value for one in results]).tolist()
    crossed = holm([one.crossed.p_value for one in results]).tolist()
    return [
        replace(one, p_holm=p, p_crossed_holm=other, is_paired=max(p, other) <= settings.level)
        for one, p, other in zip(results, permuted, crossed, strict=True)
    ]


def _analyse(
    name: str,
    number: int,
    values: Float64[np.ndarray, " unit"],
    cohort: _Cohort,
    settings: SynergySettings,
    *,
    is_class: bool,
) -> LabelResult:
    whole = cohort.prepared[0]
    components = sorted({min(k, cohort.pairs[0].cross.shape[1]) for k in settings.components})
    left = float(((whole.basis.columns.T @ values) ** 2).sum() / ((values - values.mean()) ** 2).sum())
    if left < _LEAST_LEFT:
        raise ConfigError(
            f"sites and slide means tell {name!r} of every {cohort.units.called} of this cohort, and leave nothing of "
            "it for pairing to explain: a test within sites needs sites that have more than one value of it."
        )
    rng = np.random.default_rng([settings.seed, 19, number])
    tests = {
        n_types: pairing_test(
            one.residuals, one.basis.columns.T @ values, one.orders(settings.permutations, rng), components
        )
        for n_types, one in cohort.prepared.items()
    }
    test = tests[0]
    effect = debiased_effect(test.best.singular_value, test.best.noise_variance, test.best.components)
    power = None
    if settings.power_permutations:
        power = measure_power(
            whole.residuals,
            whole.basis.columns.T @ values,
            whole.orders(settings.power_permutations, rng)[1:],
            components,
            test,
            asked=settings.power,
            level=settings.level,
            rng=rng,
        )
    crossed = cross_fitted_test(
        cohort.pairs,
        whole.covariates,
        values,
        components,
        np.random.default_rng([settings.seed, 23, number]),
        together=cohort.units.together,
    )
    return LabelResult(
        label=name,
        is_class=is_class,
        values=values,
        test=test,
        crossed=crossed,
        effect=effect,
        power=power,
        needed=None if power is None else slides_needed(len(values), effect, power.detectable),
        opinions={n_types: one.p_value for n_types, one in tests.items() if n_types},
        main=tuple(
            main_effects(cohort.means, values, is_class=is_class, repeats=settings.main_repeats, seed=settings.seed)
        ),
        n_covariates=whole.basis.n_covariates,
        label_left=left,
        warnings=differences(cohort.unlike, values, is_class=is_class),
    )


def _covers(rows: CohortRows, units: Units, group: Int64[np.ndarray, " region"]) -> bool:
    """Whether nearly every unit has two regions of one group to compare, at every pair of magnifications."""
    pairs = combinations(rows.mpps, 2)
    return all((np.bincount(units.of_slide, rows.n_paired(a, b, group)) > 0).mean() >= _LEAST_COVERED for a, b in pairs)


def _pairs(rows: CohortRows, units: Units, group: Int64[np.ndarray, " region"] | None) -> tuple[PairMoments, ...]:
    return tuple(pair_moments(rows, a, b, units.of_slide, group=group) for a, b in combinations(rows.mpps, 2))


def _prepare(pairs: Sequence[PairMoments], units: Units, means: Sequence[np.ndarray]) -> _Prepared:
    second = [pairs[0].first, *(pair.second for pair in pairs[: len(means) - 1])]
    covariates = design(means, second, units.site)
    basis = residual_basis(covariates, units.called)
    site = None if units.site is None else units.site[basis.kept]
    return _Prepared(covariates, basis, site, tuple(residuals_of(pair, basis) for pair in pairs))
