"""From the word after `--zoom` to what is read of a slide: a policy, and the head or the model that it asks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from parfocal.bags import TileDecoder, open_decoder
from parfocal.embed import Glance, Stop, Zoom
from parfocal.embed.glance import Ranked
from parfocal.embed.zoom import IsSettled, split_shares
from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.files import digest8
from parfocal.geometry import format_mpp
from parfocal.predict.folder import is_head
from parfocal.predict.head import TILES, Head, load_head
from parfocal.zoom import POLICIES, HeadOfBags, PartReader, Policy


def zoom_by(text: str | Path, budget: float | Sequence[float], *, seed: int = 0, over_slides: bool = False) -> Zoom:
    """How `embed_slides` reads slides in part.

    Args:
        text: the name of a policy; `POLICY=FOLDER` for one that asks a head or a pretrained model, and
            `POLICY=HEAD,MODEL` for one that asks both; or that folder alone, which stands for the policy `contrast` or
            `attention` by the kind of head, and `entropy` of a model. A path is always a folder.
        budget: the share of each slide's planned finest tiles that is read, 0 to 1; or one for each magnification that
            is chosen among, coarse to fine, such as (0.3, 0.1). Magnifications before these are read whole.
        seed: of policies that draw.
        over_slides: the budget is the share of those of all slides that are given together, and is spent on the tiles
            that are worth most, whatever slide they are on; a slide may get none of it, or be read whole.

    Raises:
        ConfigError: there is no such policy, it needs a folder or has one that it does not need, what is in the folder
            cannot say where to look, a share is none, the policy does not compare tiles over slides, or it cannot
            choose at a coarser magnification.
        MismatchError: head and model are of different tile encoders.
        StoreError: the folder is absent or damaged.
    """
    policy, folders = _of_folder(text) if isinstance(text, Path) else _parse(text)
    if over_slides and not policy.over_slides:
        able = ", ".join(_word(one) for one in POLICIES if one.over_slides)
        raise ConfigError(
            f"the policy {policy.name} cannot spend a budget over slides: it says which tiles of a slide come first, "
            f"and not how these compare with tiles of another slide. Use one of {able}, or a budget of each slide."
        )
    coarser, finest = split_shares(budget)
    if coarser and not policy.by_levels:
        raise ConfigError(
            f"the policy {policy.name} asks about finest tiles and cannot choose among coarser ones. Name one share "
            "(--budget 0.1), or another policy."
        )
    loaded = _load(policy, folders)
    _bind(policy, loaded)  # what cannot say where to look is said before any slide is read
    digests = [one.digest if isinstance(one, Head) else digest8(one.describe()) for one in loaded]
    prepare = partial(_order, policy.name, *folders)
    shares = dict[str, float]() if over_slides else None
    bound = "+".join(digests)
    return Zoom(policy.name, prepare, finest, seed, bound, draws=policy.draws, shares=shares, coarser=coarser)


def zoom_until_settled(head: Path, *, at_most: float | Sequence[float] = 1.0, seed: int = 0) -> Zoom:
    """How `embed_slides` reads slides until a head's call of them is settled.

    Args:
        head: the folder of a head that was fitted with a rate of stopping.
        at_most: the largest share of a slide's planned finest tiles that is read, 0 to 1.
        seed: of policies that draw.

    Raises:
        ConfigError: the head does not say when a slide has been read far enough, or `at_most` is not one share.
        StoreError: the folder is absent or damaged.
    """
    fitted = load_head(head)
    if fitted.stopping is None:
        raise ConfigError(
            f"the head {head} does not say when a slide has been read far enough. Fit it with --stop-rate 0.05, or say "
            "how much is read (--budget)."
        )
    policy = fitted.stopping.policy
    zoom = zoom_by(f"{policy}={head}" if POLICIES.get(policy).needs else policy, at_most, seed=seed)
    return replace(zoom, stop=Stop(fitted.digest, fitted.stopping.rungs, partial(_question, head)))


def _question(folder: Path) -> Callable[[Glance], IsSettled]:
    """Whether the head in a folder has seen enough of a slide."""
    head = load_head(folder)
    rule, own = head.stopping, _head_of_tiles(head)
    assert rule is not None  # `zoom_until_settled` has looked

    def of_slide(glance: Glance) -> IsSettled:
        if not all(map(len, glance.coarse.features.values())):
            return _never  # a magnification has no tile, so nothing can be said before everything is read
        reader = PartReader.of(glance)

        def is_settled(rows: np.ndarray, there: np.ndarray, unread: np.ndarray, rung: int) -> bool:
            (score,) = reader.scores([own], rows, there, unread)
            return rule.is_settled(head.calibration.probability(score[None])[0], rung)

        return is_settled

    return of_slide


def _never(rows: np.ndarray, there: np.ndarray, unread: np.ndarray, rung: int) -> bool:
    return False


def _parse(text: str) -> tuple[Policy, tuple[Path, ...]]:
    name, equals, source = text.partition("=")
    if name in POLICIES:
        policy = POLICIES.get(name)
        folders = source.split(",") if len(policy.needs) > 1 else [source] * bool(equals)
        if len(folders) != len(policy.needs) or not all(folders):
            needed = " and of a ".join(policy.needs)
            form = f"{_word(policy)}, with the folder of a {needed}" if needed else f"{name} alone"
            raise ConfigError(f"--zoom {text} cannot be used: ask for {form}.")
        return policy, tuple(map(Path, folders))
    if not text or not Path(text).is_dir():
        words = ", ".join(map(_word, POLICIES))
        raise ConfigError(f"there is no policy {name!r} for --zoom, only {words}, and no folder of that name.")
    return _of_folder(Path(text))


def _word(policy: Policy) -> str:
    """How a policy is asked for, such as `stride`, `contrast=HEAD` and `value=HEAD,MODEL`."""
    return "=".join([policy.name, *([",".join(policy.needs).upper()] if policy.needs else [])])


def _of_folder(folder: Path) -> tuple[Policy, tuple[Path, ...]]:
    """The policy that a folder stands for."""
    if is_head(folder):
        return POLICIES.get(_usual(load_head(folder))), (folder,)
    try:
        _decoder(folder)
    except StoreError as error:
        raise ConfigError(f"--zoom {folder} is no folder of a head or of a pretrained model: {error}") from error
    return POLICIES.get("entropy"), (folder,)


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


def _order(name: str, *folders: Path) -> Callable[[Glance], Ranked]:
    policy = POLICIES.get(name)
    return _bind(policy, _load(policy, folders)).ranked


def _load(policy: Policy, folders: tuple[Path, ...]) -> "list[Head | TileDecoder]":
    needed = zip(policy.needs, folders, strict=True)
    return [load_head(folder) if need == "head" else _decoder(folder) for need, folder in needed]


def _bind(policy: Policy, loaded: "list[Head | TileDecoder]") -> Policy:
    for head in loaded:
        for decoder in loaded:
            if isinstance(head, Head) and isinstance(decoder, TileDecoder):
                _refuse_other_encoder(head, decoder)
    return (
        policy.bound(*(_head_of_tiles(one) if isinstance(one, Head) else one for one in loaded)) if loaded else policy
    )


def _refuse_other_encoder(head: Head, decoder: TileDecoder) -> None:
    config, expected = decoder.model.config, head.facts.tiles.encoder_digests
    for mpp, digest in zip(config.mpps, config.encoders, strict=False):  # models of before name none
        if expected.get(format_mpp(mpp), digest) != digest:
            raise MismatchError(
                f"the head {head.path} takes embeddings of {head.facts.tiles.encoder} "
                f"({expected[format_mpp(mpp)]}), and the model predicts those of another tile encoder ({digest}). "
                "Name a head and a model that were made of the same embeddings."
            )


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
