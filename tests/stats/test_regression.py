"""One ridge: it agrees with scikit-learn's, wide or tall, weighted or not, and leaves one out in closed form."""

import numpy as np
import pytest
from sklearn import linear_model

from parfocal.stats.regression import Ridge, fit_ridge

RNG = np.random.default_rng(0)


def cases(n: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    x = RNG.standard_normal((n, dim)) * np.arange(1, dim + 1) + 5
    return x, x[:, :3] @ RNG.standard_normal((3, 2)) + RNG.standard_normal((n, 2)) - 4


@pytest.mark.parametrize(("n", "dim"), [(50, 8), (12, 30)])
@pytest.mark.parametrize("standardised", [False, True])
def test_the_regression_is_that_of_scikit_learn(n: int, dim: int, standardised: bool) -> None:
    x, y = cases(n, dim)
    new = cases(7, dim)[0]
    mean, scale = (x.mean(axis=0), x.std(axis=0)) if standardised else (0, 1)
    expected = linear_model.Ridge(alpha=0.3 * n).fit((x - mean) / scale, y)

    model = Ridge.of(x, y, standardised=standardised).at(0.3)

    np.testing.assert_allclose(model.predict(new), expected.predict((new - mean) / scale), rtol=1e-9)


def test_problems_side_by_side_have_their_own_cases_and_penalty() -> None:
    x, y = cases(40, 6)
    weight = RNG.random((3, 40)) * (RNG.random((3, 40)) > 0.3)
    penalty = np.array([0.01, 1.0, 30.0])

    model = Ridge.of(x[None], y[:, :1], weight).at(penalty)

    for number in range(3):
        alone = linear_model.Ridge(alpha=weight[number].sum() * penalty[number])
        alone.fit(x, y[:, 0], sample_weight=weight[number])
        np.testing.assert_allclose(model.predict(x[None])[number, :, 0], alone.predict(x), rtol=1e-8)


@pytest.mark.parametrize(("n", "dim"), [(15, 4), (12, 30)])
def test_the_error_of_left_out_cases_is_that_of_fitting_without_each(n: int, dim: int) -> None:
    x, y = cases(n, dim)
    errors = []
    for left_out in range(n):
        kept = np.arange(n) != left_out
        # The penalty goes with the number of cases, of which one less is there.
        model = Ridge.of(x[kept], y[kept]).at(0.5 * n / (n - 1))
        errors.append((model.predict(x[left_out : left_out + 1]) - y[left_out]) ** 2)

    assert Ridge.of(x, y).left_out_error(0.5) == pytest.approx(np.mean(errors), rel=1e-9)


def test_an_input_that_never_changes_says_nothing() -> None:
    x, y = cases(20, 3)
    constant = np.concatenate([x, np.full((20, 1), 0.1)], axis=1)

    model = Ridge.of(constant, y, standardised=True).at(1e-3)

    assert (model.coefficient[3] == 0).all()
    np.testing.assert_allclose(model.predict(constant), Ridge.of(x, y, standardised=True).at(1e-3).predict(x))


def test_the_penalty_is_the_one_that_validates_best_and_the_first_of_equal_ones() -> None:
    x, y = cases(60, 10)
    is_validation = np.arange(60) % 4 == 0
    noise = RNG.standard_normal((60, 2))

    good = fit_ridge(x, y, is_validation, (1e-3, 1.0, 1e6))
    shy = fit_ridge(x, noise, is_validation, (1e-3, 1.0, 1e6))

    np.testing.assert_allclose(good.coefficient, Ridge.of(x, y).at(1e-3).coefficient)
    assert np.abs(shy.coefficient).max() < 1e-3
    constant = fit_ridge(x, np.ones((60, 2)), is_validation, (10.0, 1e-3))
    np.testing.assert_allclose(constant.coefficient, 0, atol=1e-12)
