"""The best possible prediction of hidden tiles from the visible ones of their region, and the best linear one.

Given its discrete states (type, orientation, A, C, h1, h2) a region of an XScale cohort is Gaussian, and its states are
few. So the expectation of a hidden tile is a sum over all of them: the posterior of each state times the Gaussian
conditional mean in it. No model can have a smaller squared error, and no linear map a smaller one than the linear
optimum of the same law. Where the two are equal, a model cannot show that it learnt more than a linear map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy import linalg
from scipy.special import softmax

from parfocal.config import GridConfig
from parfocal.lab.synthetic.feature_model import COARSE, FINE, MIDDLE, FeatureSpace
from parfocal.lab.synthetic.xscale import StratSettings

_SIDES = {mpp: GridConfig().tiles_per_side(mpp) for mpp in (COARSE, MIDDLE, FINE)}
_FACTORS = ("a", "c", "h1", "h2", "product", "orientation", "type", "slide", "local", "shared")
Tiles = Float[np.ndarray, "region tile dim"]
Conditional = Callable[
    [Float[np.ndarray, "region unknown"], Int64[np.ndarray, " shown"], Int64[np.ndarray, " asked"]],
    Float[np.ndarray, "region asked axis"],
]


@dataclass(frozen=True, eq=False)
class RegionLaw:
    """The law of a region's tiles over all slides: a mixture of Gaussians with one covariance.

    Tiles come in the order of the magnifications, coarse to fine, each row by row. `axis` runs over the directions of
    all factors; what a tile has outside them is noise that nothing else knows.

    Attributes:
        space: the cohort's feature space.
        tile_mpp: magnification of each tile.
        centre: mean of each tile in each state, along the axes; all states are equally likely.
        loading: how the Gaussian factors (slide, local structure, shared nuisance), each N(0, 1), move a tile.
    """

    space: FeatureSpace
    tile_mpp: Float[np.ndarray, " tile"]
    centre: Float[np.ndarray, "state tile axis"]
    loading: Float[np.ndarray, "tile axis gaussian"]

    @classmethod
    def of(cls, settings: StratSettings) -> "RegionLaw":
        """The law that a cohort's regions are drawn from; slides and labels are averaged over.

        Raises:
            ValueError: only some tiles show C, or the noise hangs on A: then the states are too many, or have several
                covariances.
        """
        model = settings.model
        if model.tiles_with_c != _SIDES[FINE] ** 2 or model.fine_noise != 1 or model.c_shown_as != "shift":
            raise ValueError(
                f"no law for tiles_with_c={model.tiles_with_c} and fine_noise={model.fine_noise:g}: "
                f"it needs {_SIDES[FINE] ** 2} and 1"
            )
        space = FeatureSpace(model)
        signs = (-1.0, 1.0)
        h = signs if settings.product else (0.0,)
        orientation = signs if settings.orientation else (0.0,)
        states = list(product(range(settings.n_types), orientation, (0.0, 1.0), (0.0, 1.0), h, h))
        centre, loading = [], []
        for mpp in (COARSE, MIDDLE, FINE):
            for row, column in product(range(_SIDES[mpp]), repeat=2):
                centre.append([_expected(space, mpp, row, column, *state) for state in states])
                loading.append(_loading(space, mpp, row, column))
        tile_mpp = np.repeat([COARSE, MIDDLE, FINE], [_SIDES[mpp] ** 2 for mpp in (COARSE, MIDDLE, FINE)])
        return cls(space, tile_mpp, np.stack(centre, axis=1), np.stack(loading))

    def predict(self, tokens: Tiles, visible: Bool[np.ndarray, "region tile"]) -> Tiles:
        """The expectation of every tile given the visible ones of its region; the visible ones as they are.

        Args:
            tokens: embeddings; hidden ones are never read.
            visible: which tiles are seen.
        """
        n_states = len(self.centre)

        def conditional(seen: Float[np.ndarray, "region unknown"], shown: np.ndarray, asked: np.ndarray) -> np.ndarray:
            own, loading = self.centre[:, shown].reshape(n_states, -1), self.loading[shown].reshape(seen.shape[1], -1)
            covariance = linalg.inv(np.eye(loading.shape[1]) + loading.T @ loading)
            # What the Gaussian factors show of themselves in each state, and how well all of it fits the state.
            shift = (seen @ loading)[:, None] - own @ loading  # (region, state, gaussian)
            squares = np.square(own).sum(axis=1) - 2 * seen @ own.T  # what all states share does not matter
            explained = np.einsum("rsg,gh,rsh->rs", shift, covariance, shift)
            weight = softmax((explained - squares) / 2, axis=1)
            factors = np.einsum("rs,rsg->rg", weight, shift) @ covariance
            found: np.ndarray = np.einsum("rg,tag->rta", factors, self.loading[asked])
            found += np.einsum("rs,sta->rta", weight, self.centre[:, asked])
            return found

        return self._predicted(tokens, visible, conditional)

    def predict_linearly(self, tokens: Tiles, visible: Bool[np.ndarray, "region tile"]) -> Tiles:
        """The best linear prediction from the visible tiles, with the law's own moments in place of estimated ones."""
        n_tiles, n_axes = self.centre.shape[1:]
        mean = self.centre.mean(axis=0)
        spread = (self.centre - mean).reshape(len(self.centre), -1)
        loading = self.loading.reshape(n_tiles * n_axes, -1)
        joint = (spread.T @ spread / len(spread) + loading @ loading.T).reshape(n_tiles, n_axes, n_tiles, n_axes)

        def conditional(seen: Float[np.ndarray, "region unknown"], shown: np.ndarray, asked: np.ndarray) -> np.ndarray:
            own = joint[shown][:, :, shown].reshape(seen.shape[1], -1) + np.eye(seen.shape[1])
            cross = joint[shown][:, :, asked].reshape(seen.shape[1], -1)
            weight = linalg.solve(own, cross, assume_a="pos")
            found: np.ndarray = ((seen - mean[shown].reshape(-1)) @ weight).reshape(len(seen), len(asked), n_axes)
            found += mean[asked]
            return found

        return self._predicted(tokens, visible, conditional)

    def _predicted(self, tokens: Tiles, visible: Bool[np.ndarray, "region tile"], conditional: Conditional) -> Tiles:
        """Go through the sets of visible tiles that occur, along the axes and back."""
        axes = {mpp: _axes(self.space, mpp) for mpp in np.unique(self.tile_mpp)}
        along = np.zeros((*visible.shape, self.centre.shape[2]))
        for tile, mpp in enumerate(self.tile_mpp):
            rows = visible[:, tile]
            along[rows, tile] = self.space.whitened(tokens[rows, tile].astype(np.float64), mpp) @ axes[mpp].T
        predicted = tokens.astype(np.float64)
        sets, group = np.unique(visible, axis=0, return_inverse=True)
        for number, one in enumerate(sets):
            rows, shown, asked = np.flatnonzero(group.ravel() == number), np.flatnonzero(one), np.flatnonzero(~one)
            found = conditional(along[rows][:, shown].reshape(len(rows), -1), shown, asked)
            for place, hidden in enumerate(asked):
                mpp = self.tile_mpp[hidden]
                predicted[rows, hidden] = self.space.embedded(found[:, place] @ axes[mpp], mpp)
        return predicted


def _axes(space: FeatureSpace, mpp: float) -> Float[np.ndarray, "axis dim"]:
    """The directions of all factors at a magnification, below one another: orthonormal rows."""
    return np.concatenate([space.directions(mpp)[name] for name in _FACTORS])


def _expected(
    space: FeatureSpace,
    mpp: float,
    row: int,
    column: int,
    tissue_type: int,
    orientation: float,
    a: float,
    c: float,
    h1: float,
    h2: float,
) -> Float[np.ndarray, " axis"]:
    """The mean of a tile in one state, along the axes."""
    model, to = space.model, space.directions(mpp)
    y = model.size_type / np.sqrt(2) * to["type"][tissue_type]
    y = y + model.size_orientation / 2 * orientation * (-1.0) ** (row + column) * to["orientation"][0]
    if mpp == COARSE:
        y = y + model.separation_a / 2 * (2 * a - 1) * to["a"][0]
        y = y + model.separation_h / 2 * (h1 * to["h1"][0] + h2 * to["h2"][0])
    if mpp == FINE:
        y = y + model.size_product / 2 * h1 * h2 * to["product"][0] + model.shift_c * c * to["c"][0]
    expected: Float[np.ndarray, " axis"] = _axes(space, mpp) @ y
    return expected


def _loading(space: FeatureSpace, mpp: float, row: int, column: int) -> Float[np.ndarray, "axis gaussian"]:
    """What slide, local structure of each 10x tile, and shared nuisance add to a tile, along the axes."""
    model, to = space.model, space.directions(mpp)
    n_blocks = _SIDES[MIDDLE] ** 2
    local = np.zeros((n_blocks, *to["local"].shape))
    if mpp != COARSE:
        times = _SIDES[mpp] // _SIDES[MIDDLE]
        local[row // times * _SIDES[MIDDLE] + column // times] = model.size_local * to["local"]
    shared = np.zeros((model.shared_nuisance, model.dim))
    if mpp != MIDDLE:
        shared = model.size_shared * to["shared"][: model.shared_nuisance]
    slide = model.size_slide * to["slide"]
    loading: Float[np.ndarray, "axis gaussian"] = (
        _axes(space, mpp) @ np.concatenate([slide, local.reshape(-1, model.dim), shared]).T
    )
    return loading
