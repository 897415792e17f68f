"""Damaged slides and stores are right, absent with a reason, or refused: a few of each kind (see benchmarks)."""

import sys
from pathlib import Path

from .run import fresh

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "malformed.py"


def test_no_damage_that_can_be_noticed_gives_a_wrong_row_a_hang_or_a_traceback() -> None:
    command = [sys.executable, str(BENCHMARK), "--each", "1", "--seed", "1", "--side", "750", "566"]
    answer = fresh.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "66 damages" in answer.stdout
