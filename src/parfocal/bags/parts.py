"""A slide of which some of the finest tiles are read: by itself, or with what a pretrained model expects of the others.

Both are tile embeddings again, so every bag is made of them as of a slide that was read whole. Values of tiles that are
not read are never touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from parfocal.bags.bag import Bag
from parfocal.bags.decoded import TileDecoder, open_decoder
from parfocal.bags.reading import bag_of_slide
from parfocal.bags.represent import seen_by
from parfocal.embed.glance import Glance
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.store import EmbeddingSet, SlideTokens


def glance_at(tokens: SlideTokens, seed: int) -> Glance:
    """What a policy sees of a slide that was read whole: nothing of its finest embeddings.

    Where the set does not keep how much of a tile is tissue, all tiles count as full.
    """
    finest = tokens.mpps[-1]
    coarse = _of_mpps(tokens, tokens.mpps[:-1])
    coarse = replace(coarse, features={mpp: rows.astype(np.float32) for mpp, rows in coarse.features.items()})
    region = tokens.region[finest]
    tissue = tokens.tissue.get(finest, np.ones(len(region))).astype(np.float64)
    return Glance(coarse, region, tokens.center_um[finest], finest, tissue, seed)


def read_in_part(tokens: SlideTokens, read: Bool[np.ndarray, " tile"]) -> SlideTokens:
    """The slide as it is when of its finest tiles only some are read; rows of the others are not touched.

    Args:
        tokens: of the slide, read whole.
        read: which of its finest tiles; it may be none of them.
    """
    finest = tokens.mpps[-1]

    def kept(of_mpps: Mapping[float, np.ndarray]) -> dict[float, np.ndarray]:
        return {mpp: rows[read] if mpp == finest else rows for mpp, rows in of_mpps.items()}

    return replace(
        tokens,
        features=kept(tokens.features),
        region=kept(tokens.region),
        center_um=kept(tokens.center_um),
        tissue=kept(tokens.tissue),
    )


def fine_bag(tokens: SlideTokens, read: Bool[np.ndarray, " tile"], usual: Float32[np.ndarray, " dim"]) -> Bag:
    """The bag of the finest tiles that are read; rows of the others are not touched.

    Args:
        tokens: of the slide.
        read: which of its finest tiles.
        usual: the mean that the slide is given where none is read, such as that of training slides.
    """
    finest = tokens.mpps[-1]
    if read.any():
        return bag_of_slide(read_in_part(tokens, read), finest)
    return empty_bag(tokens.slide, finest, tokens.n_regions, usual)


def empty_bag(slide: str, mpp: float, n_regions: int, usual: Float32[np.ndarray, " dim"]) -> Bag:
    """The bag of a slide of which no tile of a magnification is read.

    Args:
        slide: id.
        mpp: of the tiles.
        n_regions: how many regions the slide has.
        usual: the mean that the slide is given.
    """
    return Bag(
        name=format_mpp(mpp),
        slides=(slide,),
        rows=np.zeros((0, len(usual)), dtype=np.float32),
        start=np.array([0, 0]),
        n_instances=np.array([0]),
        mean=usual[None],
        region_mean=np.full((n_regions, len(usual)), np.nan, dtype=np.float32),
        region_start=np.array([0, n_regions]),
        region_present=np.zeros(n_regions, dtype=bool),
    )


@dataclass(frozen=True, eq=False)
class Filler:
    """What fills the places of unread tiles: a pretrained model, asked with everything that was read of their region.

    Attributes:
        decoder: of the finest magnification, in the units of tile embeddings.
        mpps: the magnifications that it is given.
    """

    decoder: TileDecoder
    mpps: tuple[float, ...]

    def fill(
        self, tokens: SlideTokens, region: Int[np.ndarray, " tile"], center_um: Float32[np.ndarray, "tile 2"]
    ) -> SlideTokens:
        """The slide with what is expected of its unread finest tiles beside the read ones, which stay as they are.

        A tile of whose region the model is given nothing stays absent.

        Args:
            tokens: what is read of the slide; of the finest magnification it may be nothing.
            region: the number of each unread tile's region, never falling.
            center_um: each unread tile's centre about its region's centre, in micrometres.

        Returns:
            float32 at the finest magnification.
        """
        finest = tokens.mpps[-1]
        expected = self.decoder.expected(_of_mpps(tokens, self.mpps), region, center_um)
        known = ~np.isnan(expected).any(axis=1)
        parts = [
            (tokens.features[finest].astype(np.float32), tokens.region[finest], tokens.center_um[finest]),
            (expected[known], region[known].astype(np.int32), center_um[known].astype(np.float32)),
        ]
        rows, of_region, centres = (np.concatenate(pair) for pair in zip(*parts, strict=True))
        order = np.argsort(of_region, kind="stable")
        return replace(
            tokens,
            features={**tokens.features, finest: rows[order]},
            region={**tokens.region, finest: of_region[order]},
            center_um={**tokens.center_um, finest: centres[order]},
            tissue={},
        )

    def describe(self) -> dict[str, Any]:
        """What decides what is filled in, as plain values."""
        return {**self.decoder.describe(), "read_mpps": list(self.mpps)}


def open_filler(tiles: EmbeddingSet, model: str | Path, *, device: str = "cpu") -> Filler:
    """Load a pretrained model that says what is expected of a set's unread finest tiles.

    Args:
        tiles: a set of tiles, of which the finest magnification is what is read in part.
        model: a checkpoint's folder or its id on the hub.
        device: where it runs.

    Raises:
        ConfigError: it has no decoder, or one that predicts no tile embeddings, or whitened ones.
        MismatchError: it was trained on another tile encoder, other magnifications or other regions.
        StoreError: there is no checkpoint, or it is damaged.
    """
    seen = seen_by(tiles, model)
    decoder = open_decoder(model, ["decoded"], mpp=tiles.mpps[-1], device=device)
    if decoder.whitened:
        raise ConfigError(
            f"{model} predicts whitened embeddings, which cannot stand beside tiles that were read. Pretrain with "
            "targets=standardised."
        )
    return Filler(decoder, seen.mpps)


def _of_mpps(tokens: SlideTokens, mpps: tuple[float, ...]) -> SlideTokens:
    """The slide at some of its magnifications."""
    return replace(
        tokens,
        features={mpp: tokens.features[mpp] for mpp in mpps},
        region={mpp: tokens.region[mpp] for mpp in mpps},
        center_um={mpp: tokens.center_um[mpp] for mpp in mpps},
        tissue={mpp: share for mpp, share in tokens.tissue.items() if mpp in mpps},
    )
