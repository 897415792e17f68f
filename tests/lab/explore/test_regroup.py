from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.errors import ConfigError
from parfocal.lab.explore.regroup import regroup_set, regroup_tokens
from parfocal.store import SlideTokens, create_set, open_set, write_tokens

SIDE = 448.0


def tokens_at(places: list[tuple[int, int]], *, offset: float = 0.0, seed: int = 0) -> SlideTokens:
    """Regions at (column, row), in the given order, with a 5x tile and some of the four 10x tiles."""
    rng = np.random.default_rng(seed)
    n = len(places)
    quarters = np.array([(-112.0, -112.0), (112.0, -112.0), (-112.0, 112.0), (112.0, 112.0)])
    kept = rng.random((n, 4)) < 0.7
    region = {2.0: np.arange(n, dtype=np.int32), 1.0: np.nonzero(kept)[0].astype(np.int32)}
    center = {2.0: np.zeros((n, 2), np.float32), 1.0: quarters[np.nonzero(kept)[1]].astype(np.float32)}
    rows = {mpp: rng.normal(size=(len(own), 3)).astype(np.float16) for mpp, own in region.items()}
    xy_um = np.array(places, dtype=np.float64).reshape(-1, 2) * SIDE + offset
    return SlideTokens("s", SIDE, 0.25, xy_um, rows, region, center)


def on_the_slide(tokens: SlideTokens) -> dict[float, set[tuple[float, ...]]]:
    """Each tile with its embedding at its place on the slide, whatever its region."""
    middles = tokens.region_xy_um + tokens.region_um / 2
    return {
        mpp: {
            tuple(np.round((*(middles[region] + center), *row), 3).tolist())
            for region, center, row in zip(
                tokens.region[mpp], tokens.center_um[mpp], tokens.features[mpp].astype(float), strict=True
            )
        }
        for mpp in tokens.mpps
    }


@given(
    st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12),
    st.integers(2, 3),
    st.sampled_from([0.0, 137.25]),
)
@settings(max_examples=30)
def test_every_tile_stays_where_it_is_on_the_slide(places: set[tuple[int, int]], n: int, offset: float) -> None:
    tokens = tokens_at(sorted(places), offset=offset)
    joined = regroup_tokens(tokens, n)

    assert on_the_slide(joined) == on_the_slide(tokens)
    assert joined.region_um == n * SIDE
    for mpp in joined.mpps:
        assert np.abs(joined.center_um[mpp]).max(initial=0) < n * SIDE / 2


def test_a_full_block_becomes_one_region_with_its_tiles_row_by_row() -> None:
    joined = regroup_tokens(tokens_at([(1, 1), (0, 1), (0, 0), (1, 0)]), 2)

    assert joined.n_regions == 1
    assert joined.center_um[2.0].tolist() == [[-224, -224], [224, -224], [-224, 224], [224, 224]]


def test_regions_on_no_lattice_are_refused() -> None:
    tokens = tokens_at([(0, 0), (1, 0)])
    tokens.region_xy_um[1] += 30.0

    with pytest.raises(ConfigError, match=r"30\.0 um off"):
        regroup_tokens(tokens, 2)


def test_a_set_is_regrouped_once_and_only_to_whole_multiples(tmp_path: Path) -> None:
    path = create_set(
        tmp_path / "store",
        "toy-00000000",
        "tiles",
        region_um=SIDE,
        dims={2.0: 3, 1.0: 3},
        settings={"encoder": "toy"},
        encoder_digests={2.0: "aa", 1.0: "aa"},
        tile_px=224,
    )
    write_tokens(path, tokens_at([(0, 0), (1, 0), (2, 0)]))
    tiles = open_set(path)

    larger = regroup_set(tiles, 896.0, tmp_path / "larger")
    assert (larger.region_um, larger.slides, larger.n_regions("s")) == (896.0, ("s",), 2)
    assert regroup_set(tiles, 896.0, tmp_path / "larger").path == larger.path
    assert regroup_set(tiles, SIDE, tmp_path / "larger") is tiles
    with pytest.raises(ConfigError, match="whole multiple of the 448 um"):
        regroup_set(tiles, 1000.0, tmp_path / "larger")
