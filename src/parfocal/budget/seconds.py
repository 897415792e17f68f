"""What embedding takes on the clock: a few slides, whole, at the finest magnification alone, and to each budget."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parfocal.budget.encoder import specs_of
from parfocal.budget.result import Seconds
from parfocal.config import WAYS_TO_TISSUE, GridConfig
from parfocal.embed import EmbedSettings, Zoom, embed_slides, load_encoders
from parfocal.embed.settings import SlideOpening
from parfocal.encoders.loading import parse_encoder_specs
from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.geometry import format_mpp
from parfocal.run.events import Event, Notice, OnEvent, Progress
from parfocal.slides import find_slides
from parfocal.store import EmbeddingSet
from parfocal.zoom import Policy

ROUNDS = 3
"""How often each way is timed, in turns."""


def embed_again(
    source: EmbeddingSet, slides: Sequence[Path], encoder: str, device: str, opening: SlideOpening | None = None
) -> EmbedSettings:
    """How slides are embedded as those of a set were, but for coarse tiles, which come from the slides' own levels.

    The slides are looked for and the encoder is loaded, so that what cannot be measured is said before anything is.

    Args:
        source: a set of tile embeddings.
        slides: files, folders or manifests.
        encoder: the spec that the set was embedded with; told by its settings where empty.
        device: where the encoder runs.
        opening: how the slides are opened.

    Raises:
        ConfigError: a slide is not there, or the set does not say how it was embedded.
        EncoderError: the encoder cannot be loaded.
        MismatchError: it is another one than that of the set.
    """
    opening = opening or SlideOpening()
    find_slides(slides, ids=opening.ids)
    specs = specs_of(source, encoder)
    grid = source.settings.get("grid")
    if grid is None or grid.get("tissue", "default") not in WAYS_TO_TISSUE:
        what = "its grid" if grid is None else "where the masks of its tissue are"
        raise ConfigError(f"seconds cannot be measured: {source.name} does not say {what}. Leave --timed out.")
    settings = EmbedSettings(
        **dict(opening),
        encoder=",".join(f"{format_mpp(mpp)}={spec}" for mpp, spec in specs.items()),
        grid=GridConfig.model_validate({**grid, "mpps": source.mpps}),
        coarse="native",
        dtype=source.content["dtype"],
        encoder_dtype=_dtype_of(source),
        device=(device,),
        qc=False,
    )
    found = {mpp: one.digest for mpp, one in load_encoders(settings).items()}
    if found != source.encoder_digests:
        raise MismatchError(
            f"seconds cannot be measured: {source.name} was embedded with {source.encoder_digest}, and "
            f"{', '.join(dict.fromkeys(specs.values()))} is {', '.join(dict.fromkeys(found.values()))}. Name its "
            "encoder: --encoder SPEC."
        )
    return settings


def _dtype_of(source: EmbeddingSet) -> str:
    dtypes = {str(one.get("dtype")) for one in source.settings["encoders"].values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "auto"
    return dtype if dtype in ("float32", "bfloat16", "float16") else "auto"


def measure_seconds(
    slides: Sequence[Path],
    settings: EmbedSettings,
    policy: Policy,
    budgets: Sequence[float],
    seed: int,
    on_event: OnEvent,
) -> Seconds:
    """Embed slides in every way, in turns, into stores that are thrown away; the start of the encoder is counted.

    Args:
        slides: files, folders or manifests.
        settings: as `embed_again` gives them.
        policy: says what is read first; bound to what it needs.
        budgets: shares below 1.
        seed: of a policy that draws.
        on_event: told how many `timed runs` are done, and what looks wrong, once.

    Raises:
        StoreError: a slide could not be embedded.
    """
    *_, fine = settings.grid.mpps
    alone = settings.model_copy(
        update={
            "grid": settings.grid.model_copy(update={"mpps": (fine,)}),
            "encoder": parse_encoder_specs(settings.encoder, settings.grid.mpps)[fine],
        }
    )
    ways: dict[str, tuple[EmbedSettings, Zoom | None]] = {"whole": (settings, None), "finest": (alone, None)}
    ways |= {f"{one:g}": (settings, Zoom(policy.name, lambda: policy, one, seed)) for one in budgets}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    said, embedded = set[str](), tuple[str, ...]()

    def warnings_once(event: Event) -> None:
        if isinstance(event, Notice) and event.text not in said:
            said.add(event.text)
            on_event(event)

    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            for name, (how, zoom) in ways.items():
                started = time.monotonic()
                summary = embed_slides(
                    slides, Path(folder) / f"{name}-{number}", how, zoom=zoom, on_event=warnings_once
                )
                taken[name].append(time.monotonic() - started)
                if summary.failed:
                    first = summary.failed[0]
                    raise StoreError(f"no seconds could be measured: {first.slide} failed: {first.message}")
                on_event(Progress("timed runs", sum(map(len, taken.values())), ROUNDS * len(ways), name))
                embedded = tuple(one.slide for one in summary.done)
    per_slide = {name: float(np.median(own)) / len(embedded) for name, own in taken.items()}
    at = {one: per_slide[f"{one:g}"] for one in budgets}
    return Seconds(embedded, ROUNDS, policy.name, per_slide["whole"], per_slide["finest"], at)
