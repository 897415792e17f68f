"""Places on slides: points at which something was measured, such as the spots of spatial transcriptomics.

A table with the columns `slide`, `x_um` and `y_um` (or `x_px` and `y_px`, in pixels of level 0) and one column for each
target; an AnnData file with `obsm["spatial"]`; or GeoJSON with classified areas, as QuPath writes it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.errors import CalibrationError, ConfigError, SlideError
from parfocal.files import digest8
from parfocal.table import read_table, some_of

Unit = Literal["um", "px"]

_XY: dict[Unit, tuple[str, str]] = {"um": ("x_um", "y_um"), "px": ("x_px", "y_px")}
# The columns of `obs` that may say whose a spot is, the first that is there.
_SLIDE_COLUMNS = ("slide", "library_id", "sample_id", "sample")
# Where a position is compared or digested: far below a pixel, far above what float32 and text lose.
STEP_UM = 0.01


@dataclass(frozen=True, eq=False)
class Places:
    """Places on slides with what is known at each; entry i of everything is of place i.

    Attributes:
        path: the file that they come from.
        slide: the id of the slide, as the file has it.
        xy: x and y, from the top left corner of level 0.
        unit: whether that is in micrometres or in pixels of level 0.
        names: the targets that the file has, in its order.
        targets: those that were asked for: text, or numbers where the file holds numbers; empty text and NaN are
            missing.
    """

    path: Path
    slide: tuple[str, ...]
    xy: Float64[np.ndarray, "place 2"]
    unit: Unit
    names: tuple[str, ...]
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.slide)

    @cached_property
    def _by_slide(self) -> dict[str, Int64[np.ndarray, " picked"]]:
        """The numbers of the places of each slide, under the id that the file has."""
        found: dict[str, list[int]] = {}
        for number, slide in enumerate(self.slide):
            found.setdefault(slide, []).append(number)
        return {slide: np.array(numbers, np.int64) for slide, numbers in found.items()}

    def _name_of(self, slide: str) -> str | None:
        """How the file calls a slide: by its id, else by its name without folders; None where it has no place."""
        return next((name for name in (slide, slide.rsplit("/", 1)[-1]) if name in self._by_slide), None)

    def of(self, slide: str) -> Int64[np.ndarray, " picked"]:
        """The numbers of a slide's places: those under its id, else those under its name without folders."""
        name = self._name_of(slide)
        return np.zeros(0, np.int64) if name is None else self._by_slide[name]

    def check_names(self, slides: Iterable[str]) -> None:
        """Make sure that places belong to one slide each.

        Raises:
            ConfigError: two of the slides are called alike but for their folders, and the file says no more than that.
        """
        owners: dict[str, str] = {}
        for slide in slides:
            name = self._name_of(slide)
            if name is not None and owners.setdefault(name, slide) != slide:
                raise ConfigError(
                    f"{self.path} has places of {name}, and both {owners[name]} and {slide} are called so. "
                    "Write the whole id of the slide, with its folders."
                )

    def xy_um(self, numbers: Int64[np.ndarray, " picked"], slide_mpp: float) -> Float64[np.ndarray, "picked 2"]:
        """Some places in micrometres of their slide, whose resolution this is; NaN where it is not known.

        Raises:
            CalibrationError: the file has them in pixels, and it is not known.
        """
        if self.unit == "px" and not np.isfinite(slide_mpp):
            raise CalibrationError(
                f"{self.path} has its places in pixels, and the resolution of their slide is not known, as it was "
                "indexed from files in micrometres. Index it again with --slides or --slide-mpp, or give the places in "
                f"micrometres ({', '.join(_XY['um'])})."
            )
        return np.asarray(self.xy[numbers] * (slide_mpp if self.unit == "px" else 1.0))

    def on_slide(self, slide: str, slide_mpp: float) -> Float64[np.ndarray, "place 2"]:
        """The places of a slide in micrometres, each once, sorted.

        Raises:
            SlideError: it has none.
        """
        numbers = self.of(slide)
        if not len(numbers):
            raise SlideError(
                f"{self.path} has no place on the slide {slide}; it names {some_of(dict.fromkeys(self.slide))}. "
                "Leave the slide out, or add its places under this id."
            )
        steps = np.rint(self.xy_um(numbers, slide_mpp) / STEP_UM).astype(np.int64)
        _, first = np.unique(steps, axis=0, return_index=True)
        return self.xy_um(numbers, slide_mpp)[first]


def places_digest(xy_um: Float64[np.ndarray, "place 2"]) -> str:
    """A digest of the places of one slide, whatever their order."""
    return digest8(sorted(np.rint(xy_um / STEP_UM).astype(int).tolist()))


def read_places(path: Path, targets: Sequence[str] | None = (), *, may_lack: bool = False) -> Places:
    """Read places, and the targets that are asked for.

    Args:
        path: a CSV or workbook; an AnnData file (`.h5ad`), whose positions are pixels of level 0, whose targets are its
            variables and the columns of `obs`, and whose slide stands in the column `slide` (or `library_id`,
            `sample_id`, `sample`) of `obs`, or is the file's name; or GeoJSON, a file or a folder of files that are
            named by slide: a place is the middle of an area, and its `class` the target.
        targets: names; None stands for all.
        may_lack: leave out the targets that the file does not have, where they are otherwise refused.

    Raises:
        ConfigError: it cannot be read, has no positions, a position is no number, or there is no such target.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in {".geojson", ".json"}:
        places = _of_geojson(path)
    elif suffix == ".h5ad":
        places = _of_anndata(path, targets)
    else:
        places = _of_table(path, targets)
    unknown = [name for name in targets or () if name not in places.names]
    if unknown and not may_lack:
        raise ConfigError(f"{path} has no target {unknown[0]!r}; it has {some_of(places.names, 8)}.")
    if not np.isfinite(places.xy).all():
        number = int(np.flatnonzero(~np.isfinite(places.xy).all(axis=1))[0])
        raise ConfigError(f"{path}: the position of place {number + 1} is not finite. Give a number or leave it out.")
    return places


def _of_table(path: Path, targets: Sequence[str] | None) -> Places:
    table = read_table(path)
    table.needs("slide")
    units = [unit for unit, columns in _XY.items() if set(columns) <= set(table.columns)]
    if len(units) != 1:
        raise ConfigError(
            f"{path} must have its positions as x_um and y_um (micrometres) or as x_px and y_px (pixels of level 0), "
            f"one of the two; it has {some_of(table.columns, 8)}."
        )
    [unit] = units
    names = tuple(name for name in table.columns if name not in {"slide", *_XY[unit]})
    wanted = names if targets is None else [name for name in targets if name in names]
    slides, xy = [], []
    for row in table.rows:
        if not row["slide"]:
            raise ConfigError(f"{path} names no slide in line {row.line}.")
        slides.append(row["slide"])
        try:
            xy.append([float(row[column]) for column in _XY[unit]])
        except ValueError as error:
            raise ConfigError(f"{path}: the position in line {row.line} is no number ({error}).") from error
    values = {name: np.array([row[name] for row in table.rows], dtype=object) for name in wanted}
    return Places(path, tuple(slides), np.array(xy, np.float64), unit, names, values)


def _of_anndata(path: Path, targets: Sequence[str] | None) -> Places:
    try:
        import anndata  # only who reads such a file needs it
    except ImportError as error:
        raise ConfigError(f"cannot read {path}: anndata is not installed. pip install 'parfocal[anndata]'.") from error
    try:
        data = anndata.read_h5ad(path, backed="r")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"cannot read {path} as AnnData ({error}).") from error
    try:
        if "spatial" not in data.obsm:
            raise ConfigError(f"{path} has no obsm['spatial'], so nobody knows where its places lie.")
        xy = np.asarray(data.obsm["spatial"], np.float64)[:, :2]
        column = next((name for name in _SLIDE_COLUMNS if name in data.obs), None)
        slides = [path.stem] * data.n_obs if column is None else data.obs[column].astype(str).tolist()
        variables, columns = list(map(str, data.var_names)), [str(name) for name in data.obs.columns if name != column]
        names = tuple(dict.fromkeys([*variables, *columns]))
        wanted = names if targets is None else [name for name in targets if name in names]
        values: dict[str, np.ndarray] = {}
        genes = [name for name in wanted if name in variables]
        if genes:
            block = data[:, genes].to_memory().X
            dense = np.asarray(block.todense() if hasattr(block, "todense") else block, np.float64)
            values |= dict(zip(genes, dense.T, strict=True))
        for name in wanted:
            if name not in values:
                cells = data.obs[name]
                is_number = cells.dtype.kind in "fiu"
                values[name] = cells.to_numpy(np.float64 if is_number else object)
    finally:
        data.file.close()
    return Places(path, tuple(slides), xy, "px", names, {name: values[name] for name in wanted})


def _of_geojson(path: Path) -> Places:
    files = sorted(path.glob("*.geojson")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path} has no .geojson file. Name a table, an .h5ad file, or a folder of GeoJSON files.")
    slides, xy, classes = [], [], []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            features = content["features"] if isinstance(content, dict) else content
            found = [(_middle(feature["geometry"]), _class_of(feature)) for feature in features]
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError(f"cannot read {file} as GeoJSON with areas ({type(error).__name__}: {error}).") from error
        slides += [file.stem] * len(found)
        xy += [middle for middle, _ in found]
        classes += [name for _, name in found]
    if not xy:
        raise ConfigError(f"{path} has no area. Export annotations with their classes.")
    return Places(path, tuple(slides), np.array(xy, np.float64), "px", ("class",), {"class": np.array(classes, object)})


def _class_of(feature: Mapping[str, Any]) -> str:
    """The name of a feature's class; empty where it has none, which is a missing value."""
    classification = (feature.get("properties") or {}).get("classification") or {}
    names = classification.get("names")
    return ": ".join(names) if isinstance(names, list) else str(classification.get("name") or "")


def _middle(geometry: Mapping[str, Any]) -> tuple[float, float]:
    """The centroid of a point or of the outer ring of an area, of several the largest."""
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind == "Point":
        return float(coordinates[0]), float(coordinates[1])
    outer = {"Polygon": [coordinates], "MultiPolygon": coordinates}[kind]
    rings = [np.array([point[:2] for point in polygon[0]], np.float64) for polygon in outer]
    parts = [_centroid(ring) for ring in rings]
    _, x, y = max(parts)
    return x, y


def _centroid(ring: Float64[np.ndarray, "point 2"]) -> tuple[float, float, float]:
    """The area of a ring and its centroid, by the shoelace formula; the mean of its points where it has no area."""
    middle = ring.mean(axis=0)
    here, there = ring - middle, np.roll(ring, -1, axis=0) - middle
    cross = here[:, 0] * there[:, 1] - there[:, 0] * here[:, 1]
    area = cross.sum() / 2
    x, y = middle if area == 0 else middle + ((here + there) * cross[:, None]).sum(axis=0) / (6 * area)
    return abs(float(area)), float(x), float(y)
