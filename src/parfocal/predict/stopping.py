"""When a slide has been read far enough: its class is settled, with a calibrated rate of being wrong about that.

A slide is read along the order of a policy, and at each of some shares of its fine tiles, the rungs, its class is
looked at: is the margin, the log odds of the class that is called against the next one, at least `limit` times what the
rest of the tiles usually moves it by? Then reading ends, else it goes on to the next rung, and after the last one
everything is read.

The limit is found on patients whom neither probe nor reading had seen. With the limit L a patient is called otherwise
than when read whole, or not: a loss of 0 or 1 that only falls when L rises, once every slide has the largest loss of
all limits from L on. The least L is taken whose losses, and those of every larger one, have an upper confidence bound
(Clopper and Pearson 1934) of no more than the rate that is asked. So with that confidence over the patients that it was
found on, new ones who are like these are called otherwise no more often, whatever the head and the policy are worth
(risk-controlling sets: Bates, Angelopoulos, Lei, Malik and Jordan 2021).

A patient's loss is the mean over its slides and over repeats of the cross-validation; such means vary less than the
losses of the bound do. The scores are those of a cross-validation's probes, and new slides are read by the probe of all
patients, which may have chosen another form: with little read its score may be a constant that says nothing of the
slide. So the limit must hold for that probe too, on the slides that it was fitted on. That is a check and no proof: it
can only make the limit larger.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import special, stats

from parfocal.errors import ConfigError

Margins = Float64[np.ndarray, "slide rung"]


def calls_of(
    probability: Float64[np.ndarray, "*batch class"], call_at: float
) -> tuple[Int64[np.ndarray, "*batch"], Float64[np.ndarray, "*batch"]]:
    """The class that is called, and the log odds by which.

    Args:
        probability: of each class, none 0.
        call_at: of two classes the second is called from this probability on; of more the likeliest is.
    """
    if probability.shape[-1] == 2:
        ahead = special.logit(probability[..., 1]) - special.logit(call_at)
        return (ahead >= 0).astype(np.int64), np.abs(ahead)
    ranked = np.sort(np.log(probability), axis=-1)
    return probability.argmax(axis=-1), ranked[..., -1] - ranked[..., -2]


@dataclass(frozen=True, eq=False)
class Stopping:
    """From when on a slide's class is settled.

    Attributes:
        policy: by which tiles are read.
        rungs: the shares of a slide's fine tiles at which its class is looked at, rising, all below 1.
        usual: of each rung, the root mean square of what the rest of the tiles moves the log odds by.
        limit: the least margin, in units of `usual`, that settles a class.
        call_at: of two classes the second is called from this probability on.
        rate: of patients who are called otherwise than when read whole, at most, with the confidence.
        confidence: in that rate, over the patients that the limit was found on.
        n: how many these were.
    """

    policy: str
    rungs: tuple[float, ...]
    usual: Float64[np.ndarray, " rung"]
    limit: float
    call_at: float
    rate: float
    confidence: float
    n: int

    def is_settled(self, probability: Float64[np.ndarray, " class"], rung: int) -> bool:
        """Whether reading ends at a rung, by the probabilities that it gives."""
        _, margin = calls_of(probability[None], self.call_at)
        return bool(margin[0] >= self.limit * self.usual[rung])

    def stops(self, probability: Float64[np.ndarray, "slide rung class"]) -> Int64[np.ndarray, " slide"]:
        """The rung that each slide's reading ends at; the number of rungs where it is read whole."""
        _, margin = calls_of(probability, self.call_at)
        settled = margin >= self.limit * self.usual
        return np.where(settled.any(axis=1), settled.argmax(axis=1), len(self.rungs))

    def on(
        self,
        part: Float64[np.ndarray, "repeat slide rung class"],
        whole: Float64[np.ndarray, "repeat slide class"],
        groups: Sequence[str],
    ) -> tuple[float, float]:
        """The mean share of fine tiles that is read, and the share of patients called otherwise than when read whole.

        Args:
            part: the probabilities with the tiles of each rung read.
            whole: with all of them.
            groups: the patient of each slide; patients count alike.
        """
        _, weight = _weights(groups)
        ends = np.stack([self.stops(one) for one in part])
        called, _ = calls_of(np.concatenate([part, whole[:, :, None]], axis=2), self.call_at)
        is_other = np.take_along_axis(called, ends[..., None], axis=2)[..., 0] != called[..., -1]
        share = np.array([*self.rungs, 1.0])[ends]
        n = float(weight.sum()) * len(part)
        return float((share @ weight).sum() / n), float((is_other @ weight).sum() / n)


Reading = tuple[Float64[np.ndarray, "_repeat slide rung class"], Float64[np.ndarray, "_repeat slide class"]]
"""The probabilities of slides with the tiles of each rung read, and with all of them."""


def fewest_patients(n: int, rate: float, confidence: float) -> None:
    """Refuse a rate that so many patients cannot bear out, even if none of them is called otherwise.

    Raises:
        ConfigError: they cannot.
    """
    least = float(stats.beta.ppf(confidence, 1, n))
    if least > rate:
        raise ConfigError(
            f"{n} patients bear out no rate below {least:.3f} with a confidence of {confidence:g}, and {rate:g} is "
            "asked. Ask for a larger --stop-rate, or fit without."
        )


def fit_stopping(
    readings: Sequence[Reading],
    groups: Sequence[str],
    *,
    policy: str,
    rungs: Sequence[float],
    rate: float,
    confidence: float = 0.95,
    call_at: float = 0.5,
) -> Stopping:
    """Find the limit on the probabilities of slides that are read in part.

    Repeats make no patient count twice, and a patient's slides count as much together as another's only one.

    Args:
        readings: of the same slides; first that by probes which had not seen them. Where there are others, the limit
            holds for each of them, and what the rest of the tiles moves is the most that it does in any.
        groups: the patient of each slide.
        policy: by which they are read.
        rungs: their shares, rising, all below 1.
        rate: the share of patients that may be called otherwise.
        confidence: that no more are.
        call_at: of two classes the second is called from this probability on.

    Raises:
        ConfigError: so few patients bear out no such rate, even if none of them is called otherwise.
    """
    n, _ = _weights(groups)
    fewest_patients(n, rate, confidence)
    usual = np.max([_moved(part, whole, groups, call_at) for part, whole in readings], axis=0)
    limits = [_limit(part, whole, groups, usual, rate, confidence, call_at) for part, whole in readings]
    return Stopping(policy, tuple(rungs), usual, max(limits), call_at, rate, confidence, n)


def _moved(
    part: Float64[np.ndarray, "repeat slide rung class"],
    whole: Float64[np.ndarray, "repeat slide class"],
    groups: Sequence[str],
    call_at: float,
) -> Float64[np.ndarray, " rung"]:
    """The root mean square of what the rest of the tiles moves the log odds by, at each rung."""
    n, weight = _weights(groups)
    called, margin = calls_of(part, call_at)
    truth, of_whole = calls_of(whole, call_at)
    signed = np.where(called == truth[..., None], margin, -margin)
    moved = ((of_whole[..., None] - signed) ** 2 * weight[None, :, None]).sum(axis=(0, 1)) / n / len(whole)
    # What lies further on moves no less; without this a rung whose rest does nothing by chance would stop every slide.
    return np.maximum(np.sqrt(np.maximum.accumulate(moved[::-1])[::-1]), 1e-9)


def _limit(
    part: Float64[np.ndarray, "repeat slide rung class"],
    whole: Float64[np.ndarray, "repeat slide class"],
    groups: Sequence[str],
    usual: Float64[np.ndarray, " rung"],
    rate: float,
    confidence: float,
    call_at: float,
) -> float:
    """The least limit whose losses, and those of every larger one, are borne out."""
    n, weight = _weights(groups)
    called, margin = calls_of(part, call_at)
    truth, _ = calls_of(whole, call_at)
    worst = _worst_limits(margin / usual, called != truth[..., None])
    order = np.argsort(-worst, axis=None)
    limits, weights = worst.reshape(-1)[order], np.tile(weight / len(whole), len(whole))[order]
    # Limits above `limits[k]` have at most the losses of the first k.
    lost = np.concatenate([[0.0], np.cumsum(weights)])
    bound = stats.beta.ppf(confidence, lost + 1, np.maximum(n - lost, 1e-9))
    first = int(np.searchsorted(bound, rate, side="right")) - 1
    # A little above the last one that may not be, by more than rounding.
    return max((1 + 1e-9) * float(limits[first]), 0.0) if first < len(limits) else 0.0


def _weights(groups: Sequence[str]) -> tuple[int, Float64[np.ndarray, " slide"]]:
    """The number of patients, and of each slide its part of one."""
    _, of_slide = np.unique(np.array(groups), return_inverse=True)
    return int(of_slide.max()) + 1, (1 / np.bincount(of_slide))[of_slide]


def _worst_limits(
    margin: Float64[np.ndarray, "repeat slide rung"], is_other: Bool[np.ndarray, "repeat slide rung"]
) -> Float64[np.ndarray, "repeat slide"]:
    """The largest limit that ends a slide at a rung where it is called otherwise than when read whole; -1 if none.

    A limit ends it at the first rung whose margin reaches it, so at a rung that lies above all before it.
    """
    before = np.concatenate([np.full((*margin.shape[:2], 1), -1.0), np.maximum.accumulate(margin, axis=2)[..., :-1]], 2)
    return np.asarray(np.where(is_other & (margin > before), margin, -1.0).max(axis=2))
