"""Slides one after the other, or several at a time elsewhere: a process that dies takes only its slide with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from parfocal.embed.settings import EmbedSettings, load_encoders
from parfocal.encoders import TileEncoder
from parfocal.errors import EncoderError
from parfocal.run.executor import Serial, Served
from parfocal.run.executors import lost_slide, slide_executor
from parfocal.run.failures import FailedSlide
from parfocal.run.processes import CannotStartError, Death, Tell, TimedOut
from parfocal.slides import SlideSource

Result = TypeVar("Result")

SlideWork = Callable[[Mapping[float, TileEncoder]], Callable[[SlideSource, Tell], Result]]
"""Given the encoders of a process, gives what is done there with each slide; it can be pickled."""


def each_slide(
    sources: Sequence[SlideSource],
    encoders: Mapping[float, TileEncoder],
    settings: EmbedSettings,
    work: SlideWork[Result],
    on_told: Callable[[SlideSource, Any], None] | None = None,
) -> Iterator[tuple[SlideSource, Result | FailedSlide]]:
    """Do a work on every slide, where the settings say, and hand out each result as it comes.

    A slide whose process dies is tried once more, alone; where that dies too it is a failure, and the run goes on.

    Args:
        sources: the slides.
        encoders: those of this process; the others load their own.
        settings: the settings of the run.
        work: what to do.
        on_told: given a slide and what its work told; of other processes about twice a second.

    Raises:
        ConfigError: the script that calls this has no main guard, so that processes cannot be started.
        EncoderError: no process can load the encoders.
    """
    executor = slide_executor(settings, settings.device)
    if isinstance(executor, Serial):
        prepare: Callable[[str], Callable[[SlideSource, Tell], Result]] = lambda device: work(encoders)  # noqa: E731
    else:
        prepare = Encoders(settings, work)
    try:
        for source, result in executor.run(sources, prepare, on_told):
            if isinstance(result, Death | TimedOut):
                yield source, lost_slide(source, result, "embedded", ", or try it alone with a smaller --batch.")
            else:
                yield source, result
    except CannotStartError as error:
        raise EncoderError(
            f"a worker process cannot load the encoder {settings.encoder}: {error}. "
            "--workers 0 loads it in this process and shows more; fewer workers need less memory."
        ) from error


@dataclass(frozen=True)
class Encoders(Served):
    """The encoders of a process, or of a device that several processes read for.

    Attributes:
        settings: which.
        job: what is done with them.
    """

    settings: EmbedSettings
    job: SlideWork[Any]

    def load(self, device: str) -> Mapping[float, TileEncoder]:
        """The encoder of each magnification."""
        return load_encoders(self.settings.model_copy(update={"device": (device,)}))

    def work(self, loaded: Mapping[float, TileEncoder]) -> Callable[[SlideSource, Tell], Any]:
        """What is done with each slide."""
        return self.job(loaded)

    def facts(self, loaded: Mapping[float, TileEncoder]) -> dict[float, dict[str, Any]]:
        """What is known of each encoder without its network."""
        names = ("name", "spec", "dim", "tile_px", "trained_mpps", "symmetry")
        return {
            mpp: {**{name: getattr(one, name) for name in names}, "described": one.describe()}
            for mpp, one in loaded.items()
        }

    def answer(self, loaded: Mapping[float, TileEncoder], *asked: Any) -> Any:
        """The rows of tiles: asked are their magnification and they themselves."""
        mpp, tiles = asked
        return loaded[mpp].encode(tiles)

    def stand_in(self, facts: Mapping[float, Mapping[str, Any]], ask: Callable[..., Any]) -> dict[float, TileEncoder]:
        """Encoders that ask for their rows."""
        return {mpp: _Elsewhere(partial(ask, mpp), **own) for mpp, own in facts.items()}


class _Elsewhere(TileEncoder):
    """An encoder in another process of this machine."""

    def __init__(self, ask: Callable[[np.ndarray], np.ndarray], *, described: dict[str, Any], **facts: Any) -> None:
        self._ask, self._described = ask, described
        self.name, self.spec, self.dim = facts["name"], facts["spec"], facts["dim"]
        self.tile_px, self.trained_mpps = facts["tile_px"], facts["trained_mpps"]
        self.symmetry = facts["symmetry"]

    def describe(self) -> dict[str, Any]:
        return self._described

    def encode(self, tiles: UInt8[np.ndarray, "tile y x 3"]) -> Float32[np.ndarray, "tile dim"]:
        return self._ask(tiles)
