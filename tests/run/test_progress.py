"""Bars on a terminal, plain lines in a log; nothing that is shown steers the terminal."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parfocal.run.progress import Bars


def shown(stages: list[tuple[str, int, int | None, str]], *, terminal: bool = False) -> str:
    text = io.StringIO()
    with Bars(Console(file=text, width=100, force_terminal=terminal)) as bars:
        for stage in stages:
            bars(*stage)
    return text.getvalue()


@given(st.integers(1, 500))
def test_a_log_has_a_line_for_each_tenth_and_ends_with_the_last_one(total: int) -> None:
    lines = shown([("slides", done, total, "") for done in range(total + 1)]).splitlines()

    assert lines[0] == f"slides: 0/{total}"
    assert lines[-1] == f"slides: {total}/{total}"
    assert len(lines) == min(total, 10) + 1
    assert all("\x1b" not in line for line in lines)


def test_a_slow_stage_is_heard_of_between_its_tenths(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("parfocal.run.progress.time.monotonic", lambda: next(clock))

    assert len(shown([("tiles", done, 100_000, "") for done in range(6)]).splitlines()) == 3


def test_a_stage_says_what_it_is_at_and_an_unknown_total_waits() -> None:
    assert shown([("arms", 1, None, "x"), ("arms", 1, 4, "mean [0.5]")]) == "arms: 1/4  mean [0.5]\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_shown_does_not_steer_the_terminal(terminal: bool) -> None:
    text = shown([("slides", 1, 2, "a\x1b]0;title\x07\nb")], terminal=terminal)

    assert "\x1b]0;" not in text
    assert "\\x1b]0;title\\x07\\x0ab" in text


def test_a_log_that_nobody_reads_ends_nothing(tmp_path: Path) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Bars(Console(file=Gone())) as bars:
        bars("slides", 1, 2)
        bars.line("one")
