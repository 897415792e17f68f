"""Rows that are read as needed are, to whoever indexes them, the array of all of them."""

from typing import Any

import numpy as np
import pytest

from parfocal.bags import RowsAsNeeded
from parfocal.run.cache import content_digest

COUNTS = (3, 0, 5, 1)
ARRAY = np.arange(2.0 * sum(COUNTS), dtype=np.float32).reshape(-1, 2)
START = np.array([0, 3, 3, 8, 9])


def rows(asked: list[int] | None = None) -> RowsAsNeeded:
    def read(slide: int) -> np.ndarray:
        if asked is not None:
            asked.append(slide)
        return ARRAY[START[slide] : START[slide + 1]]

    return RowsAsNeeded(read, np.arange(4), START, 2, ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    "index",
    [
        slice(None),
        slice(0, 3),
        slice(4, 6),
        slice(2, 9),
        slice(3, 3),
        slice(9, 20),
        slice(0, 9, 2),
        np.array([8, 0, 3, 3, 7]),
        np.array([], dtype=np.int64),
        np.array([[1, 4], [8, 2]]),
        np.array([0, -1]),
        np.arange(9) % 2 == 0,
        4,
        -1,
        (np.array([5, 1]), slice(0, 1)),
        (slice(1, 5), 1),
    ],
    ids=str,
)
def test_an_index_gives_what_the_array_gives(index: Any) -> None:
    np.testing.assert_array_equal(rows()[index], ARRAY[index])


def test_they_are_as_long_and_wide_as_the_array_and_become_it() -> None:
    assert (len(rows()), rows().shape) == (9, (9, 2))
    np.testing.assert_array_equal(np.asarray(rows()), ARRAY)


def test_only_slides_that_an_index_names_are_read_each_once() -> None:
    asked: list[int] = []

    rows(asked)[np.array([8, 0, 8, 1])]

    assert sorted(asked) == [0, 3]


def test_rows_of_other_slides_in_another_order_are_those_of_the_array() -> None:
    asked: list[int] = []

    picked = rows(asked).of_slides([2, 0])

    assert asked == []
    np.testing.assert_array_equal(picked[:], np.concatenate([ARRAY[3:8], ARRAY[:3]]))
    np.testing.assert_array_equal(picked.of_slides([1])[:], ARRAY[:3])


def test_a_change_is_made_slide_by_slide_by_the_place_that_a_slide_has_now() -> None:
    changed = rows().of_slides([2, 0]).changed(lambda place, own: own + 100 * place)

    np.testing.assert_array_equal(changed[:], np.concatenate([ARRAY[3:8], ARRAY[:3] + 100]))


def test_their_digest_is_that_of_what_decides_them_and_reads_nothing() -> None:
    asked: list[int] = []

    assert content_digest(rows(asked)) == content_digest(rows())
    assert content_digest(rows(asked).of_slides([0, 2])) != content_digest(rows(asked).of_slides([2, 0]))
    assert asked == []
