"""Rows of tiles that a slide has no pixels for are left out, with the reason; too many of them fail the slide."""

from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.config import GridConfig
from parfocal.embed import (
    EmbeddedSlide,
    EmbedSettings,
    create_embedding_set,
    embed_slide,
    embed_slides,
    load_encoders,
    summary_table,
)
from parfocal.errors import UnreadableSlideError
from parfocal.slides import Gap, SlideSource, Window
from parfocal.slides.tiled_tiff import TiledTiffReader
from parfocal.store import SlideTokens, open_set

SIZE = (1900, 1130)
Break = Callable[..., None]


@pytest.fixture
def break_at(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Rectangles of level 0 that cannot be decoded from now on, in any tiled TIFF, or in those of one name."""
    read = TiledTiffReader.read

    def breaks(*rectangles: tuple[int, int, int, int], name: str | None = None, is_broken: bool = True) -> None:
        gaps = tuple(Gap(*one, f"tile {number} is broken", is_broken) for number, one in enumerate(rectangles))

        def with_gaps(self: TiledTiffReader, level: int, x: int, y: int, width: int, height: int) -> Window:
            whole = read(self, level, x, y, width, height)
            if level or name not in (None, self.path.name):
                return whole
            pixels = whole.pixels.copy()
            met = []
            for gap in gaps:
                left, top = max(gap.x - x, 0), max(gap.y - y, 0)
                right, bottom = min(gap.x + gap.width - x, width), min(gap.y + gap.height - y, height)
                if left < right and top < bottom:
                    pixels[top:bottom, left:right] = 255
                    met.append(gap)
            return Window(pixels, tuple(met))

        monkeypatch.setattr(TiledTiffReader, "read", with_gaps)

    return breaks


@pytest.fixture
def embed(tmp_path: Path, small_settings: EmbedSettings) -> Callable[..., tuple[EmbeddedSlide, Path]]:
    """Embed one slide into a store of its own, its tissue found before anything was broken."""
    encoders = load_encoders(small_settings)

    def run(path: Path, store: str, **changes: object) -> tuple[EmbeddedSlide, Path]:
        changed = small_settings.model_copy(update=changes)
        set_path = create_embedding_set(tmp_path / store, changed, encoders)
        return embed_slide(SlideSource("one", path), encoders, changed, set_path), set_path

    return run


@pytest.fixture
def same_tissue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is the whole slide's: what breaks later is not white where tissue is looked for."""
    from parfocal.regions import plan

    found = plan.find_tissue
    masks: list[object] = []

    def once(slide: object, tissue: str, **how: object) -> object:
        masks.append(found(slide, tissue, **how) if not masks else masks[0])  # type: ignore[arg-type]
        return masks[0]

    monkeypatch.setattr(plan, "find_tissue", once)


def rows_by_place(tokens: SlideTokens) -> dict[tuple[float, int, int], np.ndarray]:
    rows = {}
    for mpp in tokens.mpps:
        at = tokens.region_xy_um[tokens.region[mpp]] + tokens.center_um[mpp]
        places = at.round().astype(int).tolist()
        rows |= {(mpp, *place): row for place, row in zip(places, tokens.features[mpp], strict=True)}
    return rows


@pytest.fixture(params=[None, 64.0], ids=["side by side", "overlapping"])
def whole_slide(
    request: pytest.FixtureRequest, make_slide, embed, small_settings: EmbedSettings, same_tissue: None
) -> tuple[Path, GridConfig, EmbeddedSlide, Path]:
    """A slide, how it is cut, and what was made of it before anything was broken."""
    path, grid = make_slide(), small_settings.grid.model_copy(update={"stride_um": request.param})
    return path, grid, *embed(path, "whole", grid=grid)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    corners=st.lists(st.tuples(st.integers(0, 1800), st.integers(0, 1100)), min_size=1, max_size=4),
    side=st.sampled_from([1, 40, 300]),
    seed=st.integers(0, 10**6),
)
def test_rows_that_are_left_are_those_of_the_whole_slide(
    whole_slide: tuple[Path, GridConfig, EmbeddedSlide, Path],
    break_at: Break,
    embed,
    corners: Sequence[tuple[int, int]],
    side: int,
    seed: int,
) -> None:
    path, grid, first, whole_set = whole_slide
    whole = rows_by_place(open_set(whole_set).read("one"))
    break_at(*((x, y, side, side) for x, y in corners))

    one, set_path = embed(path, f"broken-{seed}", max_absent=0.99, grid=grid)

    store = open_set(set_path)
    tokens = store.read("one")
    left = rows_by_place(tokens)
    assert all(np.array_equal(row, whole[place]) for place, row in left.items())
    assert sum(one.n_absent.values()) == len(whole) - len(left) == sum(store.n_absent("one").values())
    assert {mpp: n + one.n_absent.get(mpp, 0) for mpp, n in one.n_tiles.items()} == first.n_tiles
    assert one.n_tiles == store.n_rows("one")
    # Every region has a tile; those that lost all of theirs are gone.
    numbers = np.concatenate([tokens.region[mpp] for mpp in tokens.mpps])
    assert set(numbers.tolist()) == set(range(tokens.n_regions))
    assert tokens.n_regions == one.n_regions
    for mpp in store.mpps:
        with (
            h5py.File(set_path / f"{mpp:g}" / "one.h5") as file,
            h5py.File(whole_set / f"{mpp:g}" / "one.h5") as before,
        ):
            coords, all_coords = file["coords"][...], before["coords"][...]
            assert len(file["features"]) == len(coords) == one.n_tiles[mpp]
        with h5py.File(set_path / "index" / "one.h5") as index:
            group = index[f"{mpp:g}"]
            absent = group["absent_coords"][...] if "absent_coords" in group else np.zeros((0, 2))
            reasons = group["absent_reason"].asstr()[...] if "absent_reason" in group else []
        assert sorted([*coords.tolist(), *absent.tolist()]) == sorted(all_coords.tolist())
        assert len(reasons) == len(absent) == one.n_absent.get(mpp, 0)
        assert all(reason.startswith("tile ") for reason in reasons)


@pytest.mark.usefixtures("same_tissue")
def test_a_slide_without_gaps_is_written_as_it_always_was(make_slide, embed) -> None:
    _, set_path = embed(make_slide(), "store")

    with h5py.File(set_path / "index" / "one.h5") as index:
        assert set(index["2"]) == {"region", "center_um"}


@pytest.mark.usefixtures("same_tissue")
def test_too_many_absent_tiles_fail_the_slide_in_one_line(make_slide, break_at: Break, embed) -> None:
    path = make_slide()
    whole, _ = embed(path, "whole")
    total = sum(whole.n_tiles.values())
    break_at((400, 400, 300, 300))
    few, _ = embed(path, "few", max_absent=0.5)
    absent = sum(few.n_absent.values())

    embed(path, "just", max_absent=absent / total)
    with pytest.raises(UnreadableSlideError, match=rf"{absent} of its {total} planned tiles .*--max-absent") as caught:
        embed(path, "refused", max_absent=absent / total - 1e-6)

    assert "tile 0 is broken" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("same_tissue")
def test_a_slide_of_which_nothing_is_left_fails_whatever_is_allowed(make_slide, break_at: Break, embed) -> None:
    path = make_slide()
    embed(path, "whole")
    break_at((0, 0, *SIZE))

    with pytest.raises(UnreadableSlideError, match=r"\(100\.0%\).*leave it out"):
        embed(path, "store", max_absent=1.0)


@pytest.mark.usefixtures("same_tissue")
def test_a_run_tells_which_slides_lack_tiles_and_why(
    tmp_path: Path, make_slide, break_at: Break, small_settings: EmbedSettings
) -> None:
    paths = [make_slide("one.tif"), make_slide("two.tif")]
    break_at()
    embed_slides(paths, tmp_path / "whole", small_settings)
    break_at((500, 500, 10, 10), name="two.tif")

    summary = embed_slides(paths, tmp_path / "store", small_settings)
    again = embed_slides(paths, tmp_path / "store", small_settings)

    assert summary.exit_status == 0
    for run in (summary, again):
        one, two = run.describe()["slides"]
        assert (one["absent"], two["absent"]) == ({}, {"2": 1, "1": 1, "0.5": 1})
        assert two["absent_reason"] == "tile 0 is broken"
        assert "planned tiles absent (tile 0 is broken)" in run.log.read_text()
    absent = summary_table(summary).columns[-2]
    assert (absent.header, list(absent.cells)) == ("absent", ["0", "3"])
