"""What pretraining earns at sequenced spots: `python benchmarks/her2st_mem.py FOLDER -o OUT`.

OUT is that of `benchmarks/her2st.py FOLDER -o OUT`, which is run before. Regions are embedded on a lattice over the
area of the spots, several for each spot, and no target is read. For every section three region encoders are trained on
the regions of the others: by masked embedding modelling (`mem`), not at all (`random`: random mixing), and by masked
embedding modelling of the finest magnification alone (`fine`: context and no coarse pixel). Their tokens at the spots
of all sections are read by the ridge that reads the tiles; the section in question is left out. The table has the mean
over sections, and the difference to `mixed+context`, the most that tiles bring, with a 95 % interval over sections.
What is done is kept by the product's commands: the same call goes on where it was stopped.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from her2st import MPPS, embed, find_sections, parfocal, read_spots
from scipy import stats
from scipy.spatial import KDTree

SPOT_PITCH_PX = 290
TRAINING = "--size T --batch 128 --optimizer muon --lr 0.003 --symmetry invariant --decoder-bias none --bottleneck 0.5"


def write_lattice(folder: Path, pitch_px: int, path: Path) -> None:
    """Places on a lattice wherever a spot is near: half the pitch of spots along either axis."""
    lines = ["slide,x_px,y_px"]
    for section in find_sections(folder):
        spots = np.array(list(read_spots(folder, section).values()))
        first, last = spots.min(axis=0) - SPOT_PITCH_PX / 2, spots.max(axis=0) + SPOT_PITCH_PX / 2
        axes = [np.arange(start, end, pitch_px) for start, end in zip(first, last, strict=True)]
        lattice = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2).round()
        near = KDTree(spots).query(lattice, p=np.inf)[0] <= SPOT_PITCH_PX / 2
        lines += [f"{section},{x:.0f},{y:.0f}" for x, y in lattice[near]]
    path.write_text("\n".join(lines) + "\n")


def evaluate_section(options: argparse.Namespace, dense: Path, section: str) -> Path:
    """Train on the other sections, read the tokens at all spots, and predict this section."""
    store, spots = options.output / "store", options.output / "spots.h5ad"
    folder = options.output / options.name / section
    training = options.training.split()
    trained = ("--steps", options.steps)
    for name, words in {"mem": trained, "random": ("--steps", 0), "fine": (*trained, "--mpps", MPPS[-1])}.items():
        parfocal("pretrain", dense, "-o", folder / name, "--holdout-slides", section, *training, *words)
        parfocal("represent", store, "--model", folder / name, "-o", folder / "tokens", "--readouts", "tokens")
    question = ["--places", spots, "--target", "all", "--most-variable", 50, "--hold-out", section]
    parfocal("evaluate", store, folder / "tokens", *question, "-o", folder / "report")
    return folder / "report" / "summary.csv"


def main() -> None:
    """Embed the lattice, go through the sections, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder that her2st.py wrote")
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--pitch-px", type=int, default=160, help="of the lattice; 0 takes the regions of the spots")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--training", default=TRAINING, help="words for pretrain; by default: " + TRAINING)
    parser.add_argument("--name", default="region-encoders", help="the folder in OUT for this call's models")
    options = parser.parse_args()
    sections = find_sections(options.folder)
    dense = options.output / "store"
    if options.pitch_px:
        dense = options.output / f"lattice-{options.pitch_px}"
        lattice = options.output / f"lattice-{options.pitch_px}.csv"
        write_lattice(options.folder, options.pitch_px, lattice)
        embed(options.folder, dense, lattice, options.encoder)
    r: dict[str, list[float]] = {}
    for section in sections:
        with evaluate_section(options, dense, section).open() as file:
            for row in csv.DictReader(file):
                r.setdefault(row["id"], []).append(float(row["value"]))
    best = np.array(r["mixed+context"])
    print("arm, mean r, minus mixed+context (95 %), sections ahead, r of " + ", ".join(sections))
    for arm, values in r.items():
        off = np.array(values) - best
        reach = stats.t.ppf(0.975, len(off) - 1) * off.std(ddof=1) / len(off) ** 0.5
        difference = f"{off.mean():+.3f} ({off.mean() - reach:+.3f} to {off.mean() + reach:+.3f})"
        each = " ".join(f"{value:.3f}" for value in values)
        print(f"{arm:28s} {np.mean(values):.3f}  {difference}  {int((off > 0).sum())} of {len(off)}  {each}")


if __name__ == "__main__":
    main()
