"""What a region encoder sees of a set of tiles, and whether it was trained on such a set at all."""

from pathlib import Path

import torch

from parfocal.embeddings import EmbeddingSet, only_mpps
from parfocal.errors import MismatchError
from parfocal.geometry import format_mpp
from parfocal.region_encoder import RegionEncoderConfig
from parfocal.region_encoder.checkpoint import read_config, read_pretraining, resolve
from parfocal.region_encoder.levels import nearest_levels

__all__ = ["seen_by"]


def seen_by(source: EmbeddingSet, model: str | Path, *, other_mpps: bool = False) -> EmbeddingSet:
    """The set with the magnifications that a model was told to see in its pretraining; all where it was told none.

    Args:
        source: a set of tiles.
        model: a checkpoint's folder or its id on the hub.
        other_mpps: accept magnifications that the model was not trained at; it interpolates.

    Raises:
        MismatchError: the model was trained on another tile encoder, other magnifications or other regions.
        StoreError: the checkpoint cannot be read, or `source` is no set of tiles.
    """
    folder = resolve(model)
    config = read_config(folder)
    told = {format_mpp(float(mpp)) for mpp in read_pretraining(folder).get("settings", {}).get("mpps", ())}
    seen = only_mpps(source, [mpp for mpp in source.mpps if format_mpp(mpp) in told])
    _check(seen, config, str(model), other_mpps=other_mpps)
    return seen


def _check(source: EmbeddingSet, config: RegionEncoderConfig, model: str, *, other_mpps: bool) -> None:
    """Refuse a model that was trained on something else than what the set holds."""
    names = tuple(format_mpp(mpp) for mpp in config.mpps)
    unknown = [format_mpp(mpp) for mpp in source.mpps if format_mpp(mpp) not in names]
    if unknown and not other_mpps:
        raise MismatchError(
            f"{model} was trained at {', '.join(names)} mpp and {source.name} has {', '.join(unknown)}. "
            "Pass --other-mpps (other_mpps=True) to interpolate."
        )
    for mpp in source.mpps:
        nearest = int(nearest_levels(torch.tensor(mpp), config))
        if source.dims[mpp] != config.dims[nearest]:
            raise MismatchError(
                f"{model} takes vectors of width {config.dims[nearest]} at {format_mpp(mpp)} mpp and {source.name} has "
                f"{source.dims[mpp]}: it was trained on another tile encoder."
            )
        if config.encoders and config.encoders[nearest] != source.encoder_digests[mpp]:
            raise MismatchError(
                f"{model} was trained on the tile encoder {config.encoders[nearest]} and {source.name} was embedded by "
                f"{source.encoder_digests[mpp]} (at {format_mpp(mpp)} mpp). Embed with that encoder or train a model."
            )
    found = (source.region_um, source.tile_px)
    if found != (config.region_um, config.tile_px):
        raise MismatchError(
            f"{model} was trained on regions of {config.region_um:g} um with tiles of {config.tile_px} px; "
            f"{source.name} has {found[0]:g} um and {found[1]} px."
        )
