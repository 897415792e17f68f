"""What pretraining earns at sequenced spots: `python benchmarks/her2st_mem.py FOLDER -o OUT`.

OUT is that of `benchmarks/her2st.py FOLDER -o OUT`, which is run before. Regions are embedded on a lattice over the
area of the spots, several for each spot, and no target is read. For every section three region encoders are trained on
the regions of the others: by masked embedding modelling (`mem`), not at all (`random`: random mixing), and by masked
embedding modelling of the finest magnification alone (`fine`: context and no coarse pixel). Their tokens at the spots
of all sections are read by the ridge that reads the tiles; the section in question is left out. The table has the mean
over sections, and the difference to `mixed+context`, the most that tiles bring, with a 95 % interval over sections.
What is done is kept: the same command goes on where it was stopped.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
from her2st import MPPS, REGION_UM
from scipy import stats
from scipy.spatial import KDTree

SPOT_PITCH_PX = 290
TRAINING = ["--size", "T", "--batch", "128", "--optimizer", "muon", "--lr", "0.003", "--symmetry", "invariant"]


def write_lattice(folder: Path, pitch_px: int, path: Path) -> None:
    """Places on a lattice wherever a spot is near: half the pitch of spots along either axis."""
    lines = ["slide,x_px,y_px"]
    for table in sorted(folder.glob("*-spots.tsv")):
        with table.open() as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if row["selected"] == "1"]
        spots = np.array([[float(row["pixel_x"]), float(row["pixel_y"])] for row in rows])
        first, last = spots.min(axis=0) - SPOT_PITCH_PX / 2, spots.max(axis=0) + SPOT_PITCH_PX / 2
        axes = [np.arange(start, end, pitch_px) for start, end in zip(first, last, strict=True)]
        lattice = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2).round()
        near = KDTree(spots).query(lattice, p=np.inf)[0] <= SPOT_PITCH_PX / 2
        lines += [f"{table.name.removesuffix('-spots.tsv')},{x:.0f},{y:.0f}" for x, y in lattice[near]]
    path.write_text("\n".join(lines) + "\n")


def parfocal(*words: object) -> None:
    """Run a command of the product."""
    print("$ parfocal", *words, flush=True)
    subprocess.run([sys.executable, "-m", "parfocal", *map(str, words)], check=True)


def evaluate_section(options: argparse.Namespace, dense: Path, section: str) -> Path:
    """Train on the other sections, read the tokens at all spots, and predict this section."""
    store, spots = options.output / "store", options.output / "spots.h5ad"
    folder = options.output / options.name / section
    models = {"mem": ("--steps", options.steps), "random": ("--steps", 0)}
    models["fine"] = ("--steps", options.steps, "--mpps", MPPS[-1])
    for name, words in models.items():
        if name in options.models and not (folder / name / "config.json").exists():
            training = TRAINING if options.training is None else options.training.split()
            parfocal("pretrain", dense, "-o", folder / name, "--holdout-slides", section, *training, *words)
            parfocal("represent", store, "--model", folder / name, "-o", folder / "tokens", "--readouts", "tokens")
    report = folder / "report"
    if not (report / "summary.csv").exists():
        question = ["--places", spots, "--target", "all", "--most-variable", 50, "--hold-out", section]
        parfocal("evaluate", store, folder / "tokens", *question, "-o", report)
    return report / "summary.csv"


def main() -> None:
    """Embed the lattice, go through the sections, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder that her2st.py wrote")
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--pitch-px", type=int, default=160, help="of the lattice; 0 takes the regions of the spots")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--models", nargs="+", default=["mem", "random", "fine"], choices=["mem", "random", "fine"])
    parser.add_argument("--training", help="words for pretrain in place of: " + " ".join(TRAINING))
    parser.add_argument("--name", default="region-encoders", help="the folder in OUT for this call's models")
    options = parser.parse_args()
    sections = sorted(path.name.removesuffix("-counts.tsv.gz") for path in options.folder.glob("*-counts.tsv.gz"))
    dense = options.output / "store"
    if options.pitch_px:
        dense = options.output / f"lattice-{options.pitch_px}"
        lattice = options.output / f"lattice-{options.pitch_px}.csv"
        write_lattice(options.folder, options.pitch_px, lattice)
        grid = ["--mpps", *MPPS, "--region-um", f"{REGION_UM:g}", "--slide-mpp", "0.69", "--min-tissue", "0"]
        slides = [options.folder / f"{name}.jpg" for name in sections]
        parfocal("embed", *slides, "-o", dense, "--encoder", options.encoder, *grid, "--places", lattice, "--no-qc")
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
