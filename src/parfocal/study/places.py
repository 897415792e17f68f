"""A study of targets at places inside slides: what of it cannot work, found before anything long is done."""

from collections.abc import Collection, Iterable

from parfocal.errors import ConfigError
from parfocal.regions import read_places
from parfocal.regions.places import Places
from parfocal.study.settings import PlaceTargets
from parfocal.table import some_of


def check_targets(asked: PlaceTargets) -> str:
    """What the file of places holds, in a sentence; raise where it cannot be used, whatever slides there are.

    Raises:
        ConfigError: it cannot be read, or a target or the group is absent.
    """
    places = read_places(asked.file, _columns(asked))
    names = set(places.names if _takes_all(asked) else asked.targets) - {asked.group}
    return f"{asked.file.name}: {len(places):,} places of {len(set(places.slide)):,} slides, {len(names):,} targets"


def groups_at_places(asked: PlaceTargets, slides: Iterable[str]) -> dict[str, str]:
    """The group of every slide that has one by the file of places; none where no group is asked for.

    Raises:
        ConfigError: the places of a slide are of several groups.
    """
    return {} if asked.group is None else _groups_of(read_places(asked.file, [asked.group]), asked.group, slides)


def folds_at_places(asked: PlaceTargets, slides: Collection[str], folds: int) -> int:
    """How many folds there will be; raise where these slides cannot be held out one after another.

    Args:
        asked: the places.
        slides: those that have embeddings, or will.
        folds: that are asked for.

    Raises:
        ConfigError: no slide has a place, all places are of one group, a slide is of several, or there is none of those
            that are to be held out.
    """
    places = read_places(asked.file, [] if asked.group is None else [asked.group])
    places.check_names(sorted(slides))
    used = [slide for slide in sorted(slides) if len(places.of(slide))]
    if not used:
        raise ConfigError(
            f"no slide of {asked.file} has embeddings: it names {some_of(dict.fromkeys(places.slide))}, and there are "
            f"{some_of(sorted(slides))}."
        )
    of_slide = dict(zip(used, used, strict=True)) if asked.group is None else _groups_of(places, asked.group, used)
    groups = set(of_slide.values())
    if len(groups) < 2:
        raise ConfigError(
            f"all places of {asked.file} are of one group ({some_of(groups)}); nothing can be held out. Give places of "
            "several slides, or name another group."
        )
    unknown = [name for name in asked.hold_out if name not in groups]
    if unknown:
        raise ConfigError(
            f"there is no slide or group {unknown[0]!r} to hold out; there are {some_of(sorted(groups))}."
        )
    return len(asked.hold_out) or min(folds, len(groups))


def _columns(asked: PlaceTargets) -> list[str]:
    """The columns that must be there."""
    return [*([] if _takes_all(asked) else asked.targets), *([] if asked.group is None else [asked.group])]


def _takes_all(asked: PlaceTargets) -> bool:
    return asked.targets == ("all",)


def _groups_of(places: Places, group: str, slides: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for slide in slides:
        names = {str(name) for name in places.targets[group][places.of(slide)]} - {""}
        if len(names) > 1:
            raise ConfigError(f"the places of {slide} are of several groups ({some_of(sorted(names))}); it has one.")
        if names:
            found[slide] = names.pop()
    return found
