"""A set as it would be without some of its magnifications."""

from collections.abc import Sequence
from dataclasses import replace

from parfocal.embeddings.layout import encoder_digest
from parfocal.embeddings.store import EmbeddingSet
from parfocal.errors import MismatchError
from parfocal.geometry import format_mpp

__all__ = ["only_mpps"]


def only_mpps(source: EmbeddingSet, mpps: Sequence[float]) -> EmbeddingSet:
    """The same set of tiles with only some magnifications; files of the others are never opened.

    Regions stay those of the set: one without a tile of these magnifications is there and has no tile.

    Args:
        source: a set of tiles.
        mpps: which, in any order; none stands for all.

    Raises:
        MismatchError: the set lacks one of them.
        StoreError: `source` is a set of regions.
    """
    dims = source.dims  # a set of regions is refused here
    wanted = {format_mpp(mpp) for mpp in mpps}
    held = {format_mpp(mpp): mpp for mpp in source.mpps}
    unknown = sorted(wanted - held.keys(), key=float)
    if unknown:
        raise MismatchError(
            f"{source.name} has no tiles at {', '.join(unknown)} mpp; it has {', '.join(held)}. Name some of these."
        )
    kept = [mpp for name, mpp in held.items() if name in wanted] if wanted else list(source.mpps)
    if len(kept) == len(source.mpps):
        return source
    digests = {mpp: source.encoder_digests[mpp] for mpp in kept}
    content = {
        **source.content,
        "mpps": kept,
        "dims": {format_mpp(mpp): dims[mpp] for mpp in kept},
        "encoder_digests": {format_mpp(mpp): digest for mpp, digest in digests.items()},
        "encoder_digest": encoder_digest(digests),
    }
    return replace(source, content=content)
