"""ABMIL as it was published: gated attention-based multiple instance learning (Ilse, Tomczak and Welling 2018).

Width and training are those of the paper's histopathology experiments: an embedding of 512 with ReLU, gated attention
of 128 (tanh times sigmoid), one bag at a time, Adam with a learning rate of 1e-4, betas of .9 and .999 and a weight
decay of 5e-4, at most 100 epochs, and the weights of the epoch with the lowest loss on slides held out for validation.
What the paper does on pixels is not here: its convolutions are the tile encoder, and its dropout, whose rate it does
not give, is left out. Ours are the standardised inputs, the stop after 20 epochs without a lower loss, and outcomes
beyond two classes.

A fold of 48 slides of 250 instances takes 12 seconds on one core, six times the short network of `attention`; nothing
is chosen inside the fold but the epoch.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome
from parfocal.heads.base import Bags, FittedProbe, ProbeSettings, ProbeState, Scores, Slides
from parfocal.heads.network import weights_of, with_weights
from parfocal.heads.preparation import joined
from parfocal.heads.registry import RegisteredHead
from parfocal.heads.targets import targets_of
from parfocal.stats.whitening import AffineMap

_EMBEDDING, _ATTENTION = 512, 128
_RATE, _DECAY = 1e-4, 5e-4
_EPOCHS, _PATIENCE = 100, 20
_SLIDES_OF_TIMES = 16  # of a step: a partial likelihood compares slides, which one alone cannot


class GatedAttention(nn.Module):
    """Instances to one score for each column: embedded, weighted by gated attention, summed."""

    def __init__(self, dims: Sequence[int], columns: int) -> None:
        """Torch's own initial weights; each bag has an embedding of its own, since widths may differ."""
        super().__init__()
        self.embed = nn.ModuleList([nn.Linear(dim, _EMBEDDING) for dim in dims])
        self.value, self.gate = nn.Linear(_EMBEDDING, _ATTENTION), nn.Linear(_EMBEDDING, _ATTENTION)
        self.attention = nn.Linear(_ATTENTION, 1)
        self.head = nn.Linear(_EMBEDDING, columns)

    def forward(self, bags: Sequence[Float[Tensor, "_instance _dim"]]) -> Float[Tensor, " column"]:
        """The scores of one slide."""
        embedded = torch.cat([embed(rows).relu() for embed, rows in zip(self.embed, bags, strict=True)])
        scores: Float[Tensor, " column"] = self.head((self.shares(embedded) * embedded).sum(dim=0))
        return scores

    def shares(self, embedded: Float[Tensor, "instance width"]) -> Float[Tensor, "instance 1"]:
        """How attention is divided among embedded instances."""
        shares: Float[Tensor, "instance 1"] = self.attention(
            self.value(embedded).tanh() * self.gate(embedded).sigmoid()
        ).softmax(dim=0)
        return shares


@dataclass(frozen=True, eq=False)
class FittedAbmil(FittedProbe):
    """The network at its best epoch.

    Attributes:
        network: in evaluation mode.
        maps: how the rows of each bag are standardised.
        epoch: how many epochs it was trained.
        scale: what the score of each column is multiplied with; 1 but for numbers.
        location: what is then added; 0 but for numbers.
    """

    network: GatedAttention
    maps: tuple[AffineMap, ...]
    epoch: int
    scale: Float64[np.ndarray, " column"]
    location: Float64[np.ndarray, " column"]

    @property
    def chosen(self) -> str:
        """The number of epochs."""
        return f"{self.epoch} epochs"

    @torch.no_grad()
    def score(self, bags: Bags, slides: Slides) -> Scores:
        """The scores of some slides from all their instances, one slide after the other."""
        device = self.network.head.bias.device
        scores = [self.network(_rows(bags, self.maps, device, int(slide))).cpu().numpy() for slide in slides]
        return self.location + self.scale * np.array(scores, dtype=np.float64).reshape(len(slides), -1)

    def shares(self, bag: Bag, number: int) -> Float64[np.ndarray, " instance"]:
        """How attention is divided among the instances of one bag of one slide, as if the slide had no other bag.

        Args:
            bag: of one slide.
            number: which of the network's bags it is.
        """
        _, share = self._looked_at({number: bag})
        return share

    def of_instances(self, bags: Mapping[int, Bag]) -> dict[int, Float64[np.ndarray, "_instance column"]]:
        """What each instance of one slide adds to each score: its share of attention times what it says alone.

        The score is linear behind the attention, so these and `constant` add up to it.

        Args:
            bags: of one slide, by their numbers in the network; the slide has no other instances than these.
        """
        embedded, share = self._looked_at(bags)
        weight = self.network.head.weight.detach().cpu().numpy().astype(np.float64)  # (column, width)
        added = self.scale * share[:, None] * (embedded @ weight.T)
        return dict(zip(bags, np.split(added, np.cumsum([len(bag.rows) for bag in bags.values()])[:-1]), strict=True))

    @property
    def constant(self) -> Float64[np.ndarray, " column"]:
        """The scores of a slide without any instance: attention sums up nothing."""
        bias = self.network.head.bias.detach().cpu().numpy().astype(np.float64)
        return np.asarray(self.location + self.scale * bias)

    @torch.no_grad()
    def _looked_at(
        self, bags: Mapping[int, Bag]
    ) -> tuple[Float64[np.ndarray, "instance width"], Float64[np.ndarray, " instance"]]:
        """The embedded instances of one slide, one bag after the other, and how attention is divided among them."""
        device = self.network.head.bias.device
        embedded = torch.cat(
            [
                self.network.embed[number](torch.from_numpy(self.maps[number].apply(bag.rows_of(0))).to(device)).relu()
                for number, bag in bags.items()
            ]
        )
        shares = self.network.shares(embedded)[:, 0]
        return embedded.cpu().numpy().astype(np.float64), shares.cpu().numpy().astype(np.float64)

    def state(self) -> ProbeState:
        """Facts and arrays."""
        arrays = weights_of(self.network, "network/")
        for number, one in enumerate(self.maps):
            arrays |= one.state(f"{number}")
        arrays |= {"scale": self.scale, "location": self.location}
        return ProbeState("abmil", {"bags": len(self.maps), "epoch": self.epoch}, arrays)

    @staticmethod
    def load(state: ProbeState) -> "FittedAbmil":
        """What `state` came from, on the CPU."""
        maps = tuple(AffineMap.load(f"{number}", state.arrays) for number in range(int(state.facts["bags"])))
        network = GatedAttention([len(one.matrix) for one in maps], len(state.arrays["scale"]))
        network = with_weights(network, state, "network/")
        return FittedAbmil(network, maps, int(state.facts["epoch"]), state.arrays["scale"], state.arrays["location"])


def fit_abmil(bags: Bags, outcome: Outcome, folds: Sequence[Fold], settings: ProbeSettings) -> list[FittedProbe]:
    """Fit ABMIL on each fold, of several bags on all their instances together; one inner fold is for validation.

    Raises:
        FloatingPointError: no epoch had a finite loss.
    """
    return [_fit_fold(bags, outcome, fold, settings) for fold in folds]


def _fit_fold(bags: Bags, outcome: Outcome, fold: Fold, settings: ProbeSettings) -> FittedAbmil:
    device = torch.device(settings.device)
    seed = np.random.SeedSequence([settings.seed, 9, fold.repeat, fold.number])
    maps = tuple(_standardising(bag, fold.train) for bag in bags)
    rows_of: Callable[[int], list[Tensor]] = partial(_rows, bags, maps, device)
    if all(bag.is_held for bag in bags):
        rows_of = dict(zip(fold.train.tolist(), map(rows_of, fold.train.tolist()), strict=True)).__getitem__
    columns = outcome.of(fold.train).columns
    judging = fold.inner == fold.inner.min()
    learns, judges = np.flatnonzero(~judging), np.flatnonzero(judging)
    weights = [one.astype(np.float32)[None, None] for one in (~judging, judging)]
    targets = targets_of(columns, *weights, balanced=settings.balanced, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed.generate_state(1)[0]))
        network = GatedAttention([bag.dim for bag in bags], len(columns)).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=_RATE, betas=(0.9, 0.999), weight_decay=_DECAY)
    rng = np.random.default_rng(seed)
    at_a_time = _SLIDES_OF_TIMES if targets.family == "cox" else 1
    best, least, best_epoch = network.state_dict(), np.inf, 0
    for epoch in range(1, _EPOCHS + 1):
        order = rng.permutation(learns)
        for begin in range(0, len(order), at_a_time):
            some = order[begin : begin + at_a_time]
            score = torch.stack([network(rows_of(int(fold.train[place]))) for place in some], dim=1)
            optimiser.zero_grad()
            targets.of_slides(some).training_loss(score).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            score = torch.stack([network(rows_of(int(fold.train[place]))) for place in judges], dim=1)
            loss = float(targets.of_slides(judges).held_out_loss(score).sum())
        if loss < least:
            best, least, best_epoch = copy.deepcopy(network.state_dict()), loss, epoch
        elif epoch - best_epoch >= _PATIENCE:
            break
    if not best_epoch:
        raise FloatingPointError("training of abmil diverged: no epoch had a finite loss")
    network.load_state_dict(best)
    return FittedAbmil(network.eval(), maps, best_epoch, targets.scale[:, 0], targets.location[:, 0])


def _standardising(bag: Bag, train: Int64[np.ndarray, " train"]) -> AffineMap:
    """Each column about the mean of the training slides' instances, over its standard deviation."""
    if bag.is_held:
        return AffineMap.standardising(bag.rows[joined(bag.start, train)]).single()
    n, dim = max(int(np.diff(bag.start)[train].sum()), 1), bag.dim
    mean, square = np.zeros(dim), np.zeros(dim)
    for slide in train:
        mean += bag.rows_of(int(slide)).sum(axis=0, dtype=np.float64) / n
    for slide in train:
        square += ((bag.rows_of(int(slide)) - mean) ** 2).sum(axis=0) / n
    return AffineMap.of_spread(mean, np.sqrt(square)).single()


def _rows(bags: Bags, maps: Sequence[AffineMap], device: torch.device, slide: int) -> list[Tensor]:
    """The standardised instances of one slide, by its number."""
    return [torch.from_numpy(one.apply(bag.rows_of(slide))).to(device) for bag, one in zip(bags, maps, strict=True)]


HEAD = RegisteredHead(
    "abmil",
    "ABMIL",
    "tiles",
    FittedAbmil.load,
    fit_abmil,
    takes_several=True,
    is_random=True,
    by_request=True,
)
