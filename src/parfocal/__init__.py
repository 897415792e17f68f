"""parfocal: whole-slide images at several magnifications at once.

The names here are the whole chain, in the order of a datum's path. Each is imported when it is first used, so that
`import parfocal` and the steps up to the store never import torch. (`pretrain` is not among them, because the step has
the same name: `from parfocal.pretrain import pretrain`.)
"""

import importlib
from typing import TYPE_CHECKING, Any

from parfocal.version import __version__

if TYPE_CHECKING:
    from parfocal.bags import represent_regions
    from parfocal.config import GridConfig
    from parfocal.embed import EmbedSettings, embed_slides
    from parfocal.encoders import load_tile_encoder
    from parfocal.evaluate import evaluate_arms
    from parfocal.lab.demo import run_demo
    from parfocal.pretrain import PretrainSettings
    from parfocal.region_encoder import RegionEncoder, collate_regions
    from parfocal.regions import find_tissue, inspect_slide, plan_regions
    from parfocal.regions.tiles import iter_tiles
    from parfocal.slides import open_slide, read_tile
    from parfocal.store import index_features, open_set, open_sets

__all__ = [
    "EmbedSettings",
    "GridConfig",
    "PretrainSettings",
    "RegionEncoder",
    "__version__",
    "collate_regions",
    "embed_slides",
    "evaluate_arms",
    "find_tissue",
    "index_features",
    "inspect_slide",
    "iter_tiles",
    "load_tile_encoder",
    "open_set",
    "open_sets",
    "open_slide",
    "plan_regions",
    "read_tile",
    "represent_regions",
    "run_demo",
]

_HOMES = {
    "slides": ("open_slide", "read_tile"),
    "config": ("GridConfig",),
    "regions": ("find_tissue", "inspect_slide", "plan_regions"),
    "regions.tiles": ("iter_tiles",),
    "encoders": ("load_tile_encoder",),
    "store": ("index_features", "open_set", "open_sets"),
    "embed": ("EmbedSettings", "embed_slides"),
    "region_encoder": ("RegionEncoder", "collate_regions"),
    "pretrain": ("PretrainSettings",),
    "bags": ("represent_regions",),
    "evaluate": ("evaluate_arms",),
    "lab.demo": ("run_demo",),
}
_HOME_OF = {name: stage for stage, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'parfocal' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"parfocal.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported yet or not."""
    return sorted(__all__)
