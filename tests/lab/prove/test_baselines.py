import numpy as np
import pytest

from parfocal.lab.prove.gaussian import Conditional, JointMoments, principal_bases
from parfocal.lab.prove.layout import Layout, Query, draw_hidden, nearest_relatives, patterns_of, query_of
from parfocal.lab.prove.networks import fit_relative_network
from parfocal.lab.prove.scores import mean_r2
from parfocal.lab.prove.simple import (
    NearestRegions,
    choose_rank,
    choose_ridge,
    fit_relative_ridge,
    global_mean,
    leading_directions,
    nearest_token,
    reduce,
    region_mean,
    slide_mean,
)

from .conftest import DIM


def ask(layout: Layout, tokens: np.ndarray, hidden_slots: list[int], present: np.ndarray | None = None) -> Query:
    present = np.ones(tokens.shape[:2], dtype=bool) if present is None else present
    hidden = np.zeros_like(present)
    hidden[:, hidden_slots] = present[:, hidden_slots]
    means = np.arange(len(tokens) * 3 * DIM, dtype=np.float32).reshape(len(tokens), 3, DIM)
    return query_of(tokens, present, hidden, means)


@pytest.fixture
def tokens(layout: Layout) -> np.ndarray:
    """Every number says whose it is: 100 x region + slot."""
    numbers = 100 * np.arange(3)[:, None] + np.arange(layout.n_slots)[None]
    return np.repeat(numbers[..., None], DIM, axis=2).astype(np.float32)


# Slots: 0 is the 5x tile; 1, 2, 3, 4 the 10x ones row by row; 5 to 20 the 20x ones, row by row.


def test_layout_knows_which_tile_covers_which(layout: Layout) -> None:
    assert layout.n_slots == 21
    assert layout.contains[0].sum() == 20
    assert np.flatnonzero(layout.contains[1]).tolist() == [5, 6, 9, 10]
    assert np.flatnonzero(layout.contains[4]).tolist() == [15, 16, 19, 20]


def test_b0_and_b1_look_at_nothing_of_the_region(layout: Layout, tokens: np.ndarray) -> None:
    query = ask(layout, tokens, [5])
    assert not global_mean(query, layout).any()
    assert (slide_mean(query, layout)[1, 5] == query.slide_mean[1, 2]).all()


def test_b2_is_the_mean_of_the_visible_sisters_and_else_the_slides(layout: Layout, tokens: np.ndarray) -> None:
    predicted = region_mean(ask(layout, tokens, [0, 1]), layout)
    assert predicted[2, 1, 0] == pytest.approx(203)  # slots 2, 3, 4
    assert (predicted[2, 0] == ask(layout, tokens, [0, 1]).slide_mean[2, 0]).all()


def test_b3_copies_the_nearest_tile_of_the_magnification_and_else_the_parent(
    layout: Layout, tokens: np.ndarray
) -> None:
    assert nearest_token(ask(layout, tokens, [5]), layout)[0, 5, 0] == pytest.approx((6 + 9) / 2)  # right and below
    whole = nearest_token(ask(layout, tokens, list(range(5, 21))), layout)
    assert whole[0, 15, 0] == 4
    assert nearest_token(ask(layout, tokens, [0]), layout)[0, 0, 0] == pytest.approx(2.5)  # its four children


def test_relatives_are_the_parent_else_children_else_sisters(layout: Layout, tokens: np.ndarray) -> None:
    query = ask(layout, tokens, [0, 1, 5])
    source, level = nearest_relatives(query.tokens, query.visible, layout)
    assert (source[0, 5, 0], level[0, 5]) == (pytest.approx(np.mean(range(6, 21))), 2)  # no ancestor is visible
    assert (source[0, 1, 0], level[0, 1]) == (pytest.approx((6 + 9 + 10) / 3), 2)
    assert (source[0, 0, 0], level[0, 0]) == (3, 1)
    assert level[0, 20] == 1


def test_b7_copies_from_the_training_regions_with_the_most_similar_coarse_tile(layout: Layout) -> None:
    train = np.random.default_rng(0).normal(size=(30, layout.n_slots, DIM)).astype(np.float32)
    present = np.ones(train.shape[:2], dtype=bool)
    present[4, 7] = False
    asked = train[[4, 9]] + np.float32(0.01)
    query = ask(layout, asked, list(range(1, 21)))
    one = NearestRegions(train, present, 1).predict(query, layout)
    assert np.array_equal(one[1, 5], train[9, 5])
    order = np.argsort(np.square(train[:, 0] - asked[1, 0]).sum(axis=1))[:8]
    eight = NearestRegions(train, present, 8).predict(query, layout)
    np.testing.assert_allclose(eight[1, 5], train[order, 5].mean(axis=0), atol=1e-5)


def test_b4_finds_a_map_that_does_not_depend_on_the_position(layout: Layout) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(DIM, DIM))
    tokens = rng.normal(size=(500, layout.n_slots, DIM))
    tokens[:, layout.level == 2] = (tokens[:, :1] @ matrix) + 1.0
    tokens[:, layout.level == 1] = tokens[:, :1] @ matrix[::-1]
    tokens = tokens.astype(np.float32)
    present = np.ones(tokens.shape[:2], dtype=bool)
    relative = fit_relative_ridge(tokens[:400], present[:400], np.arange(400) >= 300, layout, rng=rng)
    query = ask(layout, tokens[400:], list(range(1, 21)))
    assert mean_r2(relative.predict(query, layout), tokens[400:], query.hidden, layout) > 0.99


def test_b6_is_rank_limited_and_chooses_the_rank_that_is_there(layout: Layout) -> None:
    rng = np.random.default_rng(2)
    low = rng.normal(size=(DIM, 2)) @ rng.normal(size=(2, DIM))
    tokens = rng.normal(size=(300, layout.n_slots, DIM))
    tokens[:, layout.level > 0] += 2 * tokens[:, :1] @ low
    tokens = tokens.astype(np.float32)
    present = np.ones(tokens.shape[:2], dtype=bool)
    bases = principal_bases(tokens, present, layout, n_predictors=DIM, n_targets=DIM)
    moments = JointMoments(layout, bases)
    moments.add(tokens[:150], present[:150])
    query = ask(layout, tokens[150:], list(range(1, 21)))
    ridge, _ = choose_ridge(bases, moments.covariance(), query, tokens[150:], layout)
    full = Conditional(bases, moments.covariance(), ridge)
    predicted = full.predict(query, layout)
    directions = leading_directions(predicted, query.hidden, layout, bases)
    rank = choose_rank(predicted, directions, tokens[150:], query.hidden, layout)
    reduced = reduce(full.predict(query, layout), directions, rank, layout)

    assert rank == 2
    assert np.linalg.matrix_rank(reduced[:, layout.level == 2].reshape(-1, DIM), tol=1e-3) == 2
    assert np.array_equal(reduce(predicted, directions, rank, layout), reduced)


def test_b8_learns_what_a_line_cannot(layout: Layout) -> None:
    rng = np.random.default_rng(3)
    tokens = 0.3 * rng.normal(size=(600, layout.n_slots, DIM))
    signs = rng.choice([-1.0, 1.0], (600, 2))
    tokens[:, 0, :2] += 1.5 * signs
    tokens[:, layout.level == 2, 3] += 1.5 * signs.prod(axis=1)[:, None]
    tokens = tokens.astype(np.float32)
    present = np.ones(tokens.shape[:2], dtype=bool)
    network = fit_relative_network(tokens[:500], present[:500], layout, steps=120, rate=(0.3, 0.75), seed=0)
    query = ask(layout, tokens[500:], list(range(1, 21)))
    predicted = network.predict(query, layout)
    truth = tokens[500:, layout.level == 2, 3]
    assert np.corrcoef(predicted[:, layout.level == 2, 3].ravel(), truth.ravel())[0, 1] > 0.4  # a line: 0


@pytest.mark.parametrize("name", ["random", "whole 0.5", "whole 2", "subtree", "coarse only"])
def test_hidden_tiles_never_change_a_prediction(layout: Layout, name: str) -> None:
    rng = np.random.default_rng(4)
    tokens = rng.normal(size=(40, layout.n_slots, DIM)).astype(np.float32)
    present = rng.random(tokens.shape[:2]) > 0.1
    pattern = next(one for one in patterns_of(layout) if one.name == name)
    hidden = draw_hidden(pattern, layout, present, rate=(0.3, 0.75), seed=1)
    assert hidden.any()
    assert not (hidden & ~present).any()
    other = np.where(hidden[..., None], np.float32(1e6), tokens)
    means = np.zeros((40, 3, DIM), dtype=np.float32)
    first, second = (query_of(one, present, hidden, means) for one in (tokens, other))
    assert np.array_equal(first.tokens, second.tokens)
    for predict in (region_mean, nearest_token, NearestRegions(tokens[:20], present[:20], 8).predict):
        assert np.array_equal(predict(first, layout), predict(second, layout))


def test_at_most_so_many_regions_are_asked(layout: Layout) -> None:
    present = np.ones((50, layout.n_slots), dtype=bool)
    random = patterns_of(layout)[0]
    assert draw_hidden(random, layout, present, rate=(0.3, 0.7), most=7, seed=0).any(axis=1).sum() == 7
