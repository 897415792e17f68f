"""What an encoder computes for one tile, against counts by hand."""

from pathlib import Path

import numpy as np

from parfocal.budget.encoder import count_flops, flops_per_tile
from parfocal.encoders import load_tile_encoder
from parfocal.store import EmbeddingSet


def named_set(*specs: dict[str, object]) -> EmbeddingSet:
    """A set that is not there, whose settings say by which encoders it was made, coarse to fine."""
    mpps = [2.0, 0.5][: len(specs)]
    names = [f"{mpp:g}" for mpp in mpps]
    settings = {
        "encoder": "+".join(str(spec["encoder"]) for spec in specs),
        "encoders": dict(zip(names, specs, strict=True)),
        "grid": {},
        "coarse": "native",
    }
    content = {
        "kind": "tiles",
        "mpps": mpps,
        "dims": dict.fromkeys(names, 8),
        "encoder_digest": "0",
        "encoder_digests": dict.fromkeys(names, "0"),
        "region_um": 448.0,
        "tile_px": 224,
        "dtype": "float16",
        "settings": settings,
    }
    return EmbeddingSet(Path("tiles"), content, ())


def test_a_vision_transformer_computes_what_its_sizes_say_attention_included() -> None:
    encoder = load_tile_encoder("timm:vit_tiny_patch16_224,random=0", device="cpu", dtype="float32")
    width, tokens, layers = 192, 197, 12
    # Of a layer: queries, keys, values and output, 4 w^2 a token; the two layers behind, 8 w^2; and two products of
    # attention, tokens x tokens x w each. Before them 196 patches of 16 x 16 x 3.
    layer = tokens * 12 * width**2 + 2 * tokens**2 * width
    products = layers * layer + 196 * 16 * 16 * 3 * width

    assert count_flops(encoder) == 2 * products


def test_an_encoder_that_is_no_network_has_no_operations_and_the_note_says_so() -> None:
    flops, note = flops_per_tile(named_set({"encoder": "filterbank"}, {"encoder": "filterbank"}))

    assert flops is None
    assert "filterbank is no network of torch" in note


def test_magnifications_have_the_operations_of_their_own_encoders() -> None:
    lite, tiny = "efficientnet-lite0", "timm:vit_tiny_patch16_224,random=0"

    flops, note = flops_per_tile(named_set({"encoder": lite}, {"encoder": lite}), f"2={tiny},0.5={lite}")

    assert note == ""
    assert flops is not None
    assert flops[2.0] == count_flops(load_tile_encoder(tiny, device="cpu", dtype="float32"))
    # Counted with random weights, which change nothing.
    assert flops[0.5] == count_flops(load_tile_encoder(lite, device="cpu", dtype="float32"))


def test_an_encoder_that_cannot_be_loaded_is_told_in_one_note() -> None:
    flops, note = flops_per_tile(named_set({"encoder": "timm-resnet18"}))
    python, refused = flops_per_tile(named_set({"encoder": "mine", "function": "python:mine:encode"}))

    assert flops is None
    assert python is None
    assert "timm-resnet18" in note
    assert "not run because a file says so" in refused
    assert np.all([text.startswith("The encoder's operations are not counted: ") for text in (note, refused)])
