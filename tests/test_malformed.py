"""Damaged slides and stores are right, absent with a reason, or refused: a few of each kind (see benchmarks)."""

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "malformed.py"


def test_no_damage_that_a_decoder_can_notice_gives_a_wrong_row() -> None:
    command = [sys.executable, str(BENCHMARK), "--each", "2", "--seed", "1", "--only", "tile data"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "48 damages" in answer.stdout
