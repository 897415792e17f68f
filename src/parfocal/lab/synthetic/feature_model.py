"""How regions become tile embeddings: the observation model of the XScale cohorts in feature space.

Embeddings are made in *whitened* coordinates, where noise has variance 1 in every component, and then get the spectrum
of a foundation model (variance of component k falls as a power of k), a rotation and a mean of their own at each
magnification. Every factor has directions of its own, orthogonal to all others, so that separations are exact:

    5x    types + orientation + slide + (separation_a / 2) a + (separation_h / 2) (h1, h2)
    10x   types + orientation by position + slide + local structure, shared with the four 20x tiles below
    20x   types + orientation by position + slide + local structure + (size_product / 2) h1 h2 + shift_c in C's tiles

The product h1 h2 is uncorrelated with everything that 5x shows: its best linear prediction has R2 = 0, the Bayes
prediction R2 = eta(separation_h)^2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator

from parfocal.config import GridConfig, Settings
from parfocal.geometry import lattice_um
from parfocal.lab.synthetic.ceilings import few_tiles_ratio
from parfocal.store import SlideTokens

COARSE, MIDDLE, FINE = 2.0, 1.0, 0.5
_GRID = GridConfig()
_N_LEADING = 6
_N_SLIDE = 6
_N_LOCAL = 2
_MAX_TYPES = 8
_MAX_SHARED = 8
# Which tiles of a raster turn the orientation's sign: a checkerboard, so that means over a region know nothing of it.
_SIDES: Mapping[float, int] = {mpp: _GRID.tiles_per_side(mpp) for mpp in (COARSE, MIDDLE, FINE)}

Directions = Float[np.ndarray, "direction dim"]


class FeatureModel(Settings):
    """Sizes of everything that an embedding shows, in standard deviations of its noise."""

    dim: int = Field(128, ge=32, description="Width of an embedding.")
    spectrum: float = Field(1.0, ge=0, description="Variance of component k is k to the power of minus this.")
    directions: Literal["leading", "anywhere"] = Field(
        "leading",
        description="Whether A, C, h1, h2 and the product lie among the six leading components, as strong structure "
        "does in real embeddings, or anywhere.",
    )
    separation_a: float = Field(3.0, ge=0, description="Distance of A=1 from A=0 in a 5x tile.")
    shift_c: float = Field(0.75, ge=0, description="Shift of a 20x tile that shows C=1.")
    tiles_with_c: int = Field(16, ge=1, le=16, description="How many of the 16 tiles of a region with C=1 show it.")
    c_shown_as: Literal["shift", "xor"] = Field(
        "shift",
        description="Whether C=1 shifts tiles along one direction, or is in which of two signs agree: along each "
        "direction alone, and in every mean, C is then invisible, and shift_c is the distance of a sign's two states.",
    )
    separation_h: float = Field(3.0, ge=0, description="Distance of the two states of h1, and of h2, in a 5x tile.")
    size_product: float = Field(3.0, ge=0, description="Distance of the two states of the product in a 20x tile.")
    size_type: float = Field(3.0, ge=0, description="Distance of two tissue types.")
    size_orientation: float = Field(2.0, ge=0, description="Distance of the two orientations.")
    size_slide: float = Field(1.0, ge=0, description="Spread of what a slide's tiles have in common (stain, site).")
    size_local: float = Field(1.0, ge=0, description="Spread of what a 10x tile and its four 20x tiles share.")
    shared_nuisance: int = Field(
        0,
        ge=0,
        le=_MAX_SHARED,
        description="Continuous components that a region's 5x and 20x tiles share. Above 0 late fusion can re-pair "
        "the bags by them: the control that shows what the adversary finds.",
    )
    size_shared: float = Field(3.0, ge=0, description="Spread of the shared components.")
    fine_noise: float = Field(
        1.0, gt=0, description="Noise of 20x tiles where A=1, except along C: another value lets 20x show A."
    )
    seed: int = Field(0, ge=0, description="Seed of rotations, means and directions.")

    @model_validator(mode="after")
    def _every_tile_shows_the_signs(self) -> "FeatureModel":
        if self.c_shown_as == "xor" and self.tiles_with_c != _SIDES[FINE] ** 2:
            raise ValueError(
                f"c_shown_as=xor shows both signs in every tile, so tiles_with_c={self.tiles_with_c} would do nothing. "
                f"Leave tiles_with_c at {_SIDES[FINE] ** 2}."
            )
        return self


@dataclass(frozen=True, eq=False)
class RegionFactors:
    """The hidden state of the regions of one slide; signs are -1 or 1."""

    a: Bool[np.ndarray, " region"]
    c: Bool[np.ndarray, " region"]
    tissue_type: Int[np.ndarray, " region"]
    orientation: Float[np.ndarray, " region"]
    h1: Float[np.ndarray, " region"]
    h2: Float[np.ndarray, " region"]

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True, eq=False)
class _Magnification:
    """The embedding space of one magnification: x = mean + (y * scale) @ rotation, y whitened."""

    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]
    rotation: Float[np.ndarray, "dim dim"]
    directions: Mapping[str, Directions]


class FeatureSpace:
    """The fixed part of a feature model: the same for all slides of a cohort, and the exact way back."""

    def __init__(self, model: FeatureModel) -> None:
        """Draw means, rotations and directions of the three magnifications."""
        self.model = model
        self._spaces = {
            mpp: _draw_space(model, np.random.default_rng([model.seed, 3, number]))
            for number, mpp in enumerate((COARSE, MIDDLE, FINE))
        }

    def draw(
        self,
        slide: str,
        factors: RegionFactors,
        rng: np.random.Generator,
        *,
        slide_vector: Float[np.ndarray, "6"] | None = None,
    ) -> SlideTokens:
        """Draw the tile embeddings of one slide, float32, no tile absent; regions lie in rows of 8."""
        model, n = self.model, len(factors)
        common = rng.standard_normal(_N_SLIDE) if slide_vector is None else slide_vector
        shared = rng.standard_normal((n, model.shared_nuisance))
        local = rng.standard_normal((n, _SIDES[MIDDLE], _SIDES[MIDDLE], _N_LOCAL))
        rows = {}
        for mpp, space in self._spaces.items():
            side = _SIDES[mpp]
            y = rng.standard_normal((n, side, side, model.dim))
            to = space.directions
            if mpp == FINE and model.fine_noise != 1.0:
                along_c = (y @ to["c"][0])[..., None] * to["c"][0]
                loud = np.where(factors.a, model.fine_noise, 1.0)[:, None, None, None]
                y = along_c + loud * (y - along_c)
            region = (model.size_type / np.sqrt(2)) * to["type"][factors.tissue_type]
            region = region + model.size_slide * common @ to["slide"]
            if mpp != MIDDLE:
                region = region + model.size_shared * shared @ to["shared"][: model.shared_nuisance]
            if mpp == COARSE:
                signs = np.column_stack([2.0 * factors.a - 1, factors.h1, factors.h2])
                halves = np.array([model.separation_a, model.separation_h, model.separation_h]) / 2
                region = region + (signs * halves) @ np.concatenate([to["a"], to["h1"], to["h2"]])
            if mpp == FINE:
                region = region + (model.size_product / 2 * factors.h1 * factors.h2)[:, None] * to["product"]
                if model.c_shown_as == "xor":
                    region = region + model.shift_c / 2 * self._signs_of_c(factors, rng) @ np.concatenate(
                        [to["c"], to["c2"]]
                    )
                else:
                    y += model.shift_c * self._shows_c(factors, rng)[..., None] * to["c"][0]
            y += region[:, None, None]
            sign = 1.0 - 2.0 * (np.add.outer(np.arange(side), np.arange(side)) % 2)
            turned = factors.orientation[:, None, None] * sign
            y += (model.size_orientation / 2) * turned[..., None] * to["orientation"][0]
            if mpp != COARSE:
                times = side // _SIDES[MIDDLE]
                below = local.repeat(times, axis=1).repeat(times, axis=2)
                y += model.size_local * below @ to["local"]
            x = self.embedded(y.reshape(n * side * side, model.dim), mpp)
            rows[mpp] = x.astype(np.float32)
        return SlideTokens(
            slide=slide,
            region_um=_GRID.region_um,
            slide_mpp=FINE,
            region_xy_um=_GRID.region_um * np.column_stack([np.arange(n) % 8, np.arange(n) // 8]).astype(np.float64),
            features=rows,
            region={mpp: np.repeat(np.arange(n, dtype=np.int32), side * side) for mpp, side in _SIDES.items()},
            center_um={
                mpp: np.tile(lattice_um(_GRID.region_um, side).astype(np.float32), (n, 1))
                for mpp, side in _SIDES.items()
            },
        )

    def whitened(self, rows: Float[np.ndarray, "*batch dim"], mpp: float) -> Float[np.ndarray, "*batch dim"]:
        """Embeddings of a magnification in whitened coordinates, where noise has variance 1: the exact way back."""
        space = self._spaces[mpp]
        return np.asarray(((rows - space.mean) @ space.rotation.T) / space.scale)

    def embedded(self, y: Float[np.ndarray, "*batch dim"], mpp: float) -> Float[np.ndarray, "*batch dim"]:
        """The embeddings that have these whitened coordinates."""
        space = self._spaces[mpp]
        return np.asarray(space.mean + (y * space.scale) @ space.rotation)

    def directions(self, mpp: float) -> Mapping[str, Directions]:
        """The whitened directions of each factor at a magnification, orthonormal rows, whether used there or not."""
        return self._spaces[mpp].directions

    def component(self, rows: Float[np.ndarray, "*batch dim"], mpp: float, factor: str) -> Float[np.ndarray, "*batch"]:
        """One whitened coordinate of embeddings: along `a`, `c`, `h1`, `h2`, `product` or `orientation`."""
        return np.asarray(self.whitened(rows, mpp) @ self._spaces[mpp].directions[factor][0])

    def log_odds_a(self, tokens: SlideTokens) -> Float[np.ndarray, "region"]:
        """The whole evidence for A=1 in each region's 5x tile: log p(x | A=1) - log p(x | A=0)."""
        return self.model.separation_a * self.component(tokens.features[COARSE].astype(np.float64), COARSE, "a")

    def log_odds_c(self, tokens: SlideTokens) -> Float[np.ndarray, "region"]:
        """The whole evidence for C=1 in each region's 20x tiles, which of them show it being unknown."""
        fine = tokens.features[FINE].astype(np.float64)
        along = self.component(fine, FINE, "c")
        if self.model.c_shown_as == "xor":
            first, second = (
                self.model.shift_c * one.reshape(-1, _SIDES[FINE] ** 2).sum(axis=1)
                for one in (along, self.component(fine, FINE, "c2"))
            )
            # log cosh of half the sum minus half the difference: the signs agree, or they do not.
            agree: Float[np.ndarray, "region"] = np.logaddexp((first + second) / 2, -(first + second) / 2)
            return np.asarray(agree - np.logaddexp((first - second) / 2, -(first - second) / 2))
        ratio = few_tiles_ratio(along.reshape(-1, _SIDES[FINE] ** 2), self.model.tiles_with_c, self.model.shift_c)
        return np.asarray(np.log(ratio))

    def _signs_of_c(self, factors: RegionFactors, rng: np.random.Generator) -> Float[np.ndarray, "region 2"]:
        """Two signs for each region, one at random and the other the same where C=1."""
        first = rng.choice([-1.0, 1.0], len(factors))
        return np.column_stack([first, np.where(factors.c, first, -first)])

    def _shows_c(self, factors: RegionFactors, rng: np.random.Generator) -> Float[np.ndarray, "region row col"]:
        """1 for the tiles of regions with C=1 that show it, drawn anew for each region."""
        side = _SIDES[FINE]
        order = rng.random((len(factors), side * side)).argsort(axis=1).argsort(axis=1)
        shows = ((order < self.model.tiles_with_c) & factors.c[:, None]).astype(np.float64)
        return np.asarray(shows.reshape(-1, side, side))


def _draw_space(model: FeatureModel, rng: np.random.Generator) -> _Magnification:
    scale = np.arange(1, model.dim + 1) ** (-model.spectrum / 2)
    factors = ("a", "c", "h1", "h2", "product", "c2")
    sizes = {"orientation": 1, "type": _MAX_TYPES, "slide": _N_SLIDE, "local": _N_LOCAL, "shared": _MAX_SHARED}
    n_others = sum(sizes.values())
    basis = np.zeros((_N_LEADING + n_others, model.dim))
    if model.directions == "leading":
        basis[:_N_LEADING, :_N_LEADING] = _rotation(_N_LEADING, rng)
        basis[_N_LEADING:, _N_LEADING : _N_LEADING + n_others] = _rotation(n_others, rng)
    else:
        basis = _rotation(model.dim, rng)[: len(basis)]
    directions = {name: basis[number : number + 1] for number, name in enumerate(factors)}
    start = _N_LEADING
    for name, size in sizes.items():
        directions[name] = basis[start : start + size]
        start += size
    return _Magnification(
        mean=rng.standard_normal(model.dim), scale=scale, rotation=_rotation(model.dim, rng), directions=directions
    )


def _rotation(size: int, rng: np.random.Generator) -> Float[np.ndarray, "size size"]:
    """A random orthogonal matrix, uniformly distributed."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return q * np.sign(np.diag(r))
