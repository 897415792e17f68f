from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parfocal.encoders import load_tile_encoder
from parfocal.errors import EncoderError

Tiles = Callable[..., np.ndarray]

SOURCE = """
import numpy as np

def mean_colour(tiles):
    return tiles.mean(axis=(1, 2))

def one_number(tiles):
    return tiles.mean(axis=(1, 2, 3))

def nothing_finite(tiles):
    return np.full((len(tiles), 2), np.nan)

not_a_function = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_lab_encoders.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return path


def test_a_function_of_a_module_or_of_a_file_is_an_encoder(module: Path, tiles: Tiles) -> None:
    batch = tiles(3)
    by_module = load_tile_encoder("python:my_lab_encoders:mean_colour")
    by_file = load_tile_encoder(f"python:{module}:mean_colour")

    np.testing.assert_allclose(by_module.encode(batch), batch.mean(axis=(1, 2)), rtol=1e-6)
    assert np.array_equal(by_file.encode(batch), by_module.encode(batch))
    assert (by_module.dim, by_module.name, by_module.tile_px) == (3, "python-mean_colour", 224)
    assert by_module.encode(batch[:0]).shape == (0, 3)


def test_another_version_of_the_function_is_another_encoder(module: Path) -> None:
    before = load_tile_encoder(f"python:{module}:mean_colour").digest
    module.write_text(SOURCE.replace("mean(axis=(1, 2))", "max(axis=(1, 2))"))

    assert load_tile_encoder(f"python:{module}:mean_colour").digest != before


def test_the_tile_side_is_the_users_to_say(module: Path) -> None:
    encoder = load_tile_encoder(f"python:{module}:mean_colour,tile_px=256")

    assert encoder.encode(np.zeros((2, 256, 256, 3), dtype=np.uint8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("my_lab_encoders", "python:MODULE:FUNCTION"),
        ("my_lab_encoders:missing", "has no function missing"),
        ("my_lab_encoders:not_a_function", "has no function"),
        ("no_such_module:f", "no module no_such_module"),
        ("no_such_file.py:f", "no file no_such_file.py"),
        ("my_lab_encoders:one_number", r"shape \(1,\) for 1 tiles.*one row for each tile"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(module: Path, target: str, part: str) -> None:
    with pytest.raises(EncoderError, match=part):
        load_tile_encoder(f"python:{target}")


def test_rows_that_are_not_finite_are_refused(module: Path, tiles: Tiles) -> None:
    encoder = load_tile_encoder("python:my_lab_encoders:nothing_finite")

    with pytest.raises(EncoderError, match="not finite"):
        encoder.encode(tiles(2))


def test_what_the_users_own_code_raises_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def bad(tiles):\n    raise KeyError('colour')\n")
    (tmp_path / "worse.py").write_text("1 / 0\n")

    with pytest.raises(EncoderError, match="failed on 1 tiles: KeyError: 'colour'"):
        load_tile_encoder(f"python:{tmp_path / 'bad.py'}:bad")
    with pytest.raises(EncoderError, match=r"importing .*worse.py failed: ZeroDivisionError"):
        load_tile_encoder(f"python:{tmp_path / 'worse.py'}:bad")
