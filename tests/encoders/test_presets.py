import json
import math
from functools import cache
from pathlib import Path

import pytest
import timm
import torch

from parfocal.encoders import available_encoders
from parfocal.encoders.loading import encoders_table
from parfocal.encoders.network import Backbone
from parfocal.encoders.preset import PRESETS, Preset, find_preset
from parfocal.encoders.timm_encoder import build_timm
from parfocal.errors import EncoderError

OF_TIMM = [preset for preset in PRESETS.values() if preset.architecture]


@cache
def built(architecture: str, arguments: str, tile_px: int) -> tuple[Backbone, torch.Tensor]:
    """A network and its features of one tile; some presets share one. Arguments are those of JSON, for the cache."""
    # The meta device computes shapes and holds no memory, so that ViT-g costs nothing.
    with torch.device("meta"):
        backbone = build_timm(architecture, json.loads(arguments))
        images = torch.zeros(1, 3, tile_px, tile_px)
    with torch.inference_mode():
        return backbone, backbone.eval().features(images)


@pytest.mark.parametrize("preset", OF_TIMM, ids=lambda preset: preset.name)
def test_the_arguments_build_a_network_of_the_published_size(preset: Preset) -> None:
    backbone, features = built(preset.architecture, json.dumps(preset.arguments), preset.tile_px)
    parameters_m = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6

    width = {"cls+mean": 2 * backbone.width, "cls": backbone.width, "pooled": backbone.width}[preset.readout]
    assert preset.dim == width
    if preset.tokens is not None:
        assert features.shape == (1, preset.tokens, backbone.width)
        assert math.isqrt(preset.tokens - backbone.prefix_tokens) ** 2 == preset.tokens - backbone.prefix_tokens
    assert preset.parameters_m is not None
    # Published to three digits; some leave the position embedding out.
    assert parameters_m == pytest.approx(preset.parameters_m, rel=0.01)


def test_at_least_twelve_pathology_encoders_are_known() -> None:
    hubs = {preset.hub for preset in PRESETS.values() if preset.hub}

    assert len(hubs) >= 12


def test_every_preset_says_where_its_arguments_come_from() -> None:
    for preset in PRESETS.values():
        assert preset.source.startswith("https://")
        assert preset.licence
        assert preset.hub or preset.install


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        # Spellings of TRIDENT, slide2vec, STAMP, LazySlide and AtlasPatch.
        ("uni_v1", "uni"),
        ("uni_v2", "uni2-h"),
        ("uni2", "uni2-h"),
        ("hoptimus0", "h-optimus-0"),
        ("h_optimus_1", "h-optimus-1"),
        ("gigapath", "prov-gigapath"),
        ("prov_gigapath", "prov-gigapath"),
        ("phikon_v2", "phikon-v2"),
        ("phikonv2", "phikon-v2"),
        ("conch_v15", "conch-v1.5"),
        ("conch1_5", "conch-v1.5"),
        ("conchv15", "conch-v1.5"),
        ("hibou_l", "hibou-l"),
        ("midnight12k", "midnight"),
        ("virchow_v2", "virchow2"),
        ("Virchow2", "virchow2"),
        ("h0_mini", "h0-mini"),
        ("lunit", "lunit-vits8"),
    ],
)
def test_names_of_other_tools_are_understood(alias: str, name: str) -> None:
    assert find_preset(alias).name == name


def test_no_alias_means_two_presets() -> None:
    names = [name for preset in PRESETS.values() for name in (preset.name, *preset.aliases)]

    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


def test_an_unknown_name_lists_close_ones() -> None:
    with pytest.raises(EncoderError, match="Close: virchow"):
        find_preset("virchwo")


def test_the_table_of_encoders_tells_what_is_installed() -> None:
    table = {info.name: info for info in available_encoders()}

    assert table["filterbank"].installed
    assert table["filterbank"].needs == "nothing"
    assert set(PRESETS) < set(table)
    assert "terms accepted" in table["virchow2"].needs
    assert table["virchow2"].trained_mpps == (0.25, 0.5, 1.0, 2.0)


def test_timm_still_has_every_architecture() -> None:
    assert all(timm.is_model(preset.architecture) for preset in OF_TIMM)


def test_the_table_in_the_documentation_is_not_stale() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"

    # To write it again: python -m parfocal.encoders.loading
    assert encoders_table() in page.read_text()
