"""What is to be known of a head before it is used, in sentences: for the terminal, and as a page inside the head."""

from pathlib import Path

from parfocal.predict.calibration import Calibration
from parfocal.predict.facts import HeadFacts, StoppingFacts
from parfocal.predict.outside import Limit
from parfocal.report import Field, Note, ReportPage, Section, Table, Text, make_report, page_table


def patients_of(facts: HeadFacts) -> str:
    """What those who were counted are called: slides, where nothing said which of them come from one patient."""
    return "slides" if facts.trained_on.patients is None else "patients"


def fit_sentences(facts: HeadFacts) -> tuple[str, ...]:
    """What was fitted on how many, how well it reads slides that it had not seen, and how sure it may be."""
    trained, metric, calibration = facts.trained_on, facts.metric, facts.calibration
    whose = "taken as independent" if trained.patients is None else f"of {trained.patients} patients"
    joint = ", " if trained.patients is None else " "
    said = [
        f"{metric.name} {metric.estimate:.2f} ({metric.low:.2f} to {metric.high:.2f}) on slides it had not seen; "
        f"fitted on {trained.slides} slides{joint}{whose}"
    ]
    share = facts.settings.get("drop_magnifications")
    if share is not None:
        said.append(f"training slides were shown with magnifications left out in {share:.0%} of the showings")
    parts = facts.parts
    if parts is not None:
        filled = ", the rest as a model expects it" if parts.unread == "decoded" else ""
        reached = ", ".join(
            f"{one.estimate:.2f} ({one.low:.2f} to {one.high:.2f}) with {budget:.3g}"
            for budget, one in zip(parts.budgets, parts.metrics, strict=True)
        )
        said.append(f"of the finest tiles read in part by {parts.policy}{filled}: {metric.name} {reached}")
    if calibration.slope == 0 and facts.kind != "survival":
        said.append("its scores did not rise with the target: every slide will get the same prediction")
    if facts.classes and calibration.least:
        brier = (
            "" if metric.brier is None else f"; Brier score {metric.brier:.3f} on {patients_of(facts)} it had not seen"
        )
        said.append(
            f"no probability below {calibration.least:.2g} or above {1 - calibration.least:.2g}: "
            f"{calibration.n} {patients_of(facts)} bear out no more{brier}"
        )
    stopping = facts.stopping
    if stopping is not None:
        said.append(
            f"new slides are read by {stopping.policy} until their class is settled: of slides it had not seen that "
            f"was {stopping.share:.1%} of the finest tiles, {stopping.metric.name} {stopping.metric.estimate:.2f} "
            f"({stopping.metric.low:.2f} to {stopping.metric.high:.2f}), and {stopping.other:.1%} of "
            f"{patients_of(facts)} were called otherwise than when read whole; no more than {stopping.rate:.1%} are, "
            f"with a confidence of {stopping.confidence:g} over {stopping.n} {patients_of(facts)}"
        )
    return tuple(said)


def outside_sentence(facts: HeadFacts, limit: Limit) -> str:
    """From where on a slide is outside, and how often that is a mistake."""
    return f"outside is beyond a distance of {limit.cut:.2f}; {limit.sentence(patients_of(facts))}"


def write_head_page(facts: HeadFacts, calibration: Calibration, limit: Limit, path: Path) -> Path:
    """Write the page of a head: the sentences, the caveats, and the distances that the cut rests on."""
    trained = facts.trained_on
    columns = (Field("Class", "0"), Field("Slides", "1"))
    counts = [page_table("Slides of each class", columns, list(trained.classes.items()))] if trained.classes else []
    probabilities = (
        "Probabilities are fitted on scores of slides that their probe had not seen. "
        f"{patients_of(facts).capitalize()} are counted: the slides of one weigh as much together as the only slide of "
        "another. No class gets a probability nearer to 0 or 1 than one more of them could bring it, 1 / (n + 2)."
    )
    if not facts.classes:
        probabilities = (
            f"Values and intervals are fitted on scores of slides that their probe had not seen; n is {calibration.n} "
            f"{patients_of(facts)}, whose slides weigh as much together as the only slide of another."
        )
    page = ReportPage(
        title=f"{facts.arm_label}, for {facts.target}",
        lead=tuple(f"{one[0].upper()}{one[1:]}." for one in (*fit_sentences(facts), outside_sentence(facts, limit))),
        sections=(
            Section("Fitted on", (*(Note(note, "To be known") for note in trained.notes), *counts)),
            Section("What a prediction says", (Text((probabilities,)),)),
            *(
                [Section("How far a slide is read", (Text((_STOPPING,)), _rungs(facts.stopping)))]
                if facts.stopping
                else []
            ),
            Section(
                "What is called outside",
                (Text((_OUTSIDE if trained.patients is not None else _OUTSIDE_OF_SLIDES,)), _distances(facts, limit)),
            ),
        ),
        settings=facts.settings,
        inputs={"labels": trained.labels, "tile encoder": facts.tiles.encoder_digest},
    )
    return make_report(page, path)


_OUTSIDE = (
    "A slide is compared with all training slides. Where the usual ends was measured on each patient by the others: "
    "with the furthest of its slides, by measures fitted without it. A new patient who is like these has each rank "
    "among them equally often, and from that follows the rate of false alarms. How often a slide of another organ, "
    "stain or hospital is called outside does not follow."
)
_OUTSIDE_OF_SLIDES = (
    "A slide is compared with all training slides. Where the usual ends was measured on each of them by measures "
    "fitted without it. A new slide that is like these and independent of them has each rank equally often, and from "
    "that follows the rate of false alarms; a further slide of a training patient is not independent. How often a "
    "slide of another organ, stain or hospital is called outside does not follow."
)


_STOPPING = (
    "A slide's coarse tiles are read first, then its finest ones in the order of the policy. At each share below the "
    "class is looked at, and reading ends where the log odds of the class that is called, against the next one, are "
    "at least the margin. The margin was found on slides that neither probe nor reading had seen, so that with the "
    "stated confidence no more patients than the stated share are called otherwise than when their slides are read "
    "whole. That is about the class that is called: the order of slides by probability, which AUC measures, suffers "
    "more, because a slide whose class is settled is not looked at any further. It holds for slides that are like "
    "those of training."
)


def _rungs(stopping: StoppingFacts) -> Table:
    """The margins of every share."""
    rows = list(zip(stopping.rungs, stopping.usual, strict=True))
    columns = (
        Field("Share of the finest tiles", "0", show=".3g"),
        Field("What the rest usually moves the log odds by", "1", show=".2f"),
        Field("Margin that settles a class", lambda row: stopping.limit * row[1], show=".2f"),
    )
    return page_table("When reading ends", columns, rows)


def _distances(facts: HeadFacts, limit: Limit) -> Table:
    """The furthest of the distances: those that are beyond the cut or on it, and a few below."""
    rows = list(enumerate(limit.patients[::-1][:10], 1))
    columns = (
        Field("Rank", "0"),
        Field("Distance", "1"),
        Field(
            "False alarms with this cut",
            lambda row: row[0] / (limit.n + 1),
            show=".2g",
            help="The share of new ones, like these, that lie beyond it.",
        ),
    )
    caption = f"The furthest {len(rows)} of {limit.n} {patients_of(facts)}, each from measures fitted without it"
    return page_table(caption, columns, rows)
