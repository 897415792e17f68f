"""Regions that look alike are those of the largest cosine, by an independent computation."""

import csv
from pathlib import Path

import numpy as np
import pytest

from parfocal.cli import main
from parfocal.errors import ConfigError, ParfocalWarning, StoreError
from parfocal.similar import RegionSearch, find_similar
from parfocal.similar.run import regions_of
from parfocal.store import (
    EmbeddingSet,
    SlideRegions,
    SlideTokens,
    create_set,
    open_set,
    settings_digest,
    write_regions,
    write_tokens,
)

from ..view.stores import MPPS, REGION_UM, empty_set, tokens, write_store

PLACES = {
    "a": [(0.0, 0.0), (56.0, 0.0), (30.0, 20.0), (0.0, 112.0)],
    "b/deep": [(0.0, 0.0), (56.0, 0.0), (112.0, 0.0)],
    "c": [(5.5, 7.5)],
}


@pytest.fixture(scope="module")
def slides() -> list[SlideTokens]:
    return [tokens(slide, places, seed, (1,)) for seed, (slide, places) in enumerate(PLACES.items())]


@pytest.fixture(scope="module")
def tiles(slides: list[SlideTokens], tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    return write_store(tmp_path_factory.mktemp("search") / "store", slides, {})


def unit_rows(slides: list[SlideTokens]) -> np.ndarray:
    """The vectors by loops over regions, with a mean of 0 in the place of a magnification without a tile."""
    blocks = []
    for mpp in MPPS:
        rows = []
        for one in slides:
            for region in range(one.n_regions):
                own = one.features[mpp][one.region[mpp] == region].astype(np.float64)
                rows.append(own.mean(0) if len(own) else np.full(own.shape[1], np.nan))
        block = np.array(rows)
        block = (block - np.nanmean(block, 0)) / np.nanstd(block, 0)
        blocks.append(np.nan_to_num(block) / np.sqrt(block.shape[1]))
    joined = np.concatenate(blocks, axis=1)
    return joined / np.linalg.norm(joined, axis=1, keepdims=True)


@pytest.mark.parametrize("block_bytes", [1 << 26, 200])
def test_the_nearest_are_those_of_the_largest_cosine(
    slides: list[SlideTokens], tiles: EmbeddingSet, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parfocal.similar.vectors._BLOCK_BYTES", block_bytes)  # 200: two regions at a time
    rows = unit_rows(slides)
    names = [(one.slide, region) for one in slides for region in range(one.n_regions)]
    with RegionSearch(tiles) as search:
        for number, (slide, region) in enumerate(names):
            cosine = rows @ rows[number]
            found = search.nearest(slide, region, 20)
            overlapping = {("a", 0): {2}, ("a", 1): {2}, ("a", 2): {0, 1}}.get((slide, region), set())
            expected = [
                other
                for other in np.argsort(-cosine)
                if other != number and not (names[other][0] == slide and names[other][1] in overlapping)
            ]

            assert [(one.slide, one.region) for one in found] == [names[other] for other in expected]
            assert [one.similarity for one in found] == pytest.approx(cosine[expected].tolist(), abs=1e-5)
            assert [(one.x_um, one.y_um) for one in found] == [PLACES[one.slide][one.region] for one in found]
            few = search.nearest(slide, region, 2)
            assert [(one.slide, one.region) for one in few] == [(one.slide, one.region) for one in found[:2]]


def test_regions_of_the_same_slide_can_be_left_out(tiles: EmbeddingSet) -> None:
    with RegionSearch(tiles) as search:
        found = search.nearest("a", 0, 20, other_slides=True)

    assert {one.slide for one in found} == {"b/deep", "c"}
    assert len(found) == 4


def test_equal_regions_come_in_the_order_of_slides(tmp_path: Path) -> None:
    one = tokens("a", PLACES["a"][:2])
    twins = [
        SlideTokens(slide, REGION_UM, 0.5, one.region_xy_um, one.features, one.region, one.center_um)
        for slide in "abcdef"
    ]
    with RegionSearch(write_store(tmp_path / "store", twins, {})) as search:
        found = search.nearest("c", 1, 3, other_slides=True)

    assert [(each.slide, each.region) for each in found] == [("a", 1), ("b", 1), ("d", 1)]
    assert [each.similarity for each in found] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("place", "region"), [((1.0, 1.0), 0), ((57.0, 1.0), 1), ((55.0, 40.0), 2), ((100.0, 3.0), 1), ((3.0, 167.9), 3)]
)
def test_a_place_is_in_the_region_whose_middle_is_nearest(
    tiles: EmbeddingSet, place: tuple[float, float], region: int
) -> None:
    with RegionSearch(tiles) as search:
        assert search.region_at("a", *place) == region


@pytest.mark.parametrize(
    ("slide", "place", "why"),
    [
        ("a", (500.0, 3.0), "nearest has its middle at 84, 28 um"),
        ("z", (0.0, 0.0), "has no slide 'z'"),
        ("a", (float("nan"), 3.0), "nan, 3 is no place"),
    ],
)
def test_a_place_without_a_region_is_refused(
    tiles: EmbeddingSet, slide: str, place: tuple[float, float], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        find_similar(tiles, slide, place)


def test_of_several_sets_one_is_named(slides: list[SlideTokens], tmp_path: Path) -> None:
    write_store(tmp_path, slides, {})
    other = empty_set(tmp_path, "other-1")
    write_tokens(other, slides[0])

    with pytest.raises(ConfigError, match=r"holds 2 sets\. Name one with --set: other-1, small-1"):
        find_similar(tmp_path, "a", (1.0, 1.0))
    assert find_similar(tmp_path, "a", (1.0, 1.0), set_name="oth").embeddings.name == "other-1"
    with pytest.raises(ConfigError, match=r"holds 0 sets whose name begins with .x.\. Name one with --set"):
        find_similar(tmp_path, "a", (1.0, 1.0), set_name="x")


def region_set(tiles: EmbeddingSet, store: Path, rows: dict[str, np.ndarray]) -> EmbeddingSet:
    """Region embeddings of some slides, in which the first region of each is left out."""
    folder = create_set(
        store,
        "made-1",
        "regions",
        region_um=REGION_UM,
        dims=3,
        settings={"readout": "cls", "source_digest": settings_digest(tiles.settings)},
        encoder_digests=dict.fromkeys(MPPS, "22222222"),
        dtype="float32",
    )
    for slide, own in rows.items():
        write_regions(folder, SlideRegions(slide, REGION_UM, 0.5, np.array(PLACES[slide][1:], np.float64), own))
    return open_set(folder)


def test_region_embeddings_are_taken_where_they_are_and_count_as_the_tiles_do(
    tiles: EmbeddingSet, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    rows = {slide: rng.normal(size=(len(PLACES[slide]) - 1, 3)).astype(np.float32) for slide in ("a", "b/deep")}
    made = region_set(tiles, tmp_path / "store", rows)
    joined = np.concatenate(list(rows.values())).astype(np.float64)
    unit = (joined - joined.mean(0)) / joined.std(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    names = [("a", 1), ("a", 2), ("a", 3), ("b/deep", 1), ("b/deep", 2)]

    assert regions_of(tiles, [tiles, made]) is made
    with RegionSearch(tiles, made) as search:
        found = search.nearest("b/deep", 1, 9)
        along = search.along("b/deep", 1)
        with pytest.raises(ConfigError, match="region 0 of a has no embedding in made-1"):
            search.nearest("a", 0, 3)
        with pytest.raises(ConfigError, match="c in made-1 cannot be read"):
            search.nearest("c", 0, 3)

    order = [other for other in np.argsort(-(unit @ unit[3])) if other != 3]
    assert [(one.slide, one.region) for one in found] == [names[other] for other in order]
    assert np.isnan(along[0])
    assert along[1:] == pytest.approx(unit[3:] @ unit[3], abs=1e-5)
    # A store that holds only them is searched by itself, and counts its own regions.
    alone = find_similar(tmp_path / "store", "b/deep", (60.0, 3.0), n=1)
    assert (alone.found[0].slide, alone.found[0].x_um) == (found[0].slide, found[0].x_um)


def test_a_slide_that_cannot_be_read_is_left_out_and_said(slides: list[SlideTokens], tmp_path: Path) -> None:
    tiles = write_store(tmp_path / "store", slides, {})
    (tiles.path / "2" / "c.h5").write_bytes(b"no file of ours")
    with RegionSearch(tiles) as search:
        with pytest.warns(ParfocalWarning, match="1 of 3 slides of small-1 cannot be read and are not searched: c"):
            found = search.nearest("a", 0, 20)
        with pytest.raises(ConfigError, match="the rows of c in small-1 cannot be read"):
            search.nearest("c", 0, 3)

    assert {one.slide for one in found} == {"a", "b/deep"}


def test_a_store_without_a_readable_slide_is_refused(slides: list[SlideTokens], tmp_path: Path) -> None:
    tiles = write_store(tmp_path / "store", slides[2:], {})
    (tiles.path / "2" / "c.h5").unlink()
    with pytest.raises(StoreError, match=r"cannot compare the regions of .*c\.h5"):
        find_similar(tiles, "c", (10.0, 10.0))


def test_the_file_goes_with_the_search(tiles: EmbeddingSet) -> None:
    with RegionSearch(tiles) as search:
        search.nearest("a", 0, 1)
        folder = Path(search._folder.name)
        assert [file.name for file in folder.iterdir()] == ["regions.npy"]

    assert not folder.exists()


def test_the_command_prints_and_writes_what_is_found(
    tiles: EmbeddingSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    asked = [
        "similar",
        str(tiles.path),
        "--slide",
        "a",
        "--at",
        "84",
        "28",
        "-n",
        "2",
        "--other-slides",
        "-o",
        str(out),
    ]

    assert main(asked) == 0
    shown = capsys.readouterr().out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = find_similar(tiles, "a", (84.0, 28.0), n=2, other_slides=True)

    assert [(row["slide"], int(row["region"])) for row in rows] == [(one.slide, one.region) for one in found.found]
    assert f"{found.found[0].similarity:.3f}" in shown
    assert "of 8 in small-1" in shown
    assert main(["similar", str(tiles.path), "--slide", "a", "--at", "84", "28", "-n", "0"]) == 2
    assert "Ask for at least 1" in capsys.readouterr().err
