"""Shapley values and interactions against all orders of the players, and what must hold of any game."""

from itertools import combinations, permutations

import numpy as np
import pytest

from parfocal.explain import interactions, own_parts, shapley_values

SIZES = [1, 2, 3, 4, 5]


def game(n: int, seed: int = 0) -> np.ndarray:
    """What every coalition of n players is worth in three games."""
    return np.random.default_rng(seed).normal(size=(1 << n, 3))


def number(players: tuple[int, ...]) -> int:
    return sum(1 << one for one in players)


def by_orders(worth: np.ndarray, n: int) -> np.ndarray:
    """The mean of what each player adds to those before it, over all orders."""
    total, orders = np.zeros((n, 3)), list(permutations(range(n)))
    for order in orders:
        for place, player in enumerate(order):
            total[player] += worth[number(order[: place + 1])] - worth[number(order[:place])]
    return total / len(orders)


def pair_by_orders(worth: np.ndarray, n: int, a: int, b: int) -> np.ndarray:
    """The mean of what two players add together beyond each, over all orders in which they come as one."""
    others = [one for one in range(n) if one not in (a, b)]
    orders, total = list(permutations([*others, -1])), np.zeros(3)
    for order in orders:
        before = order[: order.index(-1)]
        s = number(before)
        total += worth[s | 1 << a | 1 << b] - worth[s | 1 << a] - worth[s | 1 << b] + worth[s]
    return total / len(orders)


@pytest.mark.parametrize("n", SIZES)
def test_values_are_those_of_all_orders(n: int) -> None:
    worth = game(n)

    assert np.allclose(shapley_values(worth), by_orders(worth, n), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", SIZES[1:])
def test_interactions_are_those_of_all_orders(n: int) -> None:
    worth = game(n)

    expected = [pair_by_orders(worth, n, a, b) for a, b in combinations(range(n), 2)]
    assert np.allclose(interactions(worth), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", SIZES)
def test_values_and_own_parts_with_interactions_add_up(n: int) -> None:
    worth = game(n, seed=1)
    values, pairs = shapley_values(worth), interactions(worth)

    assert np.allclose(values.sum(axis=0), worth[-1] - worth[0], rtol=0, atol=1e-12)
    together = own_parts(values, pairs).sum(axis=0) + pairs.sum(axis=0)
    assert np.allclose(together, worth[-1] - worth[0], rtol=0, atol=1e-12)


def test_a_player_that_changes_nothing_gets_exactly_nothing() -> None:
    worth = game(3)
    worth[4:] = worth[:4]  # the third player

    values, pairs = shapley_values(worth), interactions(worth)

    assert (values[2] == 0).all()
    assert (pairs[1:] == 0).all()
    assert (own_parts(values, pairs)[2] == 0).all()
    assert (np.abs(values[:2]) > 0).all()


def test_the_order_of_players_does_not_matter() -> None:
    worth, order = game(3), (2, 0, 1)
    turned = np.empty_like(worth)
    for one in range(8):
        turned[number(tuple(order.index(player) for player in range(3) if one >> player & 1))] = worth[one]

    assert np.allclose(shapley_values(turned), shapley_values(worth)[list(order)], rtol=0, atol=1e-12)


def test_where_only_pairs_count_the_own_part_is_what_a_player_is_worth_alone() -> None:
    alone, pair = np.array([0.3, -1.2, 0.0]), {(0, 1): 2.0, (0, 2): -0.7, (1, 2): 0.25}
    worth = np.zeros((8, 1))
    for one in range(8):
        there = [player for player in range(3) if one >> player & 1]
        worth[one] = 5 + alone[there].sum() + sum(pair[both] for both in combinations(there, 2))

    values, pairs = shapley_values(worth), interactions(worth)

    assert np.allclose(pairs[:, 0], list(pair.values()), rtol=0, atol=1e-12)
    assert np.allclose(own_parts(values, pairs)[:, 0], alone, rtol=0, atol=1e-12)
    assert own_parts(values, pairs)[2, 0] == 0  # and not a rest of rounding, whose sign would mean nothing


def test_coalitions_of_no_number_of_players_are_refused() -> None:
    for wrong in (0, 1, 3, 6):
        with pytest.raises(ValueError, match="expected 2, 4, 8"):
            shapley_values(np.zeros((wrong, 1)))
