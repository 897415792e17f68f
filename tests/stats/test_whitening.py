"""Whitened training rows have unit covariance, slides count alike, and few components are the leading ones."""

import numpy as np
import pytest

from parfocal.stats.whitening import AffineMap, Whitening, fit_whitening, leading_components


def rows_with_spectrum(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return rng.standard_normal((n, dim)) / np.arange(1, dim + 1) @ basis.T + 3


@pytest.mark.parametrize(("n", "dim"), [(400, 12), (60, 200), (900, 150), (700, 900)])
def test_whitened_rows_have_unit_covariance(n: int, dim: int) -> None:
    x = rows_with_spectrum(n, dim)
    whitening = fit_whitening(x, np.ones(n), widest=8, centred=False, seed=0)

    z = whitening.whitened(8).apply(x)

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
    z = whitening.rotated().apply(x)
    scored = (x - x.mean(axis=0)) / x.std(axis=0)

    # A rotation of the z-scores: the same distances.
    np.testing.assert_allclose(np.linalg.norm(z[0] - z[1]), np.linalg.norm(scored[0] - scored[1]), rtol=1e-6)


def test_a_constant_column_and_missing_rank_are_no_problem() -> None:
    x = np.concatenate([rows_with_spectrum(40, 3), np.full((40, 1), 7.0)], axis=1)
    x = np.concatenate([x, x[:, :1]], axis=1)

    whitening = fit_whitening(x, np.ones(40), widest=5, centred=False, seed=0)
    z = whitening.whitened(5).apply(x)

    assert z.shape == (40, 3)
    assert np.isfinite(z).all()


@pytest.mark.parametrize("components", [None, 3])
def test_rows_centred_on_their_group_are_what_centring_them_first_gives(components: int | None) -> None:
    x, of_row = rows_with_spectrum(60, 6), np.arange(60) % 4
    group_mean = np.stack([x[of_row == group].mean(axis=0) for group in range(4)])
    centred = x - group_mean[of_row]
    whitening = fit_whitening(centred, np.ones(60), widest=6, centred=True, seed=0)

    prepared = whitening.whitened(components)

    assert whitening.mean is None
    np.testing.assert_allclose(prepared.apply(x, group_mean, of_row), prepared.apply(centred), atol=1e-12)


@pytest.mark.parametrize("offset", [None, np.array([1.0, -2.0, 3.0])])
def test_a_map_comes_back_from_its_arrays(offset: np.ndarray | None) -> None:
    fitted = AffineMap(offset, rows_with_spectrum(3, 2))

    loaded = AffineMap.load("region 0", fitted.state("region 0"))

    x = rows_with_spectrum(5, 3)
    assert (loaded.offset is None) == (offset is None)
    np.testing.assert_array_equal(loaded.apply(x), fitted.apply(x))


def test_a_vector_is_the_diagonal_of_a_matrix() -> None:
    x, diagonal = rows_with_spectrum(5, 3), np.array([2.0, 0.0, -1.0])
    short, full = AffineMap(x.mean(axis=0), diagonal), AffineMap(x.mean(axis=0), np.diag(diagonal))

    np.testing.assert_allclose(short.apply(x), full.apply(x))
    np.testing.assert_allclose(short.back(np.arange(3.0)), full.back(np.arange(3.0)))


def test_coefficients_brought_back_score_rows_as_they_are() -> None:
    x = rows_with_spectrum(40, 6)
    prepared = fit_whitening(x, np.ones(40), widest=4, centred=False, seed=0).whitened()
    coefficient = np.array([1.0, -2.0, 0.5, 3.0])

    np.testing.assert_allclose((x - x.mean(axis=0)) @ prepared.back(coefficient), prepared.apply(x) @ coefficient)


def test_the_inverse_gives_the_rows_back_and_arrays_the_whitening() -> None:
    x = rows_with_spectrum(40, 5)
    whitening = fit_whitening(x, np.ones(40), widest=5, centred=False, seed=0)
    loaded = Whitening.load("means", whitening.state("means"))

    np.testing.assert_allclose(loaded.whitened().apply(x) @ loaded.inverse() + x.mean(axis=0), x)


def test_leading_components_are_the_largest_first() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    moment = (basis * np.array([1.0, 4.0, 9.0, -1e-17])) @ basis.T

    directions, variance = leading_components(moment, 3)

    np.testing.assert_allclose(variance, [9, 4, 1])
    np.testing.assert_allclose(np.abs(directions.T @ basis[:, [2, 1, 0]]), np.eye(3), atol=1e-12)
    assert leading_components(moment)[1].min() >= 0
