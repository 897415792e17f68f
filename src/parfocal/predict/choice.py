"""What a head takes from the sets that it is fitted on: an arm, its tile embeddings, and its region encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.errors import ConfigError
from parfocal.evaluate.arm import Arm, places_of
from parfocal.evaluate.arms import table_of_arms
from parfocal.predict.facts import ModelFacts
from parfocal.predict.source import is_made_by_model
from parfocal.region_encoder import RegionEncoder
from parfocal.store import EmbeddingSet, settings_digest


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
    arms = table_of_arms(sets)
    if models and not places_of(arms, asked):
        # Arms that train on a model; opened only where one of them is asked for.
        arms = table_of_arms(sets, models=models)
    places = places_of(arms, asked)
    if not places:
        raise ConfigError(f"there is no arm {asked!r}; these sets allow {', '.join(arm.id for arm in arms)}.")
    chosen = arms[places[0]]
    return chosen, [arms[place] for place in (chosen.average_of if chosen.pool is None else places)]


def tiles_of(branches: Sequence[Arm], sets: Sequence[EmbeddingSet]) -> EmbeddingSet:
    """The one set of tile embeddings that the branches come from in the end.

    Raises:
        ConfigError: it is not given, or there are several.
    """
    tiles = [one for one in sets if one.kind == "tiles" and not is_made_by_model(one)]
    found: dict[Path, EmbeddingSet] = {}
    for one in {number: sets[number] for branch in branches for number, _ in branch.bags}.values():
        if not is_made_by_model(one):
            found[one.path] = one
            continue
        sources = [each for each in tiles if settings_digest(each.settings) == one.settings["source_digest"]]
        if not sources:
            raise ConfigError(
                f"{one.name} was made of {one.settings['source']}, which is not among the given sets. "
                "Name its store too: a head says what new slides must be embedded with."
            )
        found[sources[0].path] = sources[0]
    if len(found) != 1:
        names = ", ".join(one.name for one in found.values())
        raise ConfigError(f"the arm reads {len(found)} sets of tile embeddings ({names}); a head can take one.")
    return next(iter(found.values()))


def model_of(branches: Sequence[Arm], sets: Sequence[EmbeddingSet], models: Sequence[Path]) -> HeadModel | None:
    """The region encoder that wrote the sets of the branches; None where tile embeddings are read as they are.

    Args:
        branches: arms with a probe.
        sets: what they read.
        models: folders, one of which must hold the model.

    Raises:
        ConfigError: none of them does, or several models are needed.
    """
    made = {number: sets[number] for branch in branches for number, _ in branch.bags if is_made_by_model(sets[number])}
    if not made:
        return None
    asked = {(one.settings["model_digest"], one.settings["precision"], one.content["dtype"]) for one in made.values()}
    if len(asked) != 1:
        raise ConfigError(f"the arm reads what {len(asked)} region encoders wrote; a head can hold one.")
    digest, precision, dtype = asked.pop()
    name = next(iter(made.values())).settings["model"]
    if not models:
        raise ConfigError(f"the arm reads what the region encoder {name} wrote. Name its folder: --model FOLDER.")
    for folder in models:
        if RegionEncoder.from_pretrained(folder, dtype=precision).digest == digest:
            return HeadModel(folder, ModelFacts(digest=digest, precision=precision, dtype=dtype))
    named = ", ".join(map(str, models))
    raise ConfigError(f"the arm reads what the region encoder {name} ({digest}) wrote, and {named} is another one.")
