"""The trained head of places as a head that `predict` takes: the same numbers, by the way that every such head goes."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from parfocal.embed import EmbedSettings, create_embedding_set, load_encoders
from parfocal.evaluate.places.fitting import FittedPlaceArm
from parfocal.files import file_digest8
from parfocal.finetune.heads import LinearHead
from parfocal.finetune.place_goal import PlaceGoal
from parfocal.finetune.scorer import Scorer, part_widths
from parfocal.finetune.settings import FinetuneSettings
from parfocal.geometry import format_mpp
from parfocal.predict.facts import FORMAT_VERSION, ModelFacts, PlaceHeadFacts, PlacesTrainedOn
from parfocal.predict.head import TILES
from parfocal.predict.places.fit import mean_facts, target_facts
from parfocal.predict.places.head import PlaceHead, write_place_head
from parfocal.predict.source import describe_tiles
from parfocal.stats.regression import LinearModel
from parfocal.stats.whitening import AffineMap
from parfocal.store import open_set
from parfocal.version import __version__


def save_place_head(
    goal: PlaceGoal,
    scorer: Scorer,
    region_encoder: Path,
    how: EmbedSettings,
    scores: Mapping[int, Float64[np.ndarray, "column _unit"]],
    settings: FinetuneSettings,
    out: Path,
    *,
    grouped: bool,
) -> PlaceHead:
    """Write the head that places were learnt with into the folder `out`.

    Args:
        goal: what was learnt.
        scorer: the region encoder as it lies in `region_encoder`, and the head.
        region_encoder: its folder.
        how: how slides are embedded for it, the tuned encoder's spec and precision included.
        scores: of the held-out slides.
        settings: of the run.
        out: the folder.
        grouped: whether something said which slides come from one patient.
    """
    head, mpps = scorer.head, [format_mpp(mpp) for mpp in how.grid.mpps]
    assert isinstance(head, LinearHead)  # the only one that places have
    kind, _, beside = scorer.readout.partition("+")
    name = f"{region_encoder.name}/{kind}"
    blocks = [(kind, name)] if kind == "cls" else [(kind, f"{name}, {mpp}") for mpp in mpps]
    blocks += [(TILES, mpp) for mpp in mpps] if beside else []
    widths = part_widths(scorer.region, scorer.readout)
    mean, spread, weight = (one.detach().double().cpu().numpy() for one in (head.mean, head.sd, head.weight))
    maps, start = [], 0
    for width in widths:
        own = slice(start, start + width)
        # Blocks that are put side by side are divided by this root, which the head's spreads hold already.
        root = (width * len(widths)) ** 0.5
        maps.append(AffineMap(mean[own] * (not goal.centre), root / spread[own]))
        start += width
    bias = head.bias.detach().double().cpu().numpy() * (not goal.centre)
    linear = LinearModel(weight.T * goal.scale, bias * goal.scale + goal.location)
    fitted = FittedPlaceArm(tuple(name for _, name in blocks), tuple(maps), linear, "standardised", None, goal.centre)
    with tempfile.TemporaryDirectory() as folder:
        tiles = describe_tiles(open_set(create_embedding_set(Path(folder), how, load_encoders(how))), how.encoder)
    data = goal.data
    found = goal.score(scores)
    slides = [goal.slides[number] for number in sorted(scores)]
    trained = [goal.slides[number] for number in goal.training]
    facts = PlaceHeadFacts(
        parfocal_head=FORMAT_VERSION,
        parfocal_version=__version__,
        kind="places",
        targets=target_facts(data, found, slides),
        arm="finetuned",
        arm_label=f"fine-tuned with its encoders, {scorer.readout}",
        blocks=tuple(blocks),
        tiles=tiles,
        model=ModelFacts(digest=scorer.region.digest, precision="float32", dtype="float32", read_mpps=how.grid.mpps),
        centred=goal.centre,
        preparation=fitted.preparation,
        penalty=None,
        trained_on=PlacesTrainedOn(
            places=sum(len(goal.regions[number]) for number in goal.training),
            slides=len(trained),
            groups=len({data.unit_of_slide[slide] for slide in trained}) if grouped else None,
            table=file_digest8(how.places) if how.places is not None and how.places.is_file() else None,
            notes=data.notes,
        ),
        metric=mean_facts(data, found, slides),
        settings=settings.model_dump(mode="json"),
        arrays_digest="",
    )
    return write_place_head(PlaceHead(facts, fitted, region_encoder, out), out)
