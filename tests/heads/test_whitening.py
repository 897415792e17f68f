"""Whitened training rows have unit covariance, slides count alike, and few components are the leading ones."""

import numpy as np
import pytest

from parfocal.heads import Preparation, fit_whitening, preparations


def rows_with_spectrum(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return rng.standard_normal((n, dim)) / np.arange(1, dim + 1) @ basis.T + 3


@pytest.mark.parametrize(("n", "dim"), [(400, 12), (60, 200), (900, 150), (700, 900)])
def test_whitened_rows_have_unit_covariance(n: int, dim: int) -> None:
    x = rows_with_spectrum(n, dim)
    whitening = fit_whitening(x, np.ones(n), widest=8, centred=False, seed=0)

    z = (x - whitening.mean) @ whitening.map_of(Preparation(8))

    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-9)
    # Subspace iteration leaves the last components slightly mixed; 2 % is far below what a fold can tell.
    np.testing.assert_allclose(z.T @ z / n, np.eye(8), atol=0.02)


@pytest.mark.parametrize(("n", "dim"), [(900, 150), (700, 900)])
def test_iteration_finds_the_components_of_the_full_decomposition(n: int, dim: int) -> None:
    x = rows_with_spectrum(n, dim)
    whitening = fit_whitening(x, np.ones(n), widest=6, centred=False, seed=0)

    centred = x - x.mean(axis=0)
    singular = np.linalg.svd(centred / centred.std(axis=0) / np.sqrt(n), compute_uv=False)

    np.testing.assert_allclose(whitening.spread, singular[:6], rtol=0.01)


def test_slides_count_alike_whatever_their_number_of_rows() -> None:
    x = rows_with_spectrum(50, 5)
    twice = np.concatenate([x, x[:10], x[:10]])
    weight = np.ones(70)
    weight[:10] = weight[50:] = 1 / 3

    one = fit_whitening(x, np.ones(50), widest=5, centred=False, seed=0)
    other = fit_whitening(twice, weight, widest=5, centred=False, seed=0)

    np.testing.assert_allclose(one.mean, other.mean)
    np.testing.assert_allclose(one.spread, other.spread)


def test_as_is_keeps_the_scale_of_components_and_z_scores_columns() -> None:
    x = rows_with_spectrum(300, 6)
    whitening = fit_whitening(x, np.ones(300), widest=64, centred=False, seed=0)
    z = (x - whitening.mean) @ whitening.map_of(Preparation(None))
    scored = (x - x.mean(axis=0)) / x.std(axis=0)

    # A rotation of the z-scores: the same distances.
    np.testing.assert_allclose(np.linalg.norm(z[0] - z[1]), np.linalg.norm(scored[0] - scored[1]), rtol=1e-6)


def test_a_constant_column_and_missing_rank_are_no_problem() -> None:
    x = np.concatenate([rows_with_spectrum(40, 3), np.full((40, 1), 7.0)], axis=1)
    x = np.concatenate([x, x[:, :1]], axis=1)

    whitening = fit_whitening(x, np.ones(40), widest=5, centred=False, seed=0)
    z = (x - whitening.mean) @ whitening.map_of(Preparation(5))

    assert z.shape == (40, 3)
    assert np.isfinite(z).all()


def test_every_arm_is_offered_the_same_list() -> None:
    assert [one.label for one in preparations((32, 16, 16))] == ["as is", "16 whitened", "32 whitened"]
