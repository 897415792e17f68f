"""What heads say of slides that are read in part: shown whole ones alone or parts too, unread tiles absent or filled.

    python benchmarks/zoom_parts.py
    python benchmarks/zoom_parts.py --policies stride --labelled 800

Draws an iid XScale cohort whose label shifts A (5x), C (20x) and their pairing, each a little; fits heads on labelled
slides and scores others of which a policy has read the given shares of the fine tiles. `whole` is fitted on whole
slides, `parts` on these and on each share of them, as `fit --parts` does it for slides that are read in part. With
`decoded` an unread tile is what a model of size T expects, pretrained on 60 other slides of the same law. `contrast` is
fitted on whole slides and adds nothing for what was not read.

Prints AUC and mean log loss of the scores as they are, before a calibration; then AUC of `parts` less `whole` with
DeLong's 95 % intervals. About five minutes on one core.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from threadpoolctl import threadpool_limits

from parfocal.bags import Filler, open_filler, read_bags
from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.geometry import format_mpp
from parfocal.heads import Fit, FittedProbe, ProbeSettings, fit_contrast, fit_mlp, score_partly_read
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.linear import fit_mean
from parfocal.lab.synthetic import FeatureModel, IidSettings, draw_cohort, write_cohort
from parfocal.lab.synthetic.feature_model import COARSE, FINE
from parfocal.predict import ShownInPart
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.stats import auc, delong_test
from parfocal.store import EmbeddingSet, SlideTokens, open_set
from parfocal.zoom import POLICIES

BAGS = (format_mpp(COARSE), format_mpp(FINE))
HEADS: dict[str, tuple[Fit, slice]] = {
    "0.5/mean": (fit_mean, slice(1, 2)),
    "0.5/mlp": (fit_mlp, slice(1, 2)),
    "concat": (fit_mean, slice(0, 2)),
    "concat-mlp": (fit_mlp, slice(0, 2)),
}
LAW = IidSettings(
    n_regions=24, a=0.3, tau_a=0.03, tau_c=0.06, kappa=0.03, model=FeatureModel(dim=32, separation_a=4.0, shift_c=1.5)
)
FINE_TILES = 16  # of a region


@dataclass(eq=False)
class Seen:
    """Slides as they are shown, and of each showing which share of each region was read."""

    shown: ShownInPart
    shares: list[np.ndarray] = field(default_factory=list)

    def __call__(self, tokens: SlideTokens) -> Iterator[SlideTokens]:
        """Every showing of a slide."""
        for one in self.shown(tokens):
            self.shares.append(np.bincount(one.region[FINE], minlength=one.n_regions) / FINE_TILES)
            yield one


def pretrained(folder: Path, seed: int) -> Filler:
    tiles = open_set(
        write_cohort(draw_cohort(LAW.model_copy(update={"n_slides": 60, "seed": seed + 77})), folder / "u")
    )
    how = PretrainSettings(size="T", steps=200, batch=64, device="cpu", cache_mib=256, monitor_regions=64)
    pretrain_encoder(tiles, folder / "model", how)
    return open_filler(tiles, folder / "model")


def in_part(head: FittedProbe, bags: list, test: np.ndarray, seen: Seen) -> np.ndarray:
    """Contrast's score of every showing."""
    assert isinstance(head, FittedContrast)
    scores = [
        score_partly_read(head, bags, np.array([number]), (1,), share={1: seen.shares[number]})[0, 0] for number in test
    ]
    return np.reshape(scores, (-1, seen.shown.times))


def table(
    tiles: EmbeddingSet, label: np.ndarray, n_labelled: int, shown: ShownInPart, *, contrast: bool
) -> dict[tuple[str, str], np.ndarray]:
    """Scores of every showing of every test slide, by head and by what it was fitted on."""
    seen = Seen(shown)
    bags = list(read_bags(tiles, tiles.slides, names=BAGS, seen_as=seen))
    alone = [shown.whole(bag) for bag in bags]
    train = np.arange(n_labelled)
    inner = deal_folds(train, label[train], 3, np.random.default_rng(0))
    fold, outcome = Fold(0, 0, train, np.arange(n_labelled, len(label)), inner), Outcome.binary(label)
    every, settings = shown.fold(fold), ProbeSettings(inner_folds=3)
    found = {}
    for name, (fit, of) in HEADS.items():
        (whole,) = fit(alone[of], outcome, [fold], settings)
        (parts,) = fit(bags[of], shown.outcome(outcome), [every], settings)
        for how, probe in (("whole", whole), ("parts", parts)):
            found[name, how] = probe.score(bags[of], every.test)[:, 0].reshape(-1, shown.times)
    if contrast:
        (head,) = fit_contrast(alone, outcome, [fold], settings)
        found["contrast", "whole"] = in_part(head, bags, every.test, seen)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=int, default=300, help="labelled slides")
    parser.add_argument("--test", type=int, default=500, help="test slides")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.03, 0.1], help="shares of the fine tiles")
    parser.add_argument("--policies", nargs="+", default=["stride", "change"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    budgets, n_labelled = tuple(arguments.budgets), arguments.labelled
    differences = []
    with threadpool_limits(1), TemporaryDirectory() as folder:
        filler = pretrained(Path(folder), arguments.seed)
        law = LAW.model_copy(update={"n_slides": n_labelled + arguments.test, "seed": arguments.seed})
        cohort = draw_cohort(law)
        tiles, label = open_set(write_cohort(cohort, Path(folder) / "cohort")), cohort.labels["label"]
        test = label[n_labelled:]
        heading = " | ".join(f"{budget:.0%}" for budget in budgets)
        print(f"| policy | unread | head | fitted on | all | {heading} |\n|---|---|---|---|---|{'---|' * len(budgets)}")
        for policy in arguments.policies:
            for unread in ("absent", "decoded"):
                shown = ShownInPart(budgets, POLICIES.get(policy), 0, filler if unread == "decoded" else None)
                found = table(tiles, label, n_labelled, shown, contrast=unread == "absent")
                for (name, how), scores in found.items():
                    losses = [np.logaddexp(0, -one * (2 * test - 1)).mean() for one in scores.T]
                    cells = [f"{auc(test, one):.3f} ({loss:.2f})" for one, loss in zip(scores.T, losses, strict=True)]
                    print(f"| {policy} | {unread} | {name} | {how} | {' | '.join(cells)} |", flush=True)
                for name in HEADS:
                    pairs = zip(found[name, "parts"].T, found[name, "whole"].T, strict=True)
                    gained = [delong_test(test, parts, whole).difference for parts, whole in pairs]
                    cells = [f"{one.estimate:+.3f} ({one.low:+.3f} to {one.high:+.3f})" for one in gained]
                    differences.append(f"| {policy} | {unread} | {name} | {' | '.join(cells)} |")
    print(f"\n| policy | unread | head | all | {heading} |\n|---|---|---|---|{'---|' * len(budgets)}")
    print("\n".join(differences))


if __name__ == "__main__":
    main()
