"""Which tile embeddings a head takes, and of which arm and region encoder: a refusal of everything else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.addresses import address_of, has_folders
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, load_encoders
from parfocal.encoders.loading import parse_encoder_specs, parse_spec
from parfocal.errors import ConfigError, EncoderError, MismatchError
from parfocal.evaluate.arm import Arm, places_of
from parfocal.evaluate.arms import all_arms
from parfocal.geometry import format_mpp
from parfocal.predict.facts import AnyHeadFacts, ModelFacts, TileFacts
from parfocal.region_encoder import RegionEncoder
from parfocal.store import EmbeddingSet, Source, only_mpps, open_sets, settings_digest
from parfocal.store.mirror import holds_store

_DTYPES = ("float32", "bfloat16", "float16")


def is_store(path: Path) -> bool:
    """Whether a path is a store or one of its sets, and not a folder of slides."""
    if (address := address_of(path)) is not None:
        return has_folders(address) and holds_store(address)
    return path.is_dir() and ((path / "settings.json").is_file() or any(path.glob("*/settings.json")))


def is_made_by_model(one: EmbeddingSet) -> bool:
    """Whether a region encoder wrote the set; else it holds the embeddings of tiles themselves."""
    return "model" in one.settings


def describe_tiles(one: EmbeddingSet, spec: str | None = None) -> TileFacts:
    """The facts about a set that a head keeps.

    Args:
        one: a set of tile embeddings.
        spec: how its encoder is loaded; read from its settings where None.
    """
    return TileFacts(
        encoder=str(one.settings.get("encoder", one.name)),
        encoder_digests={format_mpp(mpp): digest for mpp, digest in one.encoder_digests.items()},
        encoder_digest=one.encoder_digest,
        spec=_spec_of(one) if spec is None else spec,
        mpps=one.mpps,
        region_um=one.region_um,
        tile_px=int(one.content["tile_px"]),
        dtype=one.content["dtype"],
        settings=one.settings,
    )


def find_tiles(source: Source, facts: AnyHeadFacts, head: Path) -> EmbeddingSet:
    """The set of a store that a head takes; one that is open is checked as well.

    Of a set with more magnifications than a head with a region encoder was fitted on, it takes those.

    Raises:
        MismatchError: there is none; the text says in what the sets that are there differ.
        StoreError: there is no set at all.
    """
    sets = [one for one in open_sets(source) if one.kind == "tiles" and not is_made_by_model(one)]
    if not sets:
        raise MismatchError(f"{source} holds no tile embeddings, which the head {head} is for. Name their store.")
    if facts.model is not None:
        read = {format_mpp(mpp) for mpp in facts.tiles.mpps}
        sets = [only_mpps(one, facts.tiles.mpps if read <= {*map(format_mpp, one.mpps)} else ()) for one in sets]
    differing = [(one, _differences(facts.tiles, describe_tiles(one))) for one in sets]
    fitting = [one for one, difference in differing if not difference]
    if not fitting:
        found = "; ".join(f"{one.name} has {difference}" for one, difference in differing)
        raise MismatchError(f"the head {head} does not fit {source}: {found}. Embed the slides as the head expects.")
    if len(fitting) > 1:
        names = ", ".join(one.name for one in fitting)
        raise MismatchError(f"{source} holds {len(fitting)} sets that fit the head: {names}. Name the folder of one.")
    return fitting[0]


def refuse_other_tiles(one: EmbeddingSet, facts: TileFacts, head: Path) -> None:
    """Raise where a set is not what a head takes.

    Raises:
        MismatchError: it is not; the text names both.
    """
    difference = _differences(facts, describe_tiles(one))
    if difference:
        raise MismatchError(f"the head {head} does not fit {one.path}: it has {difference}.")


def embed_settings(facts: TileFacts, head: Path, *, encoder: str = "", **how: Any) -> EmbedSettings:
    """The settings that embed new slides as a head expects; the encoder is loaded once to see that it is the same.

    Args:
        facts: of the head.
        head: the folder, for messages.
        encoder: a spec in place of the head's own, such as for weights that lie elsewhere now.
        how: device, workers and the like.

    Raises:
        MismatchError: the encoder is another one.
        ConfigError: it is not known how to load the encoder, or it cannot be loaded.
    """
    if "grid" not in facts.settings:
        raise ConfigError(
            f"the head {head} was fitted on tiles that another program has cut, and how it would cut new slides is not "
            "known. Let it cut and embed them, and give their index in place of slides: parfocal index FOLDER -o store."
        )
    spec = encoder or facts.spec
    if spec is None:
        raise ConfigError(
            f"the head {head} takes embeddings of {facts.encoder} ({facts.encoder_digest}), and it is not known how to "
            "load it. Give a store in place of slides, or the encoder: --encoder SPEC."
        )
    if not encoder and any(parse_spec(one).kind == "python" for one in _specs_in(spec, facts)):
        raise ConfigError(
            f"the head {head} names Python code as its tile encoder ({spec}), which is not run because a file says so. "
            "If you trust it, say it yourself: --encoder SPEC. Or give a store in place of slides."
        )
    dtypes = {one.get("dtype") for one in facts.settings.get("encoders", {}).values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "auto"
    grid = {**facts.settings["grid"], "mpps": facts.mpps}
    if how.get("places") is not None:
        grid.pop("stride_um", None)  # places say where regions lie
    settings = EmbedSettings(
        encoder=spec,
        grid=GridConfig.model_validate(grid),
        coarse=facts.settings["coarse"],
        dtype=facts.dtype,
        **{"encoder_dtype": dtype if dtype in _DTYPES else "auto", **how},
    )
    try:
        encoders = load_encoders(settings)
    except EncoderError as error:
        raise ConfigError(
            f"the encoder of the head {head} cannot be loaded as {spec!r} ({error}) Say how: --encoder SPEC."
        ) from error
    found = {format_mpp(mpp): one.digest for mpp, one in encoders.items()}
    if found != facts.encoder_digests:
        names = ", ".join(sorted({one.name for one in encoders.values()}))
        digests = ", ".join(sorted(set(found.values())))
        raise MismatchError(
            f"the head {head} was fitted on embeddings of {facts.encoder} ({facts.encoder_digest}); "
            f"{spec} is {names} ({digests}), which is another encoder or another version of it."
        )
    return settings


def _specs_in(spec: str, facts: TileFacts) -> list[str]:
    """The spec of each magnification; none where the text cannot be taken apart, which loading will say."""
    try:
        return list(parse_encoder_specs(spec, facts.mpps).values())
    except EncoderError:
        return []


def _differences(expected: TileFacts, found: TileFacts) -> str:
    """In what two kinds of embeddings differ, one of them first; nothing where they are alike."""
    if found.encoder_digests != expected.encoder_digests and set(found.encoder_digests) == set(
        expected.encoder_digests
    ):
        return (
            f"embeddings of {found.encoder} ({found.encoder_digest}), and the head was fitted on those of "
            f"{expected.encoder} ({expected.encoder_digest})"
        )
    our_step, their_step = _steps(found, expected)
    pairs: list[tuple[str, Any, Any, str]] = [
        ("the magnifications", _listed(found.mpps), _listed(expected.mpps), "mpp"),
        ("regions of", f"{found.region_um:g}", f"{expected.region_um:g}", "um"),
        ("a region every", our_step, their_step, "um"),
        ("tiles of", _sides(found), _sides(expected), "px"),
        ("coarse tiles that are", found.settings.get("coarse"), expected.settings.get("coarse"), ""),
        ("the tissue share", _min_tissue(found), _min_tissue(expected), "from which a tile is kept"),
    ]
    for name, ours, theirs, unit in pairs:
        if ours != theirs:
            return f"{name} {ours} {unit}".rstrip() + f", and the head was fitted on {theirs} {unit}".rstrip()
    return ""


def _sides(facts: TileFacts) -> Any:
    """The pixels of a tile's side; of each magnification, in a set that was indexed and has several."""
    own = facts.settings.get("tile_px")
    return own if isinstance(own, list) else facts.tile_px


def _steps(*facts: TileFacts) -> list[str]:
    """From one region to the next; alike where regions of one of them lie on places."""
    if any(one.settings.get("regions") == "places" for one in facts):
        return [""] * len(facts)
    return [f"{one.settings.get('grid', {}).get('stride_um') or one.region_um:g}" for one in facts]


def _min_tissue(facts: TileFacts) -> Any:
    return facts.settings.get("grid", {}).get("min_tissue")


def _listed(mpps: tuple[float, ...]) -> str:
    return ", ".join(map(format_mpp, mpps))


def _spec_of(one: EmbeddingSet) -> str | None:
    """How the encoders that a set describes are loaded: by their names, which are specs where they need nothing else.

    What comes of it is compared by digest before it is used, so a guess can be refused but not go wrong.
    """
    described = one.settings.get("encoders")
    if not isinstance(described, dict) or not {"grid", "coarse"} <= one.settings.keys():
        return None  # features of another tool
    read = {format_mpp(mpp) for mpp in one.mpps}
    specs = {mpp: str(how.get("function", how.get("encoder"))) for mpp, how in described.items() if mpp in read}
    if len(set(specs.values())) == 1:
        return next(iter(specs.values()))
    return ",".join(f"{mpp}={spec}" for mpp, spec in specs.items())


@dataclass(frozen=True)
class HeadModel:
    """The region encoder that an arm reads its embeddings from."""

    folder: Path
    facts: ModelFacts


def find_arm(sets: Sequence[EmbeddingSet], models: Sequence[Path], asked: str) -> tuple[Arm, list[Arm]]:
    """The arm of an id, or of a label in a report; and the arms with a probe that it consists of, mostly itself.

    Raises:
        ConfigError: there is none; the text lists the ids.
        MismatchError: a model fits none of the sets.
    """
    arms = all_arms(sets)
    if models and not places_of(arms, asked):
        # Arms that train on a model; opened only where one of them is asked for.
        arms = all_arms(sets, models=models)
    places = places_of(arms, asked)
    if not places:
        raise ConfigError(f"there is no arm {asked!r}; these sets allow {', '.join(arm.id for arm in arms)}.")
    chosen = arms[places[0]]
    return chosen, [arms[place] for place in (chosen.average_of if chosen.pool is None else places)]


def sets_of(branches: Sequence[Arm], sets: Sequence[EmbeddingSet]) -> list[EmbeddingSet]:
    """The sets that arms read, each once."""
    return list({number: sets[number] for branch in branches for number, _ in branch.bags}.values())


def tiles_of(read: Sequence[EmbeddingSet], sets: Sequence[EmbeddingSet]) -> EmbeddingSet:
    """The one set of tile embeddings that what an arm reads comes from in the end.

    Where only a region encoder reads it, it has the magnifications that this one was given.

    Raises:
        ConfigError: it is not given, or there are several.
    """
    tiles = [one for one in sets if one.kind == "tiles" and not is_made_by_model(one)]
    found: dict[Path, EmbeddingSet] = {}
    for one in read:
        if not is_made_by_model(one):
            found[one.path] = one
            continue
        sources = [each for each in tiles if settings_digest(each.settings) == one.settings["source_digest"]]
        if not sources:
            raise ConfigError(
                f"{one.name} was made of {one.settings['source']}, which is not among the given sets. "
                "Name its store too: a head says what new slides must be embedded with."
            )
        found.setdefault(sources[0].path, only_mpps(sources[0], one.mpps))
    if len(found) != 1:
        names = ", ".join(one.name for one in found.values())
        raise ConfigError(f"the arm reads {len(found)} sets of tile embeddings ({names}); a head can take one.")
    return next(iter(found.values()))


def model_of(read: Sequence[EmbeddingSet], models: Sequence[Path]) -> HeadModel | None:
    """The region encoder that wrote the sets that an arm reads; None where tile embeddings are read as they are.

    Args:
        read: the sets.
        models: folders, one of which must hold the model.

    Raises:
        ConfigError: none of them does, or several models are needed.
    """
    made = [one for one in read if is_made_by_model(one)]
    if not made:
        return None
    asked = {
        ModelFacts(
            digest=one.settings["model_digest"],
            precision=one.settings["precision"],
            dtype=one.content["dtype"],
            read_mpps=one.mpps,
            predict_mpp=one.settings.get("predict_mpp"),
        )
        for one in made
    }
    if len(asked) != 1:
        raise ConfigError(f"the arm reads what {len(asked)} region encoders wrote; a head can hold one.")
    facts = asked.pop()
    name = made[0].settings["model"]
    if not models:
        raise ConfigError(f"the arm reads what the region encoder {name} wrote. Name its folder: --model FOLDER.")
    for folder in models:
        if RegionEncoder.from_pretrained(folder, dtype=facts.precision).digest == facts.digest:
            return HeadModel(folder, facts)
    named = ", ".join(map(str, models))
    raise ConfigError(
        f"the arm reads what the region encoder {name} ({facts.digest}) wrote, and {named} is another one."
    )
