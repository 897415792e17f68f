import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from parfocal.lab.synthetic.design import balanced_labels, deal_pairing, overlap_law


@given(st.integers(1, 12), st.data(), st.floats(0.05, 20))
def test_overlap_law_is_scipys_noncentral_hypergeometric(size: int, data: st.DataObject, omega: float) -> None:
    n_a, n_c = data.draw(st.integers(0, size)), data.draw(st.integers(0, size))

    law = overlap_law(size, n_a, n_c, omega)

    expected = stats.nchypergeom_fisher(size, n_a, n_c, omega).pmf(np.arange(min(n_a, n_c) + 1))
    np.testing.assert_allclose(law, expected, atol=1e-9)  # scipy's iterative weights round a little


def test_infinite_odds_leave_one_overlap() -> None:
    assert overlap_law(8, 4, 4, math.inf).tolist() == [0, 0, 0, 0, 1]
    assert overlap_law(8, 4, 4, 0.0).tolist() == [1, 0, 0, 0, 0]
    assert overlap_law(8, 6, 5, 0.0).tolist() == [0, 0, 0, 1, 0, 0]  # 6 + 5 of 8 share at least 3


@given(
    st.lists(st.integers(1, 5).map(lambda half: 2 * half), min_size=1, max_size=4), st.booleans(), st.integers(0, 99)
)
def test_counts_in_each_stratum_do_not_know_the_label(sizes: list[int], positive: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    strata = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))

    for omega in (math.inf, 1.7):
        a, c = deal_pairing(strata, positive=positive, omega=omega, rng=rng)

        for stratum, size in enumerate(sizes):
            assert a[strata == stratum].sum() == size // 2
            assert c[strata == stratum].sum() == size // 2
        if math.isinf(omega):
            assert (a == c).all() if positive else (a != c).all()


def test_an_odd_stratum_is_refused() -> None:
    with pytest.raises(ValueError, match="even number"):
        deal_pairing(np.zeros(3, dtype=np.int64), positive=True, omega=2.0, rng=np.random.default_rng(0))


def test_labels_and_their_combinations_are_balanced() -> None:
    labels = balanced_labels(12, 2, np.random.default_rng(3))

    assert {tuple(pair) for pair in labels.tolist()} == {(False, False), (False, True), (True, False), (True, True)}
    assert np.unique(labels, axis=0, return_counts=True)[1].tolist() == [3, 3, 3, 3]
