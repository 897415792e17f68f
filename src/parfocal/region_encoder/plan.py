"""What a call needs beside the embeddings: everything that follows from places alone, computed once for each place.

Nothing is spent on absent tokens, and nothing is padded: regions are sorted by their number of tokens. All tokens of a
chunk of regions lie below one another as rows, so that linear layers see one large matrix whatever the sizes are;
attention runs on spans, the runs of regions of one size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from parfocal.region_encoder.batch import Centres, Mpps, TokenMask
from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.position import PositionEmbedding, RelativeBias
from parfocal.region_encoder.standardise import Standardiser, nearest_levels

# Matrix products like whole numbers of it (see attention.py); at most 15 of some 800 rows of a chunk are filling.
ROW_MULTIPLE = 16


@dataclass(frozen=True)
class Span:
    """Regions of one size that follow one another in a chunk.

    Attributes:
        start: its first row in the chunk.
        regions: how many regions.
        length: tokens of each, CLS and registers included.
    """

    start: int
    regions: int
    length: int

    @property
    def stop(self) -> int:
        """The row after its last."""
        return self.start + self.regions * self.length


@dataclass(frozen=True)
class Chunk:
    """Regions that go through the trunk together.

    Attributes:
        regions: their range in the packed order.
        tiles: the range of their tiles in the packed order.
        spans: the runs of one size.
    """

    regions: slice
    tiles: slice
    spans: tuple[Span, ...]

    @property
    def filling(self) -> int:
        """Rows to add at the end for a multiple of `ROW_MULTIPLE`; the only rows that stand for no token."""
        return -self.spans[-1].stop % ROW_MULTIPLE


@dataclass(frozen=True, eq=False)
class Packing:
    """The packed order of a batch: regions by size, their present tiles in the order of the batch.

    Attributes:
        is_dense: every token is present, so that the packed order is the batch's own.
        order: the region of each place in the packed order.
        source: for each packed tile, its place in the flattened (region, token) axes of the batch.
        chunks: what goes through the trunk together.
    """

    is_dense: bool
    order: Int64[Tensor, " region"]
    source: Int64[Tensor, " tile"]
    chunks: tuple[Chunk, ...]


def pack(present: TokenMask, *, specials: int, max_rows: int) -> Packing:
    """Sort the regions of a batch by their number of present tokens and cut them into chunks.

    Args:
        present: which tokens are there.
        specials: CLS and registers, which every region has besides.
        max_rows: the most rows of a chunk; a region that is larger is a chunk of its own.
    """
    regions, tokens = present.shape
    if bool(present.all()):
        order = torch.arange(regions, device=present.device)
        source = torch.arange(regions * tokens, device=present.device)
        return Packing(True, order, source, tuple(_chunks([tokens] * regions, specials, max_rows)))
    sizes = present.sum(dim=1)
    order = torch.argsort(sizes, stable=True, descending=True)
    row, column = present[order].nonzero(as_tuple=True)
    source = order[row] * tokens + column
    return Packing(False, order, source, tuple(_chunks(sizes[order].tolist(), specials, max_rows)))


def _chunks(sizes: list[int], specials: int, max_rows: int) -> Iterator[Chunk]:
    first, tile = 0, 0
    while first < len(sizes):
        spans: list[Span] = []
        last, rows, tiles = first, 0, 0
        while last < len(sizes) and (not spans or rows + sizes[last] + specials <= max_rows):
            length = sizes[last] + specials
            if spans and spans[-1].length == length:
                spans[-1] = Span(spans[-1].start, spans[-1].regions + 1, length)
            else:
                spans.append(Span(rows, 1, length))
            rows, tiles, last = rows + length, tiles + sizes[last], last + 1
        yield Chunk(slice(first, last), slice(tile, tile + tiles), tuple(spans))
        first, tile = last, tile + tiles


@dataclass(frozen=True, eq=False)
class Places:
    """The distinct places (position and magnification) of a batch's present tiles.

    Attributes:
        xy_um: position about the region's centre, in micrometres.
        mpp: micrometres per pixel.
        index: the place of each packed tile.
    """

    xy_um: Float[Tensor, "place 2"]
    mpp: Float[Tensor, " place"]
    index: Int64[Tensor, " tile"]


def find_places(xy_um: Centres, mpp: Mpps, packing: Packing) -> Places:
    """Collect the distinct places; in a raster of tiles there are no more than a region has tiles."""
    tokens = mpp.shape[1]
    if len(mpp) and bool((xy_um == xy_um[:1]).all()) and bool((mpp == mpp[:1]).all()):
        return Places(xy_um[0], mpp[0], packing.source % tokens)
    place = torch.cat([xy_um, mpp[..., None]], dim=-1).flatten(0, 1)[packing.source]  # (tile, 3)
    # Sorting one number for each tile is ten times faster than sorting rows.
    key = torch.zeros(len(place), dtype=torch.long, device=place.device)
    for column in place.unbind(dim=1):
        values, number = torch.unique(column, return_inverse=True)
        key = key * len(values) + number
    distinct, index = torch.unique(key, return_inverse=True)
    first = torch.full_like(distinct, len(key)).scatter_reduce(
        0, index, torch.arange(len(key), device=key.device), reduce="amin"
    )
    return Places(place[first, :2], place[first, 2], index)


def split_by_span(
    tiles: Shaped[Tensor, "tile *rest"], chunk: Chunk, *, specials: int
) -> list[Shaped[Tensor, "_region _tile *rest"]]:
    """The tiles of a chunk as one (region, tile, ...) for each span."""
    counts = [span.length - specials for span in chunk.spans]
    sizes = [span.regions * count for span, count in zip(chunk.spans, counts, strict=True)]
    return [
        part.view(span.regions, count, *tiles.shape[1:])
        for part, span, count in zip(torch.split(tiles, sizes), chunk.spans, counts, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class ChunkPlan:
    """What the trunk needs to know about a chunk.

    Attributes:
        chunk: its ranges and spans.
        place: the place of each tile.
        biases: for each span what is added to the attention scores; one for all its regions where they have the
            same tiles.
        expert_rows: for a separate trunk the rows of each expert; empty for a shared one.
    """

    chunk: Chunk
    place: Int64[Tensor, " tile"]
    biases: Sequence[Float[Tensor, "_region head _token _token"]]
    expert_rows: Sequence[Int64[Tensor, " _row"]]


@dataclass(frozen=True, eq=False)
class Plan:
    """What the places of a batch's tiles decide.

    Attributes:
        places: the distinct places.
        scale: of the standardisation, for each distinct mpp.
        shift: likewise.
        magnification: the distinct mpp of each place.
        level: the model's nearest magnification of each place.
        position: the position embedding of each place.
        bias_table: the bias between all tokens of a region that had every place, with the pairs in one axis; None
            where that would be more work than the pairs that really occur.
    """

    config: RegionEncoderConfig
    relative: RelativeBias
    places: Places
    scale: Float[Tensor, "mpp dim"]
    shift: Float[Tensor, "mpp dim"]
    magnification: Int64[Tensor, " place"]
    level: Int64[Tensor, " place"]
    position: Float[Tensor, "place width"]
    bias_table: Float[Tensor, "pair head"] | None

    @classmethod
    def of(
        cls,
        packing: Packing,
        places: Places,
        *,
        config: RegionEncoderConfig,
        standardiser: Standardiser,
        position: PositionEmbedding,
        relative: RelativeBias,
    ) -> "Plan":
        """Evaluate statistics, positions and pairs of a batch."""
        mpps, magnification = torch.unique(places.mpp, return_inverse=True)
        scale, shift = standardiser.affine(mpps)
        n_pairs = sum(
            span.regions * (span.length - config.specials) ** 2 for chunk in packing.chunks for span in chunk.spans
        )
        table = None
        if len(places.mpp) ** 2 <= n_pairs:
            table = relative(places.xy_um[None], places.mpp[None])[0].flatten(0, 1)
        return cls(
            config=config,
            relative=relative,
            places=places,
            scale=scale,
            shift=shift,
            magnification=magnification,
            level=nearest_levels(places.mpp, config),
            position=position(places.xy_um, places.mpp),
            bias_table=table,
        )

    def of_chunk(self, chunk: Chunk) -> ChunkPlan:
        """The part of a chunk."""
        place = self.places.index[chunk.tiles]
        by_span = split_by_span(place, chunk, specials=self.config.specials)
        biases = [self._bias(part) for part in by_span]
        return ChunkPlan(chunk, place, biases, self._expert_rows(place, chunk))

    def _bias(self, place: Int64[Tensor, "region tile"]) -> Float[Tensor, "_region head token token"]:
        if len(place) > 1 and bool((place == place[:1]).all()):
            place = place[:1]
        if self.bias_table is None:
            direct: Tensor = self.relative(self.places.xy_um[place], self.places.mpp[place])
            return direct.permute(0, 3, 1, 2).contiguous()
        specials = self.config.specials
        special = torch.arange(specials, device=place.device).expand(len(place), -1)
        token = torch.cat([special, place + specials], dim=1)  # (region, token)
        pair = token[:, :, None] * (specials + len(self.places.mpp)) + token[:, None, :]
        bias = self.bias_table.index_select(0, pair.flatten()).view(*pair.shape, -1)
        return bias.permute(0, 3, 1, 2).contiguous()

    def _expert_rows(self, place: Int64[Tensor, " tile"], chunk: Chunk) -> list[Int64[Tensor, " _row"]]:
        if self.config.trunk == "shared":
            return []
        # Expert 0 is for what belongs to no tile, the filling rows included.
        parts = split_by_span(self.level[place] + 1, chunk, specials=self.config.specials)
        expert = torch.cat([torch.nn.functional.pad(part, (self.config.specials, 0)).flatten() for part in parts])
        expert = torch.nn.functional.pad(expert, (0, chunk.filling))
        return [(expert == one).nonzero().flatten() for one in range(1 + len(self.config.mpps))]
