"""Folds hold labels of every kind evenly; sites stay whole or are left out one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.cohort import Cohort, Outcome, make_splits, strata, whole_fold
from parfocal.cohort.outcome import OutcomeKind
from parfocal.errors import ConfigError, ParfocalWarning

N = 60


def outcome_of(kind: OutcomeKind, seed: int = 0, n: int = N) -> Outcome:
    rng = np.random.default_rng(seed)
    happened = rng.random(n) < 0.5 if kind == "survival" else np.ones(n, dtype=bool)
    if kind in ("continuous", "survival"):
        return Outcome("t", kind, (), rng.lognormal(size=n), happened)
    classes = ("a", "b", "c")[: 2 if kind == "binary" else 3]
    return Outcome("t", kind, classes, rng.permutation(np.arange(n) % len(classes)).astype(float), happened)


def cohort_of(outcome: Outcome, *, sites: list[str] | None = None, groups: list[str] | None = None) -> Cohort:
    slides = tuple(f"s{number:03d}" for number in range(len(outcome)))
    return Cohort(slides, tuple(groups or slides), outcome, sites=tuple(sites) if sites else None)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal", "continuous", "survival"])
def test_every_fold_has_its_share_of_every_stratum(kind: OutcomeKind) -> None:
    outcome = outcome_of(kind)
    splits = make_splits(cohort_of(outcome), folds=5, repeats=2)

    for repeat in splits.fold:
        for stratum in np.unique(strata(outcome)):
            counts = np.bincount(repeat[strata(outcome) == stratum], minlength=5)
            assert counts.max() - counts.min() <= 1, (stratum, counts)


def test_strata_are_quarters_of_a_number_and_halves_of_times() -> None:
    number = Outcome("t", "continuous", (), np.array([5.0, 1, 2, 8, 3, 7, 4, 6]), np.ones(8, dtype=bool))
    time = Outcome("t", "survival", (), np.array([1.0, 2, 3, 4, 10, 20, 30, 40]), np.arange(8) >= 4)

    assert strata(number).tolist() == [2, 0, 0, 3, 1, 3, 1, 2]
    assert strata(time).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@given(st.integers(0, 1000), st.sampled_from(["binary", "multiclass", "continuous", "survival"]))
def test_inner_folds_never_see_test_labels(seed: int, kind: OutcomeKind) -> None:
    outcome = outcome_of(kind, seed)
    splits = make_splits(cohort_of(outcome), folds=3, repeats=1)
    first = splits.folds(cohort_of(outcome), inner=4, seed=seed)[0]
    value, event = outcome.value.copy(), outcome.event.copy()
    value[first.test], event[first.test] = value[first.test][::-1], event[first.test][::-1]
    other = splits.folds(cohort_of(Outcome("t", kind, outcome.classes, value, event)), inner=4, seed=seed)[0]

    assert (first.inner == other.inner).all()


@given(st.integers(0, 1000))
def test_a_site_lies_in_one_fold_and_classes_are_as_even_as_sites_allow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sites = [f"site-{number}" for number in rng.integers(0, 9, N)]
    cohort = cohort_of(outcome_of("binary", seed), sites=sites)

    fold = make_splits(cohort, folds=3, repeats=1, seed=seed, scheme="site-preserved").fold[0]

    for site in set(sites):
        assert len({int(one) for one, own in zip(fold, sites, strict=True) if own == site}) == 1
    positive = np.bincount(fold[cohort.is_positive], minlength=3)
    assert positive.min() >= 5  # of 30; a third of them would be 10


def test_equal_sites_are_dealt_evenly_in_different_ways() -> None:
    sites = [f"site-{number // 10}" for number in range(N)]
    cohort = cohort_of(outcome_of("binary"), sites=sites)

    splits = make_splits(cohort, folds=3, repeats=4, scheme="site-preserved")

    assert all((np.bincount(one) == 20).all() for one in splits.fold)
    together = {tuple((one[:, None] == one[None]).reshape(-1).tolist()) for one in splits.fold}
    assert len(together) == 4
    with pytest.warns(ParfocalWarning, match="in 1 different ways only; 3 of 4 repeats are left out"):
        one = make_splits(cohort, folds=6, repeats=4, scheme="site-preserved")
    assert one.n_repeats == 1


def test_leaving_out_one_site_or_one_patient_has_one_repeat() -> None:
    sites = [("x", "y", "z")[number % 3] for number in range(N)]
    groups = [f"p{number % 12}" for number in range(N)]
    cohort = cohort_of(outcome_of("multiclass"), sites=sites, groups=groups)

    by_site = make_splits(cohort, folds=5, repeats=5, scheme="leave-one-site-out")
    by_group = make_splits(cohort, scheme="leave-one-group-out")

    assert by_site.fold.tolist() == [[number % 3 for number in range(N)]]
    assert (by_group.n_repeats, by_group.n_folds) == (1, 12)
    tested = by_group.folds(cohort, inner=3, seed=0)
    assert [len(fold.test) for fold in tested] == [5] * 12


def test_schemes_that_cannot_be_are_one_line() -> None:
    cohort = cohort_of(outcome_of("binary"))
    few = cohort_of(outcome_of("binary"), sites=["x", "y", "z"] * 20)
    one = cohort_of(outcome_of("binary"), sites=["x"] * N)

    with pytest.raises(ConfigError, match="--site COLUMN"):
        make_splits(cohort, scheme="site-preserved")
    with pytest.raises(ConfigError, match=r"cannot make 5 folds of 3 sites of 't'.*at most 3 folds"):
        make_splits(few, scheme="site-preserved")
    with pytest.raises(ConfigError, match=r"comes from one site \(x\)"):
        make_splits(one, scheme="leave-one-site-out")
    with pytest.raises(ConfigError, match=r"cannot make 70 folds .* 60 groups"):
        make_splits(cohort, folds=70)


def test_a_class_of_one_site_cannot_be_learnt_at_the_others() -> None:
    value = np.array([0.0, 1.0] * 10 + [0.0] * 20)
    outcome = Outcome("t", "binary", ("healthy", "tumour"), value, np.ones(40, dtype=bool))
    cohort = cohort_of(outcome, sites=["x"] * 20 + ["y"] * 20)

    with pytest.raises(ConfigError, match="training set of fold 0 of 't' has 0 groups of the class 'tumour'"):
        make_splits(cohort, scheme="leave-one-site-out").folds(cohort, inner=3, seed=0)


def test_a_whole_cohort_is_one_training_set() -> None:
    cohort = cohort_of(outcome_of("survival"), groups=[f"p{number // 2}" for number in range(N)])

    fold = whole_fold(cohort, inner=4, seed=1)

    assert fold.train.tolist() == list(range(N))
    assert len(fold.test) == 0
    assert set(fold.inner.tolist()) == {0, 1, 2, 3}
    assert (fold.inner[::2] == fold.inner[1::2]).all()
