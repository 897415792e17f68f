"""What a slide is and what would be read of it, as one record for a table or JSON."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from parfocal.addresses import shown_path
from parfocal.config import GridConfig
from parfocal.errors import ConfigError, ParfocalWarning, as_problem
from parfocal.geometry import format_mpp
from parfocal.regions.plan import plan_regions
from parfocal.regions.qc import write_qc
from parfocal.regions.tissue import find_tissue
from parfocal.run.executors import RunsSlides, lost_slide, slide_executor
from parfocal.run.processes import CannotStartError, Death, Tell, TimedOut
from parfocal.run.shards import shard_of
from parfocal.slides import SlideIds, SlideSource, check_slide_mpp, find_slides, open_slide, slide_name
from parfocal.terminal import printable


@dataclass(frozen=True)
class SlideReport:
    """One slide, described; what could not be found out is None, and `problem` says why in one line."""

    slide: str
    """The id that the slide has in a store."""
    path: str
    format: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    levels: tuple[float, ...] = ()
    """The downsample of each level."""
    mpp: float | None = None
    mpp_source: str | None = None
    objective_power: float | None = None
    tissue_share: float | None = None
    n_regions: int | None = None
    n_tiles: dict[str, int] | None = None
    """Tiles per magnification; the key is the mpp as text."""
    problem: str | None = None
    notices: tuple[str, ...] = ()
    """What was guessed or looks wrong, one line each."""

    @property
    def is_usable(self) -> bool:
        """Whether `embed` would take tiles from it: nothing is wrong, and tissue was found."""
        return self.problem is None and not self.has_no_tissue

    @property
    def has_no_tissue(self) -> bool:
        """Whether the slide can be read and no region of it holds enough tissue."""
        return self.problem is None and self.n_regions == 0

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, ready for JSON."""
        return asdict(self)


def inspect_slide(
    path: Path | str,
    grid: GridConfig,
    *,
    slide: str | None = None,
    slide_mpp: float | None = None,
    mpp_from_objective: bool = False,
    scan: int | None = None,
    qc: Path | None = None,
) -> SlideReport:
    """Describe a slide and count its regions and tiles.

    A slide that cannot be used is no error here, whatever is raised on its file: the record says what was found so far
    and what the problem is.

    Args:
        path: the slide's file.
        grid: how it would be cut.
        slide: its id; the name of its file without the suffix when None.
        slide_mpp: micrometres per level-0 pixel, in place of what the file says.
        mpp_from_objective: take 10 um / power where the slide has an objective power and no resolution.
        scan: which scan of a file that holds several, from 0.
        qc: a folder to write a picture of the slide with its tissue and regions to.
    """
    path = Path(path)
    found: dict[str, Any] = {"slide": slide_name(path) if slide is None else slide, "path": shown_path(path)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with open_slide(
                path, slide_mpp=slide_mpp, mpp_from_objective=mpp_from_objective, require_mpp=False, scan=scan
            ) as opened:
                for name in ("format", "width_px", "height_px", "objective_power"):
                    found[name] = getattr(opened, name)
                found["levels"] = tuple(level.downsample for level in opened.levels)
                if opened.calibration is not None:
                    found |= {"mpp": opened.calibration.mpp, "mpp_source": opened.calibration.source}
                tissue = find_tissue(opened, grid.tissue, slide_id=found["slide"])
                found["tissue_share"] = tissue.tissue_share
                plan = plan_regions(opened, grid, tissue=tissue)
                if qc is not None:
                    write_qc(qc / f"{found['slide']}.jpg", opened, plan, slide_id=found["slide"])
                found["n_regions"] = plan.n_regions
                found["n_tiles"] = {format_mpp(mpp): plan.n_tiles(mpp) for mpp in grid.mpps}
        except Exception as error:
            # One odd file of a folder must not end the table, whatever a library raised on it.
            found["problem"] = as_problem(error)
    # What libraries warn of is about their insides; what it leads to is in the record.
    ours = [printable(str(warning.message)) for warning in caught if issubclass(warning.category, ParfocalWarning)]
    return SlideReport(**found, notices=tuple(dict.fromkeys(ours)))


_HERE = RunsSlides()


def inspect_slides(
    slides: Sequence[Path | str | SlideSource],
    grid: GridConfig,
    *,
    slide_mpp: float | None = None,
    mpp_from_objective: bool = False,
    ids: SlideIds = "path",
    scan: int | None = None,
    qc: Path | None = None,
    runs: RunsSlides = _HERE,
    shard: str | None = None,
) -> list[SlideReport]:
    """Describe many slides, in their order; what a slide says of itself goes before what is said of all.

    Args:
        slides: files, folders of them, or manifests, as `embed_slides` takes them; or slides that are known already.
        grid: how they would be cut.
        slide_mpp: micrometres per level-0 pixel of those that have no value of their own.
        mpp_from_objective: as in `inspect_slide`.
        ids: whether a slide in a folder is called by its path below the folder or by its file's name alone.
        scan: which scan of files that hold several, where a source does not say.
        qc: a folder to write a picture of each slide with its tissue and regions to.
        runs: how many slides at a time and where; with workers each has a process of its own, so that a library that
            crashes on a file costs that slide alone.
        shard: describe one of N equal parts of the slides, I/N with I from 0; all where None.

    Raises:
        ConfigError: no slide is found, two have one id, no worker process can be started, or there is no such shard.
    """
    part = shard_of(shard)
    check_slide_mpp(slide_mpp)
    known = [one for one in slides if isinstance(one, SlideSource)]
    named = [one for one in slides if not isinstance(one, SlideSource)]
    sources = [
        replace(
            source,
            slide_mpp=slide_mpp if source.slide_mpp is None else source.slide_mpp,
            scan=scan if source.scan is None else source.scan,
        )
        for source in (*known, *(find_slides(named, ids=ids) if named else ()))
        if part is None or part.holds(source.slide)
    ]
    describe = partial(_describe, grid=grid, mpp_from_objective=mpp_from_objective, qc=qc)
    found = dict[str, SlideReport]()
    try:
        for source, result in slide_executor(runs).run(sources, partial(_prepare, describe)):
            found[source.slide] = _lost(source, result) if isinstance(result, Death | TimedOut) else result
    except CannotStartError as error:
        raise ConfigError(f"no worker process can be started: {error}. Use --workers 0.") from error
    return [found[source.slide] for source in sources]


def _describe(source: SlideSource, **settings: Any) -> SlideReport:
    return inspect_slide(source.path, slide=source.slide, slide_mpp=source.slide_mpp, scan=source.scan, **settings)


def _prepare(describe: Callable[[SlideSource], SlideReport], device: str) -> Callable[[SlideSource, Tell], SlideReport]:
    return lambda source, tell: describe(source)


def _lost(source: SlideSource, lost: Death | TimedOut) -> SlideReport:
    problem = printable(lost_slide(source, lost, "read").message)
    return SlideReport(source.slide, shown_path(source.path), problem=problem)
