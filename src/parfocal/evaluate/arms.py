"""The arms of an evaluation: which bags, which pooling, and under which heading; one table, one code path.

Every arm chooses inside its training fold among each preparation of its vectors x four strengths. Contrast is offered
sharpened directions and six numbers on top of that. Fine-tuning has no preparation to choose; it chooses between two
poolings instead.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from parfocal.bags import PARENTS, PLACED, Bag, pseudo_name, read_bags, seen_by
from parfocal.errors import ConfigError, MismatchError
from parfocal.evaluate.arm import ARM_METHODS, Arm, ArmKind, choose_arms
from parfocal.geometry import format_mpp
from parfocal.heads import Fit, fit_attention, fit_bilinear, fit_contrast, fit_mean, fit_mlp, fit_region_mlp
from parfocal.heads.finetune import fit_finetuned
from parfocal.region_encoder import RegionEncoder
from parfocal.region_encoder.checkpoint import read_pretraining, resolve
from parfocal.store import EmbeddingSet, LeftOut

__all__ = ["ARM_METHODS", "Arm", "ArmKind", "read_arm_bags", "set_label", "table_of_arms"]

MEAN, ATTENTION = "mean, linear model", "gated attention"
_MLP = "mean, one hidden layer"
_CONTRAST, _SECOND_MOMENT = "cross-scale contrast", "second moment of regions"


def table_of_arms(
    sets: Sequence[EmbeddingSet], *, only: Sequence[str] = (), models: Sequence[str | Path] = ()
) -> tuple[Arm, ...]:
    """All arms that the given sets allow, or those asked for, those of a heading following each other.

    Tile embeddings give every magnification alone, late fusion and the pairing of magnifications without a region
    encoder; what `represent` wrote gives the region encoder's arms.

    Args:
        sets: tile embeddings, and what region encoders made of them.
        only: words that `choose_arms` understands; none stands for all.
        models: region encoders (folders or ids on the hub) that are trained on, in every fold, from tile embeddings.

    Raises:
        ConfigError: a word asks for no arm, or two arms could not be told apart.
        MismatchError: a model fits none of the sets of tiles.
        StoreError: a model cannot be read.
    """
    tiles = [number for number, one in enumerate(sets) if _readout(one) is None]
    made = [number for number, one in enumerate(sets) if _readout(one) is not None]
    arms: list[Arm] = []
    for make in (_single_arms, _region_arms, _late_arms, _pairing_arms):
        for number in tiles:
            several = len(tiles) > 1
            arms += make(number, sets[number], _Naming(sets[number].name if several else ""), arms)
    for number in made:
        arms += _region_encoder_arms(number, sets[number])
    for model in models:
        finetuned = _finetuned_arm(sets, tiles, model)
        # Under the heading of what the model wrote, where that is given too.
        own = [place for place, arm in enumerate(arms) if arm.family == finetuned.family]
        arms.insert(own[-1] + 1 if own else len(arms), finetuned)
    doubled = [name for name, count in Counter(arm.id for arm in arms).items() if count > 1]
    if doubled:
        raise ConfigError(
            f"two arms would be called {doubled[0]!r}. Give models, and sets, folders of different names."
        )
    return choose_arms(arms, only)


def set_label(one: EmbeddingSet) -> str:
    """A short name of a set: its folder's, or model and readout of what a region encoder made."""
    readout = _readout(one)
    return one.name if readout is None else f"{one.settings['model']}, {readout}"


def read_arm_bags(
    arms: Sequence[Arm],
    sets: Sequence[EmbeddingSet],
    slides: Sequence[str],
    *,
    most_instances: int,
    seed: int,
    left_out: LeftOut | None = None,
) -> dict[tuple[int, str], Bag]:
    """The bags that some arm pools, each slide read once for each set.

    With `left_out` a slide that cannot be read in one of the sets is in none of the bags, which then are those of the
    other slides.

    Raises:
        ConfigError: a slide cannot be pooled in one of the arms.
        StoreError: a slide is not done, or a file is damaged.
    """
    bags, left_out = {}, left_out or LeftOut(strict=True)
    for number, one in enumerate(sets):
        names = list(dict.fromkeys(name for arm in arms for of_set, name in arm.bags if of_set == number))
        if names:
            for bag in read_bags(one, slides, names=names, most_instances=most_instances, seed=seed, left_out=left_out):
                bags[number, bag.name] = bag
    left_out.refuse_none_left(slides, "the cohort")
    return {key: bag.without(left_out.reasons) for key, bag in bags.items()}


class _Naming:
    """Names and ids of the arms of one set of tiles; with the set's own name where there are several."""

    def __init__(self, of_set: str) -> None:
        self._of_set = of_set

    def name(self, text: str) -> str:
        """With the set's name behind it."""
        return f"{text}, {self._of_set}" if self._of_set else text

    def id(self, text: str) -> str:
        """With the set's name before it."""
        return f"{self._of_set}/{text}" if self._of_set else text


def _single_arms(number: int, one: EmbeddingSet, naming: _Naming, _: Sequence[Arm]) -> list[Arm]:
    arms: list[Arm] = []
    pools: tuple[tuple[str, str, Fit], ...] = (
        ("mean", MEAN, fit_mean),
        ("mlp", _MLP, fit_mlp),
        ("abmil", ATTENTION, fit_attention),
    )
    for mpp in one.mpps:
        name, bags = naming.name(_magnification(mpp)), ((number, format_mpp(mpp)),)
        for method, pooling, pool in pools:
            own = naming.id(f"{format_mpp(mpp)}/{method}")
            arms.append(Arm(name, "One magnification", pooling, "single", bags, pool, id=own))
    return arms


def _region_arms(number: int, one: EmbeddingSet, naming: _Naming, _: Sequence[Arm]) -> list[Arm]:
    """What one magnification knows when it is known which of its tiles lie together: the controls of pairing."""
    family = "One magnification, with regions"
    arms = [
        Arm(
            naming.name(_magnification(mpp)),
            family,
            _SECOND_MOMENT,
            "single",
            ((number, format_mpp(mpp)),),
            fit_contrast,
            id=naming.id(f"{format_mpp(mpp)}/second-moment"),
            with_regions=True,
        )
        for mpp in one.mpps
    ]
    if len(one.mpps) < 2:
        return arms
    *coarser, finest = one.mpps
    name = naming.name(f"{_magnification(finest)}, its means in place of {' + '.join(map(_times, coarser))}")
    bags = (*((number, pseudo_name(mpp)) for mpp in coarser), (number, format_mpp(finest)))
    pools: tuple[tuple[str, str, Fit], ...] = (
        ("pseudo-coarse", "gated attention over all", fit_attention),
        ("pseudo-contrast", _CONTRAST, fit_contrast),
    )
    for method, pooling, pool in pools:
        arms.append(Arm(name, family, pooling, "single", bags, pool, id=naming.id(method), with_regions=True))
    return arms


def _late_arms(number: int, one: EmbeddingSet, naming: _Naming, arms: Sequence[Arm]) -> list[Arm]:
    if len(one.mpps) < 2:
        return []
    family, bags, name = "Late fusion of unordered bags", _all(number, one), naming.name(_listed(one))
    branches = tuple(place for place, arm in enumerate(arms) if arm.pooling == ATTENTION and arm.bags[0][0] == number)
    pools: tuple[tuple[str, str, Fit | None, tuple[int, ...]], ...] = (
        ("concat", "means side by side, linear model", fit_mean, ()),
        ("concat-mlp", "means side by side, one hidden layer", fit_mlp, ()),
        ("late", "one gated attention each, averaged", None, branches),
        ("union", "gated attention over all tiles", fit_attention, ()),
    )
    return [
        Arm(name, family, pooling, "late", bags, pool, average_of, id=naming.id(method))
        for method, pooling, pool, average_of in pools
    ]


def _pairing_arms(number: int, one: EmbeddingSet, naming: _Naming, _: Sequence[Arm]) -> list[Arm]:
    if len(one.mpps) < 2:
        return []
    family, name = "Pairing without a region encoder", naming.name(f"{_listed(one)}, tile embeddings")
    pools: tuple[tuple[str, str, Fit], ...] = (
        ("contrast", _CONTRAST, fit_contrast),
        ("region-mlp", "one hidden layer over each region, averaged", fit_region_mlp),
        ("bilinear", "low-rank products in each region, averaged", fit_bilinear),
    )
    beside = "gated attention, each tile beside its parents"
    parents = Arm(name, family, beside, "mixed", ((number, PARENTS),), fit_attention, id=naming.id("parents"))
    bags = _all(number, one)
    return [
        parents,
        *(Arm(name, family, pooling, "mixed", bags, pool, id=naming.id(method)) for method, pooling, pool in pools),
    ]


def _region_encoder_arms(number: int, one: EmbeddingSet) -> list[Arm]:
    model, readout = str(one.settings["model"]), _readout(one)
    family = _family(model, one, is_random=one.settings.get("weights") == "random")
    several = len(one.mpps) > 1
    contrast = ("second-moment", _SECOND_MOMENT)
    bags: tuple[tuple[int, str], ...] = ((number, "region"),)
    if one.kind == "regions":
        name = "CLS of regions" if readout == "cls" else f"{readout} readout of regions"
    else:
        name, bags = "contextual tokens", _all(number, one)
        contrast = ("contrast", _CONTRAST) if several else contrast
    pools: tuple[tuple[str, str, Fit], ...] = (
        ("mean", MEAN, fit_mean),
        ("abmil", ATTENTION, fit_attention),
        (*contrast, fit_contrast),
    )
    return [
        Arm(
            name,
            family,
            pooling,
            "mixed" if several else "single",
            bags,
            pool,
            id=f"{model}/{readout}/{method}",
            with_regions=not several,
        )
        for method, pooling, pool in pools
    ]


def _finetuned_arm(sets: Sequence[EmbeddingSet], tiles: Sequence[int], model: str | Path) -> Arm:
    """A model that is trained on, from the first set of tiles that it fits."""
    name, reasons = str(model).rstrip("/").rsplit("/", 1)[-1], []
    digest = RegionEncoder.from_pretrained(model).digest
    is_random = read_pretraining(resolve(model)).get("steps") == 0
    for number in tiles:
        try:
            seen = seen_by(sets[number], model)
        except MismatchError as error:
            reasons.append(str(error))
            continue
        several = len(seen.mpps) > 1
        return Arm(
            f"CLS of regions, {'trained from random weights' if is_random else 'fine-tuned'}",
            _family(name, seen, is_random=is_random),
            "mean or gated attention",
            "mixed" if several else "single",
            ((number, PLACED),),
            fit_finetuned(model),
            id=f"{name}/finetune",
            with_regions=not several,
            reads=digest,
        )
    raise MismatchError(
        f"{model} cannot be fine-tuned: no set of tile embeddings fits it. {' '.join(reasons) or 'None is given.'}"
    )


def _family(model: str, seen: EmbeddingSet, *, is_random: bool) -> str:
    only = f", {_times(seen.mpps[0])} only" if len(seen.mpps) == 1 else ""
    return f"Region encoder {model}{only}{', random weights' if is_random else ''}"


def _readout(one: EmbeddingSet) -> str | None:
    """The readout of a region encoder, None for the embeddings of tiles themselves."""
    value = one.settings.get("readout") if "model" in one.settings else None
    return None if value is None else str(value)


def _all(number: int, one: EmbeddingSet) -> tuple[tuple[int, str], ...]:
    return tuple((number, format_mpp(mpp)) for mpp in one.mpps)


def _times(mpp: float) -> str:
    return f"{10 / mpp:g}x"


def _magnification(mpp: float) -> str:
    return f"{_times(mpp)} ({format_mpp(mpp)} mpp)"


def _listed(one: EmbeddingSet) -> str:
    return " + ".join(map(_times, one.mpps))
