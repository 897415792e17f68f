"""Statistics of a set: balanced over slides, and exact."""

from pathlib import Path

import numpy as np
import pytest

from parfocal.embeddings import SlideTokens, compute_statistics, create_set, open_set, write_tokens
from parfocal.errors import StoreError


def store_of(tmp_path: Path, counts: dict[str, int], *, offset: float = 0.0) -> tuple[Path, dict[str, np.ndarray]]:
    path = create_set(
        tmp_path,
        "toy-00000000",
        "tiles",
        region_um=448.0,
        dims={2.0: 4},
        settings={"encoder": "toy"},
        encoder_digests={2.0: "aa"},
        tile_px=224,
        dtype="float32",
    )
    rng = np.random.default_rng(3)
    rows = {}
    for number, (slide, count) in enumerate(counts.items()):
        rows[slide] = (rng.normal(number, 1 + number, (count, 4)) + offset).astype(np.float32)
        tokens = SlideTokens(
            slide,
            448.0,
            0.5,
            rng.uniform(0, 9000, (count, 2)),
            {2.0: rows[slide]},
            {2.0: np.arange(count, dtype=np.int32)},
            {2.0: np.zeros((count, 2), np.float32)},
        )
        write_tokens(path, tokens)
    return path, rows


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_large_slide_weighs_as_much_as_a_small_one(tmp_path: Path, offset: float) -> None:
    path, rows = store_of(tmp_path, {"large": 5000, "small": 3, "empty": 0}, offset=offset)

    found = compute_statistics(open_set(path))

    # The other way round: every row gets the weight 1 / its slide's rows, then numpy's weighted moments.
    stacked = np.concatenate([rows["large"], rows["small"]]).astype(np.float64)
    weights = np.repeat([1 / 5000, 1 / 3], [5000, 3])
    mean = np.average(stacked, axis=0, weights=weights)
    sd = np.sqrt(np.average((stacked - mean) ** 2, axis=0, weights=weights))
    assert np.allclose(found.mean[2.0], mean, rtol=1e-12)
    assert np.allclose(found.sd[2.0], sd, rtol=1e-10)
    assert found.n_slides == {2.0: 2}


def test_a_fold_uses_its_own_slides_only(tmp_path: Path) -> None:
    path, rows = store_of(tmp_path, {"a": 10, "b": 20})

    found = compute_statistics(open_set(path), ["b"])

    assert np.allclose(found.mean[2.0], rows["b"].astype(np.float64).mean(axis=0))
    assert np.allclose(found.sd[2.0], rows["b"].astype(np.float64).std(axis=0))


def test_nothing_to_measure_is_said(tmp_path: Path) -> None:
    path, _ = store_of(tmp_path, {"empty": 0})

    with pytest.raises(StoreError, match="no tile at 2 mpp"):
        compute_statistics(open_set(path))
