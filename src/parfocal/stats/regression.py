"""Ridge regression in closed form, many side by side: the one that every linear readout, probe and baseline uses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from parfocal.stats.whitening import varying


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Inputs times coefficients, plus an intercept.

    Attributes:
        coefficient: of each input for each output.
        intercept: of each output.
    """

    coefficient: Float64[np.ndarray, "*batch input output"]
    intercept: Float64[np.ndarray, "*batch output"]

    def predict(self, x: Float[np.ndarray, "*stack case input"]) -> Float64[np.ndarray, "*batch case output"]:
        """What the model says of each case."""
        return np.asarray(x.astype(np.float64) @ self.coefficient + self.intercept[..., None, :])


@dataclass(frozen=True, eq=False)
class Ridge:
    """Regressions on one set of cases, ready for any penalty; several sets side by side have leading axes.

    Minimised is the weighted mean squared error + penalty * |coefficients|^2; the intercept is free. The same
    coefficients come from the moments of the inputs and from the kernel of the cases; the smaller one is solved.

    Attributes:
        x: inputs, centred, where asked standardised, and times the root of their case's share of all weight.
        y: outputs, centred, and times the same.
        center: mean of the inputs.
        scale: what they were divided with; infinite for one that never changes, which so says nothing.
        mean: of the outputs.
        share: of each case in all weight.
        product: x^T x, or x x^T where that is smaller.
    """

    x: Float64[np.ndarray, "*batch case input"]
    y: Float64[np.ndarray, "*batch case output"]
    center: Float64[np.ndarray, "*batch 1 input"]
    scale: Float64[np.ndarray, "*batch 1 input"]
    mean: Float64[np.ndarray, "*batch 1 output"]
    share: Float64[np.ndarray, "*batch case 1"]
    product: Float64[np.ndarray, "*batch side side"]

    @staticmethod
    def of(
        x: Float[np.ndarray, "*stack case input"],
        y: Float[np.ndarray, "*targets case output"],
        weight: Float64[np.ndarray, "*problem case"] | None = None,
        *,
        standardised: bool = False,
    ) -> "Ridge":
        """Take in the cases.

        Args:
            x: inputs; one matrix for all problems, or a stack of one for each.
            y: outputs, likewise.
            weight: of each case in each problem, 0 leaves it out; None: all alike.
            standardised: whether inputs are divided by their spread first, so that the penalty does not know their
                units.
        """
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        weight = np.ones(x.shape[-2]) if weight is None else weight
        share = (weight / weight.sum(axis=-1, keepdims=True))[..., None]
        across = share.swapaxes(-1, -2)
        center, mean = across @ x, across @ y
        x, root = x - center, np.sqrt(share)
        scale = np.ones(center.shape)
        if standardised:
            spread = np.sqrt(across @ x**2)
            scale = np.where(varying(spread), spread, np.inf)
            x = x / scale
        x, y = x * root, (y - mean) * root
        across = x.swapaxes(-1, -2)
        product = across @ x if x.shape[-1] <= x.shape[-2] else x @ across
        return Ridge(x, y, center, scale, mean, share, product)

    @property
    def variance(self) -> Float64[np.ndarray, "*batch"]:
        """Of all inputs together: a unit for penalties."""
        return np.asarray(self.product.trace(axis1=-2, axis2=-1))

    def at(self, penalty: float | Float64[np.ndarray, "*batch"]) -> LinearModel:
        """The regression with this penalty, or with one for each problem; above 0."""
        across = self.x.swapaxes(-1, -2)
        if self._has_more_cases:
            coefficient = np.linalg.solve(self._system(penalty), across @ self.y)
        else:
            coefficient = across @ np.linalg.solve(self._system(penalty), self.y)
        coefficient = coefficient / self.scale.swapaxes(-1, -2)
        return LinearModel(coefficient, (self.mean - self.center @ coefficient)[..., 0, :])

    def left_out_error(self, penalty: float) -> Float64[np.ndarray, "*batch"]:
        """The mean squared error over cases and outputs of models that had not seen their case, in closed form."""
        if self._has_more_cases:
            smoother = self.x @ np.linalg.solve(self._system(penalty), self.x.swapaxes(-1, -2))
        else:
            smoother = np.linalg.solve(self._system(penalty), self.product)
        leverage = smoother.diagonal(axis1=-2, axis2=-1)[..., None] + self.share
        residual = (self.y - smoother @ self.y) / np.maximum(1 - leverage, 1e-9)
        return np.asarray((residual**2).sum(axis=-2).mean(axis=-1))

    @property
    def _has_more_cases(self) -> bool:
        return bool(self.x.shape[-1] <= self.x.shape[-2])

    def _system(self, penalty: float | Float64[np.ndarray, "*batch"]) -> Float64[np.ndarray, "*batch side side"]:
        return np.asarray(self.product + np.asarray(penalty)[..., None, None] * np.eye(self.product.shape[-1]))


def fit_ridge(
    x: Float[np.ndarray, "case input"],
    y: Float[np.ndarray, "case output"],
    is_validation: Bool[np.ndarray, " case"],
    penalties: Sequence[float],
    *,
    standardised: bool = False,
) -> LinearModel:
    """The regression with the penalty that predicts the validation cases best, fitted again on all cases.

    Args:
        x: inputs.
        y: outputs.
        is_validation: the cases that the penalty is chosen on.
        penalties: tried in this order; the first of equal ones is taken.
        standardised: as in `Ridge.of`.
    """
    ridge = Ridge.of(x[~is_validation], y[~is_validation], standardised=standardised)
    seen, target = x[is_validation], y[is_validation]
    errors = [float(((ridge.at(penalty).predict(seen) - target) ** 2).sum()) for penalty in penalties]
    best = penalties[errors.index(min(errors))]
    return Ridge.of(x, y, standardised=standardised).at(best)
