"""The tile encoder of a set: how it is loaded, and how much it computes for one tile."""

import numpy as np

from parfocal.encoders import TileEncoder, load_tile_encoder
from parfocal.encoders.loading import parse_encoder_specs, parse_spec
from parfocal.errors import ConfigError, EncoderError, ParfocalError
from parfocal.predict.source import describe_tiles
from parfocal.store import EmbeddingSet


def count_flops(encoder: TileEncoder) -> int:
    """The floating-point operations of one tile: products and sums of matrix products, convolutions and attention.

    Two for each multiplication with its addition, as torch counts them; what is done element by element is left out.
    0 for an encoder that does nothing of these in torch, such as one that is no network.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Torch does not count its fused attention on a CPU; taken apart into products it is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder.encode(np.full((1, encoder.tile_px, encoder.tile_px, 3), 255, dtype=np.uint8))
    return int(counter.get_total_flops())


def flops_per_tile(source: EmbeddingSet, encoder: str = "") -> tuple[dict[float, float] | None, str]:
    """The floating-point operations of one tile of each magnification, or None and why they are not known.

    A public network is built with random weights where it can be: they change no count, and nothing is downloaded.

    Args:
        source: a set of tile embeddings.
        encoder: the spec that it was embedded with; told by the set's settings where empty.
    """
    try:
        specs = specs_of(source, encoder)
        counts = {spec: float(count_flops(_any_weights(spec))) for spec in dict.fromkeys(specs.values())}
    except ParfocalError as error:
        return None, f"The encoder's operations are not counted: {error}"
    networkless = [spec for spec, count in counts.items() if not count]
    if networkless:
        return None, f"The encoder's operations are not counted: {networkless[0]} is no network of torch."
    return {mpp: counts[spec] for mpp, spec in specs.items()}, ""


def specs_of(source: EmbeddingSet, encoder: str) -> dict[float, str]:
    """The spec of each magnification.

    Raises:
        ConfigError: the set does not say it, or names code that nobody here has said to trust.
        EncoderError: it cannot be read.
    """
    spec = encoder or describe_tiles(source).spec
    if spec is None:
        raise ConfigError(
            f"{source.name} does not say how its encoder ({source.settings.get('encoder', 'of another tool')}) is "
            "loaded. Name it: --encoder SPEC."
        )
    specs = parse_encoder_specs(spec, source.mpps)
    if not encoder and any(parse_spec(one).kind == "python" for one in specs.values()):
        raise ConfigError(
            f"{source.name} names Python code as its encoder ({spec}), which is not run because a file says so. If you "
            "trust it, say it yourself: --encoder SPEC."
        )
    return specs


def _any_weights(text: str) -> TileEncoder:
    spec = parse_spec(text)
    if spec.kind == "preset" and not spec.options:
        try:
            return load_tile_encoder(f"{text},random=0", device="cpu", dtype="float32")
        except EncoderError:  # one that cannot be built without its weights
            pass
    return load_tile_encoder(text, device="cpu", dtype="float32")
