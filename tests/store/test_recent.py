"""What was made last is there as long as there is room, and no longer."""

import pickle
from functools import partial

from parfocal.store.recent import Recent


def test_what_was_made_last_is_not_made_again_and_what_was_not_asked_for_longest_is() -> None:
    made: list[int] = []
    recent = Recent[int](8)

    def ask(number: int) -> int:
        return recent.get(number, lambda: made.append(number) or number)  # type: ignore[func-returns-value]

    assert [ask(one) for one in (*range(8), 0, 8, 0, 1)] == [*range(8), 0, 8, 0, 1]
    assert made == [*range(9), 1]
    assert len(recent.parts) == 8


def test_large_parts_leave_room_for_fewer_and_what_has_no_room_is_given_and_not_kept() -> None:
    recent = Recent[str](10, len)

    for text in ("aaaa", "bbb", "cc", "aaaa"):
        recent.get(text[0], partial(str, text))
    recent.get("d", partial(str, "dddd"))
    assert sorted(recent.parts) == ["a", "c", "d"]  # ten letters; of the first four "b" was asked for longest ago
    assert recent.get("e", partial(str, "e" * 11)) == "e" * 11
    assert not recent.parts


def test_another_process_begins_with_nothing() -> None:
    recent = Recent[str](10, len)
    recent.get("a", lambda: "aaaa")

    copy = pickle.loads(pickle.dumps(recent))

    assert not copy.parts
    assert copy.get("a", lambda: "other") == "other"
    assert recent.get("a", lambda: "other") == "aaaa"
