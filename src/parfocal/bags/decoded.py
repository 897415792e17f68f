"""What a pretrained model says of tiles that it was not given: their embeddings, as vectors of regions.

`decoded` is the mean over all places of one magnification in a region, `decoded-middle` a tile in the region's middle,
and `decoded-variance` how unsure the model is, the mean over the same places as `decoded`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor

from parfocal.errors import ConfigError, MismatchError
from parfocal.geometry import format_mpp, lattice_um
from parfocal.region_encoder import EncodedRegions, RegionModel, collate_regions
from parfocal.region_encoder.batch import TokenMask
from parfocal.region_encoder.checkpoint import holds_decoder, read_pretraining, resolve
from parfocal.region_encoder.standardise import nearest_levels
from parfocal.run.device import find_device
from parfocal.store import SlideTokens

DecodedReadout = Literal["decoded", "decoded-middle", "decoded-variance"]
DECODED: tuple[DecodedReadout, ...] = get_args(DecodedReadout)
_REGIONS_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class PredictedTiles:
    """The embeddings that are expected at some places of regions, in the units of tile embeddings.

    Attributes:
        mean: what is expected.
        variance: of each number about it; of a model that was not trained to predict one it says nothing.
    """

    mean: Float[Tensor, "region place dim"]
    variance: Float[Tensor, "region place dim"]


@dataclass(frozen=True, eq=False)
class TileDecoder:
    """A pretrained model that is asked for tiles of one magnification.

    Attributes:
        model: the encoder with its decoder.
        mpp: micrometres per pixel of the tiles.
        whitened: whether it predicts whitened embeddings. The checkpoint does not hold what would turn them back, so
            they stay as they are: the same in other coordinates.
    """

    model: RegionModel
    mpp: float
    whitened: bool

    @property
    def is_finest(self) -> bool:
        """Whether the magnification is the model's finest, which is asked for where none is named."""
        return self.mpp == self.model.config.mpps[-1]

    @property
    def dim(self) -> int:
        """Width of an embedding at that magnification."""
        return self.model.config.dims[int(nearest_levels(torch.tensor(self.mpp), self.model.config))]

    def at(self, mpp: float) -> "TileDecoder":
        """The same model asked for another of its magnifications.

        Raises:
            MismatchError: it was not trained at that magnification.
        """
        known = {format_mpp(one): one for one in self.model.config.mpps}
        if format_mpp(mpp) not in {*known, format_mpp(self.mpp)}:
            raise MismatchError(
                f"the model was trained at {', '.join(known)} mpp and cannot say what is expected at "
                f"{format_mpp(mpp)}. Name a model of the magnifications that are read."
            )
        return replace(self, mpp=known.get(format_mpp(mpp), self.mpp))

    @torch.inference_mode()
    def ask(
        self, encoded: EncodedRegions, present: TokenMask, xy_um: Float[Tensor, "region place 2"]
    ) -> PredictedTiles:
        """Ask encoded regions about tiles.

        Args:
            encoded: what the model's encoder made of the tiles that it was given.
            present: which ones these were.
            xy_um: centres of the asked tiles about the region's centre, in micrometres.

        Returns:
            float32, on the device of `encoded`.
        """
        weight = self.model.decoder.norm.weight
        mpp = torch.full(xy_um.shape[:2], self.mpp, device=weight.device)
        there = encoded.to(weight.device, weight.dtype), present.to(weight.device), xy_um.to(weight.device)
        decoded = self.model.decode(*there, mpp)
        mean, variance = decoded.mean.float(), decoded.log_variance.float().exp()
        if not self.whitened:
            mean, variance = self.model.encoder.standardiser.restore(mean, variance, mpp)
        home = encoded.cls.device
        return PredictedTiles(mean[..., : self.dim].to(home), variance[..., : self.dim].to(home))

    def read_out(
        self, encoded: EncodedRegions, present: TokenMask, readouts: Sequence[DecodedReadout], *, region_um: float
    ) -> dict[DecodedReadout, Float[Tensor, "region dim"]]:
        """One vector for each region and readout.

        Args:
            encoded: what the model's encoder made of the tiles that it was given.
            present: which ones these were.
            readouts: which.
            region_um: side of a region, in micrometres.
        """
        config = self.model.config
        side = max(1, round(config.region_um / (config.tile_px * self.mpp)))
        lattice = torch.from_numpy(lattice_um(region_um, side)).float()  # (place, 2)
        places = torch.cat([lattice, lattice.new_zeros(1, 2)]).expand(len(present), -1, -1)
        found = self.ask(encoded, present, places.to(encoded.cls.device))
        every: dict[DecodedReadout, Tensor] = {
            "decoded": found.mean[:, :-1].mean(dim=1),
            "decoded-middle": found.mean[:, -1],
            "decoded-variance": found.variance[:, :-1].mean(dim=1),
        }
        return {readout: every[readout] for readout in readouts}

    def entropy(
        self, tokens: SlideTokens, region: Int[np.ndarray, " tile"], center_um: Float[np.ndarray, "tile 2"]
    ) -> Float64[np.ndarray, " tile"]:
        """How unsure the model is of each of some tiles, given others of their regions: half the sum of log variances.

        That is the entropy of independent normal numbers, but for a constant. Only differences between tiles mean
        something.

        Args:
            tokens: what the model is given.
            region: the number of each asked tile's region, never falling.
            center_um: each asked tile's centre about its region's centre, in micrometres.

        Returns:
            NaN for tiles of regions of which nothing is given.
        """
        found = np.full(len(region), np.nan)
        for rows, _, variance in self.ask_tiles(tokens, region, center_um):
            found[rows] = 0.5 * variance.log().double().sum(dim=1).numpy()
        return found

    def expected(
        self, tokens: SlideTokens, region: Int[np.ndarray, " tile"], center_um: Float[np.ndarray, "tile 2"]
    ) -> Float32[np.ndarray, "tile dim"]:
        """The embeddings that the model expects of some tiles, given others of their regions.

        Args:
            tokens: what the model is given.
            region: the number of each asked tile's region, never falling.
            center_um: each asked tile's centre about its region's centre, in micrometres.

        Returns:
            NaN for tiles of regions of which nothing is given.
        """
        found = np.full((len(region), self.dim), np.nan, dtype=np.float32)
        for rows, mean, _ in self.ask_tiles(tokens, region, center_um):
            found[rows] = mean.numpy()
        return found

    def ask_tiles(
        self, tokens: SlideTokens, region: Int[np.ndarray, " tile"], center_um: Float[np.ndarray, "tile 2"]
    ) -> Iterator[tuple[Int[np.ndarray, " asked"], Float[Tensor, "asked dim"], Float[Tensor, "asked dim"]]]:
        """What is expected of some tiles, given others of their regions, for some regions at a time.

        Args:
            tokens: what the model is given.
            region: the number of each asked tile's region, never falling.
            center_um: each asked tile's centre about its region's centre, in micrometres.

        Yields:
            The numbers of asked tiles, those of a region together, and the mean and the variance of each number of
            their embeddings. Tiles of regions of which nothing is given are not among them.
        """
        given = np.unique(np.concatenate([tokens.region[mpp] for mpp in tokens.mpps]))
        asked, start, count = np.unique(region, return_index=True, return_counts=True)
        can = np.flatnonzero(np.isin(asked, given))
        for begin in range(0, len(can), _REGIONS_AT_A_TIME):
            some = can[begin : begin + _REGIONS_AT_A_TIME]
            batch = collate_regions([(tokens, asked[some])])
            encoded = self.model.encoder.encode(batch.tokens, batch.xy_um, batch.mpp, batch.present)
            # Regions have different numbers of tiles: the shorter lists are filled up, and what fills them is left out.
            column = np.arange(count[some].max())
            row = np.minimum(start[some, None] + column, (start + count)[some, None] - 1)
            places = torch.from_numpy(center_um[row].astype(np.float32))
            said = self.ask(encoded, batch.present, places)
            is_own = column < count[some, None]
            own = torch.from_numpy(is_own)
            yield row[is_own], said.mean[own], said.variance[own]

    def describe(self) -> dict[str, Any]:
        """What decides the rows beside the encoder, as plain values."""
        return {
            "predict_mpp": self.mpp,
            "model_mpps": list(self.model.config.mpps),
            "decoder_digest": self.model.digest,
        }


def open_decoder(
    model: str | Path,
    readouts: Sequence[DecodedReadout],
    *,
    mpp: float | None = None,
    other_mpps: bool = False,
    device: str = "cpu",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
) -> TileDecoder:
    """Load a model that is to be asked for tiles.

    Args:
        model: a checkpoint's folder or its id on the hub.
        readouts: what is to be read out; a variance must have been trained.
        mpp: micrometres per pixel of the tiles; the model's finest where None.
        other_mpps: accept a magnification that the model was not trained at; it interpolates.
        device: where it runs.
        precision: what it runs in.

    Raises:
        ConfigError: it has no decoder, or one that was not trained to predict tile embeddings, or no variance.
        MismatchError: it was not trained at that magnification.
        StoreError: there is no checkpoint, or it is damaged.
        FormatVersionError: a newer parfocal wrote it.
    """
    folder = resolve(model)
    asked = ", ".join(readouts)
    if not holds_decoder(folder):
        raise ConfigError(
            f"cannot read out {asked} of {model}: it holds a region encoder alone, which predicts no tile. "
            "Name a model that `pretrain` has written, or ask for cls or tokens."
        )
    entries = read_pretraining(folder)
    how = entries.get("settings", {})
    # A model that says nothing of itself was saved by hand, by someone who knows what it predicts.
    told = "nothing" if how.get("objective") == "contrastive" else how.get("targets", "standardised")
    predicts = entries.get("predicts", told)
    if predicts not in ("standardised", "whitened"):
        learnt = "tokens of its own teacher (targets=latent)" if predicts == "latent" else "no tile"
        raise ConfigError(
            f"cannot read out {asked} of {model}: it was trained to predict {learnt}. Pretrain with objective=mem or "
            "cmem and targets=standardised or whitened, or ask for cls or tokens."
        )
    untrained = entries.get("steps") == 0 or how.get("variance_weight") == 0 or how.get("variance_from") == 1
    if "decoded-variance" in readouts and untrained:
        raise ConfigError(
            f"cannot read out decoded-variance of {model}: it was trained without a variance. Pretrain with "
            "variance_weight above 0 and variance_from below 1, or ask for decoded."
        )
    loaded = RegionModel.from_pretrained(model, device=find_device(device), dtype=precision)
    mpps = loaded.config.mpps
    known = {format_mpp(one): one for one in mpps}
    wanted = mpps[-1] if mpp is None else known.get(format_mpp(mpp), mpp)
    if wanted not in mpps and not other_mpps:
        raise MismatchError(
            f"{model} was trained at {', '.join(known)} mpp and cannot predict {format_mpp(wanted)}. "
            "Name one of these, or pass --other-mpps (other_mpps=True) to interpolate."
        )
    return TileDecoder(loaded, wanted, whitened=predicts == "whitened")
