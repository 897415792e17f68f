"""Drawing the tissue of one region: glands, nuclei, fibres, and the two attributes that the labels are about.

A region is 448 um: 2 x 2 blocks of 224 um, the tiles at 1.0 mpp. Structures are drawn on a raster of 1 um, which is the
2 x 2 lattice of level 0 (0.5 mpp), and enlarged; only grain and chromatin are drawn at level 0.

*A*, the arrangement: the glands of a block run along x or along y. In a region with A=1 the two directions lie on the
diagonals, with A=0 in rows or in columns. Two blocks of four run along x in both cases and each block is as likely to
run either way, so that no block by itself, nor the unordered four, can tell A. A block is drawn without knowing A.

*C*, the chromatin: inside nuclei a pattern is added to the finished 8-bit picture, a checkerboard (C=1) or column
stripes (C=0), in whole 2 x 2 cells whose sum it does not change. Every coarser level, an average over 2 x 2 pixels, is
bit for bit the same for both.

The colours are those of two stains, absorbing light by the law of Beer and Lambert. The stain vectors and strengths are
drawn once for each slide. They are its nuisance: every tile of a slide shares them, no label knows them.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

CONCENTRATION_STEP = 0.01
"""Optical density of one grey level in the concentration pictures, along a stain vector of length 1."""

# Ruifrok and Johnston 2001 for haematoxylin; their eosin is close to magenta, so some blue absorption is added.
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.09, 0.95, 0.24])


@dataclass(frozen=True)
class Stain:
    """How one slide was stained and lit: stain vectors with their strengths, and the grey level of empty glass."""

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    glass: int


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw the stain of a slide: directions vary by a few degrees, strengths by about a tenth."""

    def vary(vector: np.ndarray) -> tuple[float, float, float]:
        direction = np.clip(vector + rng.normal(0.0, 0.025, 3), 0.02, None)
        direction = direction / np.linalg.norm(direction) * rng.uniform(0.9, 1.12)
        return float(direction[0]), float(direction[1]), float(direction[2])

    return Stain(haematoxylin=vary(_HAEMATOXYLIN), eosin=vary(_EOSIN), glass=int(rng.integers(240, 248)))


def stain_to_rgb(
    haematoxylin: UInt8[np.ndarray, "y x"], eosin: UInt8[np.ndarray, "y x"], stain: Stain
) -> UInt8[np.ndarray, "y x 3"]:
    """The picture of two concentration maps, in steps of `CONCENTRATION_STEP`.

    The exponential of a sum is the product of two tables of 256 entries, which costs a tenth of computing it per pixel.
    """
    density = np.arange(256)[:, None] * CONCENTRATION_STEP
    tables = [
        np.rint(scale * np.exp(-density * np.asarray(vector))).astype(np.uint8)[None]
        for vector, scale in ((stain.haematoxylin, 255.0), (stain.eosin, float(stain.glass)))
    ]
    parts = [
        cv2.LUT(cv2.merge([plane, plane, plane]), table)
        for plane, table in zip((haematoxylin, eosin), tables, strict=True)
    ]
    return np.asarray(cv2.multiply(parts[0], parts[1], scale=1 / 255))


LEVEL0_MPP = 0.5
BLOCK_UM = 224
REGION_PX = 896

_EPITHELIUM_UM = 11.0
_NUCLEUS_SPACING_UM = 7.4
_PLAIN_NUCLEI_PER_CELL = 9.0  # of the stroma, in each 112 um cell

_CHECKERBOARD = np.array([[1, -1], [-1, 1]])
_COLUMN_STRIPES = np.array([[1, -1], [1, -1]])


@dataclass(frozen=True)
class RegionAttributes:
    """The truth about one region: arrangement A, chromatin C, and whether its glands are solid or have a lumen."""

    diagonal: bool
    checkerboard: bool
    solid: bool


def arrange_blocks(diagonal: bool, rng: np.random.Generator) -> Int[np.ndarray, "2 2"]:
    """Which blocks run along y (1) and which along x (0): diagonals, or else rows or columns.

    The generator is used alike in both cases, so that everything drawn after it is the same for A=0 and A=1.
    """
    first, by_row = (int(bit) for bit in rng.integers(0, 2, 2))
    if diagonal:
        return np.array([[first, 1 - first], [1 - first, first]])
    rows = np.array([[first, first], [1 - first, 1 - first]])
    return rows if by_row else rows.T.copy()


def render_region(
    attributes: RegionAttributes, stain: Stain, rng: np.random.Generator, *, chromatin: int
) -> UInt8[np.ndarray, "896 896 3"]:
    """The level-0 picture of a region.

    Args:
        attributes: what the region is.
        stain: the colours of its slide.
        rng: where the region's own randomness comes from; it is used alike whatever `checkerboard` is.
        chromatin: grey levels that the pattern adds or takes away inside nuclei, 1 to 60.
    """
    along_y = arrange_blocks(attributes.diagonal, rng)
    nuclei, haematoxylin, eosin = (np.zeros((2 * BLOCK_UM, 2 * BLOCK_UM), np.float32) for _ in range(3))
    for row in range(2):
        for column in range(2):
            block = np.s_[
                row * BLOCK_UM : (row + 1) * BLOCK_UM,
                column * BLOCK_UM : (column + 1) * BLOCK_UM,
            ]
            planes = _draw_block(attributes.solid, rng)
            for whole, plane in zip((nuclei, haematoxylin, eosin), planes, strict=True):
                whole[block] = plane.T if along_y[row, column] else plane
    return _paint(nuclei, haematoxylin, eosin, attributes.checkerboard, stain, rng, chromatin)


def _paint(
    nuclei: Float[np.ndarray, "y x"],
    haematoxylin: Float[np.ndarray, "y x"],
    eosin: Float[np.ndarray, "y x"],
    checkerboard: bool,
    stain: Stain,
    rng: np.random.Generator,
    chromatin: int,
) -> UInt8[np.ndarray, "896 896 3"]:
    """Concentrations on the 1 um raster become level-0 pixels, and nuclei get their chromatin."""
    full = (REGION_PX, REGION_PX)
    grain = rng.integers(-4, 5, full, dtype=np.int8).astype(np.float32)
    planes = []
    for plane, amount in ((haematoxylin, 1.0), (eosin, 0.5)):
        enlarged = cv2.resize(plane, full, interpolation=cv2.INTER_LINEAR)
        # Grain only where there is tissue: empty glass and lumens stay clean.
        enlarged += amount * grain * (enlarged > 6)
        planes.append(np.clip(enlarged, 0, 255).astype(np.uint8))
    rgb = stain_to_rgb(planes[0], planes[1], stain)

    # Whole cells of the 2 x 2 lattice only, and room for the pattern on both sides of the grey scale, so that nothing
    # is clipped: each cell keeps its sum.
    inside = cv2.resize((nuclei > 0.6).astype(np.uint8), full, interpolation=cv2.INTER_NEAREST)
    cell = (chromatin * (_CHECKERBOARD if checkerboard else _COLUMN_STRIPES)).astype(np.uint8)
    # In bytes, which is ten times faster: what is taken away is added round the end of the scale.
    added = np.tile(cell, (REGION_PX // 2, REGION_PX // 2))
    return np.asarray(cv2.copyTo(np.clip(rgb, chromatin, 255 - chromatin) + cv2.merge([added] * 3), inside, rgb))


def _draw_block(
    solid: bool, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "224 224"], Float[np.ndarray, "224 224"], Float[np.ndarray, "224 224"]]:
    """One block with glands along x: share of nucleus (0 to 1), haematoxylin and eosin, on the 1 um raster."""
    epithelium, lumen, nuclei = (np.zeros((BLOCK_UM, BLOCK_UM), np.uint8) for _ in range(3))
    centers: list[np.ndarray] = [_plain_nuclei(rng)]
    for gland in _draw_glands(rng):
        _fill(epithelium, gland.outline(0.0), 255)
        if not solid:
            _fill(lumen, gland.outline(_EPITHELIUM_UM), 255)
        centers.append(gland.nuclei(solid, rng))
    for x, y, long_um, short_um, angle in np.concatenate(centers).tolist():
        cv2.ellipse(
            nuclei,
            (round(x * 16), round(y * 16)),
            (round(long_um * 16), round(short_um * 16)),
            angle,
            0,
            360,
            255,
            -1,
            cv2.LINE_AA,
            4,
        )
    nuclei[lumen > 0] = 0
    return _concentrations(epithelium, lumen, nuclei, rng)


def _concentrations(
    epithelium: UInt8[np.ndarray, "y x"],
    lumen: UInt8[np.ndarray, "y x"],
    nuclei: UInt8[np.ndarray, "y x"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
    """Mix the masks of a block to nucleus share, haematoxylin and eosin (in `CONCENTRATION_STEP`s)."""
    inside, empty, nucleus = (
        cv2.multiply(mask, 1.0, scale=1 / 255, dtype=cv2.CV_32F) for mask in (epithelium, lumen, nuclei)
    )
    # Collagen: noise drawn out along the glands. Cytoplasm: the same noise, rounder and weaker.
    noise = rng.standard_normal((BLOCK_UM, BLOCK_UM), dtype=np.float32)
    fibres = cv2.GaussianBlur(noise, (0, 0), sigmaX=9.0, sigmaY=1.2)
    fibres *= 1.0 / float(fibres.std())
    mottle = cv2.GaussianBlur(noise, (0, 0), sigmaX=1.6)
    mottle *= 1.0 / float(mottle.std())

    stroma = 40.0 + 8.0 * fibres
    cytoplasm = 34.0 + 4.0 * mottle
    eosin = (stroma * (1 - inside) + cytoplasm * inside) * (1 - empty)
    haematoxylin = (5.0 + 15.0 * inside) * (1 - empty)
    haematoxylin += nucleus * (78.0 + 8.0 * mottle - haematoxylin)
    return nucleus, haematoxylin, eosin


def _plain_nuclei(rng: np.random.Generator) -> Float[np.ndarray, "nucleus 5"]:
    """Spindle nuclei of the stroma: x, y, half axes in um, degrees; a Poisson number in each 112 um cell."""
    half = BLOCK_UM // 2
    counts = rng.poisson(_PLAIN_NUCLEI_PER_CELL, 4)
    corner = np.repeat(np.array([[0, 0], [half, 0], [0, half], [half, half]]), counts, axis=0)
    n = int(counts.sum())
    return np.column_stack(
        [
            corner + rng.uniform(0, half, (n, 2)),
            rng.uniform(3.6, 5.4, n),
            rng.uniform(1.6, 2.4, n),
            rng.normal(0, 14, n),
        ]
    )


def _draw_glands(rng: np.random.Generator) -> "list[_Gland]":
    """The glands of a block, top to bottom: three or four lanes, some of them broken into two glands."""
    glands = []
    lanes = int(rng.integers(3, 5))
    lane_um = BLOCK_UM / lanes
    for lane in range(lanes):
        middle = (lane + 0.5) * lane_um + rng.uniform(-3, 3)
        wave, phase = rng.uniform(-6.0, 6.0), rng.uniform(0, 2 * np.pi)
        # A few um of stroma stay free on every side: neighbouring blocks do not join to one structure.
        left, right = rng.uniform(4, 22), BLOCK_UM - rng.uniform(4, 22)
        gap = rng.uniform(0.36, 0.64) * BLOCK_UM
        broken = rng.random() < 0.35
        for start, end in ((left, gap - 5), (gap + 5, right)) if broken else ((left, right),):
            half_width = rng.uniform(0.31, 0.41) * lane_um
            glands.append(_Gland(start, end, middle, half_width, wave, phase))
    return glands


def _fill(mask: UInt8[np.ndarray, "y x"], outline: Float[np.ndarray, "point 2"], value: int) -> None:
    cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], value, cv2.LINE_AA, 4)


@dataclass(frozen=True, eq=False)
class _Gland:
    """A wavy tube along x, from `left` to `right`: points are (x, y) in um of the block."""

    left: float
    right: float
    middle: float
    half_width: float
    wave: float
    phase: float

    def _axis(self, x: np.ndarray) -> np.ndarray:
        return self.middle + self.wave * np.sin(2 * np.pi * x / BLOCK_UM + self.phase)

    def outline(self, inset: float) -> Float[np.ndarray, "point 2"]:
        """The closed outline, drawn in by `inset` um; its ends are round."""
        along = np.linspace(-1, 1, 40)
        x = (self.left + self.right) / 2 + along * ((self.right - self.left) / 2 - inset)
        half = (self.half_width - inset) * np.sqrt(np.clip(1 - np.abs(along) ** 7, 0, None))
        axis = self._axis(x)
        return np.concatenate([np.column_stack([x, axis - half]), np.column_stack([x, axis + half])[::-1]])

    def nuclei(self, solid: bool, rng: np.random.Generator) -> Float[np.ndarray, "nucleus 5"]:
        """Columnar nuclei along the wall, upright on it; in solid glands round ones everywhere inside."""
        if solid:
            return self._filling_nuclei(rng)
        outline = self.outline(4.6)
        closed = np.concatenate([outline, outline[:1]])
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
        n = int(length[-1] / _NUCLEUS_SPACING_UM)
        at = (np.arange(n) + rng.uniform(-0.25, 0.25, n)) * (length[-1] / n) % length[-1]
        points = np.column_stack([np.interp(at, length, closed[:, axis]) for axis in range(2)])
        ahead = np.column_stack([np.interp((at + 1) % length[-1], length, closed[:, axis]) for axis in range(2)])
        upright = np.degrees(np.arctan2(*(ahead - points).T[::-1])) + 90
        return np.column_stack(
            [
                points + rng.normal(0, 0.6, (n, 2)),
                rng.uniform(3.4, 4.6, n),
                rng.uniform(2.2, 2.9, n),
                upright + rng.normal(0, 10, n),
            ]
        )

    def _filling_nuclei(self, rng: np.random.Generator) -> Float[np.ndarray, "nucleus 5"]:
        columns, rows = (self.right - self.left - 12) / 9.5, (2 * self.half_width - 11) / 9.5
        x, y = np.meshgrid(
            np.linspace(self.left + 6, self.right - 6, int(columns) + 1),
            np.linspace(5.5 - self.half_width, self.half_width - 5.5, int(rows) + 1),
        )
        x = x.ravel() + rng.uniform(-2, 2, x.size)
        y = self._axis(x) + y.ravel() + rng.uniform(-2, 2, y.size)
        return np.column_stack(
            [x, y, rng.uniform(3.2, 4.2, x.size), rng.uniform(2.8, 3.5, x.size), rng.uniform(0, 180, x.size)]
        )
