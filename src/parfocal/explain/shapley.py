"""Exact Shapley values and pairwise interactions of a few players, from what every coalition of them is worth.

The worths are an array whose first axis counts coalitions: number s is the coalition of the players whose bits are set
in s, so number 0 is nobody. Whatever further axes there are, such as regions and columns, each is a game of its own.
"""

from itertools import combinations
from math import factorial

import numpy as np
from jaxtyping import Float64

_ROUNDING = 1e-12


def coalitions(n_players: int) -> list[frozenset[int]]:
    """Every coalition, in the order of the worths."""
    return [frozenset(one for one in range(n_players) if number >> one & 1) for number in range(1 << n_players)]


def pairs_of_players(n_players: int) -> list[tuple[int, int]]:
    """Every two players, in the order of `interactions`."""
    return list(combinations(range(n_players), 2))


def shapley_values(worth: Float64[np.ndarray, "coalition *game"]) -> Float64[np.ndarray, "player *game"]:
    """What each player adds, as the mean over all orders in which they could come (Shapley 1953).

    They add up to the worth of all players less the worth of none.

    Raises:
        ValueError: the number of coalitions is no power of two above one.
    """
    n = _n_players(worth)
    return np.stack([_mean_over_others(worth, n, (player,)) for player in range(n)])


def interactions(worth: Float64[np.ndarray, "coalition *game"]) -> Float64[np.ndarray, "pair *game"]:
    """What each two players add together beyond what each of them adds (Shapley interaction index, Grabisch 1997).

    Returns:
        In the order of `pairs_of_players`; nothing where there is one player.

    Raises:
        ValueError: the number of coalitions is no power of two above one.
    """
    n = _n_players(worth)
    found = [_mean_over_others(worth, n, pair) for pair in pairs_of_players(n)]
    pairs = np.stack(found) if found else np.zeros((0, *worth.shape[1:]))
    return _without_rounding(pairs, np.abs(worth).max(axis=0))


def own_parts(
    values: Float64[np.ndarray, "player *game"], pairs: Float64[np.ndarray, "pair *game"]
) -> Float64[np.ndarray, "player *game"]:
    """What is left of each player's Shapley value when its halves of its interactions are taken out.

    These and the interactions add up to what the Shapley values add up to. Where nothing takes more than two players,
    as in a contrast head, it is what the player is worth alone, less the worth of none.
    """
    own = values.copy()
    for place, pair in enumerate(pairs_of_players(len(values))):
        for player in pair:
            own[player] -= pairs[place] / 2
    return _without_rounding(own, np.abs(values))


def _n_players(worth: np.ndarray) -> int:
    n = len(worth).bit_length() - 1
    if n < 1 or len(worth) != 1 << n:
        raise ValueError(f"{len(worth)} coalitions are those of no number of players; expected 2, 4, 8, ...")
    return n


def _without_rounding(parts: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The parts with 0 for what equal numbers leave, whose sign would look like a finding."""
    return np.where(np.abs(parts) <= _ROUNDING * size, 0.0, parts)


def _mean_over_others(worth: np.ndarray, n: int, players: tuple[int, ...]) -> np.ndarray:
    """The difference that some players make together, averaged over the coalitions of the others."""
    total = np.zeros(worth.shape[1:])
    for others in coalitions(n):
        if not others & set(players):
            size = len(others)
            weight = factorial(size) * factorial(n - size - len(players)) / factorial(n - len(players) + 1)
            total += weight * _difference(worth, sum(1 << one for one in others), players)
    return total


def _difference(worth: np.ndarray, base: int, players: tuple[int, ...]) -> np.ndarray:
    """What some players make together; exactly 0 where one of them changes nothing."""
    if not players:
        return np.asarray(worth[base])
    first, *others = players
    rest = tuple(others)
    return np.asarray(_difference(worth, base | 1 << first, rest) - _difference(worth, base, rest))
