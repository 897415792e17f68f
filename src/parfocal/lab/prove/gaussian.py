"""The joint second moments of all tiles of a region, and what they say of the hidden ones given the visible ones.

One matrix serves every mask: the best linear prediction from any set of visible tiles is a solve in a part of it. So
the linear baselines are fitted for the very mask that they are asked about, and are never handed a substitute value.

B9 is the covariance of a region as kriging sees it, few numbers instead of a free matrix. Between tiles of
magnifications m and n at a distance h it is c_mn(h) F_mn: how alike places are (a number for each distance) times how
features go together (a matrix for each pair of magnifications). A tile with itself has its own matrix, so what no other
tile shares (the nugget) is part of it. Fitted to the joint moments of training regions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from scipy import linalg

from parfocal.lab.prove.layout import Layout, Query, Slots, Tiles
from parfocal.stats.whitening import leading_components

MOST_UNKNOWNS = 3000
MOST_TARGETS = 256
_RIDGE_STEPS = 6


@dataclass(frozen=True, eq=False)
class Bases:
    """The leading directions of the tiles of each magnification, about the training mean.

    Attributes:
        directions: orthonormal columns; those after a magnification's own number are 0.
        variance: along each of them.
        rest: for each magnification and dim, the variance that the directions leave out.
        n_predictors: how many of them describe a visible tile.
    """

    directions: Float32[np.ndarray, "level dim target"]
    variance: Float32[np.ndarray, "level target"]
    rest: Float32[np.ndarray, "level dim"]
    n_predictors: int

    def truncated(self) -> "Bases":
        """With the directions of a visible tile for the predicted ones too."""
        k = self.n_predictors
        dropped = np.einsum("ldk,lk->ld", np.square(self.directions[..., k:]), self.variance[:, k:])
        return Bases(self.directions[..., :k], self.variance[:, :k], self.rest + dropped, k)

    def scores(self, tokens: Tiles, layout: Layout) -> Float32[np.ndarray, "region slot target"]:
        """Tiles along the directions of their magnification."""
        scores = np.empty((*tokens.shape[:2], self.directions.shape[2]), dtype=np.float32)
        for own, directions in zip(layout.slots, self.directions, strict=True):
            scores[:, own] = tokens[:, own] @ directions
        return scores


def component_counts(layout: Layout) -> tuple[int, int]:
    """How many directions describe a visible tile, and how many a predicted one: what memory and time allow."""
    targets = min(layout.dim, MOST_TARGETS)
    return max(1, min(targets, MOST_UNKNOWNS // layout.n_slots)), targets


def principal_bases(tokens: Tiles, present: Slots, layout: Layout, *, n_predictors: int, n_targets: int) -> Bases:
    """Principal directions of standardised tiles, from a sample of training regions."""
    directions = np.zeros((len(layout.mpps), layout.dim, n_targets), dtype=np.float32)
    along = np.zeros((len(layout.mpps), n_targets), dtype=np.float32)
    rest = np.zeros((len(layout.mpps), layout.dim), dtype=np.float32)
    for level, own in enumerate(layout.slots):
        rows = tokens[:, own][present[:, own]]
        # Enough rows for a basis; the rest would cost time only.
        rows = rows[:: max(1, len(rows) // (16 * layout.dim))]
        second = rows.T @ rows / max(len(rows), 1)
        directions[level], along[level] = leading_components(second, n_targets)
        rest[level] = np.maximum(second.diagonal() - np.square(directions[level]) @ along[level], 0)
    return Bases(directions, along, rest, n_predictors)


@dataclass(frozen=True, eq=False)
class Covariance:
    """Means of all slots, and covariances of what predicts with what is predicted."""

    mean: Float32[np.ndarray, "slot target"]
    matrix: Float32[np.ndarray, "slot predictor slot target"]

    def positive(self) -> "Covariance":
        """With the nearest matrix that has no negative eigenvalue (Higham 1988) where predictors meet predictors.

        A solve with a negative eigenvalue that the ridge just cancels would give predictions of any size.
        """
        n, k = self.matrix.shape[:2]
        own = self.matrix[..., :k].reshape(n * k, n * k)
        own = (own + own.T) / 2
        values, vectors = linalg.eigh(own, subset_by_value=(-np.inf, 0.0), driver="evr", check_finite=False)
        if not len(values):
            return self
        matrix = self.matrix.copy()
        matrix[..., :k] = (own - (vectors * values) @ vectors.T).reshape(n, k, n, k)
        return Covariance(self.mean, matrix)

    def symmetrised(self, layout: Layout) -> "Covariance":
        """The mean over the eight symmetries of the square, as if every region had been seen in all of them.

        Tissue has no up and no left, so this is right where the tile encoder does not care either, and it spares the
        linear baselines most of what they would have to learn for each position anew.
        """
        mean, matrix = np.zeros_like(self.mean), np.zeros_like(self.matrix)
        for moved in layout.symmetries:
            mean += self.mean[moved] / 8
            matrix += self.matrix[moved][:, :, moved] / 8
        return Covariance(mean, matrix)


class JointMoments:
    """Sums over regions; any two of them add up, and an absent tile counts in no sum."""

    def __init__(self, layout: Layout, bases: Bases) -> None:
        """Start at nothing."""
        n, k, q = layout.n_slots, bases.n_predictors, bases.directions.shape[2]
        self.layout, self.bases = layout, bases
        self.first = np.zeros((n, q))
        self.second = np.zeros((n * k, n * q))
        self.count = np.zeros((n, n))

    def add(self, tokens: Tiles, present: Slots) -> None:
        """Take some training regions in."""
        scores = self.bases.scores(tokens, self.layout) * present[..., None]
        n, k = len(scores), self.bases.n_predictors
        self.first += scores.sum(axis=0)
        self.second += scores[..., :k].reshape(n, -1).T @ scores.reshape(n, -1)
        seen = present.astype(np.float64)
        self.count += seen.T @ seen

    def plus(self, other: "JointMoments") -> "JointMoments":
        """The sums of both."""
        total = JointMoments(self.layout, self.bases)
        total.first, total.second = self.first + other.first, self.second + other.second
        total.count = self.count + other.count
        return total

    def covariance(self) -> Covariance:
        """About the mean of each slot, each pair of slots over the regions that have both tiles.

        Where tiles are absent, pairs rest on different regions and the matrix need not be a covariance; the nearest one
        is taken then.
        """
        n, k, q = self.layout.n_slots, self.bases.n_predictors, self.bases.directions.shape[2]
        mean = self.first / np.maximum(np.diag(self.count), 1)[:, None]
        pairs = np.maximum(self.count, 1)[:, None, :, None]
        matrix = self.second.reshape(n, k, n, q) / pairs
        matrix -= mean[:, :k, None, None] * mean[None, None] * (self.count > 0)[:, None, :, None]
        found = Covariance(mean.astype(np.float32), matrix.astype(np.float32))
        return found if np.ptp(self.count) == 0 else found.positive()


@dataclass(frozen=True, eq=False)
class Conditional:
    """The linear prediction of any tile from any others, ridge-penalised: exact for each set of visible tiles.

    Attributes:
        bases: directions that tiles are described by.
        covariance: joint second moments of a region.
        ridge: added to the diagonal, in units of one standardised dim's variance. Where a matrix of pairwise moments
            is not positive definite with it, ten times as much is tried.
    """

    bases: Bases
    covariance: Covariance
    ridge: float

    def predict(self, query: Query, layout: Layout) -> Tiles:
        """The conditional mean of the hidden tiles; 0 at all others."""
        scores = self.bases.scores(query.tokens, layout) - self.covariance.mean
        predicted = np.zeros_like(query.tokens)
        for rows, shown, asked in _groups(query):
            factor = self._factor(shown)
            k, q = self.bases.n_predictors, self.bases.directions.shape[2]
            seen = scores[rows][:, shown, :k].reshape(len(rows), -1)
            weight = linalg.cho_solve(factor, seen.T, check_finite=False)  # (unknown, region)
            cross = self.covariance.matrix[shown][:, :, asked].reshape(len(weight), -1)
            found = (weight.T @ cross).reshape(len(rows), len(asked), q) + self.covariance.mean[asked]
            for place, slot in enumerate(asked):
                predicted[rows, slot] = found[:, place] @ self.bases.directions[layout.level[slot]].T
        return np.where(query.hidden[..., None], predicted, np.float32(0))

    def variance(self, query: Query, layout: Layout) -> Tiles:
        """The conditional variance of each number of the hidden tiles; 0 at all others.

        Raises:
            ValueError: visible tiles are described by fewer directions than hidden ones, so that covariances lack.
        """
        k, q = self.bases.n_predictors, self.bases.directions.shape[2]
        if k != q:
            raise ValueError(f"a variance needs as many predictors as targets, got {k} and {q}")
        variance = np.zeros_like(query.tokens)
        for rows, shown, asked in _groups(query):
            lower, _ = self._factor(shown)
            cross = self.covariance.matrix[shown][:, :, asked].reshape(len(lower), -1)
            explained = linalg.solve_triangular(lower, cross, lower=True, check_finite=False)
            for place, slot in enumerate(asked):
                part = explained[:, place * q : (place + 1) * q]
                left = self.covariance.matrix[slot, :, slot] - part.T @ part
                directions = self.bases.directions[layout.level[slot]]
                own = np.einsum("dk,dk->d", directions @ left, directions) + self.bases.rest[layout.level[slot]]
                variance[rows, slot] = np.maximum(own, 1e-6)
        return np.where(query.hidden[..., None], variance, np.float32(0))

    def _factor(self, shown: Int64[np.ndarray, " shown"]) -> tuple[Shaped[np.ndarray, "unknown unknown"], bool]:
        k = self.bases.n_predictors
        own = self.covariance.matrix[shown][:, :, shown, :k].reshape(len(shown) * k, -1)
        own = (own + own.T) / 2
        ridge = self.ridge
        diagonal = own.diagonal().copy()
        for _ in range(_RIDGE_STEPS):
            np.fill_diagonal(own, diagonal + np.float32(ridge))
            try:
                lower = linalg.cholesky(own, lower=True, check_finite=False)
            except linalg.LinAlgError:
                ridge *= 10
                continue
            return lower, True
        raise ValueError(
            f"the covariance of {len(shown)} tiles is not positive definite even with a ridge of {ridge:g}"
        )


def affordable_rows(query: Query, *, n_predictors: int, most_flops: float) -> Bool[np.ndarray, " region"]:
    """The regions with the most frequent sets of visible tiles, as many sets as can be solved for that; at least one.

    A set of n visible tiles costs (n x predictors)^3 / 3 operations, however many regions have it.
    """
    kept = np.zeros(len(query), dtype=bool)
    useful = np.flatnonzero(query.hidden.any(axis=1) & query.visible.any(axis=1))
    if not len(useful):
        return kept
    sets, group, count = np.unique(query.visible[useful], axis=0, return_inverse=True, return_counts=True)
    cost = (sets.sum(axis=1) * float(n_predictors)) ** 3 / 3
    order = np.argsort(-count, kind="stable")
    within = np.cumsum(cost[order]) <= most_flops
    within[0] = True
    kept[useful[np.isin(group.ravel(), order[within])]] = True
    return kept


def _groups(
    query: Query,
) -> Iterator[tuple[Int64[np.ndarray, " row"], Int64[np.ndarray, " shown"], Int64[np.ndarray, " asked"]]]:
    """Regions with one set of visible tiles, that set, and all that is asked of them."""
    useful = np.flatnonzero(query.hidden.any(axis=1) & query.visible.any(axis=1))
    if not len(useful):
        return
    sets, group = np.unique(query.visible[useful], axis=0, return_inverse=True)
    for number, shown in enumerate(sets):
        rows = useful[group.ravel() == number]
        yield rows, np.flatnonzero(shown), np.flatnonzero(query.hidden[rows].any(axis=0))


_ROUNDS = 8


def separable_covariance(free: Covariance, layout: Layout) -> Covariance:
    """The covariance of that form that fits best, in the least-squares sense over all pairs of slots."""
    k = free.matrix.shape[1]
    blocks = free.matrix[..., :k]
    matrix = np.zeros_like(blocks)
    n_levels = len(layout.mpps)
    for first in range(n_levels):
        own = np.flatnonzero(layout.level == first)
        matrix[own, :, own, :] = blocks[own, :, own, :].mean(axis=0)
        for second in range(first, n_levels):
            rows, columns = own, np.flatnonzero(layout.level == second)
            pairs = np.array([(a, b) for a in rows for b in columns if a != b]).reshape(-1, 2)
            if not len(pairs):
                continue
            distance = np.rint(layout.distance_um[pairs[:, 0], pairs[:, 1]]).astype(np.int64)
            strength, feature = _rank_one(blocks[pairs[:, 0], :, pairs[:, 1], :], distance, symmetric=first == second)
            fitted = (strength[:, None, None] * feature).astype(np.float32)
            matrix[pairs[:, 0], :, pairs[:, 1], :] = fitted
            if first != second:
                matrix[pairs[:, 1], :, pairs[:, 0], :] = fitted.transpose(0, 2, 1)
    mean = free.mean[:, :k].copy()
    for of_level in layout.slots:
        mean[of_level] = mean[of_level].mean(axis=0)
    # Pair by pair nothing makes the whole a covariance.
    return Covariance(mean, matrix).positive()


def _rank_one(
    blocks: Float32[np.ndarray, "pair k k"], distance: Int64[np.ndarray, " pair"], *, symmetric: bool
) -> tuple[Float64[np.ndarray, " pair"], Float64[np.ndarray, "k k"]]:
    """The strength of each pair, equal at equal distances, and the features' matrix whose products fit best."""
    classes, of_pair = np.unique(distance, return_inverse=True)
    number = np.bincount(of_pair)
    means = np.stack([blocks[of_pair == one].mean(axis=0, dtype=np.float64) for one in range(len(classes))])
    if symmetric:
        means = (means + means.transpose(0, 2, 1)) / 2
    # Alternating least squares from the strongest class: the same as the leading singular pair, weighted by counts.
    feature = means[np.argmax(np.square(means).sum(axis=(1, 2)) * number)]
    strength = np.zeros(len(classes))
    for _ in range(_ROUNDS):
        norm = float(np.square(feature).sum())
        if norm == 0:
            break
        strength = np.einsum("cij,ij->c", means, feature) / norm
        weight = number * strength
        total = float((weight * strength).sum())
        if total == 0:
            break
        feature = np.einsum("c,cij->ij", weight, means) / total
    return strength[of_pair], feature
