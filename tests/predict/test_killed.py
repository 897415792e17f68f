"""A fit that was killed goes on where it was, and gives the same head."""

from pathlib import Path

import pytest

from parfocal.cli import main
from parfocal.predict import fit, load_head

from ..run.killed import kill_after
from .scans import Scanned


def test_a_fit_that_is_killed_between_two_probes_keeps_the_first_and_gives_the_same_head(
    scanned: Scanned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole, kept_in = tmp_path / "head", tmp_path / "whole", tmp_path / ".head.kept"
    call = ["fit", str(scanned.store), "--labels", str(scanned.labels), "--target", "red", "--group", "patient"]
    call += ["--arm", "late", "--folds", "2", "--repeats", "2", "--inner-folds", "2"]
    call += ["--attention-steps", "4", "--growth", "1", "-o"]

    kept = kill_after(1, kept_in, [*call, str(out)])
    assert len(kept) == 1
    assert not out.exists()
    fitted = []
    plain = fit._fit_branch
    monkeypatch.setattr(fit, "_fit_branch", lambda branch, *rest: fitted.append(branch.id) or plain(branch, *rest))
    assert main([*call, str(whole)]) == main([*call, str(out)]) == 0

    first, second, again = fitted  # the whole one, and then what the killed one had not done
    assert second == again != first
    assert load_head(out).digest == load_head(whole).digest
    assert (out / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes()
    assert not list(tmp_path.glob(".*"))
