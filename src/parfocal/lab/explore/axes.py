"""What an axis of the design space may be, and which pretraining settings each of its values stands for."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parfocal.errors import ConfigError
from parfocal.pretrain import MaskSettings, PretrainSettings

REGION, TILES = "region_um", "tiles"
"""The two axes that change the data and not the training: the side of a region, and the set of tile embeddings."""

SHARED_BY_ALL = frozenset(
    {
        "seed",
        "holdout",
        "holdout_slides",
        "mpps",
        "device",
        "read_threads",
        "cache_mib",
        "checkpoint_every",
        "log_every",
        "monitor_every",
        "monitor_regions",
    }
)
"""Settings of pretraining that no cell may choose: where it runs, and what all cells are scored by."""

_MIX = ("random", "whole", "subtree", "coarse_only")
_DEFAULT_MIX = dict(zip(_MIX, MaskSettings().mix, strict=True))
_MIXES: dict[str, dict[str, float]] = {
    "mixed": _DEFAULT_MIX,
    "random": {"random": 1.0},
    "whole": {"whole": 1.0},
    "subtree": {"subtree": 1.0},
    "coarse-only": {"coarse_only": 1.0},
    "no-random": {**_DEFAULT_MIX, "random": 0.0},
}

AXES: dict[str, str] = {
    "objective": "mem, cmem, contrastive, or latent (targets from an averaged teacher)",
    "targets": "raw (standardised), whitened, or latent",
    "masks": f"a mix: {', '.join(_MIXES)}, or shares such as {{random: 1, whole: 2}}",
    "mask_rate": "the share that the random pattern hides: a number, or a smallest and a largest",
    "region_subsampling": "the share of visible tokens that is left out without being a target",
    REGION: "the side of a region: that of the set, or a whole multiple of it",
    TILES: "a set of the store, by its name or how the name begins: another tile encoder, or one per magnification",
    "projector": "shared or separate for each magnification",
    "trunk": "shared or separate for each magnification",
    "bottleneck": "the share of steps where the decoder sees only CLS and registers",
}
"""The axes that have a name of their own; any other setting of `pretrain` is an axis under its own name."""


@dataclass(frozen=True)
class Level:
    """A value of an axis.

    Attributes:
        label: how it is called in tables and in `cells`.
        changes: settings of `pretrain`, `region_um`, `tiles`, and what they become.
    """

    label: str
    changes: Mapping[str, Any]


def levels_of(axis: str, values: Any) -> tuple[Level, ...]:
    """The levels of an axis as a design writes them: a list of values, or a mapping of labels to values.

    Raises:
        ConfigError: pretraining has no such axis, or a value that it does not take.
    """
    _check_axis(axis)
    named = dict(values) if isinstance(values, Mapping) else {label_of(value): value for value in _listed(axis, values)}
    if not isinstance(values, Mapping) and len(named) < len(values):
        raise ConfigError(f"the axis {axis} names a value twice: {', '.join(map(label_of, values))}. Keep one.")
    if not named:
        raise ConfigError(f"the axis {axis} has no value. Give it some, or leave it out.")
    return tuple(Level(str(label), _changes(axis, value)) for label, value in named.items())


def _check_axis(axis: str) -> None:
    settings = [name for name in PretrainSettings.model_fields if name not in SHARED_BY_ALL]
    if axis in AXES or axis in settings:
        return
    if axis in SHARED_BY_ALL:
        raise ConfigError(f"{axis} cannot be an axis: it is the same for all cells, so that they can be compared.")
    known = [*AXES, *(name for name in settings if name not in AXES)]
    close = difflib.get_close_matches(axis, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(f"pretraining has no axis {axis!r}; it has {', '.join(known)}.{hint}")


def _changes(axis: str, value: Any) -> dict[str, Any]:
    match axis:
        case "objective":
            return {"objective": "mem", "targets": "latent"} if value == "latent" else {"objective": value}
        case "targets":
            return {"targets": "standardised" if value == "raw" else value}
        case "masks":
            return _mix_changes(value)
        case "mask_rate":
            return {"mask_rate": tuple(value) if isinstance(value, list | tuple) else (value, value)}
        case "region_subsampling":
            return {"token_dropout": value}
        case "region_um":
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"region_um={value!r} is not a side in micrometres.")
            return {REGION: float(value)}
        case "tiles":
            return {TILES: str(value)}
    return {axis: value}


def _mix_changes(value: Any) -> dict[str, Any]:
    mix = value if isinstance(value, Mapping) else _MIXES.get(value)
    if mix is None:
        raise ConfigError(
            f"masks={value!r} is no mix; choose one of {', '.join(_MIXES)}, or give shares of {', '.join(_MIX)}."
        )
    unknown = sorted(set(mix) - set(_MIX))
    if unknown:
        raise ConfigError(f"a mix of masks has no pattern {unknown[0]!r}; the patterns are {', '.join(_MIX)}.")
    return {f"mask_{pattern}": mix.get(pattern, 0.0) for pattern in _MIX}


def _listed(axis: str, values: Any) -> list[Any]:
    if not isinstance(values, list | tuple):
        raise ConfigError(f"the axis {axis} is {values!r}; write a list of values, or a mapping of labels to values.")
    return list(values)


def label_of(value: Any) -> str:
    """How a value is called where its axis gives it no name of its own."""
    if isinstance(value, list | tuple):
        return " to ".join(map(label_of, value))
    if isinstance(value, Mapping):
        return " ".join(f"{key} {label_of(one)}" for key, one in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
