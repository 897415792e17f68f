"""Every arm read by the same ridge: principal components of each of its blocks, and one penalty chosen inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.errors import ConfigError
from parfocal.evaluate.places.reading import PlaceData, around, elsewhere, is_tiles, model_blocks, model_name, noise
from parfocal.geometry import format_mpp
from parfocal.stats.regression import Ridge
from parfocal.stats.whitening import Whitening, fit_whitening
from parfocal.store import EmbeddingSet
from parfocal.table import some_of

PlaceKind = Literal["single", "mixed", "context", "control", "region encoder"]
# The arms that a gain is split by, beside the finest magnification alone.
_SPLIT = ("context", "mixed+context")
_PENALTIES = tuple(float(10**power) for power in np.arange(-2.0, 3.01, 0.5))
_PREPARATIONS = ("rotated", "whitened")


@dataclass(frozen=True)
class PlaceArm:
    """One way to describe a place.

    Attributes:
        id: the word for it.
        name: what it is, for people.
        kind: what it can know. `context` is fine tiles around the place and no coarse pixel.
        blocks: what is put side by side, by the names of `PlaceData.blocks`.
    """

    id: str
    name: str
    kind: PlaceKind
    blocks: tuple[str, ...]


def arms_at_places(sets: Sequence[EmbeddingSet], only: Sequence[str] = ()) -> tuple[PlaceArm, ...]:
    """The arms that tell context from magnification, and those of the region encoders among the sets.

    Args:
        sets: one of tiles, and what `represent` made of it.
        only: ids of arms beside those that split the gain; none stands for all.

    Raises:
        ConfigError: there is no such arm.
    """
    [tiles] = [one for one in sets if is_tiles(one)]
    names = [format_mpp(mpp) for mpp in tiles.mpps]
    finest, coarser = names[-1], tiles.mpps[:-1]
    arms = [PlaceArm(name, f"{name} mpp alone", "single", (name,)) for name in names]
    if coarser:
        means = tuple(around(mpp) for mpp in coarser)
        arms += [
            PlaceArm("mixed", "all magnifications", "mixed", tuple(names)),
            PlaceArm("context", f"{finest} mpp and means of its tiles around", "context", (finest, *means)),
            PlaceArm("mixed+context", "all magnifications and means of fine tiles around", "mixed", (*names, *means)),
            PlaceArm(
                "elsewhere",
                f"{finest} mpp and coarse tiles of other places of the slide",
                "control",
                (finest, *map(elsewhere, coarser)),
            ),
            PlaceArm("noise", f"{finest} mpp and noise as wide", "control", (finest, *map(noise, coarser))),
        ]
    for one in sets:
        if not is_tiles(one):
            name = model_name(one)
            what = f"{name} of {' and '.join(map(format_mpp, one.mpps))} mpp"
            arms += [
                PlaceArm(name, what, "region encoder", model_blocks(one)),
                PlaceArm(
                    f"{name}+mixed", f"{what} and all magnifications", "region encoder", (*model_blocks(one), *names)
                ),
            ]
    unknown = [word for word in only if word not in {arm.id for arm in arms}]
    if unknown:
        raise ConfigError(f"there is no arm {unknown[0]!r}; at places there are {', '.join(arm.id for arm in arms)}.")
    kept = {*only, finest, *_SPLIT}
    return tuple(arm for arm in arms if not only or arm.id in kept)


@dataclass(frozen=True, eq=False)
class PlacePredictions:
    """What an arm says of every place while its group is held out.

    Attributes:
        value: of each target; NaN where a target was not chosen in that place's fold.
        candidates: what the inner folds preferred, one text for each fold.
    """

    value: Float64[np.ndarray, "place target"]
    candidates: tuple[str, ...]


def deal_groups(groups: Int64[np.ndarray, " place"], folds: int, seed: int) -> Int64[np.ndarray, " place"]:
    """The fold of each place; groups stay whole, and each is a fold of its own where there are no more than `folds`."""
    names = np.unique(groups)
    order = np.random.default_rng([seed, 12]).permutation(len(names))
    fold_of = np.empty(len(names), dtype=np.int64)
    fold_of[order] = np.arange(len(names)) % folds
    return fold_of[np.searchsorted(names, groups)]


def _deal_named(groups: Sequence[str], hold_out: Sequence[str]) -> Int64[np.ndarray, " place"]:
    """A fold for each named group; -1 for the places of the others, which are never held out."""
    unknown = [name for name in hold_out if name not in groups]
    if unknown:
        raise ConfigError(
            f"there is no slide or group {unknown[0]!r} to hold out; there are {some_of(sorted(set(groups)))}."
        )
    number = {name: fold for fold, name in enumerate(dict.fromkeys(hold_out))}
    return np.array([number.get(group, -1) for group in groups], dtype=np.int64)


def predict_held_out(
    data: PlaceData,
    arms: Sequence[PlaceArm],
    *,
    folds: int,
    inner_folds: int,
    components: int,
    centred: bool,
    most_variable: int | None,
    hold_out: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, PlacePredictions]:
    """Predict every place by models that have not seen its group.

    Targets are divided by their spread over the training places, so that each counts the same, and with `centred`
    vectors and targets are centred within their slide: the question is then which places of a slide have more of
    something, and neither stain nor the level of a slide can answer it. The preparation and the penalty of the ridge,
    one for all targets, are those that predict inner held-out groups best.

    Args:
        data: the places.
        arms: what is compared; all have the same components a block, the same candidates and the same folds.
        folds: as in `deal_groups`.
        inner_folds: likewise, among the training groups.
        components: principal components of each block.
        centred: whether everything is centred within slides.
        most_variable: how many targets to keep in each fold: those that vary most at its training places. None: all.
        hold_out: groups to hold out, each a fold of its own, in place of folds of all.
        seed: of the folds, and of the components where a block is large.

    Raises:
        ConfigError: there is no such group.
    """
    slide = data.slide_numbers
    target = _centred(data.target, slide) if centred else data.target
    dealt = deal_groups(data.group_numbers, folds, seed) if not hold_out else _deal_named(data.groups, hold_out)
    values = {arm.id: np.full(data.target.shape, np.nan) for arm in arms}
    candidates: dict[str, list[str]] = {arm.id: [] for arm in arms}
    for fold in np.unique(dealt[dealt >= 0]):
        train, test = np.flatnonzero(dealt != fold), np.flatnonzero(dealt == fold)
        spread = target[train].std(axis=0)
        chosen = spread > 0
        if most_variable is not None:
            # Of what varies at all; classes and numbers in other units are better given apart.
            chosen &= spread >= np.sort(spread)[-min(most_variable, len(spread))]
        y = target[:, chosen] / spread[chosen]
        inner = deal_groups(data.group_numbers[train], inner_folds, seed)
        rows = _Rows(data, slide, centred, components, seed)
        for arm in arms:
            preparation, penalty = _choose(rows, arm, y, train, inner)
            x = rows.prepared(arm, train, preparation)
            model = Ridge.of(x[train], y[train]).at(penalty)
            values[arm.id][np.ix_(test, chosen)] = model.predict(x[test]) * spread[chosen]
            candidates[arm.id].append(f"{preparation}, penalty {penalty:g}")
    return {arm.id: PlacePredictions(values[arm.id], tuple(candidates[arm.id])) for arm in arms}


def _choose(
    rows: "_Rows",
    arm: PlaceArm,
    y: Float64[np.ndarray, "place target"],
    train: Int64[np.ndarray, " train"],
    inner: Int64[np.ndarray, " train"],
) -> tuple[str, float]:
    """The preparation and the penalty with the smallest squared error on inner held-out groups."""
    error: dict[tuple[str, float], float] = {}
    if len(np.unique(inner)) < 2:
        # One training group: its places one by one, in closed form.
        for preparation in _PREPARATIONS:
            ridge = Ridge.of(rows.prepared(arm, train, preparation)[train], y[train])
            for penalty in _PENALTIES:
                error[preparation, penalty] = float(ridge.left_out_error(penalty))
        return min(error, key=lambda candidate: error[candidate])
    for fold in np.unique(inner):
        seen, held = train[inner != fold], train[inner == fold]
        for preparation in _PREPARATIONS:
            x = rows.prepared(arm, seen, preparation)
            ridge = Ridge.of(x[seen], y[seen])
            for penalty in _PENALTIES:
                off = ridge.at(penalty).predict(x[held]) - y[held]
                key = (preparation, penalty)
                error[key] = error.get(key, 0.0) + float((off**2).sum())
    return min(error, key=lambda candidate: error[candidate])


class _Rows:
    """The blocks of all arms, prepared by what some places say; each preparation is made once."""

    def __init__(
        self, data: PlaceData, slide: Int64[np.ndarray, " place"], centred: bool, components: int, seed: int
    ) -> None:
        self._data, self._slide, self._centred = data, slide, centred
        self._components, self._seed = components, seed
        self._known: dict[tuple[str, bytes], tuple[np.ndarray, Whitening]] = {}

    def prepared(
        self, arm: PlaceArm, fitted_on: Int64[np.ndarray, " train"], preparation: str
    ) -> Float64[np.ndarray, "place input"]:
        """All places, by components of those that are named; each block has as much say as the others."""
        parts = []
        for name in arm.blocks:
            rows, found = self._components_of(name, fitted_on)
            chosen = found.rotated() if preparation == "rotated" else found.whitened()
            part = chosen.apply(rows)
            # A block's mean square is one number for one component, whatever the number of its components.
            parts.append(part / np.sqrt(part.shape[1] * len(arm.blocks)))
        return np.concatenate(parts, axis=1)

    def _components_of(self, name: str, fitted_on: Int64[np.ndarray, " train"]) -> tuple[np.ndarray, Whitening]:
        key = (name, fitted_on.tobytes())
        if key not in self._known:
            rows = self._data.blocks[name].astype(np.float64)
            rows = _centred(rows, self._slide) if self._centred else rows
            weight = 1.0 / np.bincount(self._slide)[self._slide[fitted_on]]
            found = fit_whitening(rows[fitted_on], weight, widest=self._components, centred=False, seed=self._seed)
            self._known[key] = (rows, found)
        return self._known[key]


def _centred(
    rows: Float64[np.ndarray, "place dim"], slide: Int64[np.ndarray, " place"]
) -> Float64[np.ndarray, "place dim"]:
    """The rows about the mean of their slide."""
    sums = np.zeros((int(slide.max()) + 1, rows.shape[1]))
    np.add.at(sums, slide, rows)
    return np.asarray(rows - (sums / np.bincount(slide)[:, None])[slide])
