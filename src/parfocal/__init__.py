"""parfocal: whole-slide images at several magnifications at once.

The names here are the whole chain, in the order of a datum's path; the function of each command is among them, and its
name is that of no folder. Each is imported when it is first used, so that `import parfocal` and the steps up to the
store never import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from parfocal.former import former_name, watch_imports
from parfocal.version import __version__

if TYPE_CHECKING:
    from parfocal.bags import RepresentSettings, represent_regions
    from parfocal.budget import BudgetSettings, measure_budgets
    from parfocal.config import GridConfig
    from parfocal.convert import ConvertSettings, convert_pictures
    from parfocal.embed import EmbedSettings, embed_slides
    from parfocal.encoders import available_encoders, load_tile_encoder
    from parfocal.evaluate import EvaluateSettings, evaluate_arms
    from parfocal.evaluate.places import evaluate_places
    from parfocal.explain import ExplainSettings, explain_slides, merge_explanations
    from parfocal.export import ExportSettings, PictureSettings, export_features, export_pictures
    from parfocal.finetune import FinetuneSettings, finetune_encoder
    from parfocal.lab.demo import run_demo
    from parfocal.lab.explore import explore_designs
    from parfocal.lab.prove.run import prove_encoder
    from parfocal.lab.synergy.run import measure_synergy
    from parfocal.predict import (
        FitSettings,
        PredictSettings,
        fit_head,
        fit_places,
        load_head,
        merge_predictions,
        predict_places,
        predict_slides,
    )
    from parfocal.pretrain import PretrainSettings, pretrain_encoder
    from parfocal.region_encoder import RegionEncoder, collate_regions, export_model
    from parfocal.regions import find_tissue, inspect_slide, inspect_slides, plan_regions, read_places
    from parfocal.regions.tiles import iter_tiles
    from parfocal.similar import find_similar
    from parfocal.slides import open_slide, read_tile
    from parfocal.store import index_features, open_set, open_sets, read_status
    from parfocal.study import budget_study, read_study, run_study
    from parfocal.view import view_store

__all__ = [
    "BudgetSettings",
    "ConvertSettings",
    "EmbedSettings",
    "EvaluateSettings",
    "ExplainSettings",
    "ExportSettings",
    "FinetuneSettings",
    "FitSettings",
    "GridConfig",
    "PictureSettings",
    "PredictSettings",
    "PretrainSettings",
    "RegionEncoder",
    "RepresentSettings",
    "__version__",
    "available_encoders",
    "budget_study",
    "collate_regions",
    "convert_pictures",
    "embed_slides",
    "evaluate_arms",
    "evaluate_places",
    "explain_slides",
    "explore_designs",
    "export_features",
    "export_model",
    "export_pictures",
    "find_similar",
    "find_tissue",
    "finetune_encoder",
    "fit_head",
    "fit_places",
    "index_features",
    "inspect_slide",
    "inspect_slides",
    "iter_tiles",
    "load_head",
    "load_tile_encoder",
    "measure_budgets",
    "measure_synergy",
    "merge_explanations",
    "merge_predictions",
    "open_set",
    "open_sets",
    "open_slide",
    "plan_regions",
    "predict_places",
    "predict_slides",
    "pretrain_encoder",
    "prove_encoder",
    "read_places",
    "read_status",
    "read_study",
    "read_tile",
    "represent_regions",
    "run_demo",
    "run_study",
    "view_store",
]

_HOMES = {
    "slides": ("open_slide", "read_tile"),
    "config": ("GridConfig",),
    "convert": ("ConvertSettings", "convert_pictures"),
    "regions": ("find_tissue", "inspect_slide", "inspect_slides", "plan_regions", "read_places"),
    "regions.tiles": ("iter_tiles",),
    "encoders": ("available_encoders", "load_tile_encoder"),
    "store": ("index_features", "open_set", "open_sets", "read_status"),
    "embed": ("EmbedSettings", "embed_slides"),
    "region_encoder": ("RegionEncoder", "collate_regions", "export_model"),
    "pretrain": ("PretrainSettings", "pretrain_encoder"),
    "bags": ("RepresentSettings", "represent_regions"),
    "evaluate": ("EvaluateSettings", "evaluate_arms"),
    "evaluate.places": ("evaluate_places",),
    "predict": (
        "FitSettings",
        "PredictSettings",
        "fit_head",
        "fit_places",
        "load_head",
        "merge_predictions",
        "predict_places",
        "predict_slides",
    ),
    "budget": ("BudgetSettings", "measure_budgets"),
    "explain": ("ExplainSettings", "explain_slides", "merge_explanations"),
    "similar": ("find_similar",),
    "view": ("view_store",),
    "export": ("ExportSettings", "PictureSettings", "export_features", "export_pictures"),
    "finetune": ("FinetuneSettings", "finetune_encoder"),
    "study": ("budget_study", "read_study", "run_study"),
    "lab.synergy.run": ("measure_synergy",),
    "lab.prove.run": ("prove_encoder",),
    "lab.explore": ("explore_designs",),
    "lab.demo": ("run_demo",),
}
_HOME_OF = {name: stage for stage, names in _HOMES.items() for name in names}

watch_imports()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME_OF:
        return former_name(name)
    value = getattr(importlib.import_module(f"parfocal.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported yet or not."""
    return sorted(__all__)
