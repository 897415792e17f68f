"""The encoder that needs nothing: fixed colour and texture filters, no weights, no torch.

A classical baseline, so that every step runs on any machine. It is no match for a trained network on real tissue. It
keeps a 2 x 2 grid of orientation energies and their products over the cells (the second layer of a scattering
transform), because the *arrangement* of structures is what a coarse magnification adds, and a mean over the tile would
lose it.

Every filter and every pooling cell is mapped onto another one by the symmetries of the square, so a turned tile gives
the same numbers in another order, which `symmetry` declares.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8

from parfocal.encoders.base import EncoderInfo, Symmetry, TileEncoder, check_tiles
from parfocal.encoders.kind import EncoderKind, EncoderSpec
from parfocal.errors import EncoderError

# Part of the digest: raise it whenever a number of a row changes.
VERSION = 1
# Optical density per unit of haematoxylin, eosin and the rest (Ruifrok and Johnston 2001), rows of length 1.
STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
PERCENTILES = (5, 25, 50, 75, 95)
# Below this mean optical density (natural logarithm) a pixel counts as glass.
GLASS_DENSITY = 0.1
HAAR_SHRINKS = (1, 2, 4)
ORIENTATION_SHRINKS = (2, 4, 8)
BLOB_SIGMAS_PX = (1.0, 2.0, 4.0, 8.0)
ANGLES_DEG = (0, 45, 90, 135)
CELLS = tuple((row, column) for row in (0, 1) for column in (0, 1))
PAIRS = tuple((a, b) for a in range(4) for b in range(a + 1, 4))

Plane = Float32[np.ndarray, "y x"]


def _unmixing() -> np.ndarray:
    stains = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    return np.ascontiguousarray(np.linalg.inv(stains).T, dtype=np.float32)


_UNMIX = _unmixing()
_DENSITY = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


@dataclass(frozen=True)
class Feature:
    """What one number of a row measures: where in the 2 x 2 grid (no cell: the whole tile) and along which angle."""

    label: str
    cells: frozenset[tuple[int, int]] = frozenset()
    angle_deg: int | None = None

    def __str__(self) -> str:
        cells = "".join(f" {('upper', 'lower')[row]}-{('left', 'right')[column]}" for row, column in sorted(self.cells))
        return self.label + cells + ("" if self.angle_deg is None else f" {self.angle_deg} deg")


class FilterBank(TileEncoder):
    """Colour-deconvolution statistics, pixel-scale contrasts, blobs, and a 2 x 2 grid of orientations.

    Always on the CPU and in float32; about 110 numbers.
    """

    def __init__(self, tile_px: int = 224, spec: str = "filterbank") -> None:
        """Make the bank for one tile side.

        Raises:
            ValueError: the side is not a multiple of 16 px (the grid's cells would not nest) or is below 32 px.
        """
        if tile_px < 32 or tile_px % 16:
            raise ValueError(f"tile_px={tile_px}: the filter bank takes multiples of 16 px from 32 px on, such as 224")
        self.name = "filterbank"
        self.spec = spec
        self.tile_px = tile_px
        self.trained_mpps = None
        self._features = bank_features()
        self.dim = len(self._features)
        self.symmetry = Symmetry("permutation", _permutation(self._features))

    def describe(self) -> dict[str, Any]:
        """The version of the bank and its tile side: nothing else changes a row."""
        return {"encoder": self.name, "version": VERSION, "tile_px": self.tile_px, "dim": self.dim, "dtype": "float32"}

    def feature_names(self) -> tuple[str, ...]:
        """A readable name for each number of a row, such as `orientation shrink=4 upper-left 90 deg`."""
        return tuple(map(str, self._features))

    def encode(self, tiles: UInt8[np.ndarray, "tile y x 3"]) -> Float32[np.ndarray, "tile dim"]:
        """One row for each tile; every tile is measured by itself, so the batch does not matter."""
        check_tiles(self, tiles)
        rows = np.empty((len(tiles), self.dim), dtype=np.float32)
        for row, tile in zip(rows, tiles, strict=True):
            row[:] = _measure(np.ascontiguousarray(tile))
        return rows


def bank_features() -> tuple[Feature, ...]:
    """The order of a row, which `_measure` follows."""
    features = []
    for stain in ("haematoxylin", "eosin"):
        features += [Feature(f"{stain} p{percentile}") for percentile in PERCENTILES]
    for stain in ("haematoxylin", "eosin", "rest"):
        features += [Feature(f"{stain} mean"), Feature(f"{stain} sd")]
    features.append(Feature("glass share"))
    for stain in ("haematoxylin", "eosin"):
        features += [Feature(f"{stain} mean", frozenset({cell})) for cell in CELLS]
    for shrink in HAAR_SHRINKS:
        for where in ("tile", "nuclei"):
            label = f"contrast shrink={shrink} {where}"
            features += [Feature(label, angle_deg=0), Feature(label, angle_deg=90), Feature(f"{label} diagonal")]
    for sigma_px in BLOB_SIGMAS_PX[1:]:
        features += [Feature(f"blob sigma={sigma_px:g} {part}") for part in ("pale", "dark")]
    for shrink in ORIENTATION_SHRINKS:
        label = f"orientation shrink={shrink}"
        features += [Feature(label, frozenset({cell}), angle) for cell in CELLS for angle in ANGLES_DEG]
        features += [Feature(f"arrangement shrink={shrink}", frozenset({CELLS[a], CELLS[b]})) for a, b in PAIRS]
    return tuple(features)


def _measure(tile: UInt8[np.ndarray, "y x 3"]) -> np.ndarray:
    density = cv2.LUT(tile, _DENSITY)  # (y, x, 3), natural logarithm
    stains = cv2.transform(density, _UNMIX)  # haematoxylin, eosin, rest
    haematoxylin = np.ascontiguousarray(stains[..., 0])
    total = cv2.transform(density, np.full((1, 3), 1 / 3, dtype=np.float32))
    numbers: list[float] = []

    half = _shrink(stains, 2)
    for stain in (0, 1):
        numbers += np.percentile(half[..., stain], PERCENTILES).tolist()
    mean, deviation = cv2.meanStdDev(stains)
    for stain in range(3):
        numbers += [mean[stain, 0], deviation[stain, 0]]
    numbers.append(float(np.count_nonzero(total < GLASS_DENSITY)) / total.size)
    quarters = cv2.resize(stains, (2, 2), interpolation=cv2.INTER_AREA)  # (2, 2, 3): exact means of the four cells
    numbers += [float(quarters[cell][stain]) for stain in (0, 1) for cell in CELLS]

    for shrink in HAAR_SHRINKS:
        numbers += _haar(_shrink(haematoxylin, shrink), _shrink(total, shrink))
    numbers += _blobs(haematoxylin)
    for shrink in ORIENTATION_SHRINKS:
        numbers += _orientations(_shrink(total, shrink))
    return np.array(numbers, dtype=np.float32)


def _shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Exact means of `factor` x `factor` blocks."""
    if factor == 1:
        return image
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _haar(haematoxylin: Plane, total: Plane) -> list[float]:
    """Mean absolute contrast of all 2 x 2 blocks: columns, rows, diagonal; over the tile, then weighted by nuclei.

    The blocks overlap, so the phase of a pattern against the tile does not matter. The weight is the square of the
    block's haematoxylin: no threshold to tune, and stroma counts for about a hundredth of a nucleus.
    """
    upper, lower = total[:-1], total[1:]
    sums, differences = upper + lower, upper - lower
    # Each (y - 1, x - 1): a 2 x 2 block.
    details = (
        cv2.absdiff(sums[:, :-1], sums[:, 1:]),
        np.abs(differences[:, :-1] + differences[:, 1:]),
        cv2.absdiff(differences[:, :-1], differences[:, 1:]),
    )
    stained = haematoxylin[:-1] + haematoxylin[1:]
    weight = np.maximum(stained[:, :-1] + stained[:, 1:], 0) / 4
    weight *= weight
    # A little of the plain mean keeps the ratio finite, and smooth, where a tile has no nucleus.
    floor = 1e-3
    norm = float(weight.mean(dtype=np.float64)) + floor
    means = [float(detail.mean(dtype=np.float64)) / 4 for detail in details]
    at_nuclei = [float(cv2.multiply(detail, weight).mean(dtype=np.float64)) / 4 for detail in details]
    return means + [(inside + floor * mean) / norm for inside, mean in zip(at_nuclei, means, strict=True)]


def _blobs(haematoxylin: Plane) -> list[float]:
    """Mean positive and mean negative part of differences of Gaussians: how many and how large the nuclei are."""
    numbers = []
    finer = _blur(haematoxylin, BLOB_SIGMAS_PX[0])
    for sigma_px in BLOB_SIGMAS_PX[1:]:
        # Blurring the blurred: variances add, and the kernels stay short.
        previous = BLOB_SIGMAS_PX[BLOB_SIGMAS_PX.index(sigma_px) - 1]
        coarser = _blur(finer, float(np.sqrt(sigma_px**2 - previous**2)))
        band = finer - coarser
        size = float(np.abs(band).mean(dtype=np.float64))
        mean = float(band.mean(dtype=np.float64))
        numbers += [(size - mean) / 2, (size + mean) / 2]
        finer = coarser
    return numbers


def _blur(image: Plane, sigma_px: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT))


def _orientations(total: Plane) -> list[float]:
    """Amplitude of the gradient along four angles in each of four cells, then the six products of the cells.

    A product is the inner product of two cells' double-angle vectors: coherence times coherence times the cosine of
    twice the angle between the two cells' main directions. 1 is the same direction, -1 the perpendicular one, and 0 no
    direction at all; turning the tile by any angle leaves it as it is.
    """
    along_x = cv2.Scharr(total, cv2.CV_32F, 1, 0, scale=1 / 32, borderType=cv2.BORDER_REFLECT)
    along_y = cv2.Scharr(total, cv2.CV_32F, 0, 1, scale=1 / 32, borderType=cv2.BORDER_REFLECT)
    tensor = np.stack([along_x * along_x, along_y * along_y, along_x * along_y], axis=-1)
    cells = cv2.resize(tensor, (2, 2), interpolation=cv2.INTER_AREA)  # (2, 2, 3): exact means of the four cells
    amplitudes: list[float] = []
    vectors = []
    for cell in CELLS:
        xx, yy, xy = map(float, cells[cell])
        energies = (xx, (xx + yy) / 2 + xy, yy, (xx + yy) / 2 - xy)
        amplitudes += [float(np.sqrt(max(energy, 0.0))) for energy in energies]
        # The constant makes a featureless cell a vector of length 0; it is far below the noise of a camera.
        vectors.append(np.array([xx - yy, 2 * xy]) / (xx + yy + 1e-6))
    return amplitudes + [float(vectors[a] @ vectors[b]) for a, b in PAIRS]


def _permutation(features: tuple[Feature, ...]) -> Int[np.ndarray, "8 dim"]:
    """For each symmetry, which number of the untouched tile stands at each place of the turned tile's row."""
    place = {feature: index for index, feature in enumerate(features)}
    return np.array([[place[_source(feature, element)] for feature in features] for element in range(8)])


def _source(feature: Feature, element: int) -> Feature:
    """The feature of the untouched tile that shows as `feature` in the tile under a symmetry (see `Symmetry`)."""
    flip, quarter_turns = divmod(element, 4)
    cells, angle = feature.cells, feature.angle_deg
    # Undo the last move first.
    for _ in range(quarter_turns):
        cells = frozenset((column, 1 - row) for row, column in cells)
        angle = None if angle is None else (angle + 90) % 180
    if flip:
        cells = frozenset((row, 1 - column) for row, column in cells)
        angle = None if angle is None else -angle % 180
    return Feature(feature.label, cells, angle)


def _load(spec: EncoderSpec, device: str, dtype: str) -> TileEncoder:
    tile_px = spec.whole_number("tile_px")
    try:
        return FilterBank(224 if tile_px is None else tile_px, spec=spec.text)
    except ValueError as error:
        raise EncoderError(f"cannot load {spec.text}: {error}.") from error


def _infos() -> list[EncoderInfo]:
    bank = FilterBank()
    return [EncoderInfo(bank.name, bank.dim, bank.tile_px, None, True, "nothing", "Apache-2.0", "part of parfocal")]


FILTERBANK = EncoderKind("filterbank", _load, _infos, options={"tile_px": True})
