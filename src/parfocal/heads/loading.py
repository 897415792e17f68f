"""From plain data back to a probe that scores slides."""

from collections.abc import Callable, Mapping
from functools import partial

from parfocal.errors import MismatchError
from parfocal.heads.attention import AttentionNetwork
from parfocal.heads.base import FittedProbe, ProbeState
from parfocal.heads.bilinear import BilinearNetwork
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.finetuned import load_finetuned
from parfocal.heads.linear import FittedMean
from parfocal.heads.mlp import MeanNetwork, RegionNetwork
from parfocal.heads.network import load_network

__all__ = ["load_probe"]

_LOADERS: Mapping[str, Callable[[ProbeState], FittedProbe]] = {
    "mean": FittedMean.load,
    "contrast": FittedContrast.load,
    "attention": partial(load_network, AttentionNetwork()),
    "mlp": partial(load_network, MeanNetwork()),
    "region_mlp": partial(load_network, RegionNetwork()),
    "bilinear": partial(load_network, BilinearNetwork()),
    "finetuned": load_finetuned,
}


def load_probe(state: ProbeState) -> FittedProbe:
    """The probe whose `state()` this is.

    Raises:
        MismatchError: this version has no probe of that name.
    """
    if state.probe not in _LOADERS:
        raise MismatchError(
            f"there is no probe {state.probe!r} here, only {', '.join(sorted(_LOADERS))}; "
            "it was saved by another version of parfocal."
        )
    return _LOADERS[state.probe](state)
