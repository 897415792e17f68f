"""Numbers that tell learning from collapse, on held-out regions; each is a pure function of embeddings.

They are computed in float64 on the CPU, over a few thousand rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from parfocal.region_encoder.batch import TokenMask, Tokens
from parfocal.stats.regression import Ridge


@dataclass
class R2Sums:
    """R2 = 1 - MSE / Var of hidden tokens, pooled over tokens and dims, for each mask pattern and magnification.

    MSE is the mean squared difference of prediction and target; Var is the mean square of the target about the mean of
    the *training* regions at that magnification, which is zero for standardised embeddings. So 0 is what a constant
    prediction of the training mean scores, and a shift of the held-out slides counts as variance to be explained.
    Sums over batches add up to the R2 of all their tokens.

    Latent targets have no training mean: there Var is about the mean of the tokens that are counted, per pattern and
    magnification (`about_own_mean`).
    """

    about_own_mean: bool = False
    error: dict[tuple[str, float], float] = field(default_factory=dict)
    squares: dict[tuple[str, float], float] = field(default_factory=dict)
    total: dict[tuple[str, float], Tensor] = field(default_factory=dict)
    count: dict[tuple[str, float], int] = field(default_factory=dict)

    def add(
        self, pattern: str, mpp: float, predicted: Float[Tensor, "token dim"], target: Float[Tensor, "token dim"]
    ) -> None:
        """Count some hidden tokens of one magnification."""
        key = (pattern, mpp)
        values = target.double()
        self.error[key] = self.error.get(key, 0.0) + float((predicted.double() - values).square().sum())
        self.squares[key] = self.squares.get(key, 0.0) + float(values.square().sum())
        self.total[key] = self.total.get(key, torch.zeros((), dtype=torch.float64)) + values.sum(dim=0).cpu()
        self.count[key] = self.count.get(key, 0) + len(values)

    def of(self, *, pattern: str | None = None, mpp: float | None = None) -> float:
        """The R2 of one pattern, one magnification, one of both, or all; NaN where nothing was hidden."""
        keys = [k for k in self.error if pattern in (None, k[0]) and mpp in (None, k[1])]
        spread = sum(self._spread(k) for k in keys)
        return 1 - sum(self.error[k] for k in keys) / spread if spread > 0 else math.nan

    def _spread(self, key: tuple[str, float]) -> float:
        if not self.about_own_mean:
            return self.squares[key]
        return self.squares[key] - float(self.total[key].square().sum()) / self.count[key]


def rank_me(rows: Float[Tensor, "row dim"]) -> float:
    """The effective number of dimensions of embeddings: exp of the entropy of their normalised singular values.

    p_k = s_k / sum(s) + 1e-7, RankMe = exp(-sum p_k log p_k) (Garrido et al. 2023). Rows are centred first: an offset
    that all share is no information about any. 1 when all rows lie on a line, at most min(rows - 1, dim).
    """
    if len(rows) < 2:
        return math.nan
    values = rows.double().cpu()
    values = values - values.mean(dim=0)
    # The singular values from the smaller Gram matrix: a few thousand rows of some hundred dims.
    gram = values.T @ values if values.shape[1] <= len(values) else values @ values.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if float(singular.sum()) <= 1e-12:
        return 1.0
    share = singular / singular.sum() + 1e-7
    return float((-(share * share.log()).sum()).exp())


def intra_region_cosine(tokens: Tokens, present: TokenMask, level: Int[Tensor, "region token"]) -> float:
    """The mean cosine of two tokens of one region, each about the mean of its magnification; near 1: over-smoothed.

    About the mean, as otherwise the offset that all tokens share would dominate. Regions with one token do not count.
    """
    values = tokens.double().cpu()
    present, level = present.cpu(), level.cpu()
    centred = torch.zeros_like(values)
    for one in torch.unique(level[present]).tolist():
        chosen = present & (level == one)
        centred[chosen] = values[chosen] - values[chosen].mean(dim=0)
    unit = torch.nn.functional.normalize(centred, dim=-1)
    count = present.sum(dim=1).double()
    # The sum over all ordered pairs of a region is the squared length of the sum of its unit vectors, less the pairs
    # of a token with itself.
    total = unit.sum(dim=1).square().sum(dim=-1) - unit.square().sum(dim=(1, 2))
    pairs = count * (count - 1)
    return float(total[pairs > 0].sum() / pairs.sum()) if float(pairs.sum()) > 0 else math.nan


def ridge_r2(
    x: Float[Tensor, "row input"],
    y: Float[Tensor, "row output"],
    fit: Bool[Tensor, " row"],
    *,
    strength: float = 1e-3,
) -> float:
    """R2 of a ridge regression on the rows that it was not fitted on, pooled over outputs, about the fitted mean.

    Inputs are standardised by the fitted rows; the penalty is `strength` for each fitted row.
    """
    inputs, outputs, chosen = x.double().cpu().numpy(), y.double().cpu().numpy(), fit.cpu().numpy()
    ridge = Ridge.of(inputs[chosen], outputs[chosen], standardised=True)
    target = outputs[~chosen]
    spread = float(((target - ridge.mean) ** 2).sum())
    error = float(((target - ridge.at(strength).predict(inputs[~chosen])) ** 2).sum())
    return 1 - error / spread if spread > 0 else math.nan


def slide_probe(
    vectors: Float[Tensor, "region dim"], slide: Int[Tensor, " region"], *, generator: torch.Generator
) -> tuple[float, float]:
    """How well a linear probe names the slide of a region, and what always naming the commonest slide scores.

    Half of each slide's regions, drawn at random, fit a ridge regression of the slides' indicators; the other half is
    scored. Slides with fewer than two regions are left out; with fewer than two slides both numbers are NaN.
    """
    slides, place, count = torch.unique(slide.cpu(), return_inverse=True, return_counts=True)
    enough = (count >= 2)[place]
    if int((count >= 2).sum()) < 2:
        return math.nan, math.nan
    x, place = vectors.cpu()[enough], place[enough]
    score = torch.rand(len(place), generator=generator)
    fit = torch.zeros(len(place), dtype=torch.bool)
    for one in torch.unique(place).tolist():
        mine = (place == one).nonzero().flatten()
        fit[mine[score[mine].argsort()[: len(mine) // 2]]] = True
    inputs, indicator = x.double().numpy(), np.eye(len(slides))[place.numpy()]
    model = Ridge.of(inputs[fit.numpy()], indicator[fit.numpy()], standardised=True).at(1e-2)
    named, scored = model.predict(inputs[~fit.numpy()]).argmax(axis=1), place[~fit].numpy()
    return float((named == scored).mean()), float(np.bincount(scored).max() / len(scored))


def halves_by_slide(slide: Int[Tensor, " row"], region: Int[Tensor, " row"]) -> Bool[Tensor, " row"]:
    """Which rows a probe is fitted on: every other slide; of a single slide, the first half of its regions."""
    slides, place = torch.unique(slide.cpu(), return_inverse=True)
    if len(slides) > 1:
        fit: Tensor = place % 2 == 0
    else:
        order = torch.unique(region.cpu())
        fit = region.cpu() < order[len(order) // 2]
    return fit


@dataclass
class CollapseWatch:
    """Turns monitors into warnings, each at most once.

    Attributes:
        peak: the largest value so far of each monitor that must not fall.
        said: the monitors that a warning was given for.
    """

    peak: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def look(self, step: int, values: Mapping[str, float], most: Mapping[str, float]) -> list[str]:
        """What is wrong now, as sentences; nothing that was said before.

        Args:
            step: for the sentence.
            values: the monitors' values by column name; ranks begin with `rank_me`.
            most: the largest rank that is possible, by the same names.
        """
        found = []
        for name, value in values.items():
            if math.isnan(value):
                continue
            if name.startswith("rank_me"):
                self.peak[name] = max(self.peak.get(name, 0.0), value)
                if value < 0.1 * most[name]:
                    found.append(
                        (f"{name} low", f"{name} is {value:.1f} of at most {most[name]:.0f} dims (below 10 %)")
                    )
                elif value < 0.7 * self.peak[name]:
                    found.append((f"{name} fell", f"{name} fell from {self.peak[name]:.1f} to {value:.1f} (over 30 %)"))
            elif name == "token_cosine" and value > 0.95:
                found.append((name, f"tokens of a region have become alike (mean cosine {value:.2f}, above .95)"))
            elif name == "retention_r2" and value < 0.1:
                found.append((name, f"tokens no longer hold their own tile (retention R2 {value:.2f}, below .1)"))
        new = [(key, text) for key, text in found if key not in self.said]
        self.said.extend(key for key, _ in new)
        return [f"step {step}: the representation may be collapsing: {text}" for _, text in new]
