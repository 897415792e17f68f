"""Six numbers that turn two directions into evidence: weight * (1/R) sum_r tanh(p0 u.x + p2) tanh(p1 v.x + p3) + b.

The best evidence about a state that a region either has or has not is its posterior mean, which is a tanh of the
projection, and not the projection itself: far out, a region is not more certain than certain. The numbers are fitted on
projections of slides that the directions had not seen; directions look better than they are on their own slides, and
numbers fitted there did damage.

Before that a direction which labels gave is sharpened: moved to the nearest one along which the regions fall into
groups. A state that a region either has or has not, such as an architecture, splits the regions in two, so its
direction stands out in the vectors alone, without a label. Independent component analysis finds such directions
(Hyvarinen 1999, fixed point with tanh); a contrast of few slides is a noisy start near the right one, and the regions
of these slides, a hundred times as many, then place it. Where vectors are normal along every direction the result is
arbitrary: it is offered beside the direction as it was, and chosen or not by the held-out loss.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.optimize import minimize

from parfocal.cohort import Column
from parfocal.heads.base import Slides
from parfocal.heads.newton import partial_likelihood, partial_slope

_ITERATIONS = 20
_MOST_ROWS = 512
"""For each component; the direction is then known to a few per cent of its length."""


def sharpen(
    rows: Float32[np.ndarray, "row component"], start: Float64[np.ndarray, "component direction"], seed: int
) -> Float64[np.ndarray, "component direction"]:
    """The independent direction nearest to each start, of norm one and with its sign.

    Where there are no more rows than components, every direction fits them, and the starts come back.

    Args:
        rows: about white, mean zero.
        start: of norm one.
        seed: of the part of the rows that is used where there are very many.
    """
    if len(rows) <= rows.shape[1]:
        return start
    most = max(4096, _MOST_ROWS * rows.shape[1])
    if len(rows) > most:
        rows = rows[np.sort(np.random.default_rng([seed, 6]).choice(len(rows), most, replace=False))]
    # Exactly white: what is left of a covariance in a part of the rows is as large as what tells groups apart.
    x = rows.astype(np.float64)
    whiten = np.linalg.inv(np.linalg.cholesky(x.T @ x / len(x) + 1e-9 * np.eye(x.shape[1])))
    white = (x @ whiten.T).astype(np.float32)
    direction = np.linalg.solve(whiten.T, start)
    direction /= np.linalg.norm(direction, axis=0)
    for _ in range(_ITERATIONS):
        squashed = np.tanh(white @ direction.astype(np.float32))
        slope = 1 - (squashed**2).mean(axis=0, dtype=np.float64)
        direction = (white.T @ squashed).astype(np.float64) / len(white) - direction * slope
        direction /= np.maximum(np.linalg.norm(direction, axis=0), 1e-300)
    direction = whiten.T @ direction
    direction = direction * np.where((direction * start).sum(axis=0) < 0, -1.0, 1.0)
    return np.asarray(direction / np.linalg.norm(direction, axis=0))


# A normal prior of spread one about a gentle bend, in units of a slide (or an event): without it a few dozen slides
# find a shift so far out that one direction is all that is left of the product. The weight is nearly free.
_EXPECTED = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
_PRECISION = np.array([1.0, 1.0, 1.0, 1.0, 0.01])
_STEPS = 60


@dataclass(frozen=True, eq=False)
class Along:
    """Regions of some slides along one direction of each of two bags, in units of their spread over regions.

    Attributes:
        first: along u; only regions where both bags are present.
        second: along v.
        of_slide: the number of each region's slide, rising.
        divisor: what the sum over a slide's regions is divided by: their number, present or not, or a power of it.
    """

    first: Float64[np.ndarray, " region"]
    second: Float64[np.ndarray, " region"]
    of_slide: Int64[np.ndarray, " region"]
    divisor: Float64[np.ndarray, " slide"]

    def mean(self, values: Float64[np.ndarray, " region"]) -> Float64[np.ndarray, " slide"]:
        """The sum over each slide's regions by the divisor; 0 for a slide without any."""
        return np.asarray(np.bincount(self.of_slide, values, minlength=len(self.divisor)) / self.divisor)

    def of(self, slides: Slides) -> "Along":
        """Those of some slides, by their numbers, which must rise."""
        place = np.full(len(self.divisor), -1)
        place[slides] = np.arange(len(slides))
        own = place[self.of_slide] >= 0
        return Along(self.first[own], self.second[own], place[self.of_slide[own]], self.divisor[slides])


@dataclass(frozen=True, eq=False)
class Squash:
    """The six numbers.

    Attributes:
        steepness: p0 and p1.
        shift: p2 and p3.
        weight: of the mean product, at least 0.
        intercept: b, where a fit of other slides may begin.
    """

    steepness: tuple[float, float]
    shift: tuple[float, float]
    weight: float
    intercept: float

    def score(self, along: Along) -> Float64[np.ndarray, " slide"]:
        """What it says of each slide, without the intercept: stacking has its own."""
        first = np.tanh(self.steepness[0] * along.first + self.shift[0])
        second = np.tanh(self.steepness[1] * along.second + self.shift[1])
        return self.weight * along.mean(first * second)


def fit_squash(
    along: Along, column: Column, weight: Float64[np.ndarray, " slide"], start: Squash | None = None
) -> Squash:
    """The numbers of least loss, by the family of the column.

    Args:
        along: projections onto directions that had not seen their slide.
        column: of the same slides.
        weight: of each slide.
        start: where to begin; without it, at the projections with a gentle bend.
    """
    if start is None:
        start = Squash((1.0, 1.0), (0.0, 0.0), 0.0, 0.0)
    begin = np.array([*start.steepness, *start.shift])
    product = np.tanh(begin[0] * along.first + begin[2]) * np.tanh(begin[1] * along.second + begin[3])
    # In units of the mean product's spread all numbers are about one, which the optimiser needs.
    unit = 1 / max(float(along.mean(product).std()), 1e-12)
    centre, spread = _unit_of_value(column)
    ridge = _PRECISION / max(float(column.event.sum()), 1.0)

    def objective(p: Float64[np.ndarray, "6"]) -> tuple[float, Float64[np.ndarray, "6"]]:
        a, b = np.tanh(p[0] * along.first + p[2]), np.tanh(p[1] * along.second + p[3])
        mean = unit * along.mean(a * b)
        loss, slope = _loss(p[4] * mean + p[5], column, weight, centre, spread)
        pull = (slope * p[4] * unit / along.divisor)[along.of_slide]
        to_a, to_b = pull * b * (1 - a**2), pull * a * (1 - b**2)
        gradient = np.array(
            [to_a @ along.first, to_b @ along.second, to_a.sum(), to_b.sum(), slope @ mean, slope.sum()]
        )
        away = p[:5] - _EXPECTED
        gradient[:5] += ridge * away
        return loss + 0.5 * float(ridge @ away**2), gradient

    found = minimize(
        objective,
        np.array(
            [*begin, start.weight / (unit * spread) if start.weight else 0.5, (start.intercept - centre) / spread]
        ),
        jac=True,
        method="L-BFGS-B",
        # A score is meant to rise with the outcome: the sign of a direction is settled before.
        bounds=[(None, None)] * 4 + [(0, None), (None, None)],
        options={"maxiter": _STEPS},
    ).x
    return Squash(
        (float(found[0]), float(found[1])),
        (float(found[2]), float(found[3])),
        float(found[4] * unit * spread),
        float(found[5] * spread + centre),
    )


def _unit_of_value(column: Column) -> tuple[float, float]:
    """Centre and spread of numbers; 0 and 1 for the other families."""
    if column.family != "linear":
        return 0.0, 1.0
    return float(column.value.mean()), max(float(column.value.std()), 1e-12)


def _loss(
    score: Float64[np.ndarray, " slide"],
    column: Column,
    weight: Float64[np.ndarray, " slide"],
    centre: float,
    spread: float,
) -> tuple[float, Float64[np.ndarray, " slide"]]:
    """The loss of a column's family and its slope along every score, which is in units of the value's spread."""
    if column.family == "cox":
        events = max(float(weight @ column.event), 1e-300)
        loss = -partial_likelihood(score[None], column, weight[None])[0] / events
        return float(loss), -partial_slope(score[None], column, weight[None])[0] / events
    share = weight / weight.sum()
    if column.family == "linear":
        left = score - (column.value - centre) / spread
        return float(0.5 * share @ left**2), share * left
    loss = float(share @ (np.logaddexp(0, score) - score * column.value))
    return loss, share * (0.5 * (1 + np.tanh(0.5 * score)) - column.value)
