"""From slides and what is known of them to a tuned tile encoder with its region encoder: `finetune_encoder`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file

from parfocal.cohort import Cohort, LabelColumns, Target, read_cohort
from parfocal.embed import EmbedSettings
from parfocal.embed.kept import check_places
from parfocal.encoders import load_tile_encoder
from parfocal.encoders.loading import with_checkpoint
from parfocal.encoders.network import NetworkEncoder, choose_dtype
from parfocal.errors import ConfigError, MismatchError, ParfocalError
from parfocal.evaluate.metric import can_be_measured
from parfocal.files import digest8, file_digest8, writable_folder, write_csv, writing
from parfocal.finetune.goals import Goal
from parfocal.finetune.heads import new_head
from parfocal.finetune.loop import Training
from parfocal.finetune.place_goal import PlaceGoal, place_goal
from parfocal.finetune.place_head import save_place_head
from parfocal.finetune.reading import KeptTiles, TileReader
from parfocal.finetune.scorer import Scorer, part_widths
from parfocal.finetune.settings import FinetuneSettings
from parfocal.finetune.slide_goal import slide_goal
from parfocal.finetune.tuning import Tune, TunedEncoder
from parfocal.geometry import format_mpp
from parfocal.pretrain.metrics import read_metrics
from parfocal.pretrain.optimiser import choose_autocast
from parfocal.pretrain.setup import RunFolder, derived_seed, launch, start_weights
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig
from parfocal.regions import RegionPlan
from parfocal.regions.places import Places, read_places
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.run.failures import FailedSlide
from parfocal.run.jobs import attempt_slide
from parfocal.slides import SlideSource, find_slides
from parfocal.table import some_of

ENCODER_FILE, REGION_FOLDER = "encoder.safetensors", "region-encoder"
HEAD_FOLDER, HELD_OUT_FILE = "head", "held_out.csv"
_REGION, _TILES, _HEAD = 37, 38, 39  # streams of random numbers


@dataclass(frozen=True)
class FinetuneResult:
    """What came of a run.

    Attributes:
        out: its folder.
        was_finished: the same run had been finished before, so nothing was done.
        spec: how the tuned tile encoder is loaded.
        dtype: the precision that the region encoder expects it in.
        region_encoder: the folder of the region encoder.
        head: the folder of the head, which `predict` takes; None where slides were learnt.
        metric: the name of the number that says how well held-out slides are known.
        before: that number with the untuned encoders and a head that has learnt alone; None where nothing is held out
            or it cannot be measured.
        after: that number at the end.
        held_out: one sentence about what was held out.
    """

    out: Path
    was_finished: bool
    spec: str
    dtype: str
    region_encoder: Path
    head: Path | None
    metric: str
    before: float | None
    after: float | None
    held_out: str


def finetune_encoder(
    slides: Sequence[Path | str],
    out: Path,
    settings: FinetuneSettings,
    *,
    labels: Path | None = None,
    places: Path | None = None,
    targets: Sequence[str | Target] = (),
    columns: LabelColumns | None = None,
    model: str | Path | None = None,
    kept: KeptTiles | None = None,
    on_event: OnEvent | None = None,
) -> FinetuneResult:
    """Train a tile encoder, a region encoder and a head together, from pixels, and leave them in the folder `out`.

    A step draws some regions of some slides. All their tiles are embedded without a graph, the loss of the head gives
    gradients at the embeddings, and the tiles are embedded again a chunk at a time with these: memory for activations
    does not grow with the number of tiles. First the head learns alone, from untuned vectors. A killed run goes on from
    its last point when it is called again, and on the CPU its numbers are those of a run that was never killed.

    Args:
        slides: slide files, folders of them, or manifests.
        out: the folder of the run; made when absent.
        settings: how.
        labels: a table with a label for each slide; of `targets` there is one then.
        places: a file of places with targets inside slides, see `parfocal.regions.read_places`, in place of labels.
        targets: names of columns; of places several, or `all`.
        columns: the other columns of the labels; of places its `group` alone.
        model: a pretrained region encoder of the untuned tile encoder; a new one of `settings.size` where None.
        kept: prepared tiles of earlier runs in this process, such as of other folds, in place of `settings.cache_mib`.
        on_event: told of the progress, in the first process only; what it raises ends the run.

    Raises:
        ConfigError: what is asked for does not fit together, or the encoder cannot be tuned in this way.
        EncoderError: the tile encoder cannot be loaded.
        MismatchError: the folder holds another run, or the region encoder is of another tile encoder or grid.
        ParfocalError: the loss is no longer finite.
    """
    columns = columns or LabelColumns()
    if (labels is None) == (places is None) or not targets:
        raise ConfigError("say what is learnt: labels of slides or targets at places, one of the two, and the targets.")
    if labels is not None and len(targets) > 1:
        raise ConfigError(f"slides have one target, and {len(targets)} are named. Train one after the other.")
    if labels is not None and (settings.most_variable is not None or not settings.centre):
        raise ConfigError("--most-variable and --no-centre ask about places inside slides: they go with --places FILE.")
    fabric = launch(settings.device)
    tell = (on_event or warn_of) if fabric.is_global_zero else _nobody
    sources = {one.slide: one for one in find_slides(slides, ids=settings.ids)}
    encoder = _load_encoder(settings, str(fabric.device))
    _spec_of(settings, out)  # what cannot be named is said before hours of training
    # The precision in which `embed` runs the encoder on such a device where nothing else is said.
    dtype = str(choose_dtype(settings.encoder_dtype, fabric.device)).removeprefix("torch.")
    region = None if model is None else _load_region(model, settings, encoder, dtype)
    known = _read_known(labels, places, targets, columns, sources)
    identity = {
        "settings": settings.identity(),
        "encoder": encoder.digest,
        "model": None if region is None else region.digest,
        "known": _describe_known(known, labels or places, columns),
        "slides": sorted(sources),
    }
    writable_folder(out)
    folder = RunFolder(out, identity, verb="fine-tune", record="finetune.json", entry="finetuning")
    finished = fabric.broadcast(folder.claim() if fabric.is_global_zero else None)
    if not finished:
        kept = kept or KeptTiles(settings.cache_mib << 20)
        try:
            _train(fabric, folder, sources, encoder, dtype, region, known, columns, settings, kept, tell)
        except ParfocalError:
            if fabric.is_global_zero:
                folder.release()
            raise
    fabric.barrier()
    facts, rows = folder.finished(), read_metrics(folder.metrics)
    looks = [row["held_out"] for row in rows if "held_out" in row]
    return FinetuneResult(
        out,
        bool(finished),
        _spec_of(settings, out),
        facts.get("dtype", dtype),
        out / REGION_FOLDER,
        None if places is None else out / HEAD_FOLDER,
        facts.get("metric", ""),
        looks[0] if looks else None,
        looks[-1] if looks else None,
        facts.get("held_out", ""),
    )


def _nobody(event: object) -> None:
    """Listen to nothing: other processes than the first."""


def _load_encoder(settings: FinetuneSettings, device: str) -> NetworkEncoder:
    if not settings.encoder:
        raise ConfigError("no tile encoder is named. Use --encoder, such as efficientnet-lite0.")
    encoder = load_tile_encoder(settings.encoder, device=device, dtype="float32")
    if not isinstance(encoder, NetworkEncoder):
        raise ConfigError(f"cannot tune {settings.encoder}: it is no network of torch that takes other weights.")
    if 0 < settings.tiles_per_region < len(settings.grid.mpps):
        raise ConfigError(
            f"--tiles-per-region {settings.tiles_per_region} are fewer than the {len(settings.grid.mpps)} "
            "magnifications, and a region needs a tile of each."
        )
    if encoder.tile_px != settings.grid.tile_px:
        raise ConfigError(
            f"{settings.encoder} takes tiles of {encoder.tile_px} px and the grid cuts {settings.grid.tile_px} px. "
            f"Use --tile-px {encoder.tile_px} with a region side that fits it."
        )
    return encoder


def _load_region(model: str | Path, settings: FinetuneSettings, encoder: NetworkEncoder, dtype: str) -> RegionEncoder:
    """A pretrained region encoder, if it takes what will be embedded."""
    region = RegionEncoder.from_pretrained(model)
    config, grid = region.config, settings.grid
    found = [*map(format_mpp, config.mpps)], config.region_um, config.tile_px
    asked = [*map(format_mpp, grid.mpps)], grid.region_um, grid.tile_px
    if found != asked or set(config.dims) != {encoder.dim}:
        raise MismatchError(
            f"{model} takes regions of {found[1]:g} um with tiles of {found[2]} px at {', '.join(found[0])} mpp and "
            f"{config.dims} numbers; asked are {asked[1]:g} um, {asked[2]} px, {', '.join(asked[0])} mpp, and the "
            f"encoder gives {encoder.dim}."
        )
    digests = {digest8({**encoder.describe(), "dtype": one}) for one in ("float32", "bfloat16", "float16")}
    if not set(config.encoders) <= digests:
        raise MismatchError(
            f"{model} was trained on embeddings of another tile encoder ({', '.join(set(config.encoders))}) than "
            f"{settings.encoder} ({encoder.digest})."
        )
    return region


Known = Cohort | Places
"""What is known: labels of slides, or targets at places."""


def _read_known(
    labels: Path | None,
    places: Path | None,
    targets: Sequence[str | Target],
    columns: LabelColumns,
    sources: Mapping[str, SlideSource],
) -> Known:
    if labels is not None:
        return read_cohort(labels, targets[0], columns).restricted_to(sources, "the slides that are given")
    assert places is not None  # one of the two is there
    names = [one.name if isinstance(one, Target) else one for one in targets]
    group = [columns.group] if columns.group else []
    found = read_places(places, None if names == ["all"] else list(dict.fromkeys([*names, *group])))
    if not any(len(found.of(slide)) for slide in sources):
        raise ConfigError(
            f"no slide of {places} is given: it names {some_of(dict.fromkeys(found.slide))}, and given are "
            f"{some_of(sorted(sources))}."
        )
    return found


def _describe_known(known: Known, path: Path | None, columns: LabelColumns) -> dict[str, Any]:
    """What decides what is learnt, as plain values."""
    if isinstance(known, Cohort):
        outcome = known.outcome
        values = [*zip(known.slides, known.groups, outcome.value.tolist(), outcome.event.tolist(), strict=True)]
        return {"target": outcome.target, "kind": outcome.kind, "classes": outcome.classes, "labels": digest8(values)}
    names = sorted(known.targets)
    table = file_digest8(path) if path is not None and path.is_file() else None
    return {"targets": digest8(names), "places": len(known), "table": table, "group": columns.group}


def _train(
    fabric: Fabric,
    folder: RunFolder,
    sources: Mapping[str, SlideSource],
    encoder: NetworkEncoder,
    dtype: str,
    region: RegionEncoder | None,
    known: Known,
    columns: LabelColumns,
    settings: FinetuneSettings,
    kept: KeptTiles,
    tell: OnEvent,
) -> None:
    """Plan the slides, train, and write what came of it."""
    tuned = TunedEncoder(encoder, Tune.of(settings.tune), seed=derived_seed(settings.seed, _TILES)).to(fabric.device)
    # Processes may sit on machines of several kinds; the first decides for all.
    autocast, precision = fabric.broadcast(choose_autocast(settings.precision, fabric.device))
    # On a CPU the way back through a convolution takes twice as long in bfloat16 as in float32 (EfficientNet-Lite0, AMX
    # absent), and the way forth a third.
    by_itself = settings.precision == "auto" and fabric.device.type == "cpu"
    tuned.stem_autocast, tuned.autocast = autocast, autocast and not by_itself
    is_new = region is None
    region = (_new_region(settings, encoder) if region is None else region).to(fabric.device)
    opening = settings.model_dump(include={"slide_mpp", "mpp_from_objective", "ids", "scan"})
    at = known.path if isinstance(known, Places) else None
    if at is not None and settings.grid.overlaps:
        raise ConfigError(f"{at} says where regions lie, so --stride-um would do nothing. Leave it out.")
    how = EmbedSettings(encoder=settings.encoder, grid=settings.grid, places=at, **opening)
    check_places(list(sources.values()), how)
    made = digest8([encoder.digest, settings.tune, autocast, settings.grid.describe(), opening, str(at)])
    with TileReader(sources, how, tuned.prepare, chunk=settings.chunk, kept=kept, made=made) as reader:
        plans = _plan(reader, sources, known, tell)
        goal = _goal(known, plans, settings, fabric.device, columns, tell)
        drawn = torch.Generator().manual_seed(derived_seed(settings.seed, _HEAD))
        head = new_head(settings.head, sum(part_widths(region, settings.readout)), len(goal.names), drawn)
        scorer = Scorer(region, settings.readout, head.to(fabric.device))
        counts = sum(len(goal.regions[one]) for one in goal.training)
        tell(
            Notice(
                f"fine-tuning {settings.encoder} by {settings.tune} ({sum(p.numel() for p in tuned.trained):,} of its "
                f"weights) on {counts} {'places' if goal.at_places else 'regions'} of {len(goal.training)} slides; "
                f"{_held_out_sentence(goal)}; precision {precision}"
            )
        )
        training = Training(fabric, folder, goal, reader, tuned, scorer, settings, is_new=is_new, tell=tell)
        scores = training.run()
    if fabric.is_global_zero:
        device = str(fabric.device)
        spec = _write(folder, goal, tuned, scorer, dtype, scores, settings, device)
        if isinstance(goal, PlaceGoal):
            how = how.model_copy(update={"encoder": spec, "encoder_dtype": dtype, "device": (device,)})
            region_folder, grouped = folder.path / REGION_FOLDER, columns.group is not None
            head_folder = folder.path / HEAD_FOLDER
            save_place_head(goal, scorer, region_folder, how, scores, settings, head_folder, grouped=grouped)
        folder.finish(_facts(folder, goal, scorer, dtype))


def _new_region(settings: FinetuneSettings, encoder: NetworkEncoder) -> RegionEncoder:
    grid, levels = settings.grid, len(settings.grid.mpps)
    config = RegionEncoderConfig.of_size(
        settings.size,
        mpps=grid.mpps,
        dims=(encoder.dim,) * levels,
        encoders=(encoder.digest,) * levels,
        region_um=grid.region_um,
        tile_px=grid.tile_px,
        # LayerScale starts at 1e-4 for the sake of long training; in a few hundred steps it would never mix anything.
        layer_scale=1.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(settings.seed, _REGION))
        region = RegionEncoder(config)
        start_weights(region)
    return region


def _plan(reader: TileReader, sources: Mapping[str, SlideSource], known: Known, tell: OnEvent) -> dict[str, RegionPlan]:
    """The plan of every slide that something is known of; those that cannot be planned are left out and told."""
    wanted = known.slides if isinstance(known, Cohort) else [slide for slide in sources if len(known.of(slide))]
    plans, failed = {}, []
    for number, slide in enumerate(sorted(wanted)):
        tell(Progress("plan", number, len(wanted)))
        found = attempt_slide(sources[slide], partial(reader.plan, slide))
        if isinstance(found, FailedSlide):
            failed.append(found)
        elif found.n_regions:
            plans[slide] = found
    if failed:
        first = failed[0]
        text = f"{len(failed)} slides are left out, the first is {first.slide}: {first.error}: {first.message}"
        tell(Notice(text, is_warning=True))
    if not plans:
        raise ConfigError("no slide has a region to train on." + (f" {failed[0].message}" if failed else ""))
    return plans


def _goal(
    known: Known,
    plans: Mapping[str, RegionPlan],
    settings: FinetuneSettings,
    device: torch.device,
    columns: LabelColumns,
    tell: OnEvent,
) -> Goal:
    if isinstance(known, Cohort):
        of_slides = slide_goal(known.without(set(known.slides) - set(plans)), plans, settings, device)
        if len(of_slides.held_out) and not can_be_measured(of_slides.cohort.outcome.of(of_slides.held_out)):
            text = f"no two held-out slides differ in {known.target!r}, so {of_slides.metric} cannot be told of them."
            tell(Notice(f"{text} Hold out more.", is_warning=True))
        return of_slides
    goal, notes = place_goal(known, plans, settings, group=columns.group)
    for note in notes:
        tell(Notice(note, is_warning=True))
    return goal


def _held_out_sentence(goal: Goal) -> str:
    held = [goal.slides[one] for one in goal.held_out]
    return f"held out: {some_of(held)}" if held else "nothing is held out"


def _spec_of(settings: FinetuneSettings, out: Path) -> str:
    if settings.tune == "none":
        return settings.encoder
    # Absolute, for what is written with it is used from other folders too.
    return with_checkpoint(settings.encoder, out.absolute() / ENCODER_FILE)


def _write(
    folder: RunFolder,
    goal: Goal,
    tuned: TunedEncoder,
    scorer: Scorer,
    dtype: str,
    scores: Mapping[int, Any],
    settings: FinetuneSettings,
    device: str,
) -> str:
    """Write the tile encoder, the region encoder that expects it, and what was said of held-out slides; its spec."""
    out = folder.path
    if settings.tune != "none":
        with writing(out / ENCODER_FILE) as temporary:
            save_file(tuned.tensors(), temporary)
    spec = _spec_of(settings, out)
    digest = load_tile_encoder(spec, device=device, dtype=dtype).digest
    region = scorer.region.cpu()
    region.config = region.config.model_copy(update={"encoders": (digest,) * len(region.config.mpps)})
    region.save_pretrained(out / REGION_FOLDER)
    if scores:
        write_csv(out / HELD_OUT_FILE, *goal.table(scores))
    return spec


def _facts(folder: RunFolder, goal: Goal, scorer: Scorer, dtype: str) -> dict[str, Any]:
    return {
        **folder.identity,
        "tile_encoder": scorer.region.config.encoders[0],
        "dtype": dtype,
        "region_encoder": scorer.region.digest,
        "targets": list(goal.names),
        "trained_on": [goal.slides[one] for one in goal.training],
        "held_out_slides": [goal.slides[one] for one in goal.held_out],
        "held_out": _held_out_sentence(goal),
        "metric": goal.metric,
    }
