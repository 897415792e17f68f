"""What slide means and each magnification alone know, taken out of labels and moments before they are compared.

Composition is a main effect in disguise: when one tissue type is more frequent in a class, the class difference of the
within-region cross-moments shows it, although slide means would have shown it too. So labels and moments are projected
off the leading components of the slide means and of each magnification's own second moments, and off the sites.

The residuals of n units off q covariates have n - q degrees of freedom and are not exchangeable, so the permutation is
done in a basis of the residual space (Huh and Jhun 2001), of all bases the one in which each of n - q kept units has a
residual of its own (Theil 1965): so permuting within sites keeps its meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import qr

from parfocal.errors import ConfigError

_FEWEST_RESIDUALS = 12
_MOST_MEANS, _MOST_MOMENTS = 64, 32


@dataclass(frozen=True, eq=False)
class ResidualBasis:
    """Orthonormal residuals of the units that are kept, one column each, and how many covariates were taken out.

    Attributes:
        columns: maps a quantity of the units to its residuals: `columns.T @ y`.
        kept: the unit that each residual belongs to.
        n_covariates: the rank of what was projected off, the constant included.
    """

    columns: Float64[np.ndarray, "unit residual"]
    kept: Int64[np.ndarray, " residual"]
    n_covariates: int


def design(
    means: Sequence[Float64[np.ndarray, "unit _dim"]],
    moments: Sequence[Float64[np.ndarray, "unit k k"]],
    site: Int64[np.ndarray, " unit"] | None,
) -> Float64[np.ndarray, "unit covariate"]:
    """The constant, the sites, and leading components of slide means and of second moments.

    A seventh of the units' number goes to each kind, at most 64 and 32. With fewer, a label that depends on a component
    which was left out looks as if pairing knew it: with 8 and 4 components a third of null cohorts of 120 slides with
    main effects was rejected before the second moments along the directions were taken out too. With more, there are
    no residuals left to test.

    Args:
        means: of each magnification.
        moments: second moments of each magnification, within slides.
        site: number of each unit's site, from 0.
    """
    n = len(means[0])
    parts = [np.ones((n, 1))]
    if site is not None:
        parts.append((site[:, None] == np.arange(1, int(site.max()) + 1)).astype(np.float64))
    rows, columns = np.triu_indices(moments[0].shape[1])
    parts.append(leading_scores(means, min(n // 7, _MOST_MEANS)))
    parts.append(leading_scores([one[:, rows, columns] for one in moments], min(n // 7, _MOST_MOMENTS)))
    return np.concatenate(parts, axis=1)


def leading_scores(
    blocks: Sequence[Float64[np.ndarray, "unit _dim"]], number: int
) -> Float64[np.ndarray, "unit component"]:
    """Leading principal components of blocks side by side, each block with the same total variance."""
    scaled = []
    for block in blocks:
        centred = block - block.mean(axis=0)
        scaled.append(centred / max(float(np.sqrt((centred**2).sum())), 1e-300))
    joint = np.concatenate(scaled, axis=1)
    # Through the small side: 1,000 units have up to 4,000 columns here.
    variance, vectors = np.linalg.eigh(joint @ joint.T)
    kept = variance[::-1][:number] > 1e-10 * max(float(variance[-1]), 1e-300)
    return vectors[:, ::-1][:, :number][:, kept]


def residual_basis(covariates: Float64[np.ndarray, "unit covariate"], called: str = "patient") -> ResidualBasis:
    """The basis of what is orthogonal to the covariates, closest to the residuals of the units that are kept.

    The units with the highest leverage are dropped, as many as there are covariates: a site of one unit loses it.

    Args:
        covariates: of the units.
        called: what a unit is, for the message.

    Raises:
        ConfigError: fewer than 12 residuals are left.
    """
    n = len(covariates)
    u, s, _ = np.linalg.svd(covariates, full_matrices=False)
    u = u[:, s > 1e-9 * s[0]]
    q = u.shape[1]
    if n - q < _FEWEST_RESIDUALS:
        raise ConfigError(
            f"{n} {called}s are too few: {q} covariates (slide means, moments, sites) leave {n - q} of them, "
            f"and a permutation test needs {_FEWEST_RESIDUALS}. Use more {called}s, or fewer sites."
        )
    order = qr(u.T, mode="economic", pivoting=True)[2]
    kept = np.sort(order[q:])
    residual = np.eye(n) - u @ u.T
    variance, vectors = np.linalg.eigh(residual[np.ix_(kept, kept)])
    root = (vectors / np.sqrt(variance)) @ vectors.T
    return ResidualBasis(residual[:, kept] @ root, kept.astype(np.int64), q)
