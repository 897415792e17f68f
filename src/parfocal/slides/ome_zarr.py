"""OME-Zarr slides (OME-NGFF 0.4 and 0.5): a folder, or a prefix of a bucket, with one array for each level.

Metadata say what a pixel is: the unit of the axes and the scale of every level. Chunks are decoded once for windows in
reading order.
"""

import json
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.addresses import address_of, has_folders
from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.level_ratios import LevelShape, level_ratios, size_without_padding
from parfocal.slides.reader import MAX_CACHE_BYTES, Missing, PixelReader, Window, foreign_bytes, join_gaps, one_line
from parfocal.slides.remote import check_the_way

_VERSIONS = ("0.4", "0.5")
# The names of UDUNITS for lengths of this order.
_UM = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
# A level may begin half a pixel of its own beside level 0: that is where the centre of averaged pixels lies.
_MOST_SHIFT_PX = 1.0
_METADATA = ("zarr.json", ".zattrs")


def is_ome_zarr(path: Path) -> bool:
    """Whether a folder says that it is an OME-Zarr image or a collection of them; of an address its name says it."""
    if address_of(path):
        return any(part.lower().endswith(".zarr") for part in path.parts)
    return os.path.isdir(path) and bool({"multiscales", "bioformats2raw.layout"} & {*_ome(_attributes(path))})


class OmeZarrReader(PixelReader):
    """The levels of one image as its metadata describe them; a chunk that is absent is where nothing was scanned."""

    format = "OME-Zarr"
    objective_power = None

    def __init__(self, path: Path) -> None:
        """Open the group and look at the metadata of every level.

        Raises:
            UnreadableSlideError: it is no image that can be shown right, or zarr is not installed.
        """
        self.path = path
        address = address_of(path)
        self._name = address or str(path)
        if address is not None and not has_folders(address):
            raise UnreadableSlideError(
                f"cannot read {address}: OME-Zarr is many files, and a web server does not list them, so that a "
                "changed one would not be noticed. Name it as s3:// or gs://, or copy it first."
            )
        try:
            import zarr
        except ImportError as error:
            raise UnreadableSlideError(
                f'cannot read {self._name}: OME-Zarr needs zarr. Install it with `pip install "parfocal[zarr]"`.'
            ) from error
        refusal = f"cannot read {self._name} as OME-Zarr: "
        with foreign_bytes(lambda why: UnreadableSlideError(f"{refusal}{why}.")), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._group = zarr.open_group(self._name, mode="r", use_consolidated=False)
                self._open_levels(zarr)
            except UnreadableSlideError:
                raise
            except Exception as error:
                if address is not None:
                    check_the_way(address, error)
                raise
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0

    def _open_levels(self, zarr: Any) -> None:
        attributes = dict(self._group.attrs)
        ome = _ome(attributes)
        if "multiscales" not in ome and "bioformats2raw.layout" in ome:
            raise ValueError("it is a collection of images; name one of them, such as its folder 0")
        image = ome["multiscales"][0]
        version = str(ome.get("version", image.get("version")))
        if version not in _VERSIONS:
            raise ValueError(f"it has version {version} of OME-NGFF; {' and '.join(_VERSIONS)} are read")
        axes = image["axes"]
        names = [str(axis["name"]) for axis in axes]
        self._axes = names
        whole = _transform(image.get("coordinateTransformations", ()), len(names))
        arrays, shapes, own, notes = [], [], [], []
        for entry in image["datasets"]:
            array = self._group[entry["path"]]
            if not isinstance(array, zarr.Array):
                raise ValueError(f"its level {entry['path']} is no array")
            scale, shift = _transform(entry.get("coordinateTransformations", ()), len(names))
            arrays.append(array)
            own.append((scale * whole[0], shift * whole[0]))
            shapes.append(_shape(array, names, own[0][0], own[-1][0]))
        if not arrays:
            raise ValueError("it has no level")
        y, x = names.index("y"), names.index("x")
        kept, sizes, ratios = [0], [(shapes[0].width, shapes[0].height)], [1.0]
        for number, ratio in enumerate(level_ratios(shapes[0], shapes[1:]), 1):
            shape, (scale, shift) = shapes[number], own[number]
            beside = np.abs(shift - own[0][1])[[y, x]] / scale[[y, x]]
            if ratio is None or ratio < 1.01:
                why = "no one ratio explains its width and height"
            elif (beside > _MOST_SHIFT_PX).any():
                why = f"it begins {beside.max():.3g} of its pixels beside level 0"
            else:
                kept.append(number)
                sizes.append(size_without_padding(shapes[0], shape, ratio))
                ratios.append(ratio)
                continue
            notes.append(f"the level of {shape.width} x {shape.height} px is left out: {why}")
        self._arrays = [arrays[number] for number in kept]
        self.level_sizes, self.level_downsamples, self.notes = tuple(sizes), tuple(ratios), tuple(notes)
        self._tiles = [(array.chunks[y], array.chunks[x]) for array in self._arrays]
        self.mpp_claim = _claim(axes[y], axes[x], own[0][0][[y, x]], image["datasets"][0], image)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Put the chunks under the window together; see PixelReader."""
        tall, wide = self._tiles[level]
        rows, columns = range(y // tall, -(-(y + height) // tall)), range(x // wide, -(-(x + width) // wide))
        found = self._chunks(level, rows, columns)
        window, missing = np.full((height, width, 3), 255, np.uint8), []
        for (row, column), chunk in found.items():
            top, left = row * tall, column * wide
            y0, y1 = max(top, y), min(top + tall, y + height)
            x0, x1 = max(left, x), min(left + wide, x + width)
            if isinstance(chunk, np.ndarray) and chunk.size:
                window[y0 - y : y1 - y, x0 - x : x1 - x] = chunk[y0 - top : y1 - top, x0 - left : x1 - left]
            else:
                problem = chunk if isinstance(chunk, str) else None
                missing.append(Missing(x0, y0, x1, y1, f"chunk {row}, {column}", problem))
        return Window(window, join_gaps(missing, level))

    def close(self) -> None:
        """Close the store and drop the cache; see PixelReader."""
        with self._lock:
            self._cache.clear()
            self._cached_bytes = 0
        self._group.store.close()

    def _chunks(self, level: int, rows: range, columns: range) -> dict[tuple[int, int], "np.ndarray | str"]:
        """Decoded chunks, row by row: pixels, none where there are no bytes, or why they cannot be decoded."""
        places = [(row, column) for row in rows for column in columns]
        with self._lock:
            found: dict[tuple[int, int], np.ndarray | str] = {
                place: self._cache[level, *place] for place in places if (level, *place) in self._cache
            }
        absent = [place for place in places if place not in found]
        if absent:
            block_rows = range(min(r for r, _ in absent), max(r for r, _ in absent) + 1)
            block_columns = range(min(c for _, c in absent), max(c for _, c in absent) + 1)
            try:
                # With one call their bytes come at the same time.
                found |= self._decoded(level, block_rows, block_columns)
            except Exception as error:
                self._check_way(error)
                for row, column in absent:
                    try:
                        found |= self._decoded(level, range(row, row + 1), range(column, column + 1))
                    except Exception as error:
                        self._check_way(error)
                        found[row, column] = one_line(error)
        with self._lock:
            for place in absent:
                chunk = found[place]
                if isinstance(chunk, np.ndarray) and (level, *place) not in self._cache:
                    self._cache[level, *place] = chunk
                    self._cached_bytes += chunk.nbytes
            while self._cached_bytes > MAX_CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return {place: found[place] for place in places}

    def _decoded(self, level: int, rows: range, columns: range) -> dict[tuple[int, int], "np.ndarray | str"]:
        array, (tall, wide) = self._arrays[level], self._tiles[level]
        window = {
            "y": slice(rows.start * tall, rows.stop * tall),
            "x": slice(columns.start * wide, columns.stop * wide),
            "c": slice(None),
        }
        block = np.asarray(array[tuple(window.get(name, 0) for name in self._axes)])
        order = [name for name in self._axes if name in window]
        block = block.transpose([order.index(name) for name in "yxc"])
        cut: dict[tuple[int, int], np.ndarray | str] = {}
        for row in rows:
            for column in columns:
                top, left = (row - rows.start) * tall, (column - columns.start) * wide
                chunk = np.ascontiguousarray(block[top : top + tall, left : left + wide])
                # A chunk that is not there is read as its fill value throughout.
                is_there = bool((chunk != array.fill_value).any())
                cut[row, column] = chunk if is_there else np.empty((0, 0, 3), np.uint8)
        return cut

    def _check_way(self, error: BaseException) -> None:
        address = address_of(self.path)
        if address is not None:
            check_the_way(address, error)


def _attributes(path: Path) -> dict[str, Any]:
    """What the metadata of a local group say, without zarr; empty where there are none."""
    for name in _METADATA:
        try:
            content = json.loads((path / name).read_bytes())
        except (OSError, ValueError):
            continue
        found = content.get("attributes", {}) if name == "zarr.json" and isinstance(content, dict) else content
        return found if isinstance(found, dict) else {}
    return {}


def _ome(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the metadata of OME stand: in their own object from version 0.5 on."""
    own = attributes.get("ome")
    return own if isinstance(own, Mapping) else attributes


def _transform(steps: Sequence[Mapping[str, Any]], n_axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of coordinate transformations, which are applied one after the other."""
    scale, shift = np.ones(n_axes), np.zeros(n_axes)
    for step in steps:
        kind = step["type"]
        if kind not in {"identity", "scale", "translation"} or (kind != "identity" and kind not in step):
            raise ValueError(f"its coordinate transformation {kind} is not read")
        values = np.ones(n_axes) if kind == "identity" else np.asarray(step[kind], np.float64)
        if values.shape != (n_axes,) or not np.isfinite(values).all() or (kind == "scale" and (values <= 0).any()):
            raise ValueError(f"its {kind} {step[kind]} does not fit its {n_axes} axes")
        if kind == "scale":
            scale, shift = scale * values, shift * values
        elif kind == "translation":
            shift = shift + values
    return scale, shift


def _shape(array: Any, names: Sequence[str], full: np.ndarray, scale: np.ndarray) -> LevelShape:
    """The size of a level.

    Raises:
        ValueError: its samples are not those of one RGB picture.
    """
    if len(array.shape) != len(names) or sorted({*names}) != sorted(names) or not {"y", "x", "c"} <= {*names}:
        raise ValueError(f"its axes {', '.join(names)} and its shape {array.shape} are not those of one RGB picture")
    sides = dict(zip(names, array.shape, strict=True))
    if array.dtype != np.uint8 or sides["c"] != 3 or any(sides[name] != 1 for name in names if name not in "yxc"):
        listed = ", ".join(f"{name} {side}" for name, side in sides.items())
        raise ValueError(f"it holds {array.dtype} of {listed}; expected is uint8 with three channels and one plane")
    x, y = names.index("x"), names.index("y")
    ratios = scale[[x, y]] / full[[x, y]]
    stated = float(ratios.mean()) if abs(ratios[0] - ratios[1]) < 0.02 * ratios[0] else None
    return LevelShape(sides["x"], sides["y"], array.chunks[x], array.chunks[y], stated)


def _claim(
    y: Mapping[str, Any], x: Mapping[str, Any], scale: np.ndarray, dataset: Mapping[str, Any], image: Mapping[str, Any]
) -> MppClaim | None:
    """What the metadata say of level 0; None where they have no unit, or no scale."""
    steps = [*dataset.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())]
    units = [str(axis.get("unit", "")) for axis in (x, y)]
    if any(unit not in _UM for unit in units) or not any(step["type"] == "scale" for step in steps):
        return None
    sides = [(float(value), unit) for value, unit in zip(scale[::-1], units, strict=True)]
    said = dict.fromkeys(f"{value:.8g} {unit}" for value, unit in sides)
    um_x, um_y = (value * _UM[unit] for value, unit in sides)
    return MppClaim(um_x, um_y, "OME-Zarr scale", " by ".join(said))
