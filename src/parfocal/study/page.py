"""What a study's page says beside the comparison: its stages with their times, its models and their training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from parfocal.geometry import format_mpp
from parfocal.pretrain import PretrainSettings, read_metrics
from parfocal.report import Field, Note, Section, Text, page_table, training_figure
from parfocal.report.page import Block
from parfocal.run import FailedSlide
from parfocal.store import EmbeddingSet

_TRAINING = (
    "No region encoder saw a label. Some tile embeddings of a region are hidden, and it predicts them from the rest; "
    "R2 is 1 - squared error / variance about the mean of the magnification, so 0 is what the mean alone reaches. "
    "Slides of a test fold were seen in pretraining, without their labels; those of an external cohort were not."
)


def stages_section(
    seconds: Mapping[str, float],
    tiles: EmbeddingSet,
    failed: Sequence[FailedSlide],
    failed_models: Mapping[str, str],
    *,
    encoder: str,
    title: str,
) -> Section:
    """What the study is about, its stages before the evaluation with their times, and what is missing."""
    regions = sum(tiles.n_regions(slide) for slide in tiles.slides)
    counts = [tiles.n_rows(slide) for slide in tiles.slides]
    sums = {format_mpp(mpp): sum(one[mpp] for one in counts) for mpp in tiles.mpps}
    listed = ", ".join(f"{count:,} at {mpp} mpp" for mpp, count in sums.items())
    blocks: list[Block] = [
        Text(
            (
                *([f"{title}."] if title else []),
                f"{len(tiles.slides):,} slides, {regions:,} regions of {tiles.region_um:g} um, "
                f"tiles: {listed}. Tile encoder: {encoder or tiles.settings.get('encoder', 'unknown')}.",
            )
        ),
        page_table(
            "Stages before the evaluation",
            (
                Field("Stage", "0"),
                Field("Seconds", "1", show=",.1f", help="Wall-clock time of the run that did the stage."),
            ),
            list(seconds.items()),
        ),
    ]
    if failed:
        listed = "; ".join(f"{one.slide}: {one.message}" for one in failed[:5])
        blocks.append(Note(f"{len(failed)} slides failed and are left out. {listed}", "Slides that are missing"))
    blocks += [
        Note(f"{name} failed, and its arms with it: {reason}.", "Models that are missing")
        for name, reason in failed_models.items()
    ]
    return Section("Stages", tuple(blocks))


def training_section(models: Mapping[str, tuple[Path, PretrainSettings]], tiles: EmbeddingSet) -> Section | None:
    """How pretraining went: a line for each model and its curves; None where there is no model."""
    if not models:
        return None
    rows, figures = [], []
    for name, (folder, settings) in models.items():
        seen = [mpp for mpp in tiles.mpps if not settings.mpps or format_mpp(mpp) in map(format_mpp, settings.mpps)]
        last: dict[str, float] = {}
        for row in read_metrics(folder / "metrics.csv"):
            last |= row
        steps = int(last.get("step", 0))
        r2 = [last.get(f"r2_{format_mpp(mpp)}") for mpp in seen]
        rows.append(
            {
                "name": name,
                "size": settings.size,
                "objective": settings.objective if steps else "none: random weights",
                "sees": ", ".join(format_mpp(mpp) for mpp in seen),
                "steps": steps,
                "r2": ", ".join("–" if value is None else f"{value:.2f}" for value in r2) if steps else None,
            }
        )
        if steps:
            curves = {f"{name}: loss": {"loss": "all"}}
            if any(value is not None for value in r2):
                own = {f"r2_{format_mpp(mpp)}": f"{format_mpp(mpp)} mpp" for mpp in seen}
                curves[f"{name}: R2, held-out slides"] = own
            figures.append(training_figure(folder / "metrics.csv", curves))
    fields = (
        Field("Model", "name"),
        Field("Size", "size"),
        Field("Objective", "objective"),
        Field("Sees (mpp)", "sees"),
        Field("Steps", "steps"),
        Field("R2, held-out slides", "r2", help="Of hidden tokens, one value for each magnification.", align="right"),
    )
    return Section("Pretraining", (Text((_TRAINING,)), page_table("Region encoders", fields, rows), *figures))
