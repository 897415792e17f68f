"""Gated attention (Ilse, Tomczak and Welling 2018) for all folds of a cross-validation in one computation.

A cross-validation trains hundreds of tiny networks. Each tensor here has a leading axis `model`, one for every outer
fold and for every inner fold that validates it; they share the drawn instances and differ in their preparation, their
start and the slides they may learn from. Nothing flows between models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from parfocal.bags import Bag
from parfocal.cohort import Fold
from parfocal.probes.settings import FoldPrediction, ProbeSettings
from parfocal.probes.whitening import Preparation, fit_whitening, preparations

__all__ = ["average_predictions", "fit_attention"]

_WEIGHT_DECAY = 1.0
_CHECKPOINTS = 4
_MOST_BYTES = 1 << 30  # of prepared instances at a time; more folds than fit are trained one part after the other


def fit_attention(
    bags: Sequence[Bag], is_positive: Bool[np.ndarray, " slide"], folds: Sequence[Fold], settings: ProbeSettings
) -> list[FoldPrediction]:
    """Predict each fold's test slides from a bag of all their instances.

    Several bags make one union: each has a projection of its own (their widths may differ, and the network may know
    which magnification it looks at), after which attention runs over all instances together.

    Offered inside the training fold: each preparation x four numbers of training steps, chosen by the log loss on the
    inner folds that validate. The prediction comes from a network of the same steps that saw the whole training fold.
    """
    predictions: list[FoldPrediction] = []
    instances = sum(len(bag.rows) for bag in bags)
    width = max(settings.widest, *settings.components)
    at_a_time = max(1, _MOST_BYTES // (4 * width * max(instances, 1)))
    for begin in range(0, len(folds), at_a_time):
        predictions += _fit_folds(bags, is_positive, folds[begin : begin + at_a_time], settings)
    return predictions


def average_predictions(of_arms: Sequence[Sequence[FoldPrediction]]) -> list[FoldPrediction]:
    """Late fusion of several arms over the same folds: the mean of their log odds."""
    return [
        FoldPrediction(
            np.mean([one.logit for one in fold], axis=0), " | ".join(dict.fromkeys(one.chosen for one in fold))
        )
        for fold in zip(*of_arms, strict=True)
    ]


def _fit_folds(
    bags: Sequence[Bag], is_positive: Bool[np.ndarray, " slide"], folds: Sequence[Fold], settings: ProbeSettings
) -> list[FoldPrediction]:
    device = torch.device(settings.device)
    label = torch.from_numpy(is_positive.astype(np.float32)).to(device)
    learns, validates = _roles(len(is_positive), folds, settings.attention_validation)
    learns, validates = learns.to(device), validates.to(device)
    steps = [max(1, settings.attention_steps * part // _CHECKPOINTS) for part in range(1, _CHECKPOINTS + 1)]
    best = np.full(len(folds), np.inf)
    results: list[FoldPrediction | None] = [None] * len(folds)
    for preparation in preparations(settings.components):
        prepared = [_prepare(bag, folds, preparation, settings).to(device) for bag in bags]
        draws = list(_draws(bags, settings, steps[-1] + 1))
        checking, draws = draws[0], draws[1:]
        networks = _Networks.start(prepared, folds, len(learns), settings)
        saved, losses = [], []
        for step in _train(networks, prepared, draws, label, learns, settings):
            if step in steps:
                kept = networks.copy()
                saved.append(kept)
                with torch.no_grad():
                    logit = kept.forward(prepared, checking)
                    losses.append(_fold_losses(logit, label, validates, len(folds)).cpu().numpy())
        for number, fold in enumerate(folds):
            of_fold = np.array([loss[number] for loss in losses])
            if of_fold.min() < best[number]:
                best[number] = of_fold.min()
                checkpoint = int(of_fold.argmin())
                predicted = saved[checkpoint].predict(number, prepared, bags, fold.test)
                results[number] = FoldPrediction(predicted, f"{preparation.label}, {steps[checkpoint]} steps")
    if any(one is None for one in results):
        raise FloatingPointError("attention training diverged in every preparation; lower attention_rate")
    return [one for one in results if one is not None]


def _roles(
    n_slides: int, folds: Sequence[Fold], n_validation: int
) -> tuple[Float[Tensor, "model slide"], Float[Tensor, "model slide"]]:
    """Which slides each model learns from and is validated on; the first models are those of the whole training folds.

    Model `f` belongs to fold f; model `(1 + v) * len(folds) + f` is the one that leaves out inner fold v.
    """
    n_validation = min(n_validation, *(int(fold.inner.max()) + 1 for fold in folds))
    learns = np.zeros((1 + n_validation, len(folds), n_slides), dtype=np.float32)
    validates = np.zeros_like(learns)
    for number, fold in enumerate(folds):
        learns[0, number, fold.train] = 1
        for inner in range(n_validation):
            learns[1 + inner, number, fold.train[fold.inner != inner]] = 1
            validates[1 + inner, number, fold.train[fold.inner == inner]] = 1
    flat = (-1, n_slides)
    return torch.from_numpy(learns.reshape(flat)), torch.from_numpy(validates.reshape(flat))


def _prepare(
    bag: Bag, folds: Sequence[Fold], preparation: Preparation, settings: ProbeSettings
) -> Float[Tensor, "fold instance kept"]:
    """The instances of all slides as each fold prepares them; folds whose training rows span less are filled with 0."""
    counts = np.diff(bag.start)
    of_slide = np.repeat(np.arange(len(bag.slides)), counts)
    whitened = preparation.components is not None
    rows = bag.rows - bag.mean[of_slide] if whitened else bag.rows
    widest = preparation.components or settings.widest
    prepared = np.zeros((len(folds), len(rows), min(widest, bag.dim)), dtype=np.float32)
    for number, fold in enumerate(folds):
        usable = np.isin(of_slide, fold.train)
        weight = 1 / counts[of_slide[usable]]
        whitening = fit_whitening(rows[usable], weight, widest=widest, centred=whitened, seed=settings.seed)
        matrix = whitening.map_of(preparation).astype(np.float32)
        prepared[number, :, : matrix.shape[1]] = (rows - whitening.mean.astype(np.float32)) @ matrix
    return torch.from_numpy(prepared)


@dataclass(frozen=True, eq=False)
class _Draw:
    """The instances of one training step: per bag row numbers and which of them are real, for every slide."""

    rows: tuple[Int64[Tensor, "slide _drawn"], ...]
    real: Bool[Tensor, "slide instance"]


def _draws(bags: Sequence[Bag], settings: ProbeSettings, steps: int) -> Iterator[_Draw]:
    """Draws for every step; a bag's share of the drawn instances is its share of all, and at least one.

    A small bag is taken whole, a larger one with repetition: among hundreds, a double changes nothing.
    """
    rng = np.random.default_rng([settings.seed, 4])
    sizes = np.array([np.diff(bag.start).mean() for bag in bags])
    shares = np.maximum(1, np.rint(settings.attention_instances * sizes / sizes.sum())).astype(int)
    for _ in range(steps):
        rows, real = [], []
        for bag, share in zip(bags, shares, strict=True):
            counts = np.diff(bag.start)[:, None]
            order = np.arange(share)[None]
            drawn = np.where(
                counts <= share, np.minimum(order, counts - 1), rng.integers(0, counts, (len(counts), share))
            )
            rows.append(torch.from_numpy(bag.start[:-1, None] + drawn))
            real.append(torch.from_numpy((order < counts) | (counts > share)))
        yield _Draw(tuple(rows), torch.cat(real, dim=1))


@dataclass(frozen=True, eq=False)
class _Networks:
    """The parameters of all models, each with the leading axis `model`."""

    projection: tuple[Float[Tensor, "model _kept width"], ...]
    projection_bias: tuple[Float[Tensor, "model 1 width"], ...]
    gate: Float[Tensor, "model width two_gates"]
    gate_bias: Float[Tensor, "model 1 two_gates"]
    attention: Float[Tensor, "model gates 1"]
    head: Float[Tensor, "model width"]
    head_bias: Float[Tensor, "model 1"]

    @staticmethod
    def start(
        prepared: Sequence[Float[Tensor, "fold _instance _kept"]],
        folds: Sequence[Fold],
        n_models: int,
        settings: ProbeSettings,
    ) -> "_Networks":
        """Random parameters; those of a fold depend on the seed, its repeat and its number alone."""
        width, gates = settings.attention_width, max(1, settings.attention_width // 2)
        shapes = [(one.shape[2], width) for one in prepared] + [(width, 2 * gates), (gates, 1), (width, 1)]
        drawn: list[list[np.ndarray]] = [[] for _ in shapes]
        for model in range(n_models):
            fold = folds[model % len(folds)]
            rng = np.random.default_rng([settings.seed, 5, fold.repeat, fold.number])
            for place, (fan_in, fan_out) in zip(drawn, shapes, strict=True):
                place.append((rng.standard_normal((fan_in, fan_out)) / np.sqrt(fan_in)).astype(np.float32))
        device = prepared[0].device
        tensors = [torch.from_numpy(np.stack(place)).to(device) for place in drawn]
        *projection, gate, attention, head = tensors
        zeros = [torch.zeros(n_models, 1, width, device=device) for _ in projection]
        return _Networks(
            tuple(projection),
            tuple(zeros),
            gate,
            torch.zeros(n_models, 1, 2 * gates, device=device),
            attention,
            head[:, :, 0].contiguous(),
            torch.zeros(n_models, 1, device=device),
        )

    def parameters(self) -> list[Tensor]:
        """All tensors, for the optimiser."""
        return [
            *self.projection,
            *self.projection_bias,
            self.gate,
            self.gate_bias,
            self.attention,
            self.head,
            self.head_bias,
        ]

    def copy(self) -> "_Networks":
        """The same numbers, apart from further training."""
        return _Networks(
            tuple(one.detach().clone() for one in self.projection),
            tuple(one.detach().clone() for one in self.projection_bias),
            *(one.detach().clone() for one in (self.gate, self.gate_bias, self.attention, self.head, self.head_bias)),
        )

    def forward(
        self, prepared: Sequence[Float[Tensor, "fold _instance _kept"]], draw: _Draw
    ) -> Float[Tensor, "model slide"]:
        """The log odds of every slide by every model, from the drawn instances."""
        n_slides = draw.real.shape[0]
        n_models = len(self.head)
        hidden = []
        for rows, drawn, weight, bias in zip(prepared, draw.rows, self.projection, self.projection_bias, strict=True):
            picked = rows[:, drawn.reshape(-1).to(rows.device)]  # (fold, slide * drawn, kept)
            picked = picked.repeat(n_models // len(rows), 1, 1)  # models of one fold share its preparation
            one = torch.baddbmm(bias, picked, weight).relu()
            hidden.append(one.view(n_models, n_slides, -1, one.shape[-1]))
        together = torch.cat(hidden, dim=2) if len(hidden) > 1 else hidden[0]  # (model, slide, instance, width)
        flat = together.flatten(1, 2)
        score = self._score(flat).view(n_models, n_slides, -1)
        score = score.masked_fill(~draw.real.to(score.device), float("-inf"))
        share = functional.softmax(score, dim=2)
        instance, width = together.shape[2:]
        pooled = torch.bmm(share.view(-1, 1, instance), together.reshape(-1, instance, width))
        pooled = pooled.view(n_models, n_slides, width)
        logit: Float[Tensor, "model slide"] = torch.baddbmm(self.head_bias[:, None], pooled, self.head[:, :, None])[
            ..., 0
        ]
        return logit

    def _score(self, hidden: Float[Tensor, "model row width"]) -> Float[Tensor, "model row 1"]:
        gates = torch.baddbmm(self.gate_bias, hidden, self.gate)
        # Not two slices: the gradient of each would be a whole tensor of zeros first.
        value, gate = gates.chunk(2, dim=2)
        return torch.bmm(torch.tanh(value) * torch.sigmoid(gate), self.attention)

    @torch.no_grad()
    def predict(
        self,
        number: int,
        prepared: Sequence[Float[Tensor, "fold _instance _kept"]],
        bags: Sequence[Bag],
        slides: Int64[np.ndarray, " test"],
    ) -> Float64[np.ndarray, " test"]:
        """The log odds of some slides by the whole-fold model of fold `number`, from all their instances."""
        logits = []
        for slide in slides:
            hidden = []
            for rows, bag, weight, bias in zip(prepared, bags, self.projection, self.projection_bias, strict=True):
                own = rows[number, int(bag.start[slide]) : int(bag.start[slide + 1])]
                hidden.append((own @ weight[number] + bias[number]).relu())
            together = torch.cat(hidden)
            gates = together @ self.gate[number] + self.gate_bias[number]
            half = gates.shape[1] // 2
            score = (torch.tanh(gates[:, :half]) * torch.sigmoid(gates[:, half:])) @ self.attention[number]
            pooled = functional.softmax(score[:, 0], dim=0) @ together
            logits.append(float(pooled @ self.head[number] + self.head_bias[number, 0]))
        return np.array(logits, dtype=np.float64)


def _train(
    networks: _Networks,
    prepared: Sequence[Float[Tensor, "fold _instance _kept"]],
    draws: Sequence[_Draw],
    label: Float[Tensor, " slide"],
    learns: Float[Tensor, "model slide"],
    settings: ProbeSettings,
) -> Iterator[int]:
    """Train all models side by side and yield the number of each finished step."""
    for parameter in networks.parameters():
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(networks.parameters(), lr=settings.attention_rate, weight_decay=_WEIGHT_DECAY)
    for step, draw in enumerate(draws, start=1):
        loss = _fold_losses(networks.forward(prepared, draw), label, learns, len(learns)).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield step


def _fold_losses(
    logit: Float[Tensor, "model slide"],
    label: Float[Tensor, " slide"],
    counts: Float[Tensor, "model slide"],
    n_folds: int,
) -> Float[Tensor, " fold"]:
    """The mean log loss over the slides that count, summed over the models of a fold first."""
    loss = functional.softplus(logit) - logit * label
    total = (loss * counts).view(-1, n_folds, logit.shape[1]).sum(dim=(0, 2))
    return total / counts.view(-1, n_folds, logit.shape[1]).sum(dim=(0, 2))
