import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from parfocal.encoders import FilterBank, load_tile_encoder, symmetries_of_square
from parfocal.errors import EncoderError

# Tiles with a known arrangement (seen at 5x) and a known texture (seen at 20x), drawn without any of the package.
TILE_PX = 224


def gland_tile(diagonal: bool, rng: np.random.Generator) -> np.ndarray:
    """A 5x-like tile: four 112-px blocks of striped glands, turned 0 or 90 degrees.

    The two orientations stand on the diagonals, or in rows or columns; each block by itself says nothing.
    """
    t = int(rng.integers(2))
    if diagonal:
        turns = np.array([[t, 1 - t], [1 - t, t]])
    else:
        turns = np.array([[t, t], [1 - t, 1 - t]])
        turns = turns.T if rng.integers(2) else turns
    y, x = np.mgrid[0:112, 0:112]
    haematoxylin = np.zeros((TILE_PX, TILE_PX))
    for row in range(2):
        for column in range(2):
            along = x if turns[row, column] else y
            wavy = along + 4 * np.sin((y if turns[row, column] else x) / rng.uniform(12, 25) + rng.uniform(0, 6))
            block = 0.5 + 0.4 * np.sin(2 * np.pi * wavy / rng.uniform(18, 30) + rng.uniform(0, 6))
            haematoxylin[row * 112 : (row + 1) * 112, column * 112 : (column + 1) * 112] = block
    haematoxylin *= rng.uniform(0.8, 1.2)
    haematoxylin += rng.normal(0, 0.08, haematoxylin.shape)
    return stain(haematoxylin, rng)


def nuclei_tile(checkerboard: bool, rng: np.random.Generator) -> np.ndarray:
    """A 20x-like tile: round nuclei whose pixels carry a checkerboard or column stripes of 5 grey levels.

    Both patterns have mean 0 in every 2 x 2 block, so that halving the tile leaves no trace of which one it was.
    """
    y, x = np.mgrid[0:TILE_PX, 0:TILE_PX]
    nuclei = np.zeros((TILE_PX, TILE_PX), dtype=bool)
    for _ in range(int(rng.integers(25, 60))):
        centre_y, centre_x = rng.uniform(0, TILE_PX, 2)
        top, left = (max(0, int(one) - 9) for one in (centre_y, centre_x))
        near = np.s_[top : int(centre_y) + 11, left : int(centre_x) + 11]
        nuclei[near] |= (y[near] - centre_y) ** 2 + (x[near] - centre_x) ** 2 < rng.uniform(5, 9) ** 2
    haematoxylin = np.where(nuclei, 0.9, 0.15) * rng.uniform(0.8, 1.2) + rng.normal(0, 0.03, nuclei.shape)
    tile = np.clip(stain(haematoxylin, rng), 5, 250).astype(int)
    whole_blocks = nuclei.reshape(112, 2, 112, 2).all(axis=(1, 3)).repeat(2, axis=0).repeat(2, axis=1)
    sign = np.where(((x + y) if checkerboard else x) % 2 == 0, 5, -5)
    return (tile + (sign * whole_blocks)[..., None]).astype(np.uint8)


def stain(haematoxylin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    density = haematoxylin[..., None] * [0.65, 0.70, 0.29] + rng.uniform(0.2, 0.4) * np.array([0.07, 0.99, 0.11])
    return np.clip(np.rint(255 * np.exp(-density)), 0, 255).astype(np.uint8)


def halve(tiles: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels: the same tissue at half the magnification."""
    count, height, width, _ = tiles.shape
    blocks = tiles.reshape(count, height // 2, 2, width // 2, 2, 3).astype(float)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def cross_validated_auc(rows: np.ndarray, labels: np.ndarray) -> float:
    """AUC of a linear reader in five folds."""
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return float(roc_auc_score(labels, cross_val_predict(reader, rows, labels, cv=5, method="decision_function")))


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.arange(120) % 2


@pytest.fixture(scope="module")
def glands(labels: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([gland_tile(bool(label), rng) for label in labels])


@pytest.fixture(scope="module")
def nuclei(labels: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.stack([nuclei_tile(bool(label), rng) for label in labels])


def test_arrangement_of_glands_is_read_from_a_whole_tile(glands: np.ndarray, labels: np.ndarray) -> None:
    assert cross_validated_auc(FilterBank().encode(glands), labels) > 0.95


def test_one_quarter_of_the_tile_does_not_tell_the_arrangement(glands: np.ndarray, labels: np.ndarray) -> None:
    quarters = np.ascontiguousarray(glands[:, :112, :112])

    # The standard error of an AUC of .5 over 120 tiles is .053: three of them.
    assert cross_validated_auc(FilterBank(112).encode(quarters), labels) < 0.66


def test_texture_of_nuclei_is_read_at_full_resolution(nuclei: np.ndarray, labels: np.ndarray) -> None:
    assert cross_validated_auc(FilterBank().encode(nuclei), labels) > 0.95


def test_texture_of_nuclei_is_gone_after_halving(nuclei: np.ndarray, labels: np.ndarray) -> None:
    checkerboard = nuclei_tile(True, np.random.default_rng(3))[None]
    stripes = nuclei_tile(False, np.random.default_rng(3))[None]

    assert (checkerboard != stripes).any()
    assert np.array_equal(halve(checkerboard), halve(stripes))
    assert cross_validated_auc(FilterBank(112).encode(halve(nuclei)), labels) < 0.66


@pytest.mark.parametrize("element", range(8))
def test_a_turned_tile_gives_the_same_numbers_in_the_declared_order(element: int, glands: np.ndarray) -> None:
    encoder = FilterBank()
    assert encoder.symmetry.permutation is not None
    # Neither tile has a symmetry of its own, so a wrong permutation cannot pass.
    tile = np.roll(glands[0], (13, 30), axis=(0, 1))
    tile[:60, :90, 1] //= 2
    turned = np.ascontiguousarray(symmetries_of_square(tile, element))

    rows = encoder.encode(np.stack([tile, turned]))

    # Sums run in another order: float32 leaves a few parts in a million.
    np.testing.assert_allclose(rows[1], rows[0][encoder.symmetry.permutation[element]], atol=2e-5)
    if element:
        assert not np.allclose(rows[1], rows[0], atol=1e-3)


def test_the_order_under_symmetries_is_a_permutation_of_all_numbers() -> None:
    permutation = FilterBank().symmetry.permutation

    assert permutation is not None
    assert (np.sort(permutation, axis=1) == np.arange(FilterBank().dim)).all()
    assert (permutation[0] == np.arange(FilterBank().dim)).all()


def test_a_row_does_not_depend_on_its_batch(nuclei: np.ndarray) -> None:
    encoder = load_tile_encoder("filterbank")

    assert np.array_equal(encoder.encode(nuclei[:5])[3:4], encoder.encode(nuclei[3:4]))
    assert encoder.encode(nuclei[:0]).shape == (0, encoder.dim)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_tile_of_one_colour_gives_finite_numbers(grey: int) -> None:
    tile = np.full((1, 224, 224, 3), grey, dtype=np.uint8)

    assert np.isfinite(FilterBank().encode(tile)).all()


def test_glass_share_is_the_share_of_white_pixels() -> None:
    encoder = FilterBank()
    tile = np.full((1, 224, 224, 3), 120, dtype=np.uint8)
    tile[:, :56] = 255

    glass = encoder.encode(tile)[0, encoder.feature_names().index("glass share")]

    assert glass == pytest.approx(0.25)


def test_every_number_has_its_own_name() -> None:
    encoder = FilterBank()

    assert len(set(encoder.feature_names())) == encoder.dim


def test_tiles_of_another_side_are_refused_with_the_remedy() -> None:
    with pytest.raises(EncoderError, match="--tile-px 224"):
        FilterBank().encode(np.zeros((1, 256, 256, 3), dtype=np.uint8))
    with pytest.raises(EncoderError, match="multiples of 16 px"):
        load_tile_encoder("filterbank,tile_px=100")

    assert load_tile_encoder("filterbank,tile_px=256").encode(np.zeros((1, 256, 256, 3), dtype=np.uint8)).shape[0] == 1


def test_the_digest_tells_tile_sides_apart_and_nothing_else() -> None:
    assert load_tile_encoder("filterbank").digest == FilterBank(spec="the same").digest
    assert load_tile_encoder("filterbank").digest != load_tile_encoder("filterbank,tile_px=256").digest


def test_the_filter_bank_loads_without_torch() -> None:
    code = (
        "import sys; from parfocal.encoders import load_tile_encoder, available_encoders;"
        "load_tile_encoder('filterbank'); available_encoders(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
