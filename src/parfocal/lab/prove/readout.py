"""E1 and E0: what a ridge regression reads off an encoder's tokens, with no decoder in between.

The readout is that of `explore`: from CLS and from the mean of the tokens that overlap the hidden tile, and of all, at
each magnification. The same for a trained encoder and for random weights, so the difference is the encoder's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from parfocal.lab.explore.linear_r2 import MOST_ROWS, PENALTIES, summaries, validation_rows
from parfocal.lab.prove.controls import show
from parfocal.lab.prove.layout import Layout, Pattern, Slots, Tiles, draw_hidden
from parfocal.lab.prove.subject import Predictor
from parfocal.region_encoder.batch import RegionBatch
from parfocal.run.cache import StepCache
from parfocal.stats.regression import LinearModel, fit_ridge

_BATCH = 512
_FEWEST_ROWS = 16


@dataclass(frozen=True, eq=False)
class TokenReadout:
    """Ridge regressions for each pattern and magnification."""

    predictor: Predictor
    ridges: Mapping[tuple[str, int], LinearModel]

    def predict(self, pattern: str, regions: RegionBatch, hidden: Slots) -> Tiles:
        """The hidden tiles of some regions; 0 at all others, and where too few were there to fit anything."""
        layout = self.predictor.layout
        predicted = np.zeros(regions.tokens.shape, dtype=np.float32)
        seen = _Encoded.of(self.predictor, regions, hidden)
        for level in range(len(layout.mpps)):
            ridge = self.ridges.get((pattern, level))
            asked = _asked(hidden, layout, level)
            if ridge is None:
                continue
            for some in torch.split(asked, _BATCH):
                row, slot = some.numpy().T
                predicted[row, slot, : layout.dims[level]] = ridge.predict(seen.summaries(some, layout).numpy())
        return predicted


def fit_readout(
    predictor: Predictor,
    regions: RegionBatch,
    patterns: Sequence[Pattern],
    *,
    rate: Sequence[float],
    seed: int,
    kept: StepCache | None = None,
) -> TokenReadout:
    """Fit on training regions; the penalty is chosen on a quarter of their slides.

    Args:
        predictor: the encoder; its decoder is not used.
        regions: training regions, as stored.
        patterns: what will be asked.
        rate: what the random pattern hides.
        seed: of the masks.
        kept: where what is fitted is kept.
    """
    arrays = [values.numpy() for values in vars(regions).values()]
    inputs = [predictor.trainee.model.digest, predictor.layout, arrays, patterns, rate, seed]
    fit = partial(_fit_ridges, predictor, regions, patterns, rate=rate, seed=seed)
    return TokenReadout(predictor, (kept or StepCache(None)).step("ridges on tokens", inputs, fit))


def _fit_ridges(
    predictor: Predictor, regions: RegionBatch, patterns: Sequence[Pattern], *, rate: Sequence[float], seed: int
) -> dict[tuple[str, int], LinearModel]:
    layout = predictor.layout
    target = predictor.standardise(regions)
    ridges: dict[tuple[str, int], LinearModel] = {}
    for number, pattern in enumerate(patterns):
        hidden = draw_hidden(pattern, layout, regions.present.numpy(), rate=rate, seed=1000 * seed + 500 + number)
        seen = _Encoded.of(predictor, regions, hidden)
        for level, dim in enumerate(layout.dims):
            asked = _asked(hidden, layout, level)
            asked = asked[:: max(1, -(-len(asked) // MOST_ROWS))]
            if len(asked) < _FEWEST_ROWS:
                continue
            x = torch.cat([seen.summaries(some, layout) for some in torch.split(asked, _BATCH)])
            row, slot = asked.numpy().T
            is_validation = validation_rows(regions.slide, asked[:, 0]).numpy()
            ridges[pattern.name, level] = fit_ridge(
                x.numpy(), target[row, slot, :dim], is_validation, PENALTIES, standardised=True
            )
    return ridges


@dataclass(frozen=True, eq=False)
class _Encoded:
    """What an encoder was shown and what it made of it, on the CPU."""

    shown: RegionBatch
    cls: Float[Tensor, "region width"]
    tokens: Float[Tensor, "region slot width"]

    @staticmethod
    @torch.no_grad()
    def of(predictor: Predictor, regions: RegionBatch, hidden: Slots) -> "_Encoded":
        """Everything that is not hidden is visible."""
        shown = show(regions, hidden)
        cls, tokens = [], []
        for rows in torch.split(torch.arange(len(shown)), predictor.batch):
            some = shown.take(rows).to(predictor.device)
            encoded = predictor.trainee.encode(some, some.present)
            cls.append(encoded.cls.float().cpu())
            tokens.append(encoded.tokens.float().cpu())
        return _Encoded(shown, torch.cat(cls), torch.cat(tokens))

    def summaries(self, asked: Int[Tensor, "query 2"], layout: Layout) -> Float[Tensor, "query feature"]:
        """What the ridge sees of each asked tile."""
        shown = self.shown
        mpps = np.array(layout.mpps, dtype=np.float32).tolist()  # in the precision of the slots
        return summaries(self.cls, self.tokens, shown, shown.present, asked, mpps, tile_px=layout.tile_px)


def _asked(hidden: Slots, layout: Layout, level: int) -> Int[Tensor, "query 2"]:
    """Region and slot of the hidden tiles of one magnification."""
    return torch.from_numpy(np.argwhere(hidden & (layout.level == level)))
