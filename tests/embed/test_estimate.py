"""What a dry run says of slides that would fail."""

from pathlib import Path

import pytest

from parfocal.embed import EmbedSettings, estimate_run
from parfocal.embed import slide as job


def test_whatever_a_library_raises_on_a_file_is_that_slides_line(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [make_slide(f"{name}.tif") for name in "abc"]
    plan = job.plan_regions

    def fails_on_b(slide: object, grid: object, **how: object) -> object:
        if slide.name == "b.tif":  # type: ignore[attr-defined]
            raise ZeroDivisionError("division by\nzero")
        return plan(slide, grid, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "plan_regions", fails_on_b)

    found = estimate_run(paths, tmp_path / "store", small_settings)

    assert [one.problem for one in found.slides] == [None, "ZeroDivisionError: division by zero", None]
    assert found.exit_status == 3
