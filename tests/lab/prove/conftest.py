"""Small linear-Gaussian regions whose best prediction is known in closed form."""

from dataclasses import dataclass

import numpy as np
import pytest

from parfocal.lab.prove.layout import Layout

DIM = 6


@dataclass(frozen=True)
class GaussianWorld:
    """Regions of 1 + 4 + 16 tiles, flattened to one normal vector of known covariance."""

    layout: Layout
    covariance: np.ndarray

    def draw(self, n: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        rows = rng.multivariate_normal(np.zeros(len(self.covariance)), self.covariance, size=n, method="cholesky")
        return rows.reshape(n, self.layout.n_slots, DIM).astype(np.float32)

    def best(self, tokens: np.ndarray, visible: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """The conditional mean by the textbook formula, one region at a time."""
        found = np.zeros_like(tokens)
        for row in range(len(tokens)):
            seen, asked = np.repeat(visible[row], DIM), np.repeat(hidden[row], DIM)
            if not seen.any() or not asked.any():
                continue
            weight = np.linalg.solve(self.covariance[np.ix_(seen, seen)], self.covariance[np.ix_(seen, asked)])
            found[row, hidden[row]] = (tokens[row].reshape(-1)[seen] @ weight).reshape(-1, DIM)
        return found

    def best_variance(self, visible: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        seen, asked = np.repeat(visible, DIM), np.repeat(hidden, DIM)
        cross = self.covariance[np.ix_(seen, asked)]
        left = self.covariance[np.ix_(asked, asked)] - cross.T @ np.linalg.solve(
            self.covariance[np.ix_(seen, seen)], cross
        )
        found = np.zeros((len(visible), DIM))
        found[hidden] = left.diagonal().reshape(-1, DIM)
        return found


@pytest.fixture(scope="session")
def layout() -> Layout:
    return Layout.of((2.0, 1.0, 0.5), (DIM,) * 3, region_um=448.0, tile_px=224)


@pytest.fixture(scope="session")
def world(layout: Layout) -> GaussianWorld:
    """Any covariance: a loading of every slot on a few common factors, and noise of its own."""
    rng = np.random.default_rng(1)
    loading = rng.normal(size=(layout.n_slots * DIM, 8)) / np.sqrt(8)
    return GaussianWorld(layout, 0.7 * loading @ loading.T + 0.3 * np.eye(len(loading)))


@pytest.fixture(scope="session")
def field(layout: Layout) -> GaussianWorld:
    """A separable covariance: similarity falls with distance, features go together, magnifications share a part."""
    rng = np.random.default_rng(2)
    mix = rng.normal(size=(DIM, DIM))
    feature = mix @ mix.T / DIM
    feature /= feature.diagonal().mean()
    across = np.array([[1.0, 0.8, 0.6], [0.8, 1.0, 0.8], [0.6, 0.8, 1.0]])
    space = np.exp(-((layout.distance_um / 300.0) ** 2))
    tokens = across[layout.level][:, layout.level] * space
    return GaussianWorld(layout, 0.7 * np.kron(tokens, feature) + 0.3 * np.eye(layout.n_slots * DIM))
