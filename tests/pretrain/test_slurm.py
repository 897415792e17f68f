"""Where SLURM is installed a run without it is no other one."""

from pathlib import Path

import pytest

from parfocal.pretrain.setup import launch


def test_a_machine_with_slurm_trains_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "srun"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    assert launch(("cpu",)).world_size == 1  # a warning would be an error here
