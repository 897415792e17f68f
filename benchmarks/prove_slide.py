"""What a region encoder learns of one real slide, by tile encoder: embed, pretrain, prove, and keep the pages.

    python benchmarks/prove_slide.py SLIDE work pages --encoders filterbank efficientnet-lite0

Size T, batch 64, 400 steps: enough for the few hundred regions of a slide. Tissue fragments are held out. What was
embedded and trained is kept in the first folder and not done again; the second gets a page and a JSON for each encoder
(not the models), and a table of all of them.
"""

import argparse
import json
import re
import shutil
import sys
import time
from pathlib import Path

import torch

from parfocal.embed import EmbedSettings, embed_slides
from parfocal.lab.prove.run import ProveSettings, prove_encoder
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.store import open_set

SHOWN = ("model", "B1", "B4", "B5", "B9", "B10", "C1", "C3", "C3s", "E1", "E0", "E0s")


def tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def prove_for(slide: Path, work: Path, page: Path, encoder: str, settings: PretrainSettings) -> dict[str, object]:
    """One encoder's proof, its page copied; what prove.json holds."""
    name = re.sub(r"[^a-z0-9]+", "-", encoder.lower()).strip("-")
    summary = embed_slides([slide], work / name / "store", EmbedSettings(encoder=encoder))
    tell(f"{encoder}: embedded")
    pretrain_encoder(open_set(summary.set_path), work / name / f"model-{name}", settings)
    tell(f"{encoder}: pretrained")
    prove_encoder(
        work / name / f"model-{name}", work / name / "store", work / name / "proof", ProveSettings(device="cpu")
    )
    tell(f"{encoder}: compared with the baselines")
    shutil.copy(work / name / "proof" / "report.html", page / f"{name}.html")
    found: dict[str, object] = json.loads((work / name / "proof" / "prove.json").read_text())
    (page / f"{name}.json").write_text(json.dumps(found, indent=1))
    return found


def table_of(found: dict[str, dict]) -> str:
    """All encoders and patterns, as Markdown."""
    lines = ["| tile encoder | hidden | " + " | ".join(SHOWN) + " | model minus B5 | model minus B9 | holds |"]
    lines.append("|" + "---|" * (len(SHOWN) + 5))
    for encoder, proof in found.items():
        for pattern, one in proof["patterns"].items():
            values = [one["r2"].get(method, {}).get("all") for method in SHOWN]
            cells = ["-" if value is None else f"{value:.3f}".replace("-", "\u2212") for value in values]
            cells += [_difference(one["r2"][rival]["model_minus_it"]) for rival in ("B5", "B9")]
            lines.append(f"| {encoder} | {pattern} | {' | '.join(cells)} | {'yes' if one['holds'] else 'no'} |")
    return "\n".join(lines)


def readme(found: dict[str, dict]) -> str:
    """The page's text: what was held out, the table, and each encoder's verdict."""
    what = next(iter(found.values()))["what"].split(": ", 1)[1]
    sentences = "\n\n".join(f"**{encoder}.** " + " ".join(proof["verdict"]) for encoder, proof in found.items())
    return f"# One slide, by tile encoder\n\n{what[:1].upper()}{what[1:]}\n\n{table_of(found)}\n\n{sentences}\n"


def _difference(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "-"
    ends = [f"{interval[key]:.3f}".replace("-", "\u2212") for key in ("estimate", "low", "high")]
    return f"{ends[0]} ({ends[1]} to {ends[2]})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("work", type=Path, help="folder of stores and models")
    parser.add_argument("page", type=Path, help="folder that pages and tables are written to")
    parser.add_argument("--encoders", nargs="+", default=["filterbank"], help="tile encoders, as on the command line")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = PretrainSettings(
        size="T",
        decoder_bias="none",
        bottleneck=0.5,
        batch=64,
        steps=given.steps,
        lr=given.lr,
        optimizer=given.optimizer,
        holdout=0.3,
        monitor_every=given.steps,
        log_every=max(1, given.steps // 10),
        device="cpu",
    )
    given.page.mkdir(parents=True, exist_ok=True)
    found = {one: prove_for(given.slide, given.work, given.page, one, settings) for one in given.encoders}
    text = readme(found)
    (given.page / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
