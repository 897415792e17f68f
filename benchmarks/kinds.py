"""Where pretraining pays: five kinds of information in drawn cohorts, tiles against what a region encoder gives.

    python benchmarks/kinds.py [--worlds 1 2] [-o out/kinds]

A label is carried by one kind of information: `redundant` shifts a factor that all magnifications show weakly (a tile
tells its two states apart with AUC .76), `coarse` one that 5x alone shows, `fine` one that 20x alone shows, `state` how
often two signs agree, an XOR at 5x and linear at 20x, and `pairing` couples the factors of 5x and 20x within regions.
`state from 5x` is the same label where labelled and test slides are read at 5x alone. Slides have 2 regions, as small
biopsies; those of `pairing` have 16, for it is found by comparing regions of a slide, and so have those without
labels, on which region encoders of size T are pretrained: with AdamW and with Muon for equal steps, and one that keeps
its random weights. The same heads read tile embeddings and what `represent` gives: tokens, CLS beside the tiles, and
decoded (the tiles that the model expects everywhere in the region, at each magnification). Test slides stay the same;
few labels are drawn several times, without overlap, and averaged.

"Gain" is in labels: the number with which all tiles reach, by interpolation on their curve (its running maximum,
linear in the logarithm), the AUC that a reader has with 20, 40 or 80 labels, over that number; heads are compared with
themselves. What is done is kept, and the same call goes on after a kill. A world is another draw of cohorts and
weights; world 0 was looked at while this was built.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from xscale_bags import one_fold

from parfocal.bags import Bag, RepresentSettings, read_bags, represent_regions
from parfocal.bags.represent import RegionReadout
from parfocal.cohort import Outcome
from parfocal.files import writing
from parfocal.heads import ProbeSettings, fit_contrast, fit_mean, fit_region_mlp
from parfocal.lab.synthetic.design import balanced_labels
from parfocal.lab.synthetic.feature_model import COARSE, FeatureModel
from parfocal.lab.synthetic.xscale import FeatureCohort, PanelSettings, draw_cohort, write_cohort
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.stats import auc
from parfocal.store import only_mpps, open_set

LABELLED = (20, 40, 80, 160, 320)
GAINS_AT = (20, 40, 80)
KINDS = ("redundant", "coarse", "fine", "pairing", "state", "state from 5x")
LARGE, SMALL = 16, 2
"""Regions of a slide without labels and of one with `pairing`, and of all others."""
TAU, OMEGA = 0.3, 9.0
WEAK = 1.0
"""Distance of the two states of the shared factor in a tile, in standard deviations of its noise."""
RATE = {"adamw": 3e-4, "muon": 3e-3}
FIT = {"mean": fit_mean, "contrast": fit_contrast, "region MLP": fit_region_mlp}
MOST_DRAWS = {"mean": 8, "contrast": 2, "region MLP": 1}
SETTINGS = ProbeSettings(components=(16, 32, 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--unlabelled", type=int, default=800, help="slides that models are pretrained on")
    parser.add_argument("--test", type=int, default=300, help="test slides")
    parser.add_argument("--steps", type=int, default=400, help="of a pretraining")
    parser.add_argument("--batch", type=int, default=64, help="regions of a step")
    parser.add_argument("--targets", choices=("standardised", "whitened"), default="whitened")
    parser.add_argument("--optimizers", choices=tuple(RATE), nargs="+", default=list(RATE))
    parser.add_argument("--decoder-bias", choices=("nearness", "none"), default="nearness")
    parser.add_argument("--bottleneck", type=float, default=0.1)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/kinds"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        worlds = [World(number, arguments).run() for number in arguments.worlds]
    names = ", ".join(map(str, arguments.worlds))
    print(f"\nAUC on {arguments.test} test slides, mean of worlds {names}; gain in labels (each world)\n")
    heads = [*map(str, LABELLED), *(f"gain at {n}" for n in GAINS_AT)]
    print("| information | reader | " + " | ".join(heads) + " |")
    print("|---" * (2 + len(heads)) + "|")
    for key in sorted(worlds[0], key=lambda key: KINDS.index(key.split("/")[0])):
        kind, reader, head = key.split("/")
        rows = [world[key] for world in worlds]
        tiles = [world[f"{kind}/tiles/{head}"] for world in worlds]
        gains = ["" if reader == "tiles" else show_gain(rows, tiles, n) for n in GAINS_AT]
        cells = [*(f"{one:.3f}" for one in np.mean(rows, axis=0)), *gains]
        print(f"| {kind} | {reader}, {head} | " + " | ".join(cells) + " |")


def show_gain(rows: Sequence[Sequence[float]], tiles: Sequence[Sequence[float]], n: int) -> str:
    """The gain in labels of the mean curve, and in brackets that of each world."""
    of_mean = gain(np.mean(rows, axis=0), np.mean(tiles, axis=0), n)
    return f"{of_mean} ({', '.join(gain(one, other, n) for one, other in zip(rows, tiles, strict=True))})"


def gain(curve: Sequence[float], tiles: Sequence[float], n: int) -> str:
    """How many times `n` labels the tiles need for what `curve` has with `n`; a bound where their curve ends."""
    reached, best = curve[LABELLED.index(n)], np.maximum.accumulate(tiles)
    if reached > best[-1]:
        return f">{LABELLED[-1] / n:.0f}"
    if reached < best[0]:
        return f"<{LABELLED[0] / n:.1f}"
    # The first number of labels that is enough: where the running maximum stays level, the others are not needed.
    place = int(np.flatnonzero(best >= reached)[0])
    if place == 0:
        return f"{LABELLED[0] / n:.1f}"
    share = (reached - best[place - 1]) / (best[place] - best[place - 1])
    return f"{LABELLED[place - 1] * (LABELLED[place] / LABELLED[place - 1]) ** share / n:.1f}"


class World:
    """One draw of cohorts and models, with the results that are done."""

    def __init__(self, number: int, arguments: argparse.Namespace) -> None:
        self.number, self.arguments = number, arguments
        self.folder = arguments.output / f"world-{number}-{arguments.unlabelled}-{arguments.test}"
        n_labelled = LABELLED[-1] + arguments.test
        self.large = draw(arguments.unlabelled + n_labelled, LARGE, world=number, seed=number)
        self.small = draw(n_labelled, SMALL, world=number, seed=number + 1_000_000)
        how = (arguments.steps, arguments.batch, arguments.targets, arguments.decoder_bias, arguments.bottleneck)
        self.how = "-".join(map(str, how))
        self.done = self.folder / f"{self.how}.json"
        self.results: dict[str, list[float]] = json.loads(self.done.read_text()) if self.done.is_file() else {}
        self.read: dict[tuple[str, str], Sequence[Bag]] = {}

    def run(self) -> dict[str, list[float]]:
        """The AUC of every kind, reader and head, with each number of labels."""
        for cohort, name in ((self.large, "large"), (self.small, "small")):
            if not (self.folder / name / "labels.csv").is_file():
                write_cohort(cohort, self.folder / name)
        result = {}
        for kind, reader, head in questions(self.arguments.optimizers):
            key = f"{kind}/{reader}/{head}"
            if key not in self.results:
                self.results[key] = self.curve(kind, reader, head)
                with writing(self.done) as path:
                    path.write_text(json.dumps(self.results, indent=1))
            result[key] = self.results[key]
            print(f"world {self.number}  {key:<40} " + "  ".join(f"{one:.3f}" for one in result[key]), flush=True)
        return result

    def curve(self, kind: str, reader: str, head: str) -> list[float]:
        """The AUC with each number of labels."""
        cohort = self.large if kind == "pairing" else self.small
        label = cohort.labels[kind.split()[0]][-LABELLED[-1] - self.arguments.test :]
        source = "large" if kind == "pairing" else "small from 5x" if kind.endswith("5x") else "small"
        if (source, reader) not in self.read:
            self.read[source, reader] = self.bags(source, reader)
        bags = self.read[source, reader]
        test = np.arange(LABELLED[-1], len(label))
        found = []
        for n in LABELLED:
            starts = range(0, LABELLED[-1], n)[: MOST_DRAWS[head]]
            folds = [one_fold(label, np.arange(start, start + n), test) for start in starts]
            fitted = FIT[head](bags, Outcome.binary(label, target=kind), folds, SETTINGS)
            found.append(float(np.mean([auc(label[test], one.score(bags, test)[:, 0]) for one in fitted])))
        return found

    def bags(self, source: str, reader: str) -> Sequence[Bag]:
        """What a reader gets of the labelled and the test slides."""
        everything = open_set(self.folder / source.split()[0])
        slides = everything.slides[-LABELLED[-1] - self.arguments.test :]
        read = (COARSE,) if source.endswith("5x") else ()
        tiles = replace(only_mpps(everything, read), slides=slides)
        if reader.endswith("tiles"):
            return read_bags(tiles, slides)[-1 if reader == "20x tiles" else 0 :]
        name, readout = reader.split()[-2:]
        model, out = self.pretrained(name), self.folder / f"{source.replace(' ', '-')}-regions" / self.how

        def represented(readout: RegionReadout, mpp: float | None = None) -> Sequence[Bag]:
            how = RepresentSettings(readouts=(readout,), predict_mpp=mpp)
            return read_bags(represent_regions(tiles, model, out, how).sets[0], slides)

        if readout == "decoded":
            return [bag for mpp in everything.mpps for bag in represented("decoded", mpp)]
        beside = read_bags(tiles, slides) if reader.startswith("tiles and") else ()
        return [*beside, *represented("cls" if readout == "CLS" else "tokens")]

    def pretrained(self, name: str) -> Path:
        """The folder of a model, trained if it is not there."""
        arguments = self.arguments
        steps = 0 if name == "random" else arguments.steps
        model: Path = self.folder / "models" / f"{name}-{self.how}"
        started = time.process_time()
        result = pretrain_encoder(
            replace(open_set(self.folder / "large"), slides=self.large.slides[: arguments.unlabelled]),
            model,
            PretrainSettings(
                size="T",
                batch=arguments.batch,
                steps=steps,
                targets=arguments.targets,
                optimizer="adamw" if name == "random" else name,
                lr=RATE.get(name, RATE["adamw"]),
                decoder_bias=arguments.decoder_bias,
                bottleneck=arguments.bottleneck,
                seed=self.number,
                monitor_every=max(steps, 1),
                log_every=max(steps // 4, 1),
                checkpoint_every=100,
                cache_mib=2048,
                device="cpu",
            ),
        )
        if not result.was_finished:
            taken, r2 = time.process_time() - started, result.metrics.get("r2", 0.0)
            print(
                f"world {self.number}  {name}: {steps} steps, {taken:.0f} CPU s, R2 of hidden tiles {r2:.3f}",
                flush=True,
            )
        return model


def questions(optimizers: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Every kind of information, reader and head, in the order of the work: what is asked first is done first."""
    yield from _by_mean("redundant", optimizers)
    for kind in ("pairing", "coarse", "fine"):
        yield kind, "tiles", "contrast"
        for model in (*reversed(optimizers), "random"):
            yield kind, f"{model} tokens", "contrast"
            yield kind, f"tiles and {model} CLS", "contrast"
    for kind in ("coarse", "fine", "state from 5x", "state"):
        yield from _by_mean(kind, optimizers)
    yield "state from 5x", "tiles", "contrast"
    yield "state from 5x", "tiles", "region MLP"


def _by_mean(kind: str, optimizers: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    yield kind, "tiles", "mean"
    if kind in ("redundant", "fine"):
        yield kind, "20x tiles", "mean"
    for model in ("random", *optimizers):
        yield kind, f"{model} tokens", "mean"
        yield kind, f"{model} decoded", "mean"
        yield kind, f"tiles and {model} CLS", "mean"


def draw(n_slides: int, n_regions: int, *, world: int, seed: int) -> FeatureCohort:
    """The panel, and with it the label `state`: how often h1 and h2 of a region agree."""
    model = FeatureModel(dim=64, size_type=WEAK, seed=world)
    panel = PanelSettings(
        n_slides=n_slides, n_regions=n_regions, tau=TAU, omega=OMEGA, product=False, model=model, seed=seed
    )
    drawn = draw_cohort(panel)
    rng = np.random.default_rng([seed, 31])
    state = balanced_labels(n_slides, 1, rng)[:, 0]
    factors = []
    for one, positive in zip(drawn.factors, state, strict=True):
        h1 = rng.choice([-1.0, 1.0], n_regions)
        agree = rng.random(n_regions) < 0.5 + (TAU if positive else -TAU)
        factors.append(replace(one, h1=h1, h2=np.where(agree, h1, -h1)))
    labels: Mapping[str, np.ndarray] = {**drawn.labels, "state": state}
    return replace(drawn, factors=tuple(factors), labels=labels)


if __name__ == "__main__":
    main()
