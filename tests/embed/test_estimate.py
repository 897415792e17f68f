"""What a dry run says of slides that would fail, and what it measures."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parfocal.embed import EmbedSettings, FleetSettings, estimate, estimate_run, plan_fleet
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


def test_a_run_is_planned_where_the_regions_that_are_timed_lack_a_magnification(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, finest = estimate.iter_tiles, min(small_settings.grid.mpps)

    def without_finest(*slide: Any, **how: Any) -> Iterator[Any]:
        for region in read(*slide, **how):
            yield replace(region, tiles={**region.tiles, finest: region.tiles[finest][:0]})

    monkeypatch.setattr(estimate, "iter_tiles", without_finest)

    found = estimate_run([make_slide("a.tif")], tmp_path / "store", small_settings)

    assert found.n_tiles[finest] > 0
    assert found.core_seconds[finest] == found.encode_seconds[finest] == 0.0
    assert plan_fleet(found, FleetSettings()).stages["cores"] > 0
