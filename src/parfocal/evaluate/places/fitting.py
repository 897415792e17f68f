"""Every arm read by the same ridge: principal components of each of its blocks, and one penalty chosen inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from parfocal.errors import ConfigError
from parfocal.evaluate.places.reading import PlaceData, tiles_among
from parfocal.evaluate.places.rows import (
    around,
    elsewhere,
    is_tiles,
    model_blocks,
    model_blocks_around,
    model_name,
    noise,
)
from parfocal.evaluate.places.settings import PlaceFitSettings
from parfocal.geometry import format_mpp
from parfocal.stats.regression import LinearModel, Ridge
from parfocal.stats.whitening import AffineMap, Whitening, fit_whitening
from parfocal.store import EmbeddingSet
from parfocal.table import some_of

PlaceKind = Literal["single", "mixed", "context", "control", "region encoder"]
# The arms that a gain is split by, beside the finest magnification alone.
_SPLIT = ("context", "mixed+context")
_PENALTIES = tuple(float(10**power) for power in np.arange(-2.0, 3.01, 0.5))
_PREPARATIONS = ("rotated", "whitened")
# What centring leaves of a target that is the same at all places of a slide, over its size.
_ROUNDING = 1e-12


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
    tiles = tiles_among(sets)
    names = [format_mpp(mpp) for mpp in tiles.mpps]
    finest, coarser = names[-1], tiles.mpps[:-1]
    means = tuple(around(mpp) for mpp in coarser)
    arms = [PlaceArm(name, f"{name} mpp alone", "single", (name,)) for name in names]
    if coarser:
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
            own, beside = model_blocks(one), model_blocks_around(one, tiles)
            arms += [
                PlaceArm(name, what, "region encoder", own),
                PlaceArm(f"{name}+mixed", f"{what} and all magnifications", "region encoder", (*own, *names)),
            ]
            if beside:
                arms.append(
                    PlaceArm(f"{name}+around", f"{what} and means of its tokens around", "region encoder", own + beside)
                )
            if coarser:
                arms.append(
                    PlaceArm(
                        f"{name}+mixed+context",
                        f"{what}{' and means of its tokens around' if beside else ''}, all magnifications and means of "
                        "fine tiles around",
                        "region encoder",
                        (*own, *beside, *names, *means),
                    )
                )
    unknown = [word for word in only if word not in {arm.id for arm in arms}]
    if unknown:
        raise ConfigError(f"there is no arm {unknown[0]!r}; at places there are {', '.join(arm.id for arm in arms)}.")
    kept = {*only, finest, *_SPLIT}
    return tuple(arm for arm in arms if not only or arm.id in kept)


@dataclass(frozen=True, eq=False)
class FittedPlaceArm:
    """An arm that has been fitted on places and reads others.

    Attributes:
        blocks: what is put side by side, by the names of `PlaceData.blocks`.
        maps: what each block is prepared by.
        linear: from the prepared blocks to the targets, in their own units.
        preparation: `rotated` or `whitened` components, as the inner folds preferred; `standardised` of a head that was
            trained with its encoders.
        penalty: of the ridge, likewise; None where there was no ridge.
        centred: whether rows are centred within their slide, and predictions therefore about its mean.
    """

    blocks: tuple[str, ...]
    maps: tuple[AffineMap, ...]
    linear: LinearModel
    preparation: str
    penalty: float | None
    centred: bool

    def predict(
        self, blocks: Mapping[str, Float[np.ndarray, "place _dim"]], slide: Int64[np.ndarray, " place"]
    ) -> Float64[np.ndarray, "place target"]:
        """What it says of places; of centred ones all that is known of their slides should be given at once.

        Args:
            blocks: as they were read, by name; at least its own.
            slide: the number of each place's slide, from 0.
        """
        rows = [in_double(blocks[name], slide, self.centred) for name in self.blocks]
        return self.linear.predict(_side_by_side(self.maps, rows))

    def state(self) -> dict[str, np.ndarray]:
        """Its arrays; with the other attributes they are all of it."""
        arrays = {"coefficient": self.linear.coefficient, "intercept": self.linear.intercept}
        for number, one in enumerate(self.maps):
            arrays |= one.state(f"block.{number}")
        return arrays

    @staticmethod
    def load(
        arrays: Mapping[str, np.ndarray],
        blocks: tuple[str, ...],
        preparation: str,
        penalty: float | None,
        centred: bool,
    ) -> "FittedPlaceArm":
        """What `state` was made of."""
        maps = tuple(AffineMap.load(f"block.{number}", arrays) for number in range(len(blocks)))
        linear = LinearModel(arrays["coefficient"], arrays["intercept"])
        return FittedPlaceArm(blocks, maps, linear, preparation, penalty, centred)


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
    settings: PlaceFitSettings,
    *,
    hold_out: Sequence[str] = (),
) -> dict[str, PlacePredictions]:
    """Predict every place by models that have not seen its group.

    Targets are divided by their spread over the training places, so that each counts the same, and with `centre`
    vectors and targets are centred within their slide: the question is then which places of a slide have more of
    something, and neither stain nor the level of a slide can answer it. The preparation and the penalty of the ridge,
    one for all targets, are those that predict inner held-out groups best.

    Args:
        data: the places.
        arms: what is compared; all have the same components a block, the same candidates and the same folds.
        settings: folds, components, and which targets to keep.
        hold_out: groups to hold out, each a fold of its own, in place of folds of all.

    Raises:
        ConfigError: there is no such group.
    """
    slide = data.slide_numbers
    if hold_out:
        dealt = _deal_named(data.groups, hold_out)
    else:
        dealt = deal_groups(data.group_numbers, settings.folds, settings.seed)
    values = {arm.id: np.full(data.target.shape, np.nan) for arm in arms}
    candidates: dict[str, list[str]] = {arm.id: [] for arm in arms}
    for fold in np.unique(dealt[dealt >= 0]):
        train, test = np.flatnonzero(dealt != fold), np.flatnonzero(dealt == fold)
        fitter = PlaceFitter(data, train, settings)
        chosen = fitter.varying_targets()
        for arm in arms:
            fitted = fitter.fit(arm, chosen)
            seen = {name: data.blocks[name][test] for name in arm.blocks}
            values[arm.id][np.ix_(test, chosen)] = fitted.predict(seen, slide[test])
            candidates[arm.id].append(f"{fitted.preparation}, penalty {fitted.penalty:g}")
    return {arm.id: PlacePredictions(values[arm.id], tuple(candidates[arm.id])) for arm in arms}


class PlaceFitter:
    """Fits arms on training places; what blocks are prepared by is found once for all arms."""

    def __init__(self, data: PlaceData, train: Int64[np.ndarray, " train"], settings: PlaceFitSettings) -> None:
        """Deal the inner folds.

        Args:
            data: the places.
            train: the numbers of those to fit on.
            settings: inner folds, components, and which targets to keep.
        """
        self._data, self._train, self._settings = data, train, settings
        self._slide = data.slide_numbers
        self._target = in_double(data.target, self._slide, settings.centre)
        self._inner = deal_groups(data.group_numbers[train], settings.inner_folds, settings.seed)
        self._rows: dict[str, np.ndarray] = {}
        self._found: dict[tuple[str, bytes], Whitening] = {}

    def varying_targets(self) -> Bool[np.ndarray, " target"]:
        """The targets that vary at the training places, or as many as are asked for: those that vary most."""
        spread = self._target[self._train].std(axis=0)
        chosen = spread > _ROUNDING * np.abs(self._data.target).max(axis=0)
        most = self._settings.most_variable
        if most is not None:
            # Of what varies at all; classes and numbers in other units are better given apart.
            chosen &= spread >= np.sort(spread)[-min(most, len(spread))]
        return np.asarray(chosen)

    def fit(self, arm: PlaceArm, chosen: Bool[np.ndarray, " target"]) -> FittedPlaceArm:
        """The arm on all training places, for some targets that vary there."""
        spread = self._target[self._train][:, chosen].std(axis=0)
        y = self._target[:, chosen] / spread
        preparation, penalty = self._choose(arm, y)
        maps, x = self._prepared(arm, self._train, preparation)
        model = Ridge.of(x[self._train], y[self._train]).at(penalty)
        linear = LinearModel(model.coefficient * spread, model.intercept * spread)
        return FittedPlaceArm(arm.blocks, maps, linear, preparation, penalty, self._settings.centre)

    def _choose(self, arm: PlaceArm, y: Float64[np.ndarray, "place target"]) -> tuple[str, float]:
        """The preparation and the penalty with the smallest squared error on inner held-out groups."""
        train, inner = self._train, self._inner
        error: dict[tuple[str, float], float] = {}
        if len(np.unique(inner)) < 2:
            # One training group: its places one by one, in closed form.
            for preparation in _PREPARATIONS:
                _, x = self._prepared(arm, train, preparation)
                ridge = Ridge.of(x[train], y[train])
                for penalty in _PENALTIES:
                    error[preparation, penalty] = float(ridge.left_out_error(penalty))
            return min(error, key=lambda candidate: error[candidate])
        for fold in np.unique(inner):
            seen, held = train[inner != fold], train[inner == fold]
            for preparation in _PREPARATIONS:
                _, x = self._prepared(arm, seen, preparation)
                ridge = Ridge.of(x[seen], y[seen])
                off = ridge.at(np.array(_PENALTIES)).predict(x[held]) - y[held]
                for penalty, missed in zip(_PENALTIES, (off**2).sum(axis=(1, 2)).tolist(), strict=True):
                    error[preparation, penalty] = error.get((preparation, penalty), 0.0) + missed
        return min(error, key=lambda candidate: error[candidate])

    def _prepared(
        self, arm: PlaceArm, fitted_on: Int64[np.ndarray, " train"], preparation: str
    ) -> tuple[tuple[AffineMap, ...], Float64[np.ndarray, "place input"]]:
        """The maps of an arm's blocks by what some places say, and all places by them."""
        parts = [self._components_of(name, fitted_on) for name in arm.blocks]
        maps = tuple(found.rotated() if preparation == "rotated" else found.whitened() for found in parts)
        return maps, _side_by_side(maps, [self._rows[name] for name in arm.blocks])

    def _components_of(self, name: str, fitted_on: Int64[np.ndarray, " train"]) -> Whitening:
        if name not in self._rows:
            self._rows[name] = in_double(self._data.blocks[name], self._slide, self._settings.centre)
        key = (name, fitted_on.tobytes())
        if key not in self._found:
            rows, weight = self._rows[name][fitted_on], 1.0 / np.bincount(self._slide)[self._slide[fitted_on]]
            self._found[key] = fit_whitening(
                rows, weight, widest=self._settings.components, centred=False, seed=self._settings.seed
            )
        return self._found[key]


def _side_by_side(
    maps: Sequence[AffineMap], rows: Sequence[Float64[np.ndarray, "place _dim"]]
) -> Float64[np.ndarray, "place input"]:
    """The prepared blocks, each with as much say as the others."""
    # A block's mean square is one number for one component, whatever the number of its components.
    parts = [one.apply(own) for one, own in zip(maps, rows, strict=True)]
    return np.concatenate([part / np.sqrt(part.shape[1] * len(parts)) for part in parts], axis=1)


def in_double(
    rows: Float[np.ndarray, "place dim"], slide: Int64[np.ndarray, " place"], centred: bool
) -> Float64[np.ndarray, "place dim"]:
    """The rows in float64, and where asked about the mean of their slide."""
    rows = rows.astype(np.float64)
    if not centred:
        return rows
    names, number = np.unique(slide, return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, number, rows)
    return np.asarray(rows - (sums / np.bincount(number)[:, None])[number])
