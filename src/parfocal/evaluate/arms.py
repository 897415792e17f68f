"""The arms of an evaluation: which bags, which pooling, and under which heading; one table, one code path.

Every arm chooses inside its training fold among each preparation of its vectors x four strengths. Contrast is offered
sharpened directions and six numbers on top of that. Fine-tuning has no preparation to choose; it chooses between two
poolings instead.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parfocal.bags import (
    MOST_BYTES,
    PARENTS,
    PLACED,
    Bag,
    elsewhere_name,
    one_by_one,
    pseudo_name,
    read_bags,
    readout_label,
    seen_by,
)
from parfocal.errors import ConfigError, MismatchError, ParfocalWarning, PluginError
from parfocal.evaluate.arm import ARM_METHODS, ATTENTIVE, SPLIT, Arm, Knowledge, Method, choose_arms
from parfocal.evaluate.vectors import SLIDE_VECTOR, SlideVectors
from parfocal.geometry import format_mpp
from parfocal.heads.finetune import fit_finetuned
from parfocal.heads.moments import fit_moments
from parfocal.heads.registry import HEADS
from parfocal.region_encoder import RegionEncoder
from parfocal.region_encoder.checkpoint import read_pretraining, resolve
from parfocal.store import EmbeddingSet, LeftOut, SlideTokens


def table_of_arms(
    sets: Sequence[EmbeddingSet],
    *,
    only: Sequence[str] = (),
    models: Sequence[str | Path] = (),
    vectors: Sequence[str] = (),
) -> tuple[Arm, ...]:
    """What `choose_arms` chooses of all arms; arguments and errors as in `all_arms`."""
    return choose_arms(all_arms(sets, models=models, vectors=vectors), only)


def all_arms(
    sets: Sequence[EmbeddingSet], *, models: Sequence[str | Path] = (), vectors: Sequence[str] = ()
) -> tuple[Arm, ...]:
    """All arms that the given sets allow, those of a heading following each other, and those by request too.

    Tile embeddings give every magnification alone, late fusion and the pairing of magnifications without a region
    encoder; what `represent` wrote gives the region encoder's arms.

    Args:
        sets: tile embeddings, and what region encoders made of them.
        models: region encoders (folders or ids on the hub) that are trained on, in every fold, from tile embeddings.
        vectors: the names of whole-slide encoders that slides have vectors of. Their bags are numbered after the sets.

    Raises:
        ConfigError: two arms could not be told apart.
        MismatchError: a model fits none of the sets of tiles.
        StoreError: a model cannot be read.
    """
    tiles = [number for number, one in enumerate(sets) if readout_label(one) is None]
    arms: list[Arm] = []
    for make in (_single_arms, _region_arms, _late_arms, _pairing_arms, _split_arms):
        for number in tiles:
            arms += make(_Tiles(number, sets[number], sets[number].name if len(tiles) > 1 else ""), arms)
    for number, one in enumerate(sets):
        if number not in tiles:
            arms += _region_encoder_arms(number, one)
    for model in models:
        finetuned = _finetuned_arm(sets, tiles, model)
        # Beside what the model wrote, where that is given too.
        beside = [place for place, arm in enumerate(arms) if arm.model == finetuned.model]
        arms.insert(beside[-1] + 1 if beside else len(arms), finetuned)
    for number, name in enumerate(vectors, start=len(sets)):
        arms += _vector_arms(number, name, _to_stand_beside(arms))
    doubled = [name for name, count in Counter(arm.id for arm in arms).items() if count > 1]
    if doubled:
        raise ConfigError(
            f"two arms would be called {doubled[0]!r}. Give models, sets and slide vectors folders of different names."
        )
    return tuple(arms)


def set_label(one: EmbeddingSet) -> str:
    """A short name of a set: its folder's, or model and readout of what a region encoder made."""
    readout = readout_label(one)
    return one.name if readout is None else f"{one.settings['model']}, {readout}"


def read_arm_bags(
    arms: Sequence[Arm],
    sets: Sequence[EmbeddingSet],
    slides: Sequence[str],
    *,
    most_instances: int,
    seed: int,
    left_out: LeftOut | None = None,
    vectors: Sequence[SlideVectors] = (),
    seen_as: Callable[[SlideTokens], Iterable[SlideTokens]] | None = None,
    most_bytes: int = MOST_BYTES,
) -> dict[tuple[int, str], Bag]:
    """The bags that some arm pools, each slide read once for each set, and shown as `read_bags` says of `seen_as`.

    Vectors of more than `most_bytes` in all are read again where they are asked for, those of the last sets first.

    With `left_out` a slide that cannot be read in one of the sets is in none of the bags, which then are those of the
    other slides. Of `vectors`, which have the numbers after the sets, every slide must have one.

    Raises:
        ConfigError: a slide cannot be pooled in one of the arms.
        StoreError: a slide is not done, or a file is damaged.
    """
    bags, left_out = dict[tuple[int, str], Bag](), left_out or LeftOut(strict=True)
    for number, one in enumerate(sets):
        names = list(dict.fromkeys(name for arm in arms for of_set, name in arm.bags if of_set == number))
        if names:
            found = read_bags(
                one,
                slides,
                names=names,
                most_instances=most_instances,
                seed=seed,
                left_out=left_out,
                seen_as=seen_as,
                most_bytes=most_bytes,
            )
            most_bytes = max(0, most_bytes - sum(bag.n_bytes for bag in found))
            bags |= {(number, bag.name): bag for bag in found}
    left_out.refuse_none_left(slides, "the cohort")
    asked = {key for arm in arms for key in arm.bags}
    for number, of_slides in enumerate(vectors, start=len(sets)):
        if (number, SLIDE_VECTOR) in asked:
            bags[number, SLIDE_VECTOR] = of_slides.bag(slides)
    return {key: bag.without(left_out.reasons) for key, bag in bags.items()}


@dataclass(frozen=True)
class _Tiles:
    """A set of tile embeddings of which arms are made: its number, and its name where there are several."""

    number: int
    tiles: EmbeddingSet
    name: str

    @property
    def mpps(self) -> list[str]:
        """Its magnifications by the names of their bags, the finest last."""
        return [format_mpp(mpp) for mpp in self.tiles.mpps]

    def arm(
        self, method: str, knows: Knowledge, family: str, name: str, bags: Sequence[str], source: str = "", **more: Any
    ) -> Arm:
        """One arm of the set, whose name stands before its source and behind what goes in."""
        return _arm(
            "/".join(part for part in (self.name, source) if part),
            method,
            knows,
            f"{name}, {self.name}" if self.name else name,
            family,
            bags=tuple((self.number, bag) for bag in bags),
            **more,
        )

    def each(self, methods: Sequence[str], knows: Knowledge, family: str) -> list[Arm]:
        """Every magnification alone."""
        return [
            self.arm(method, knows, family, _magnification(mpp), [format_mpp(mpp)], format_mpp(mpp))
            for mpp in self.tiles.mpps
            for method in methods
        ]


def _single_arms(one: _Tiles, _: Sequence[Arm]) -> list[Arm]:
    return one.each(["mean", "mlp", ATTENTIVE, "abmil", *_more("means", "tiles")], "single", "One magnification")


def _region_arms(one: _Tiles, _: Sequence[Arm]) -> list[Arm]:
    """What one magnification knows when it is known which of its tiles lie together: the controls of pairing."""
    family = "One magnification, with regions"
    arms = one.each(["second-moment"], "single, with regions", family)
    if len(one.mpps) < 2:
        return arms
    *coarser, finest = one.tiles.mpps
    name = f"{_magnification(finest)}, its means in place of {' + '.join(map(_times, coarser))}"
    bags = [*map(pseudo_name, coarser), format_mpp(finest)]
    methods = ("pseudo-coarse", "pseudo-contrast")
    return arms + [one.arm(method, "single, with regions", family, name, bags) for method in methods]


def _late_arms(one: _Tiles, arms: Sequence[Arm]) -> list[Arm]:
    if len(one.mpps) < 2:
        return []
    branches = tuple(
        place for place, arm in enumerate(arms) if arm.method == ATTENTIVE and arm.bags[0][0] == one.number
    )
    made = [
        one.arm(method, "late", "Late fusion of unordered bags", _listed(one.tiles), one.mpps)
        for method in ("concat", "concat-mlp", "late", "union")
    ]
    return [replace(arm, average_of=branches) if arm.pool is None else arm for arm in made]


def _pairing_arms(one: _Tiles, _: Sequence[Arm]) -> list[Arm]:
    if len(one.mpps) < 2:
        return []
    return [
        one.arm(
            method,
            "mixed",
            "Pairing without a region encoder",
            f"{_listed(one.tiles)}, tile embeddings",
            [PARENTS] if method == "parents" else one.mpps,
        )
        for method in ("parents", "contrast", "region-mlp", "bilinear", *_more("regions"))
    ]


def _split_arms(one: _Tiles, _: Sequence[Arm]) -> list[Arm]:
    """The arms that tell context from magnification, each with all that the one before it has, and their control."""
    if len(one.mpps) < 2:
        return []
    *coarser, finest = one.tiles.mpps
    fine, tiles = _magnification(finest), " + ".join(map(_times, coarser))
    alone = [one_by_one(format_mpp(finest))]
    context = [*alone, *(one_by_one(pseudo_name(mpp)) for mpp in coarser)]
    coarse = [*context, *(one_by_one(format_mpp(mpp)) for mpp in coarser)]
    told: Sequence[tuple[str, Knowledge, str, list[str]]] = (
        ("finest", "single", f"{fine}, tile by tile", alone),
        ("context", "single, with regions", f"{fine} and its means over {tiles}", context),
        ("everything", "mixed", f"{fine}, its means over {tiles}, and {tiles}", [*coarse, *one.mpps]),
        (
            "elsewhere",
            "late",
            f"{fine}, its means over {tiles}, and {tiles} of other regions",
            [*coarse, *map(elsewhere_name, coarser), format_mpp(finest)],
        ),
    )
    family = "Context or magnification"
    return [one.arm(method, knows, family, name, bags, SPLIT, pool=fit_moments) for method, knows, name, bags in told]


_READ_OUT: Mapping[str, str] = {
    "cls": "CLS of regions",
    "tokens": "contextual tokens",
    "decoded": "predicted tiles of regions, their mean,",
    "decoded-middle": "predicted tile in the middle of regions",
    "decoded-variance": "predicted tiles of regions, their variance,",
}
"""What a readout is called."""


def _region_encoder_arms(number: int, one: EmbeddingSet) -> list[Arm]:
    model, readout = str(one.settings["model"]), str(one.settings["readout"])
    is_control, several = one.settings.get("weights") == "random", len(one.mpps) > 1
    of_regions = one.kind == "regions"
    name = _READ_OUT.get(readout, f"{readout} readout of regions")
    if "predict_mpp" in one.settings:
        name = f"{name} at {_magnification(one.settings['predict_mpp'])}"
    if "read_mpps" in one.settings:
        name = f"{name}, of {_listed(one)}"
    return [
        _arm(
            f"{model}/{readout_label(one)}",
            method,
            "mixed" if several else "single, with regions",
            name,
            _family(model, one, is_control=is_control),
            bags=tuple((number, bag) for bag in (["region"] if of_regions else map(format_mpp, one.mpps))),
            model=model,
            readout=readout,
            is_control=is_control,
        )
        for method in (
            "mean",
            ATTENTIVE,
            "abmil",
            "contrast" if several and not of_regions else "second-moment",
            *_more("means", "tiles"),
        )
    ]


def _finetuned_arm(sets: Sequence[EmbeddingSet], tiles: Sequence[int], model: str | Path) -> Arm:
    """A model that is trained on, from the first set of tiles that it fits."""
    name, reasons = str(model).rstrip("/").rsplit("/", 1)[-1], []
    digest = RegionEncoder.from_pretrained(model).digest
    is_control = read_pretraining(resolve(model)).get("steps") == 0
    for number in tiles:
        try:
            seen = seen_by(sets[number], model)
        except MismatchError as error:
            reasons.append(str(error))
            continue
        return _arm(
            name,
            "finetune",
            "mixed" if len(seen.mpps) > 1 else "single, with regions",
            f"CLS of regions, {'trained from random weights' if is_control else 'fine-tuned'}",
            _family(name, seen, is_control=is_control),
            bags=((number, PLACED),),
            pool=fit_finetuned(model),
            model=name,
            is_control=is_control,
            reads=digest,
        )
    raise MismatchError(
        f"{model} cannot be fine-tuned: no set of tile embeddings fits it. {' '.join(reasons) or 'None is given.'}"
    )


def _vector_arms(number: int, name: str, beside: Arm | None) -> list[Arm]:
    """The vectors of a whole-slide encoder alone, and beside one of our arms of slide means.

    Both are read by the heads that read our means, so that what differs is what goes in.
    """
    family, own = f"Whole-slide encoder {name}", (number, SLIDE_VECTOR)
    arms = [
        _arm(name, method, "slide", f"slide vectors of {name}", family, bags=(own,))
        for method in ("mean", "mlp", *_more("means"))
    ]
    if beside is None:
        return arms
    made_by = f" by {beside.model}" if beside.model else ""
    title = f"the same beside {beside.name}{made_by}"
    bags = (own, *beside.bags)
    return arms + [_arm(f"{name}/beside", method, "slide", title, family, bags=bags) for method in ("mean", "mlp")]


def _to_stand_beside(arms: Sequence[Arm]) -> Arm | None:
    """The arm of slide means that a slide vector stands beside; nothing that is measured has a say in it.

    Contextual tokens of the first region encoder that has learnt and reads several magnifications, else what else one
    reads out, else the means of all magnifications, else the finest one.
    """
    means = [arm for arm in arms if arm.method in {"mean", "concat"} and not arm.is_control]
    made = sorted((arm for arm in means if arm.model), key=lambda arm: (arm.knows != "mixed", arm.readout != "tokens"))
    concat = [arm for arm in means if arm.method == "concat"]
    return next(iter([*made, *concat, *reversed(means)]), None)


def _arm(source: str, method: str, knows: Knowledge, name: str, family: str, **more: Any) -> Arm:
    """An arm that fits the head of its method; one that averages others has none."""
    how = ARM_METHODS[method] if method in ARM_METHODS else Method("", method)
    if not how.head:
        return Arm(source, method, knows, name, family, how.pooling, **more)
    head = HEADS.get(how.head)
    pool = more.pop("pool", head.fit)
    return Arm(
        source,
        method,
        knows,
        name,
        family,
        how.pooling or head.label,
        pool=pool,
        is_random=head.is_random,
        by_request=head.by_request,
        **more,
    )


def _more(*pools: str) -> list[str]:
    """The registered heads that no method above names and that pool so: new ones, and those of other packages.

    Of those that pool regions, the ones that take several magnifications. One that cannot be used is a warning: it must
    not take the other arms away.
    """
    known, more = {method.head for method in ARM_METHODS.values()}, []
    for name in HEADS.names:
        try:
            head = None if name in known else HEADS.get(name)
        except PluginError as error:
            warnings.warn(f"{error} Its arms are left out.", ParfocalWarning, stacklevel=2)
            continue
        if head is not None and head.fit and head.pools in pools and (head.takes_several or head.pools != "regions"):
            more.append(name)
    return more


def _family(model: str, seen: EmbeddingSet, *, is_control: bool) -> str:
    only = f", {_times(seen.mpps[0])} only" if len(seen.mpps) == 1 else ""
    return f"Region encoder {model}{only}{', random weights' if is_control else ''}"


def _times(mpp: float) -> str:
    return f"{10 / mpp:g}x"


def _magnification(mpp: float) -> str:
    return f"{_times(mpp)} ({format_mpp(mpp)} mpp)"


def _listed(one: EmbeddingSet) -> str:
    return " + ".join(map(_times, one.mpps))
