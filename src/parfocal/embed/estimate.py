"""What a run would cost, before anything is written: tiles, bytes and time."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from parfocal.embed.glance import n_chosen
from parfocal.embed.kept import check_one_reading, check_places, kept_slide, slides_with_other_ids
from parfocal.embed.settings import EmbedSettings, load_encoders, row_settings, set_name
from parfocal.embed.slide import open_source, plan_slide
from parfocal.embed.summary import tile_counts
from parfocal.embed.workers import each_slide
from parfocal.embed.zoom import Zoom, own_slides, zoomable
from parfocal.encoders import TileEncoder
from parfocal.errors import as_problem
from parfocal.regions import RegionPlan
from parfocal.regions.tiles import iter_tiles
from parfocal.run.executors import slide_executor
from parfocal.run.failures import Failed, FailedSlide, exit_status
from parfocal.run.jobs import attempt
from parfocal.run.processes import Tell, count_cores
from parfocal.slides import Slide, SlideSource, check_slide_mpp, find_slides, slide_bytes
from parfocal.store import EmbeddingSet, open_set
from parfocal.store.mirror import on_disk

# Bytes of a tile beside its row, and of its place in a region: coords; region number, centre; number of its row where
# regions overlap.
_COORDS_BYTES, _PLACE_BYTES, _NUMBER_BYTES = 16, 4 + 8, 8
# Empty HDF5 structures and attributes of a file.
_FILE_BYTES = 8192
# A clock needs about this much work to say something; regions of one slide differ little.
_SAMPLE_TILES = 32
_SAMPLE_REGIONS = 4


@dataclass(frozen=True)
class SlideEstimate:
    """What one slide would cost.

    Attributes:
        slide: the slide's id.
        path: its file.
        done: whether the store has it already.
        n_regions: how many regions hold tissue.
        n_tiles: how many tiles, per magnification.
        n_places: the same, where a tile counts in every region that holds it.
        n_bytes: what its files would take on disk.
        problem: why it would fail; None where it would not.
        file_bytes: of its files, all of which are read; 0 where it is done, or would fail.
        plan_seconds: opening it and finding its tissue took here.
    """

    slide: str
    path: Path
    done: bool
    n_regions: int
    n_tiles: Mapping[float, int]
    n_places: Mapping[float, int]
    n_bytes: int
    problem: str | None = None
    file_bytes: int = 0
    plan_seconds: float = 0.0


@dataclass(frozen=True)
class RunEstimate:
    """What a run would cost.

    Attributes:
        set_path: where it would write.
        slides: one entry for each slide.
        read_seconds: reading one region of tiles, on average; None where nothing could be measured.
        encode_seconds: encoding one tile, per magnification; empty where nothing could be measured.
        core_seconds: what cores worked for that, all together; empty where another device encodes.
        seconds: the whole run without the slides that are done; None where nothing could be measured.
    """

    set_path: Path
    slides: tuple[SlideEstimate, ...]
    read_seconds: float | None
    encode_seconds: Mapping[float, float]
    core_seconds: Mapping[float, float]
    seconds: float | None

    @property
    def n_tiles(self) -> dict[float, int]:
        """Tiles that would be encoded, per magnification."""
        return {
            mpp: sum(one.n_tiles[mpp] for one in self.slides if not one.done and mpp in one.n_tiles)
            for mpp in sorted({mpp for one in self.slides for mpp in one.n_tiles}, reverse=True)
        }

    @property
    def rate(self) -> float | None:
        """Tiles per second of the whole run; None where nothing could be measured."""
        return sum(self.n_tiles.values()) / self.seconds if self.seconds else None

    @property
    def n_bytes(self) -> int:
        """Bytes that would be written."""
        return sum(one.n_bytes for one in self.slides if not one.done)

    @property
    def exit_status(self) -> int:
        """That of the run: 0 when all slides would have embeddings, 1 when none would, 3 when some would."""
        return exit_status(sum(one.n_regions == 0 for one in self.slides), len(self.slides))

    def describe(self) -> dict[str, Any]:
        """The estimate as plain values."""
        return {
            "set": str(self.set_path),
            "tiles": tile_counts(self.n_tiles),
            "bytes": self.n_bytes,
            "seconds": self.seconds,
            "tiles_per_second": self.rate,
            "slides": [
                {
                    "slide": one.slide,
                    "path": str(one.path),
                    "done": one.done,
                    "regions": one.n_regions,
                    "tiles": tile_counts(one.n_tiles),
                    "bytes": one.n_bytes,
                    "problem": one.problem,
                }
                for one in self.slides
            ],
        }


def estimate_run(
    inputs: Sequence[Path | str], store: Path, settings: EmbedSettings, *, zoom: Zoom | None = None
) -> RunEstimate:
    """Plan every slide and time a few tiles with the real encoder; nothing is written.

    The time is that of reading or of encoding, whichever is longer, because they overlap; it is divided by the workers,
    which is right only where they do not wait for one device, and not below what the cores have to do. What a policy
    takes to choose is not counted, and of a slide that a smaller budget has read everything is. A budget of all slides
    together is taken to be spent evenly.

    Args:
        inputs: as for `embed_slides`.
        store: where the run would write.
        settings: how.
        zoom: as for `embed_slides`.

    Raises:
        ConfigError: no slide is found, two have one id, no encoder is named, no slide has such a `slide_mpp`, places
            cannot be read or belong to two slides, or there is nothing to zoom into.
        EncoderError: an encoder cannot be loaded.
    """
    check_slide_mpp(settings.slide_mpp)
    slide_executor(settings, settings.device).check()
    sources = find_slides(inputs, ids=settings.ids)
    check_places(sources, settings)
    sources = own_slides(sources, settings, zoom)
    if zoom is not None:
        settings = zoomable(settings, zoom)
        if zoom.shares is not None:
            zoom = replace(zoom, shares={source.slide: zoom.budget for source in sources})
    encoders = load_encoders(settings)
    set_path = on_disk(store) / set_name(row_settings(settings, encoders))
    check_one_reading(set_path, zoom, {source.slide for source in sources})
    other_ids = slides_with_other_ids(sources, settings, set_path)
    estimates = {
        one.slide: _would_fail(one, as_problem(other_ids[one.slide])) for one in sources if one.slide in other_ids
    }
    costs: _Costs | None = None
    left = [source for source in sources if source.slide not in estimates]
    for source, result in each_slide(left, encoders, settings, partial(_Planner, settings, set_path, zoom)):
        if isinstance(result, FailedSlide):
            estimates[source.slide] = _would_fail(source, result.message)
        else:
            estimates[source.slide], measured = result
            costs = costs or measured
    slides = tuple(estimates[source.slide] for source in sources)
    todo = [one for one in slides if not one.done]
    if costs is None:
        return RunEstimate(set_path, slides, None, {}, {}, None)
    # A region is at most read anew for each magnification of which a part is chosen.
    share = 1.0 if zoom is None else sum((*zoom.coarser, zoom.budget))
    per_region = share * costs.read_seconds + costs.glance_seconds
    reading = per_region * sum(one.n_regions for one in todo)
    encoding, on_cores = (
        sum(of_tile.get(mpp, 0.0) * count for one in todo for mpp, count in one.n_tiles.items())
        for of_tile in (costs.encode_seconds, costs.core_seconds)
    )
    seconds = max(reading, encoding) / max(1, min(settings.workers, len(todo)))
    seconds = max(seconds, (reading + on_cores) / count_cores())
    return RunEstimate(set_path, slides, costs.read_seconds, costs.encode_seconds, costs.core_seconds, seconds)


@dataclass(frozen=True)
class _Costs:
    """What was measured, in seconds: reading a region, its coarser tiles where they come first, and encoding a tile.

    Encoding on the cores that read too counts as what they work together as well.
    """

    read_seconds: float
    encode_seconds: Mapping[float, float]
    core_seconds: Mapping[float, float]
    glance_seconds: float = 0.0


class _Planner:
    """Plans one slide after the other, and measures on the first that has tissue."""

    def __init__(
        self,
        settings: EmbedSettings,
        set_path: Path,
        zoom: Zoom | None,
        encoders: Mapping[float, TileEncoder],
    ) -> None:
        self._encoders, self._zoom = encoders, zoom
        self._settings = settings
        self._set_path = set_path
        self._has_measured = False

    def __call__(self, source: SlideSource, tell: Tell) -> tuple[SlideEstimate, _Costs | None]:
        """What a slide would cost; whatever a library raises on its file is its line, as in the slide's own job."""
        result = attempt(partial(self._plan, source))
        return (_would_fail(source, result.problem), None) if isinstance(result, Failed) else result

    def _plan(self, source: SlideSource) -> tuple[SlideEstimate, _Costs | None]:
        costs = None
        kept = kept_slide(source, self._settings, self._set_path, self._zoom)
        if kept is not None:
            n_places = self._stored.n_tiles(source.slide)
            return self._estimate(source, True, kept.n_regions, kept.n_tiles, n_places), None
        started = time.monotonic()
        with open_source(source, self._settings) as slide:
            plan = plan_slide(slide, source, self._settings)
            plan_seconds = time.monotonic() - started
            n_tiles = {mpp: plan.n_tiles(mpp) for mpp in self._settings.grid.mpps}
            n_places = {mpp: plan.n_places(mpp) for mpp in self._settings.grid.mpps}
            if self._zoom is not None:
                for mpp, share in self._zoom.shares_of(source.slide, self._settings.grid.mpps).items():
                    n_tiles[mpp] = n_places[mpp] = n_chosen(n_tiles[mpp], share)
            estimate = replace(
                self._estimate(source, False, plan.n_regions, n_tiles, n_places),
                file_bytes=slide_bytes(source.path),
                plan_seconds=plan_seconds,
            )
            if not self._has_measured and plan.n_regions:
                costs = _measure(slide, plan, self._encoders, self._settings)
                if self._zoom is not None:
                    whole = plan.grid.mpps[: -1 - len(self._zoom.coarser)]
                    costs = replace(costs, glance_seconds=_glance_seconds(slide, plan, self._settings, whole))
                self._has_measured = True
        return estimate, costs

    @cached_property
    def _stored(self) -> EmbeddingSet:
        """The set, which is there where a slide of it is kept; to open it goes through the names of all its slides."""
        return open_set(self._set_path)

    def _estimate(
        self,
        source: SlideSource,
        done: bool,
        n_regions: int,
        n_tiles: Mapping[float, int],
        n_places: Mapping[float, int],
    ) -> SlideEstimate:
        size = np.dtype(self._settings.dtype).itemsize
        row_bytes = {mpp: encoder.dim * size + _COORDS_BYTES for mpp, encoder in self._encoders.items()}
        n_bytes = sum(count * row_bytes[mpp] for mpp, count in n_tiles.items())
        place_bytes = _PLACE_BYTES + (_NUMBER_BYTES if self._settings.grid.overlaps else 0)
        n_bytes += place_bytes * sum(n_places.values())
        n_bytes += n_regions * 16 + _FILE_BYTES * (len(n_tiles) + 1)
        return SlideEstimate(source.slide, source.path, done, n_regions, n_tiles, n_places, n_bytes)


def _would_fail(source: SlideSource, problem: str) -> SlideEstimate:
    return SlideEstimate(source.slide, source.path, False, 0, {}, {}, 0, problem)


def _measure(slide: Slide, plan: RegionPlan, encoders: Mapping[float, TileEncoder], settings: EmbedSettings) -> _Costs:
    """Seconds for reading a region, and for encoding a tile of each magnification, on a few regions of this slide."""
    start = max(0, (plan.n_regions - _SAMPLE_REGIONS) // 2)
    plan = plan.unshared()  # a few regions that overlap may share all tiles of a magnification
    started = time.monotonic()
    regions = list(islice(iter_tiles(slide, plan, coarse=settings.coarse_from, start=start), _SAMPLE_REGIONS))
    read_seconds = (time.monotonic() - started) / len(regions)
    per_tile, on_cores = dict.fromkeys(encoders, 0.0), dict.fromkeys(encoders, 0.0)
    for mpp, encoder in encoders.items():
        tiles = np.concatenate([region.tiles[mpp] for region in regions])[:_SAMPLE_TILES]
        if not len(tiles):
            continue
        encoder.encode(tiles[:1])  # the first call loads kernels and does not count
        started, worked = time.monotonic(), time.process_time()
        encoder.encode(tiles)
        per_tile[mpp] = (time.monotonic() - started) / len(tiles)
        on_cores[mpp] = (time.process_time() - worked) / len(tiles)
    return _Costs(read_seconds, per_tile, on_cores if set(settings.device) == {"cpu"} else {})


def _glance_seconds(slide: Slide, plan: RegionPlan, settings: EmbedSettings, mpps: Sequence[float]) -> float:
    """Seconds for reading a region at its coarser magnifications alone, on a few regions of this slide."""
    coarser = {mpp: np.ones(plan.n_tiles(mpp), dtype=bool) for mpp in mpps}
    started = time.monotonic()
    regions = list(islice(iter_tiles(slide, plan.only(coarser), coarse=settings.coarse_from), _SAMPLE_REGIONS))
    return (time.monotonic() - started) / len(regions)


def estimate_table(estimate: RunEstimate) -> Table:
    """One row per slide and the sum: regions, tiles at each magnification, MB on disk."""
    total = estimate.n_tiles
    table = Table(title=f"{estimate.set_path} (nothing is written)", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("slide", overflow="fold", min_width=12)
    table.add_column("status", overflow="fold", min_width=6)
    for name in ["regions", *(f"tiles {mpp:g}" for mpp in total), "MB"]:
        table.add_column(name, justify="right")
    for one in estimate.slides:
        status = "would fail" if one.problem else "in the store" if one.done else "to do"
        counts = [str(one.n_tiles[mpp]) if one.n_tiles else "" for mpp in total]
        table.add_row(one.slide, status, str(one.n_regions), *counts, f"{one.n_bytes / 1e6:.1f}")
    seconds = "time unknown" if estimate.seconds is None else f"about {estimate.seconds:.0f} s"
    if estimate.rate is not None:
        seconds += f", {estimate.rate:.4g} tiles/s"
    todo = sum(one.n_regions for one in estimate.slides if not one.done)
    table.add_section()
    table.add_row("to do", seconds, str(todo), *map(str, total.values()), f"{estimate.n_bytes / 1e6:.1f}")
    return table
