"""How much memory a process takes, asked in an interpreter that has the memory of a user's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

needs_peak = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="this system does not say how much memory a process had at most"
)

# The most memory of the process itself: `ru_maxrss` of a new process begins with that of the one which started it.
_PEAK = """
import re
from pathlib import Path
def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def run_measured(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code that may call `peak_kib()`, without what this process keeps memory by (see `tests/conftest.py`)."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _PEAK + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
