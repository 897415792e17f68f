"""One label against the pairing of magnifications: test, effect, power, second opinion, main effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import Field

from parfocal.config import Settings
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.lab.synergy.covariates import ResidualBasis, design, residual_basis
from parfocal.lab.synergy.crossfit import CrossFitted, cross_fitted_test
from parfocal.lab.synergy.effect import Power, debiased_effect, measure_power, slides_needed
from parfocal.lab.synergy.imbalance import differences, nuisances
from parfocal.lab.synergy.main_effects import MainEffect, cluster_types, main_effects, types_within, usable_types
from parfocal.lab.synergy.moments import CohortRows, PairMoments, Units, pair_moments, units_of
from parfocal.lab.synergy.permutation import PairingTest, draw_permutations, pairing_test, residuals_of

__all__ = ["LabelResult", "SynergySettings", "TypeOpinion", "Units", "analyse_label"]


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


@dataclass(frozen=True)
class TypeOpinion:
    """The p-value of the test on embeddings centred within slide and one of `n_types` types."""

    n_types: int
    p_value: float


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
        opinions: the second opinions.
        main: main effects of each magnification and of all together.
        n_covariates: how many were taken out.
        warnings: in what the classes differ, or what goes with the number, although it should not.
        label_left: share of the label's variance that they leave; (n - n_covariates) / (n - 1) where they know nothing.
    """

    label: str
    is_class: bool
    values: Float64[np.ndarray, " unit"]
    test: PairingTest
    crossed: CrossFitted
    effect: float
    power: Power | None
    needed: int | None
    opinions: tuple[TypeOpinion, ...]
    main: tuple[MainEffect, ...]
    n_covariates: int
    label_left: float
    warnings: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        best, power = self.test.best, self.power
        return {
            "label": self.label,
            "is_class": self.is_class,
            "units": len(self.values),
            "p_value": self.test.p_value,
            "p_cross_fitted": self.crossed.p_value,
            "p_cross_fitted_of_splits": list(self.crossed.of_splits),
            "best": {"mpps": list(best.mpps), "components": best.components, "z": best.z},
            "effect": self.effect,
            "units_needed": self.needed,
            "power": None
            if power is None
            else {
                "asked": power.asked,
                "level": power.level,
                "detectable_effect": power.detectable,
                "visible_from": power.edge,
                "planted": list(power.strength),
                "found": list(power.power),
            },
            "differs_with_the_label": list(self.warnings),
            "covariates": self.n_covariates,
            "label_variance_left": self.label_left,
            "candidates": [
                {
                    "mpps": list(one.mpps),
                    "components": one.components,
                    "singular_value": one.singular_value,
                    "noise_variance": one.noise_variance,
                    "z": one.z,
                    "p_value": one.p_value,
                }
                for one in self.test.candidates
            ],
            "within_types": [{"types": one.n_types, "p_value": one.p_value} for one in self.opinions],
            "main_effects": [{"name": one.name, "measure": one.measure, **one.value.to_dict()} for one in self.main],
        }


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Label-free parts that all labels share: residual moments, as they are and for each number of types."""

    covariates: Float64[np.ndarray, "unit covariate"]
    basis: ResidualBasis
    pairs: tuple[PairMoments, ...]


def analyse_label(
    rows: CohortRows,
    units: Units,
    labels: Mapping[str, Float64[np.ndarray, " unit"]],
    settings: SynergySettings,
    *,
    is_class: bool,
) -> list[LabelResult]:
    """Test every label (one class against the rest each, or one number).

    Args:
        rows: of the cohort.
        units: who is permuted.
        labels: name -> 0 and 1 for a class; for a number its values, which are standardised.
        settings: how.
        is_class: whether labels are classes.

    Raises:
        ConfigError: too few units, or sites and slide means leave nothing of a label.
    """
    components = _usable(settings.components, rows.components)
    means = {format_mpp(mpp): units_of(rows.means[mpp], units.of_slide) for mpp in rows.mpps}
    prepared = {0: _prepare(rows, units, list(means.values()), None)}
    for n_types in usable_types(rows, settings.types):
        types = types_within(rows, cluster_types(rows, n_types, seed=settings.seed))
        if _covers(rows, units, types):
            prepared[n_types] = _prepare(rows, units, list(means.values()), types)
    unlike = nuisances(rows, units, prepared[0].pairs)
    shown = dict(means)
    if len(means) > 1:
        shown["all together"] = np.concatenate([_unit_variance(one) for one in means.values()], axis=1)
    results = []
    for number, (name, given) in enumerate(labels.items()):
        values = given if is_class else (given - given.mean()) / given.std()
        left = _share_left(prepared[0].basis, values)
        if left < _LEAST_LEFT:
            raise ConfigError(
                f"sites and slide means tell {name!r} of every {units.called} of this cohort, and leave nothing of it "
                "for pairing to explain: a test within sites needs sites that have more than one value of it."
            )
        rng = np.random.default_rng([settings.seed, 19, number])
        tests = {
            n_types: _test(one, values, units.site, components, settings, rng) for n_types, one in prepared.items()
        }
        test = tests[0]
        best = test.best
        effect = debiased_effect(best.singular_value, best.noise_variance, best.components)
        power = _power(prepared[0], values, units.site, components, test, settings, rng)
        results.append(
            LabelResult(
                label=name,
                is_class=is_class,
                values=values,
                test=test,
                crossed=cross_fitted_test(
                    prepared[0].pairs,
                    prepared[0].covariates,
                    values,
                    components,
                    np.random.default_rng([settings.seed, 23, number]),
                    together=units.together,
                ),
                effect=effect,
                power=power,
                needed=None if power is None else slides_needed(len(values), effect, power.detectable),
                opinions=tuple(TypeOpinion(n, tests[n].p_value) for n in tests if n),
                main=tuple(
                    main_effects(shown, values, is_class=is_class, repeats=settings.main_repeats, seed=settings.seed)
                ),
                n_covariates=prepared[0].basis.n_covariates,
                label_left=left,
                warnings=differences(unlike, values, is_class=is_class),
            )
        )
    return results


def _covers(rows: CohortRows, units: Units, group: Int64[np.ndarray, " region"]) -> bool:
    """Whether nearly every unit has two regions of one group to compare, at every pair of magnifications."""
    for a, b in combinations(rows.mpps, 2):
        n = np.bincount(units.of_slide, rows.n_paired(a, b, group))
        if (n > 0).mean() < _LEAST_COVERED:
            return False
    return True


def _prepare(
    rows: CohortRows,
    units: Units,
    means: Sequence[Float64[np.ndarray, "unit _dim"]],
    group: Int64[np.ndarray, " region"] | None,
) -> _Prepared:
    pairs = tuple(pair_moments(rows, a, b, units.of_slide, group=group) for a, b in combinations(rows.mpps, 2))
    second = [pairs[0].first, *(pair.second for pair in pairs[: len(rows.mpps) - 1])]
    covariates = design(means, second, units.site)
    return _Prepared(covariates, residual_basis(covariates, units.called), pairs)


def _test(
    prepared: _Prepared,
    values: Float64[np.ndarray, " unit"],
    site: Int64[np.ndarray, " unit"] | None,
    components: Sequence[int],
    settings: SynergySettings,
    rng: np.random.Generator,
) -> PairingTest:
    basis = prepared.basis
    orders = draw_permutations(settings.permutations, None if site is None else site[basis.kept], len(basis.kept), rng)
    pairs = [residuals_of(pair, basis) for pair in prepared.pairs]
    return pairing_test(pairs, basis.columns.T @ values, orders, components)


def _power(
    prepared: _Prepared,
    values: Float64[np.ndarray, " unit"],
    site: Int64[np.ndarray, " unit"] | None,
    components: Sequence[int],
    test: PairingTest,
    settings: SynergySettings,
    rng: np.random.Generator,
) -> Power | None:
    if not settings.power_permutations:
        return None
    basis = prepared.basis
    orders = draw_permutations(
        settings.power_permutations, None if site is None else site[basis.kept], len(basis.kept), rng
    )
    return measure_power(
        [residuals_of(pair, basis) for pair in prepared.pairs],
        basis.columns.T @ values,
        orders[1:],
        components,
        test,
        asked=settings.power,
        level=settings.level,
        rng=rng,
    )


def _share_left(basis: ResidualBasis, values: Float64[np.ndarray, " unit"]) -> float:
    left = float(((basis.columns.T @ values) ** 2).sum())
    return left / float(((values - values.mean()) ** 2).sum())


def _usable(components: Sequence[int], most: int) -> tuple[int, ...]:
    """The numbers of components that the embeddings have, at least one of them."""
    return tuple(sorted({min(k, most) for k in components}))


def _unit_variance(means: np.ndarray) -> np.ndarray:
    scale = means.std(axis=0)
    return np.asarray(means / np.where(scale > 1e-6 * max(float(scale.max()), 1e-300), scale, np.inf))
