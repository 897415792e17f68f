"""Regions and tiles as AnnData, for scanpy, squidpy and what else reads it: of one slide, or of a cohort."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from parfocal.errors import ConfigError, MismatchError
from parfocal.export.observations import Observations
from parfocal.files import writing
from parfocal.version import __version__

_CHUNK_ROWS = 256
_NONE: Mapping[str, Any] = {}


def need_anndata(remedy: str) -> None:
    """Return if AnnData can be written.

    Args:
        remedy: what to do without it, such as `leave out --anndata`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import anndata  # noqa: F401  # only who writes such files needs it
    except ImportError as error:
        raise ConfigError(
            f"cannot write AnnData: anndata is not installed. pip install 'parfocal[anndata]', or {remedy}."
        ) from error


def write_anndata(path: Path, observed: Iterable[Observations], *, known: Mapping[str, Any] = _NONE) -> None:
    """Write observations, whole or not at all; of their rows those of one slide at a time are in memory.

    `X` is their embeddings, `obs` their columns. `obsm["spatial"]` is the middle of each in pixels of level 0, which is
    what squidpy and LazySlide take it for, and `uns["spatial"]` says how large they are there, by `obs["library_id"]`.

    Args:
        path: ends in `.h5ad`.
        observed: of one slide or of many; all with rows of one width, or all without, and with the same columns.
        known: what else is to be known, kept in `uns["parfocal"]`, beside the version.

    Raises:
        MismatchError: rows differ in width, or only some have any.
    """
    import anndata
    import pandas as pd

    columns, middles, names = list[Any](), list[np.ndarray](), list[str]()
    numbered: Counter[str] = Counter()
    libraries: dict[str, Any] = {}
    width: int | None = None
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        for one in observed:
            found = -1 if one.rows is None else one.rows.shape[1]
            if width not in {None, found}:
                raise MismatchError(
                    f"cannot write {path}: the rows of {one.slide} have width {found}, and those before {width}. "
                    "Write files of their own."
                )
            width = found
            if one.rows is not None:
                _append(file, one.rows)
            frame = pd.DataFrame(dict(one.columns))
            # A key of an HDF5 file holds no slash.
            key = (one.library or one.slide).replace("/", "_")
            libraries[key] = {"scalefactors": {"spot_diameter_fullres": one.side_l0px}, "images": {}}
            if one.library is not None:
                frame["library_id"] = key
            columns.append(frame)
            middles.append(one.middle_l0px)
            names += [f"{one.slide}:{numbered[one.slide] + number + 1}" for number in range(len(frame))]
            numbered[one.slide] += len(frame)
        obs = pd.concat(columns, ignore_index=True) if columns else pd.DataFrame()
        obs.index = pd.Index(names, dtype=object)
        for name in obs.select_dtypes(object).columns:
            obs[name] = pd.Categorical(obs[name])
        var = pd.DataFrame(index=pd.Index([str(number) for number in range(max(0, width or 0))], dtype=object))
        spatial = np.concatenate(middles) if middles else np.zeros((0, 2))
        about = {"parfocal": {"parfocal_version": __version__, **known}, "spatial": libraries}
        for name, value in {"obs": obs, "var": var, "obsm": {"spatial": spatial}, "uns": about}.items():
            anndata.io.write_elem(file, name, value, dataset_kwargs={"compression": "gzip"})
        for name in ("layers", "obsp", "varm", "varp"):
            anndata.io.write_elem(file, name, {})
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def _append(file: h5py.File, rows: Float[np.ndarray, "row dim"]) -> None:
    """Add rows to X, as AnnData writes it."""
    if "X" not in file:
        made = file.create_dataset(
            "X",
            (0, rows.shape[1]),
            rows.dtype,
            maxshape=(None, rows.shape[1]),
            chunks=(_CHUNK_ROWS, rows.shape[1]),
            compression="gzip",
        )
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    dataset, start = file["X"], len(file["X"])
    dataset.resize(start + len(rows), axis=0)
    dataset[start:] = rows
