import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from parfocal.lab.prove.gaussian import (
    Conditional,
    JointMoments,
    affordable_rows,
    principal_bases,
    separable_covariance,
)
from parfocal.lab.prove.layout import draw_hidden, patterns_of, query_of

from .conftest import DIM


def moments_of(tokens, present, layout):
    bases = principal_bases(tokens, present, layout, n_predictors=DIM, n_targets=DIM)
    moments = JointMoments(layout, bases)
    moments.add(tokens, present)
    return moments


def all_present(tokens):
    return np.ones(tokens.shape[:2], dtype=bool)


def nothing(n, layout):
    return np.zeros((n, len(layout.mpps), DIM), dtype=np.float32)


def test_conditional_mean_is_that_of_scikit_learn_ridge_for_the_same_mask(world) -> None:
    layout, tokens = world.layout, world.draw(400, 3)
    present = all_present(tokens)
    conditional = Conditional(*_fitted(moments_of(tokens, present, layout)), ridge=0.2)
    asked = world.draw(5, 4)
    hidden = all_present(asked) & (layout.level == 2)
    predicted = conditional.predict(query_of(asked, all_present(asked), hidden, nothing(5, layout)), layout)

    # scikit-learn penalises the sum over rows, ours the mean.
    seen, target = tokens[:, layout.level < 2].reshape(400, -1), tokens[:, layout.level == 2].reshape(400, -1)
    ridge = Ridge(alpha=0.2 * 400).fit(seen, target)
    expected = ridge.predict(asked[:, layout.level < 2].reshape(5, -1)).reshape(5, 16, DIM)
    np.testing.assert_allclose(predicted[:, layout.level == 2], expected, atol=2e-4)  # float32 solves


def test_random_masks_reach_the_analytic_conditional_mean(world) -> None:
    layout, tokens = world.layout, world.draw(20_000, 5)
    conditional = Conditional(*_fitted(moments_of(tokens, all_present(tokens), layout)), ridge=1e-4)
    asked = world.draw(60, 6)
    pattern = next(one for one in patterns_of(layout) if one.name == "random")
    hidden = draw_hidden(pattern, layout, all_present(asked), rate=(0.3, 0.75), seed=0)
    query = query_of(asked, all_present(asked), hidden, nothing(60, layout))
    predicted, best = conditional.predict(query, layout), world.best(asked, query.visible, hidden)

    error = np.square(predicted - best)[hidden].mean()
    assert (
        error < 0.01 * np.square(asked)[hidden].mean()
    )  # 126 unknowns from 20,000 regions: about 0.6 % of the variance


def test_absent_tiles_of_training_regions_are_in_no_sum(world) -> None:
    layout, tokens = world.layout, world.draw(30_000, 7)
    present = np.random.default_rng(0).random(tokens.shape[:2]) > 0.3
    poisoned = np.where(present[..., None], tokens, 0).astype(np.float32)
    conditional = Conditional(*_fitted(moments_of(poisoned, present, layout)), ridge=0.01)
    asked = world.draw(40, 8)
    hidden = all_present(asked) & (layout.level == 0)
    query = query_of(asked, all_present(asked), hidden, nothing(40, layout))

    best = world.best(asked, query.visible, hidden)
    assert np.square(conditional.predict(query, layout) - best)[hidden].mean() < 0.02


def test_kriging_is_the_closed_form_conditional_mean_and_variance_of_a_separable_field(field) -> None:
    layout, tokens = field.layout, field.draw(8000, 9)
    bases, free = _fitted(moments_of(tokens, all_present(tokens), layout))
    kriging = Conditional(bases, separable_covariance(free, layout), ridge=1e-4)
    asked = field.draw(50, 10)
    hidden = all_present(asked) & (layout.level == 2)
    query = query_of(asked, all_present(asked), hidden, nothing(50, layout))
    spread = np.square(asked)[hidden].mean()

    best = field.best(asked, query.visible, hidden)
    assert np.square(kriging.predict(query, layout) - best)[hidden].mean() < 2e-3 * spread
    exact = field.best_variance(query.visible[0], hidden[0])
    np.testing.assert_allclose(kriging.variance(query, layout)[0], exact, atol=0.03)


def test_kriging_needs_fewer_regions_than_the_free_matrix_where_the_field_is_separable(field) -> None:
    layout, tokens = field.layout, field.draw(150, 11)
    bases, free = _fitted(moments_of(tokens, all_present(tokens), layout))
    asked = field.draw(200, 12)
    hidden = all_present(asked) & (layout.level == 2)
    query = query_of(asked, all_present(asked), hidden, nothing(200, layout))
    best = field.best(asked, query.visible, hidden)

    errors = [
        np.square(Conditional(bases, one, ridge=0.05).predict(query, layout) - best)[hidden].mean()
        for one in (separable_covariance(free, layout), free)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_moments_of_two_halves_add_up(world) -> None:
    layout, tokens = world.layout, world.draw(60, 13)
    bases = principal_bases(tokens, all_present(tokens), layout, n_predictors=DIM, n_targets=DIM)
    first, second, both = (JointMoments(layout, bases) for _ in range(3))
    first.add(tokens[:20], all_present(tokens[:20]))
    second.add(tokens[20:], all_present(tokens[20:]))
    both.add(tokens, all_present(tokens))

    np.testing.assert_allclose(first.plus(second).covariance().matrix, both.covariance().matrix, atol=1e-5)


def test_the_affordable_regions_are_those_with_frequent_sets(world) -> None:
    layout, tokens = world.layout, world.draw(10, 14)
    hidden = all_present(tokens) & (layout.level == 2)
    hidden[7:] = layout.level == 1  # a rarer and larger set
    query = query_of(tokens, all_present(tokens), hidden, nothing(10, layout))

    kept = affordable_rows(query, n_predictors=DIM, most_flops=(5 * DIM) ** 3 / 3)
    assert kept.tolist() == [True] * 7 + [False] * 3


def test_a_variance_without_all_covariances_is_refused(world) -> None:
    layout, tokens = world.layout, world.draw(50, 15)
    bases = principal_bases(tokens, all_present(tokens), layout, n_predictors=2, n_targets=DIM)
    moments = JointMoments(layout, bases)
    moments.add(tokens, all_present(tokens))
    query = query_of(tokens, all_present(tokens), all_present(tokens) & (layout.level == 2), nothing(50, layout))
    with pytest.raises(ValueError, match="as many predictors as targets"):
        Conditional(bases, moments.covariance(), 0.1).variance(query, layout)


def test_the_linear_r2_of_a_product_is_nothing() -> None:
    """The control of the control: least squares finds nothing in a product of two symmetric signs either."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (20_000, 2))
    seen = 1.5 * signs + rng.normal(size=signs.shape)
    assert LinearRegression().fit(seen, signs.prod(axis=1)).score(seen, signs.prod(axis=1)) < 1e-3


def _fitted(moments):
    return moments.bases, moments.covariance()


def test_symmetrised_moments_are_those_of_all_turned_and_mirrored_regions(world) -> None:
    layout, tokens = world.layout, world.draw(50, 16)
    bases = principal_bases(tokens, all_present(tokens), layout, n_predictors=DIM, n_targets=DIM)
    once, all_eight = JointMoments(layout, bases), JointMoments(layout, bases)
    once.add(tokens, all_present(tokens))
    # By raster, so without the layout's own table.
    rasters = [tokens[:, layout.level == level].reshape(50, 2**level, 2**level, DIM) for level in range(3)]
    for flip in (False, True):
        for turns in range(4):
            moved = [
                np.rot90(raster[:, :, ::-1] if flip else raster, turns, axes=(1, 2)).reshape(50, -1, DIM)
                for raster in rasters
            ]
            all_eight.add(np.concatenate(moved, axis=1), all_present(tokens))
    expected, found = all_eight.covariance(), once.covariance()
    # About zero: the means of the slots differ before, and not after.
    second = found.matrix + found.mean[:, :, None, None] * found.mean[None, None]
    symmetrised = type(found)(found.mean, second).symmetrised(layout)
    np.testing.assert_allclose(
        symmetrised.matrix, expected.matrix + expected.mean[:, :, None, None] * expected.mean[None, None], atol=1e-4
    )
    np.testing.assert_allclose(symmetrised.mean, expected.mean, atol=1e-5)


def test_few_regions_never_give_predictions_of_any_size(field) -> None:
    layout, tokens = field.layout, field.draw(12, 17)
    present = np.random.default_rng(1).random(tokens.shape[:2]) > 0.3
    bases, free = _fitted(moments_of(np.where(present[..., None], tokens, 0).astype(np.float32), present, layout))
    asked = field.draw(100, 18)
    random = patterns_of(layout)[0]
    hidden = draw_hidden(random, layout, all_present(asked), rate=(0.3, 0.75), seed=0)
    query = query_of(asked, all_present(asked), hidden, nothing(100, layout))
    for covariance in (free, separable_covariance(free, layout)):
        own = covariance.matrix.reshape(layout.n_slots * DIM, -1)
        assert np.linalg.eigvalsh((own + own.T) / 2).min() > -1e-3
        assert np.abs(Conditional(bases, covariance, 0.3).predict(query, layout)).max() < 10 * np.abs(asked).max()
