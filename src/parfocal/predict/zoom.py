"""From the word after `--zoom` to what is read of a slide: a policy, and the head or the model that it asks."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from parfocal.bags import TileDecoder, open_decoder
from parfocal.embed import Glance, Zoom
from parfocal.embed.glance import TileOrder
from parfocal.errors import ConfigError, StoreError
from parfocal.files import digest8
from parfocal.predict.folder import is_head
from parfocal.predict.head import TILES, Head, load_head
from parfocal.zoom import POLICIES, HeadOfBags, Policy


def zoom_by(text: str | Path, budget: float, *, seed: int = 0) -> Zoom:
    """How `embed_slides` reads slides in part.

    Args:
        text: the name of a policy; `POLICY=FOLDER` for one that asks a head or a pretrained model; or that folder
            alone, which stands for the policy `contrast` or `attention` by the kind of head, and `entropy` of a model.
            A path is always a folder.
        budget: the share of each slide's planned fine tiles that is read, 0 to 1.
        seed: of policies that draw.

    Raises:
        ConfigError: there is no such policy, it needs a folder or has one that it does not need, or the budget is no
            share.
        StoreError: the folder is absent or damaged.
    """
    policy, folder = _of_folder(text) if isinstance(text, Path) else _parse(text)
    if folder is None:
        return Zoom(policy.name, partial(_order, policy.name), budget, seed)
    _order(policy.name, folder)  # what cannot say where to look is said before any slide is read
    bound = load_head(folder).digest if policy.needs == "head" else digest8(_decoder(folder).describe())
    return Zoom(policy.name, partial(_order, policy.name, folder), budget, seed, bound)


def _parse(text: str) -> tuple[Policy, Path | None]:
    name, equals, source = text.partition("=")
    if name in POLICIES:
        policy = POLICIES.get(name)
        if (policy.needs == "nothing") == bool(equals) or bool(equals) != bool(source):
            form = f"{name} alone" if policy.needs == "nothing" else f"{name}=FOLDER, with a {policy.needs}"
            raise ConfigError(f"--zoom {text} cannot be used: ask for {form}.")
        return policy, Path(source) if source else None
    if not text or not Path(text).is_dir():
        words = (one.name if one.needs == "nothing" else f"{one.name}=FOLDER" for one in POLICIES)
        raise ConfigError(
            f"there is no policy {name!r} for --zoom, only {', '.join(words)}, and no folder of that name."
        )
    return _of_folder(Path(text))


def _of_folder(folder: Path) -> tuple[Policy, Path]:
    """The policy that a folder stands for."""
    if is_head(folder):
        return POLICIES.get(_usual(load_head(folder))), folder
    try:
        _decoder(folder)
    except StoreError as error:
        raise ConfigError(f"--zoom {folder} is no folder of a head or of a pretrained model: {error}") from error
    return POLICIES.get("entropy"), folder


def _usual(head: Head) -> str:
    """The policy of this kind of head."""
    kinds = {branch.probe for branch in head.facts.branches}
    found = [name for name, own in (("contrast", {"contrast"}), ("attention", {"attention", "abmil"})) if kinds <= own]
    if not found:
        raise ConfigError(
            f"the head {head.path} ({', '.join(sorted(kinds))}) does not say where to look. Use a contrast or an "
            "attention head, or a policy that needs none, such as stride."
        )
    return found[0]


def _order(name: str, folder: Path | None = None) -> Callable[[Glance], TileOrder]:
    policy = POLICIES.get(name)
    if folder is None:
        return policy
    return policy.bound(_head_of_tiles(load_head(folder)) if policy.needs == "head" else _decoder(folder))


def _head_of_tiles(head: Head) -> HeadOfBags:
    for probe, branch in zip(head.probes, head.facts.branches, strict=True):
        if len(head.probes) == 1 and all(source == TILES for source, _ in branch.bags):
            return HeadOfBags(probe, tuple(name for _, name in branch.bags))
    raise ConfigError(
        f"the head {head.path} cannot say where to look: it averages several classifiers or reads a region encoder. "
        "Use one that pools tile embeddings, such as that of the arm contrast."
    )


def _decoder(folder: Path) -> TileDecoder:
    return open_decoder(folder, ["decoded-variance"])
