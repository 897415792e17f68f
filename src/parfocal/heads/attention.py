"""Gated attention (Ilse, Tomczak and Welling 2018) over all instances of a slide."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from parfocal.bags import Bag
from parfocal.heads.base import Arrays, Bags, Fit, ProbeSettings, Slides
from parfocal.heads.network import FittedColumn, Network, Schedule, by_fold, normal
from parfocal.heads.preparation import Preparation, Table, bounds_of, fit_map, gather, joined, over_slides
from parfocal.heads.training import fit_network, network_head
from parfocal.stats.whitening import AffineMap


class AttentionNetwork(Network):
    """A projection for each bag, then attention over the instances of all, then one linear score."""

    name = "attention"

    def schedule(self, settings: ProbeSettings) -> Schedule:
        """Attention's own."""
        return Schedule(settings.attention_steps, settings.attention_rate, decay=1.0)

    def fit_preparation(
        self, bags: Bags, train: Int64[np.ndarray, " train"], preparation: Preparation, settings: ProbeSettings
    ) -> dict[str, np.ndarray]:
        """A map of each bag; whitened rows are centred on their slide's mean, others on the training mean."""
        arrays: dict[str, np.ndarray] = {}
        for number, bag in enumerate(bags):
            of_slide = np.repeat(np.arange(len(train)), np.diff(bag.start)[train])
            centre = None if preparation.components is None else bag.mean[train]
            arrays |= fit_map(bag.rows, joined(bag.start, train), of_slide, centre, preparation, settings).state(
                f"{number}"
            )
        return arrays

    def tables(self, bags: Bags, slides: Slides, fitted: Arrays) -> tuple[Table, ...]:
        """All instances, one table for each bag."""
        tables = []
        for number, bag in enumerate(bags):
            start = bounds_of(np.diff(bag.start)[slides])
            prepare = partial(_prepared, bag, AffineMap.load(f"{number}", fitted))
            tables.append(Table(over_slides([bag], slides, start, prepare), start))
        return tuple(tables)

    def start(
        self, fitted: Arrays, widths: Sequence[int], settings: ProbeSettings, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Normal weights, zero biases."""
        width, gates = settings.attention_width, max(1, settings.attention_width // 2)
        parameters = {f"projection {number}": normal(rng, kept, width) for number, kept in enumerate(widths)}
        parameters |= {
            f"projection bias {number}": np.zeros((1, width), dtype=np.float32) for number in range(len(widths))
        }
        return parameters | {
            "gate": normal(rng, width, 2 * gates),
            "gate bias": np.zeros((1, 2 * gates), dtype=np.float32),
            "attention": normal(rng, gates, 1),
            "head": normal(rng, width, 1),
            "head bias": np.zeros((1, 1), dtype=np.float32),
        }

    def score(
        self,
        parameters: Mapping[str, Tensor],
        rows: Sequence[Float[Tensor, "fold slide _drawn _kept"]],
        real: Sequence[Bool[Tensor, "slide _drawn"]],
    ) -> Float[Tensor, "model slide"]:
        """Attention over the drawn instances of all tables."""
        hidden = self._hidden(parameters, rows)
        together = torch.cat(hidden, dim=2) if len(hidden) > 1 else hidden[0]  # (model, slide, instance, width)
        n_models, n_slides = together.shape[:2]
        score = self._attention(parameters, together).view(n_models, n_slides, -1)
        score = score.masked_fill(~torch.cat(list(real), dim=1), float("-inf"))
        share = functional.softmax(score, dim=2)
        instance, width = together.shape[2:]
        pooled = torch.bmm(share.view(-1, 1, instance), together.reshape(-1, instance, width))
        pooled = pooled.view(n_models, n_slides, width)
        logit: Float[Tensor, "model slide"] = torch.baddbmm(parameters["head bias"], pooled, parameters["head"])[..., 0]
        return logit

    def _hidden(
        self, parameters: Mapping[str, Tensor], rows: Sequence[Float[Tensor, "fold slide _drawn _kept"]], first: int = 0
    ) -> list[Float[Tensor, "model slide _drawn width"]]:
        """The instances of each table, the first of which is number `first`, projected."""
        n_models, n_slides = len(parameters["head"]), rows[0].shape[1]
        hidden = []
        for number, table in enumerate(rows, first):
            product = by_fold(table.flatten(1, 2), parameters[f"projection {number}"])
            one = (product + parameters[f"projection bias {number}"]).relu_()
            hidden.append(one.view(n_models, n_slides, -1, one.shape[2]))
        return hidden

    def _attention(
        self, parameters: Mapping[str, Tensor], hidden: Float[Tensor, "model slide instance width"]
    ) -> Float[Tensor, "model row one"]:
        """How strongly each instance is looked at, before shares are made of it."""
        gates = torch.baddbmm(parameters["gate bias"], hidden.flatten(1, 2), parameters["gate"])
        # Not two slices: the gradient of each would be a whole tensor of zeros first. And copies of them, because a
        # sigmoid over a few numbers at a time takes up to nine times as long.
        value, gate = (one.contiguous() for one in gates.chunk(2, dim=2))
        return torch.bmm(torch.tanh(value) * torch.sigmoid(gate), parameters["attention"])

    def shares(self, one: FittedColumn, bag: Bag, number: int) -> Float64[np.ndarray, " instance"]:
        """How attention is divided among the instances of one bag of one slide, as if the slide had no other bag.

        Args:
            one: the network of a column.
            bag: of one slide.
            number: which of the network's bags it is.
        """
        _, share = self._looked_at(one, {number: bag})
        return np.asarray(share.numpy())

    def of_instances(self, one: FittedColumn, bags: Mapping[int, Bag]) -> dict[int, Float64[np.ndarray, " _instance"]]:
        """What each instance of one slide adds to the score: its share of attention times what it says alone.

        The score is linear behind the attention, so these and `constant` add up to it.

        Args:
            one: the network of a column.
            bags: of one slide, by their numbers in the network; the slide has no other instances than these.
        """
        hidden, share = self._looked_at(one, bags)
        added = one.scale * share.numpy() * (hidden.double().numpy() @ one.parameters["head"].astype(np.float64))[:, 0]
        ends = np.cumsum([len(bag.rows) for bag in bags.values()])[:-1]
        return dict(zip(bags, np.split(added, ends), strict=True))

    def constant(self, one: FittedColumn) -> float:
        """The score of a column for a slide without any instance: attention sums up nothing."""
        return one.location + one.scale * float(one.parameters["head bias"][0, 0])

    @torch.no_grad()
    def _looked_at(
        self, one: FittedColumn, bags: Mapping[int, Bag]
    ) -> tuple[Float[Tensor, "instance width"], Float[Tensor, " instance"]]:
        """The projected instances of one slide, one bag after the other, and how attention is divided among them."""
        parameters = {key: torch.from_numpy(value)[None] for key, value in one.parameters.items()}
        hidden = []
        for number, bag in bags.items():
            own = _prepared(bag, AffineMap.load(f"{number}", one.fitted), np.array([0]))
            hidden += self._hidden(parameters, [torch.from_numpy(own)[None, None]], number)
        together = torch.cat(hidden, dim=2) if len(hidden) > 1 else hidden[0]
        share = functional.softmax(self._attention(parameters, together).flatten().double(), dim=0)
        return together[0, 0], share


def _prepared(bag: Bag, prepared_by: AffineMap, slides: Slides) -> Float32[np.ndarray, "row kept"]:
    """The instances of some slides; about their slide's mean where the map does not know another one."""
    rows, start = gather(bag, slides)
    return np.asarray(prepared_by.apply(rows, bag.mean[slides], np.repeat(np.arange(len(slides)), np.diff(start))))


fit_attention: Fit = partial(fit_network, AttentionNetwork())
"""Fit gated attention over a bag of all instances, for each fold.

Several bags make one union: each has a projection of its own (their widths may differ, and the network may know which
magnification it looks at), after which attention runs over all instances together.
"""

HEAD = network_head(AttentionNetwork(), "gated attention", "tiles")
