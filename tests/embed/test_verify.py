"""Rows that agree are those of one encoder; rows that say nothing agree with nothing."""

import numpy as np

from parfocal.embed.verify import agreement


def test_rows_without_a_direction_agree_with_equal_ones_alone() -> None:
    stored = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    number = np.arange(12)

    assert agreement(stored, stored[number], number).median == 1.0
    # An encoder that gives the mean of the slide whatever it is shown has no direction about it.
    dead = np.repeat(stored.mean(axis=0, dtype=np.float64)[None], 12, axis=0)
    found = agreement(stored.astype(np.float64), dead, number)
    assert (found.median, found.n_below, found.is_same) == (0.0, 12, False)
    zeros = np.zeros((40, 6), np.float32)
    assert agreement(zeros, zeros[number], number).is_same
    assert not agreement(zeros, stored[number], number).is_same
