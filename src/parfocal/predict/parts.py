"""Heads that know slides which are read in part: training slides are shown whole, and again with less of them read.

Every way to pool can be fitted so, because what it sees are slides like others: those of one training slide have its
label and lie in its fold, outer and inner, and each training slide is shown equally often. Held-out slides are shown so
too: what a probability means is settled for every budget by itself, because scores of less that was read say less.

Slides that are read whole keep a probe of their own, fitted on whole ones alone: one for both may be worse on them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.bags import Bag, Filler, glance_at, mpps_behind, open_filler, read_in_part
from parfocal.errors import ConfigError, MismatchError
from parfocal.evaluate.arm import ARM_METHODS, Arm
from parfocal.predict.facts import ModelFacts, PartsFacts
from parfocal.predict.head import Head, load_head
from parfocal.predict.showings import Showings
from parfocal.predict.source import HeadModel, is_made_by_model
from parfocal.store import EmbeddingSet, SlideTokens
from parfocal.zoom import POLICIES, Policy, chosen, replayed


@dataclass(frozen=True, eq=False)
class ShownInPart(Showings):
    """How a training slide is seen: whole, and read to every one of some budgets.

    Attributes:
        budgets: shares of its finest tiles.
        policy: one that asks no head and no model; it says which tiles.
        seed: of policies that draw.
        filler: what fills the places of unread tiles; they are absent where None.
    """

    budgets: tuple[float, ...]
    policy: Policy
    seed: int
    filler: Filler | None = None

    @property
    def times(self) -> int:
        """How often a slide is shown."""
        return 1 + len(self.budgets)

    def __call__(self, tokens: SlideTokens) -> Iterator[SlideTokens]:
        """A slide that was read whole, first as it is, then in part; what is not read of it is never looked at."""
        yield tokens
        order = replayed(self.policy, tokens, glance_at(tokens, self.seed), budget=max(self.budgets))
        finest = tokens.mpps[-1]
        for budget in self.budgets:
            read = chosen(order, budget)
            part = read_in_part(tokens, read)
            if self.filler is not None:
                part = self.filler.fill(part, tokens.region[finest][~read], tokens.center_um[finest][~read])
            yield part

    def whole(self, bag: Bag) -> Bag:
        """The bag of the slides as they were read."""
        return bag.of_slides(range(0, len(bag.slides), self.times))


def shown_in_part(
    asked: PartsFacts,
    branches: Sequence[Arm],
    sets: Sequence[EmbeddingSet],
    slides: Sequence[str],
    models: Sequence[Path],
    *,
    seed: int,
) -> tuple[ShownInPart, HeadModel | None]:
    """How the training slides of an arm are seen, and the model that a head must keep for it.

    Args:
        asked: budgets, policy, and what is done about unread tiles.
        branches: the arm's, which have a probe.
        sets: all that are given.
        slides: of the cohort.
        models: folders; where unread tiles are to be filled in, one of them does it.
        seed: of policies that draw.

    Raises:
        ConfigError: the arm reads no finest tiles, or a region encoder, or knows parts without being shown them; coarse
            tiles are averaged from fine ones; a slide was read in part; there is no such policy; or not exactly one
            model is named.
        MismatchError: the model was trained on something else than the slides.
        StoreError: the model cannot be read.
    """
    numbers = {number for branch in branches for number, _ in branch.bags}
    tiles = sets[min(numbers)]
    if len(numbers) > 1 or is_made_by_model(tiles):
        raise ConfigError(
            f"--parts shows slides with less of their tiles read, and the arm {branches[0].id} reads what a region "
            "encoder made of all of them. Choose an arm of tile embeddings, such as concat."
        )
    finest = tiles.mpps[-1]
    if len(tiles.mpps) == 1 or not any(finest in mpps_behind(tiles, name) for arm in branches for _, name in arm.bags):
        raise ConfigError(
            f"--parts leaves out tiles of the finest of several magnifications, and the arm {branches[0].id} reads "
            "none of these. Leave it out: such a head gives the same for slides that were read in part."
        )
    if tiles.settings.get("coarse") == "derived":
        raise ConfigError(
            f"--parts leaves out fine tiles, and the coarse ones of {tiles.name} are averaged from all of these. Embed "
            "with --coarse native."
        )
    if asked.unread == "absent" and any(_is_contrast(arm) for arm in branches):
        raise ConfigError(
            f"--parts is not for the arm {branches[0].id}: a contrast head knows what was not read without being shown "
            "it. Leave it out, or add --unread decoded."
        )
    partly = [slide for slide in slides if tiles.reading(slide) is not None]
    if partly:
        raise ConfigError(
            f"--parts needs training slides that were read whole, and {len(partly)} of {len(slides)} in {tiles.name} "
            f"were not; the first is {partly[0]}. Embed them with --budget 1."
        )
    if asked.policy not in POLICIES or POLICIES.get(asked.policy).needs:
        names = ", ".join(one.name for one in POLICIES if not one.needs)
        raise ConfigError(f"--parts-by {asked.policy} is no policy that looks at the slide alone; these do: {names}.")
    filler, model = None, None
    if asked.unread == "decoded":
        if len(models) != 1:
            raise ConfigError(
                f"--unread decoded asks one pretrained model, and {len(models)} are named: --model FOLDER."
            )
        filler = open_filler(tiles, models[0])
        decoder = filler.decoder
        facts = ModelFacts(
            digest=decoder.model.digest,
            precision="float32",
            dtype=tiles.content["dtype"],
            read_mpps=filler.mpps,
            predict_mpp=decoder.mpp,
        )
        model = HeadModel(models[0], facts)
    return ShownInPart(asked.budgets, POLICIES.get(asked.policy), seed, filler), model


def filler_of_head(head: Head, tiles: EmbeddingSet, *, device: str) -> Filler | None:
    """What fills the places of unread tiles for a head that was fitted so; None where they stay absent.

    Args:
        head: keeps the model.
        tiles: what is predicted.
        device: where the model runs.

    Raises:
        MismatchError: the model in the head is not the one that it was fitted with, or not of these slides.
    """
    if not head.fills_in:
        return None
    assert head.model is not None  # a head that fills in keeps what does it
    assert head.facts.model is not None
    filler = open_filler(tiles, head.model, device=device)
    digest = filler.decoder.model.digest
    if digest != head.facts.model.digest:
        raise MismatchError(
            f"the head {head.path} is damaged: its region encoder is {digest} and was {head.facts.model.digest} when "
            "it was fitted. Copy or fit it again."
        )
    return filler


def usual_zoom(head: Path) -> str | Path:
    """By what `predict` reads slides in part where only a budget is named: as training slides were, or by the head.

    Raises:
        StoreError: there is no head, or it is damaged.
    """
    parts = load_head(head).facts.parts
    return head if parts is None else parts.policy


def _is_contrast(arm: Arm) -> bool:
    return arm.method in ARM_METHODS and ARM_METHODS[arm.method].head == "contrast"
