"""What pretraining minimises, as pure functions of predictions and targets.

Predictions and targets are rows: one per hidden token, each with the number of its magnification (`level`). A narrower
encoder uses the leading dims of a row; `used` says which dims count at each level.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def mean_over_levels(
    per_token: Float[Tensor, " token"], level: Int[Tensor, " token"], n_levels: int
) -> Float[Tensor, ""]:
    """Average inside each magnification first, then over the magnifications that have a token.

    A region has sixteen 20x tiles for one 5x tile, so a plain mean would train the model almost only on 20x. No token
    at all gives 0, with a gradient of 0.
    """
    total = torch.zeros(n_levels, dtype=per_token.dtype, device=per_token.device).index_add(0, level, per_token)
    count = torch.bincount(level, minlength=n_levels)
    return (total / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def masked_embedding_loss(
    predicted: Float[Tensor, "token dim"],
    target: Float[Tensor, "token dim"],
    level: Int[Tensor, " token"],
    used: Bool[Tensor, "level dim"],
    *,
    cosine_weight: float = 0.5,
    beta: float = 1.0,
) -> Float[Tensor, ""]:
    """Smooth-L1, averaged over the used dims, plus `cosine_weight` (1 - cosine); averaged per magnification first.

    Smooth-L1 is quadratic below `beta` and linear above (Girshick 2015, as in data2vec); the cosine term keeps the
    direction of rows whose length is hard to predict.
    """
    # Embeddings are wide: where all dims count, as they mostly do, each pass over them is saved.
    if not bool(used.all()):
        valid = used[level].to(predicted.dtype)  # (token, dim)
        predicted, target = predicted * valid, target * valid
    per_dim = functional.smooth_l1_loss(predicted, target, beta=beta, reduction="none")
    distance = per_dim.sum(dim=1) / used.sum(dim=1)[level]
    cosine = functional.cosine_similarity(predicted, target, dim=1)
    return mean_over_levels(distance + cosine_weight * (1 - cosine), level, len(used))


def beta_nll(
    mean: Float[Tensor, "token dim"],
    log_variance: Float[Tensor, "token dim"],
    target: Float[Tensor, "token dim"],
    level: Int[Tensor, " token"],
    used: Bool[Tensor, "level dim"],
    *,
    beta: float = 0.5,
) -> Float[Tensor, ""]:
    """The Gaussian negative log-likelihood, each dim weighted by its own variance to the power `beta`, as a constant.

    0.5 ((y - mu)^2 / v + log v) v^beta, without the constant log(2 pi) / 2 (Seitzer et al. 2022, "On the pitfalls of
    heteroscedastic uncertainty estimation"). The weight keeps dims that are hard to predict from being given up.
    """
    valid = used[level].to(mean.dtype)
    variance = log_variance.exp()
    nll = 0.5 * ((target - mean).square() / variance + log_variance) * variance.detach().pow(beta)
    return mean_over_levels((nll * valid).sum(dim=1) / valid.sum(dim=1), level, len(used))


def region_contrast(
    first: Float[Tensor, "region dim"],
    second: Float[Tensor, "region dim"],
    slide: Int[Tensor, " region"],
    region: Int[Tensor, " region"],
    *,
    temperature: float = 0.2,
    same_slide: bool = True,
) -> Float[Tensor, ""]:
    """InfoNCE between two views of the same regions, both ways (van den Oord 2018; Chen 2020, SimCLR).

    The positive of a region is its own other view; negatives are the other views of all other regions. Without those
    of the same slide (`same_slide=False`) the loss can be met by telling slides apart, by their stain for instance.

    Args:
        first: one view of each region.
        second: the other view.
        slide: number of each region's slide.
        region: number of each region in its slide.
        temperature: of the softmax.
        same_slide: whether other regions of the same slide are negatives.
    """
    logits = _similarity(first, second) / temperature
    same = slide[:, None] == slide[None]
    # A region that comes twice in a batch is no negative of itself.
    excluded = same & (region[:, None] == region[None]) if same_slide else same
    excluded = excluded & ~torch.eye(len(slide), dtype=torch.bool, device=slide.device)
    logits = logits.masked_fill(excluded, -torch.inf)
    own = torch.arange(len(first), device=first.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def contrast_accuracy(
    first: Float[Tensor, "region dim"], second: Float[Tensor, "region dim"], slide: Int[Tensor, " region"]
) -> tuple[float, float]:
    """How often a region's nearest other view is its own: among all regions, and among those of its slide."""
    similarity = _similarity(first, second)
    own = torch.arange(len(first), device=first.device)
    among_all = float((similarity.argmax(dim=1) == own).double().mean())
    elsewhere = slide[:, None] != slide[None]
    within = float((similarity.masked_fill(elsewhere, -torch.inf).argmax(dim=1) == own).double().mean())
    return among_all, within


def variance_covariance(
    rows: Float[Tensor, "row dim"],
    *,
    target_sd: float = 1.0,
    variance_weight: float = 1.0,
    covariance_weight: float = 0.04,
) -> Float[Tensor, ""]:
    """The guard against collapse of latent targets: each dim keeps its spread, and dims do not repeat each other.

    mean relu(target_sd - sqrt(var + 1e-4)) + weight sum_offdiag(cov^2) / dim (Bardes et al. 2022, VICReg, whose 25:1
    is the default ratio; C-JEPA adds the same to an EMA teacher). Fewer than two rows give 0.
    """
    if len(rows) < 2:
        return rows.sum() * 0
    centred = rows - rows.mean(dim=0)
    sd = (centred.square().sum(dim=0) / (len(rows) - 1) + 1e-4).sqrt()
    covariance = centred.T @ centred / (len(rows) - 1)
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    spread = functional.relu(target_sd - sd).mean()
    return variance_weight * spread + covariance_weight * off_diagonal / rows.shape[1]


def _similarity(
    first: Float[Tensor, "region dim"], second: Float[Tensor, "region dim"]
) -> Float[Tensor, "region region"]:
    return functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T
