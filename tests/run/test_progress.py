"""Bars on a terminal, plain lines in a log; nothing that is shown steers the terminal."""

import io
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parfocal.run.events import Notice, Progress
from parfocal.run.progress import Bars


def shown(stages: list[tuple[str, int, int | None, str]], *, terminal: bool = False) -> str:
    text = io.StringIO()
    with Bars(Console(file=text, width=100, force_terminal=terminal)) as bars:
        for stage in stages:
            bars(Progress(*stage))
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
        bars(Progress("slides", 1, 2))
        bars.line("one")


def test_a_long_stage_says_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 100.0, 200.0, 290.0])
    monkeypatch.setattr("parfocal.run.progress.time.monotonic", lambda: next(clock))
    said = shown([("steps", done, 40, "") for done in (20, 24, 28, 39)]).splitlines()

    assert said == ["steps: 20/40", "steps: 24/40  about 7 min left", "steps: 28/40  about 5 min left", "steps: 39/40"]


def test_a_log_says_that_a_slow_step_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parfocal.run.progress._ALIVE_SECONDS", 0.01)
    text = io.StringIO()
    with Bars(Console(file=text)) as bars:
        bars(Progress("steps", 3, 40))
        while "at work" not in text.getvalue():
            time.sleep(0.01)

    assert text.getvalue().splitlines()[:2] == ["steps: 3/40", "steps: 3/40, at work on the next for 1 min"]


@pytest.mark.parametrize("terminal", [True, False])
def test_notices_and_what_is_worth_a_line_have_one(terminal: bool) -> None:
    text = io.StringIO()
    with Bars(Console(file=text, width=100, force_terminal=terminal)) as bars:
        for event in (Notice("a"), Notice("b", is_warning=True), Progress("slides", 1, 3, "1 failed", "c failed")):
            bars(event)

    said = [line.split("\x1b[2K")[-1] for line in text.getvalue().splitlines()]
    assert [line for line in said if line in {"a", "warning: b"}] == ["a", "warning: b"]
    assert ("c failed" if terminal else "[1/3, 1 failed] c failed") in said
