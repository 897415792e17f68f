"""A fitted head that is asked about one slide again and again while its finest tiles are read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from parfocal.bags import Bag, bag_of_slide, fine_bag, glance_at
from parfocal.embed.glance import Glance, chosen
from parfocal.geometry import format_mpp
from parfocal.heads import score_partly_read
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.store import SlideTokens
from parfocal.zoom.head import HeadOfBags
from parfocal.zoom.policies.policy import Policy
from parfocal.zoom.replay import replayed


@dataclass(frozen=True, eq=False)
class PartReader:
    """One slide, of which more and more is read.

    Attributes:
        glance: what is known of it before.
        known: the bags of its coarser magnifications, by their names.
        usual: the fine mean that it is given where no fine tile is read, such as that of training slides; contrast
            heads know one themselves.
    """

    glance: Glance
    known: dict[str, Bag]
    usual: Float32[np.ndarray, " dim"] | None = None

    @staticmethod
    def of(glance: Glance, usual: Float32[np.ndarray, " dim"] | None = None) -> "PartReader":
        """Look at a slide's coarser magnifications.

        Raises:
            ValueError: it has no tile of one of them.
        """
        return PartReader(
            glance, {format_mpp(mpp): bag_of_slide(glance.coarse, mpp) for mpp in glance.coarse.mpps}, usual
        )

    def scores(
        self,
        heads: Sequence[HeadOfBags],
        rows: Float[np.ndarray, "there dim"],
        there: Bool[np.ndarray, " tile"],
        unread: Bool[np.ndarray, " tile"] | None = None,
    ) -> list[Float64[np.ndarray, " _column"]]:
        """The score of each column by some heads, with some of the finest tiles.

        Contrast knows what it has not seen; another head takes what is read for all there is, as `predict` does.

        Args:
            heads: fitted on bags of the slide's magnifications.
            rows: embeddings of tiles.
            there: which of the planned tiles they are.
            unread: which have not been read, where it is not all of the others; the rest is absent.
        """
        glance, n_regions = self.glance, self.glance.coarse.n_regions
        unread = ~there if unread is None else unread
        n_there, n_unread = (np.bincount(glance.region, some, minlength=n_regions) for some in (there, unread))
        share = np.where(n_there + n_unread > 0, n_there / np.maximum(n_there + n_unread, 1), 1.0)
        fine = self._fine_bag(rows, there)
        return [self._score(head, fine, share) for head in heads]

    def _score(
        self, head: HeadOfBags, fine: Bag, share: Float64[np.ndarray, " region"]
    ) -> Float64[np.ndarray, " column"]:
        bags, slide = [fine if name == fine.name else self.known[name] for name in head.bags], np.array([0])
        if isinstance(head.probe, FittedContrast) and fine.name in head.bags:
            number = head.number_of(self.glance.mpp)
            return np.asarray(score_partly_read(head.probe, bags, slide, (number,), share={number: share})[0])
        return np.asarray(head.probe.score(bags, slide)[0])

    def _fine_bag(self, rows: Float[np.ndarray, "there dim"], there: Bool[np.ndarray, " tile"]) -> Bag:
        glance = self.glance
        fine = replace(
            glance.coarse,
            features={glance.mpp: rows},
            region={glance.mpp: glance.region[there]},
            center_um={glance.mpp: glance.center_um[there]},
        )
        usual = np.zeros(rows.shape[1], dtype=np.float32) if self.usual is None else self.usual
        return fine_bag(fine, np.ones(len(rows), dtype=bool), usual)


def scores_by_share(
    head: HeadOfBags, policy: Policy, tokens: SlideTokens, shares: Sequence[float], seed: int
) -> Float64[np.ndarray, "share column"]:
    """The scores of a slide that was read whole, as if it were read to each of some shares of its finest tiles.

    Args:
        head: one that had not seen the slide.
        policy: by which it is read.
        tokens: of the slide; rows of tiles that are not read are not touched.
        shares: of its finest tiles.
        seed: of policies that draw.
    """
    glance = glance_at(tokens, seed)
    reader, rows = PartReader.of(glance), tokens.features[glance.mpp]
    first = replayed(policy, tokens, glance, budget=max(shares))
    masks = [chosen(first, share) for share in shares]
    return np.stack([reader.scores([head], rows[read], read)[0] for read in masks])
