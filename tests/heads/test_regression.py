"""A stack of regressions gives what each gives alone, by another solver."""

import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, Ridge

from parfocal.cohort import Column, Outcome
from parfocal.heads.newton import fit_logistic
from parfocal.heads.regression import fit_column, fit_nonnegative, predict_column, row_space

RNG = np.random.default_rng(0)
X = RNG.standard_normal((30, 4))
Y = (X[:, 0] + RNG.standard_normal(30) > 0).astype(float)


def test_each_problem_is_what_scikit_learn_finds() -> None:
    penalty = np.array([0.3, 0.01, 0.01])
    weight = np.ones((3, 30))
    weight[2, :10] = 0

    found = fit_logistic(X[None], Y, weight, penalty)

    for number, keep in enumerate([slice(None), slice(None), slice(10, None)]):
        n = len(Y[keep])
        # Their C multiplies the sum of the losses, our penalty stands beside the mean.
        reference = LogisticRegression(C=1 / (n * penalty[number]), tol=1e-10, max_iter=1000).fit(X[keep], Y[keep])
        np.testing.assert_allclose(found[number, :-1], reference.coef_[0], atol=1e-4)
        np.testing.assert_allclose(found[number, -1], reference.intercept_[0], atol=1e-4)


def test_numbers_are_fitted_as_scikit_learn_fits_them() -> None:
    value = 40 + 5 * (X[:, 0] - X[:, 1]) + RNG.standard_normal(30)
    column = Column("size", "linear", value, np.ones(30, dtype=bool))
    penalty = np.array([0.5, 0.01])
    weight = np.stack([np.ones(30), RNG.uniform(0, 2, 30)])

    found = fit_column(X[None], column, weight, penalty)

    for number in range(2):
        # Theirs is a sum of squares beside alpha, ours half a weighted mean beside penalty / 2; the value's standard
        # deviation cancels, because both parts of the loss are squares of it.
        ridge = Ridge(alpha=weight[number].sum() * penalty[number])
        reference = ridge.fit(X, value, sample_weight=weight[number])
        np.testing.assert_allclose(found[number, :-1], reference.coef_, rtol=1e-6)
        np.testing.assert_allclose(found[number, -1], reference.intercept_, rtol=1e-6)


def test_a_number_in_other_units_has_the_same_fit() -> None:
    value = X[:, 0] + RNG.standard_normal(30)
    one, other = (Column("size", "linear", scale * value, np.ones(30, dtype=bool)) for scale in (1, 1000))

    found = [fit_column(X[None], column, np.ones((1, 30)), np.array([0.1])) for column in (one, other)]

    np.testing.assert_allclose(1000 * found[0], found[1])


def test_separated_classes_end_at_a_finite_answer() -> None:
    x = np.linspace(-1, 1, 20)[:, None]

    found = fit_logistic(x[None], (x[:, 0] > 0).astype(float), np.ones((1, 20)), np.array([1e-6]))

    assert np.isfinite(found).all()
    assert found[0, 0] > 10


def test_nonnegative_coefficients_are_the_constrained_optimum() -> None:
    columns = np.stack([X, X * [1, -1, 1, -1]])

    found = fit_nonnegative(columns, Outcome.binary(Y > 0).columns[0], np.ones(30), 0.01)

    for x, coefficient in zip(columns, found, strict=True):

        def loss(b: np.ndarray, x: np.ndarray = x) -> float:
            z = x @ b[:-1] + b[-1]
            return float((np.logaddexp(0, z) - z * Y).mean() + 0.005 * (b[:-1] ** 2).sum())

        best = minimize(loss, np.zeros(5), bounds=[(0, None)] * 4 + [(None, None)], tol=1e-12)
        np.testing.assert_allclose(loss(coefficient), best.fun, atol=1e-6)
        assert (coefficient[:-1] >= 0).all()


def test_wide_features_lose_nothing_in_the_span_of_their_cases() -> None:
    wide = RNG.standard_normal((40, 300))
    train, basis = row_space(wide[:30])
    assert basis is not None
    full = fit_logistic(wide[None, :30], Y, np.ones((1, 30)), np.array([0.1]))
    small = fit_logistic(train[None], Y, np.ones((1, 30)), np.array([0.1]))

    assert train.shape == (30, 30)
    np.testing.assert_allclose(
        predict_column(wide[None, 30:] @ basis, small), predict_column(wide[None, 30:], full), atol=1e-6
    )
