"""How much of XScale a policy must read for the answer of the best head that reads everything.

    python benchmarks/zoom_xscale.py
    python benchmarks/zoom_xscale.py --slides 400 --test 500 --readers contrast
    python benchmarks/zoom_xscale.py --cohort hetero --policies contrast entropy random --readers

Draws one cohort of two magnifications (XScale-rare, 64 regions, separations 4 and 4), fits heads on whole slides and
scores test slides of which only the share of fine tiles is read that the budget pays for; the fine side of contrast is
centred on what is expected from the coarse side then. What is not read is NaN. Policies that value regions read all 16
tiles of one before the next: 9.4 % of the tiles are 6 of 64 regions; random, stride and contrast-tiles scatter them.

Prints the AUC on test slides by policy and budget for each head, the heads that read everything, the exact observer of
the cohort's own law with noisy reading, and the frontiers of perfect reading; then the
differences that count, with DeLong's 95 % intervals. The policy entropy needs a model with a decoder: one of size T is
pretrained on other slides of the same cohort, or --model names one. All of it takes five minutes on one core, and the
model as long again.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from threadpoolctl import threadpool_limits

from parfocal.bags import Bag, bag_of_slide, open_decoder
from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.heads import (
    FittedProbe,
    ProbeSettings,
    fit_attention,
    fit_contrast,
    fit_mlp,
    fit_region_mlp,
    score_partly_read,
)
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.lab.synthetic import (
    FeatureCohort,
    FeatureModel,
    ceilings,
    draw_cohort,
    hetero_settings,
    rare_settings,
    write_cohort,
)
from parfocal.lab.synthetic.feature_model import COARSE, FINE
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.stats import auc, delong_test
from parfocal.store import SlideTokens
from parfocal.zoom import POLICIES, Glance, HeadOfBags, Policy, chosen, replayed

BUDGETS = (3 / 64, 6 / 64, 13 / 64, 0.5, 1.0)
POLICY_NAMES = ("contrast", "contrast-tiles", "attention", "change", "diversity", "random-regions", "random", "stride")
BAGS = ("2", "0.5")
N_REGIONS = 64

Scores = dict[tuple[str, str, float], np.ndarray]
"""Of every test slide, by head, policy and budget."""


@dataclass(frozen=True)
class Drawn:
    """A cohort, the region means of its training slides, and which slides are for what."""

    cohort: FeatureCohort
    bags: tuple[Bag, ...]
    label: np.ndarray
    fold: Fold

    @property
    def test_label(self) -> np.ndarray:
        """Labels of the test slides."""
        return self.label[self.fold.test]


def draw(kind: str, slides: int, test: int, seed: int) -> Drawn:
    """Draw a cohort; only region means of it are kept."""
    settings_of = rare_settings if kind == "rare" else hetero_settings
    model = FeatureModel(separation_a=4.0, shift_c=1.0)
    cohort = draw_cohort(settings_of(slides + test, model=model, seed=seed))
    label = cohort.labels["label"]
    train = np.arange(slides)
    fold = Fold(0, 0, train, np.arange(slides, slides + test), deal_folds(train, label[:slides], 5, generator(seed)))
    means: dict[float, list[np.ndarray]] = {COARSE: [], FINE: []}
    some: dict[float, list[np.ndarray]] = {COARSE: [], FINE: []}
    rng = generator(seed)
    for number in range(slides + test):
        tokens = cohort.tokens(number)
        for mpp, rows in tokens.features.items():
            if mpp in means:
                means[mpp].append(rows.reshape(N_REGIONS, -1, rows.shape[1]).mean(axis=1))
                some[mpp].append(rows[np.sort(rng.choice(len(rows), N_REGIONS, replace=False))])
    bags = tuple(
        bag_of(name, cohort.slides, np.stack(some[mpp]), np.stack(means[mpp]), tiles)
        for name, mpp, tiles in zip(BAGS, means, (1, 16), strict=True)
    )
    return Drawn(cohort, bags, label, fold)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 41])


def bag_of(name: str, slides: Sequence[str], tiles: np.ndarray, means: np.ndarray, per_region: int) -> Bag:
    """A bag of all regions' means that keeps some tiles of each slide."""
    n, regions, dim = means.shape
    start = np.arange(n + 1, dtype=np.int64)
    return Bag(
        name=name,
        slides=tuple(slides),
        rows=tiles.reshape(-1, dim),
        start=start * tiles.shape[1],
        n_instances=np.full(n, regions * per_region),
        mean=means.mean(axis=1),
        region_mean=means.reshape(-1, dim),
        region_start=start * regions,
        region_present=np.ones(n * regions, dtype=bool),
    )


def pretrained(drawn: Drawn, slides: int, steps: int, folder: Path) -> Path:
    """A model that predicts fine tiles and their variance, from slides of the cohort's law that no one has labelled."""
    began = time.monotonic()
    settings = drawn.cohort.settings.model_copy(update={"n_slides": slides, "seed": drawn.cohort.settings.seed + 1000})
    tiles = write_cohort(draw_cohort(settings), folder / "store")
    # More weight on the variance than is usual: it is all that is asked for here, and training is short.
    how = PretrainSettings(
        size="T", mpps=(COARSE, FINE), steps=steps, batch=128, variance_from=0.25, variance_weight=0.5, device=("cpu",)
    )
    pretrain_encoder(tiles, folder / "model", how)
    tell(f"a model is pretrained on {slides} slides in {steps} steps ({time.monotonic() - began:.0f} s)")
    return folder / "model"


def settings_of(seed: int, *, sharpen: bool = True) -> ProbeSettings:
    return ProbeSettings(components=(16, 32, 64), seed=seed, sharpen=sharpen, lifted=(6,) if sharpen else ())


def fit_heads(drawn: Drawn, seed: int) -> dict[str, FittedContrast]:
    """Contrast with everything that it is offered, and with its directions alone."""
    heads = {}
    for name, sharpen in (("contrast, directions alone", False), ("contrast", True)):
        began = time.monotonic()
        (probe,) = fit_contrast(
            drawn.bags, Outcome.binary(drawn.label), [drawn.fold], settings_of(seed, sharpen=sharpen)
        )
        assert isinstance(probe, FittedContrast)
        heads[name] = probe
        tell(f"{name}: {probe.chosen} ({time.monotonic() - began:.0f} s)")
    return heads


def full_readers(drawn: Drawn, names: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Scores of heads that read everything, beside contrast."""
    fits = {"region MLP": fit_region_mlp, "MLP on means": fit_mlp}
    found = {}
    for name in names:
        began = time.monotonic()
        (probe,) = fits[name](drawn.bags, Outcome.binary(drawn.label), [drawn.fold], settings_of(seed))
        found[name] = probe.score(drawn.bags, drawn.fold.test)[:, 0]
        tell(f"{name}: {probe.chosen} ({time.monotonic() - began:.0f} s)")
    return found


def policies(
    names: Sequence[str], drawn: Drawn, heads: dict[str, FittedContrast], model: Path | None, seed: int
) -> dict[str, dict[str, Policy]]:
    """For each head every policy; those that need a head take that one, attention one of the coarse tiles alone."""
    attention: FittedProbe | None = None
    if "attention" in names:
        (attention,) = fit_attention(drawn.bags[:1], Outcome.binary(drawn.label), [drawn.fold], settings_of(seed))
    bound: dict[str, dict[str, Policy]] = {}
    for head, probe in heads.items():
        bound[head] = {}
        for name in names:
            policy = POLICIES.get(name)
            asked = HeadOfBags(probe, BAGS)
            if name == "attention":
                assert attention is not None
                asked = HeadOfBags(attention, BAGS[:1])
            decoder = open_decoder(str(model), ["decoded-variance"], mpp=FINE) if "model" in policy.needs else None
            if policy.needs:
                policy = policy.bound(*({"head": asked, "model": decoder}[need] for need in policy.needs))
            bound[head][name] = policy
    return bound


def only(tokens: SlideTokens, mpp: float, rows: np.ndarray) -> SlideTokens:
    """The coarse tiles of a slide, and of another magnification some."""
    parts = [{COARSE: one[COARSE]} for one in (tokens.features, tokens.region, tokens.center_um)]
    if rows.any():
        for part, one in zip(parts, (tokens.features, tokens.region, tokens.center_um), strict=True):
            part[mpp] = one[mpp][rows]
    return replace(tokens, features=parts[0], region=parts[1], center_um=parts[2])


def glance_at(tokens: SlideTokens, seed: int) -> Glance:
    """What a policy sees: nothing of the fine embeddings."""
    region = tokens.region[FINE]
    coarse = only(tokens, FINE, np.zeros(len(region), dtype=bool))
    return Glance(coarse, region, tokens.center_um[FINE], FINE, np.ones(len(region)), seed)


def read_and_score(
    drawn: Drawn,
    heads: dict[str, FittedContrast],
    bound: dict[str, dict[str, Policy]],
    budgets: Sequence[float],
    seed: int,
) -> Scores:
    """The score of every test slide, each read for itself; unread fine values are NaN."""
    scores: Scores = {
        (head, name, budget): np.empty(len(drawn.fold.test))
        for head, own in bound.items()
        for name in own
        for budget in budgets
    }
    picked = np.array([0])
    for place, number in enumerate(drawn.fold.test):
        tokens = drawn.cohort.tokens(int(number))
        glance = glance_at(tokens, seed)
        coarse = bag_of_slide(tokens, COARSE)
        orders: dict[str, np.ndarray] = {}
        for head, own in bound.items():
            for name, policy in own.items():
                if "head" in policy.needs or name not in orders:
                    order = replayed(policy, tokens, glance, budget=max(budgets))
                else:
                    order = orders[name]
                orders[name] = order
                for budget in budgets:
                    read = chosen(order, budget)
                    poisoned = np.where(read[:, None], tokens.features[FINE], np.nan)
                    features = {**tokens.features, FINE: poisoned}
                    fine = bag_of_slide(only(replace(tokens, features=features), FINE, read), FINE)
                    share = np.bincount(glance.region, read, minlength=N_REGIONS) / np.bincount(glance.region)
                    score = score_partly_read(heads[head], (coarse, fine), picked, (1,), share={1: share})
                    scores[head, name, budget][place] = score[0, 0]
        if place % 250 == 249:
            tell(f"{place + 1} of {len(drawn.fold.test)} test slides are read")
    return scores


def exact_observer(drawn: Drawn, budgets: Sequence[float], guided: Callable[[np.ndarray], np.ndarray]) -> list[float]:
    """The AUC of the likelihood ratio under the cohort's own law, from noisy evidence, unread regions adding nothing.

    Args:
        drawn: the cohort.
        budgets: shares of regions.
        guided: from the log odds of A to the order of regions.
    """
    settings = drawn.cohort.settings
    laws = [
        ceilings.iid_cell_law(settings.a, settings.c, settings.tau_a, settings.tau_c, settings.kappa, positive=positive)
        for positive in (True, False)
    ]
    scores = np.zeros((len(budgets), len(drawn.fold.test)))
    for place, number in enumerate(drawn.fold.test):
        tokens = drawn.cohort.tokens(int(number))
        a, c = drawn.cohort.space.log_odds_a(tokens), drawn.cohort.space.log_odds_c(tokens)
        weight = np.exp(np.stack([[0 * a, c], [a, a + c]]))  # (A, C, region)
        ratio = np.log(np.einsum("ac,acr->r", laws[0], weight) / np.einsum("ac,acr->r", laws[1], weight))
        order = guided(a)
        for row, budget in enumerate(budgets):
            scores[row, place] = ratio[order[: round(budget * N_REGIONS)]].sum()
    return [auc(drawn.test_label, row) for row in scores]


def tell(line: str) -> None:
    print(f"<!-- {line} -->", flush=True)


def row(name: str, policy: str, values: Sequence[float]) -> str:
    return f"| {name} | {policy} | {' | '.join(f'{value:.3f}' for value in values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", choices=("rare", "hetero"), default="rare")
    parser.add_argument("--slides", type=int, default=1600, help="labelled slides")
    parser.add_argument("--test", type=int, default=2000, help="test slides")
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS), help="shares of the fine tiles")
    parser.add_argument("--policies", nargs="+", default=list(POLICY_NAMES))
    parser.add_argument("--readers", nargs="*", default=["region MLP"], help="other heads that read everything")
    parser.add_argument("--model", type=Path, help="checkpoint of a model with a decoder, for entropy and value")
    parser.add_argument("--unlabelled", type=int, default=200, help="slides that a model is pretrained on without one")
    parser.add_argument("--steps", type=int, default=400, help="of the pretraining")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    budgets, seed = sorted(arguments.budgets), arguments.seed
    with threadpool_limits(1), TemporaryDirectory() as folder:
        drawn = draw(arguments.cohort, arguments.slides, arguments.test, seed)
        tell(f"{arguments.slides} labelled and {arguments.test} test slides are drawn")
        heads = fit_heads(drawn, seed)
        whole = {name: head.score(drawn.bags, drawn.fold.test)[:, 0] for name, head in heads.items()}
        whole |= full_readers(drawn, [name for name in arguments.readers if name != "contrast"], seed)
        model = arguments.model
        if model is None and any("model" in POLICIES.get(name).needs for name in arguments.policies):
            model = pretrained(drawn, arguments.unlabelled, arguments.steps, Path(folder))
        bound = policies(arguments.policies, drawn, heads, model, seed)
        scores = read_and_score(drawn, heads, bound, budgets, seed)
        label = drawn.test_label
        print(f"\n| head | policy | {' | '.join(f'{budget:.1%}' for budget in budgets)} |")
        print(f"|---|---|{'---|' * len(budgets)}")
        for head, own in bound.items():
            for name in own:
                print(row(head, name, [auc(label, scores[head, name, budget]) for budget in budgets]))
        shuffled = generator(seed)
        print(row("exact observer", "guided", exact_observer(drawn, budgets, lambda a: np.argsort(-a))))
        random = exact_observer(drawn, budgets, lambda a: shuffled.permutation(len(a)))
        print(row("exact observer", "random-regions", random))
        if arguments.cohort == "rare":
            for guided, policy in ((True, "guided"), (False, "random-regions")):
                values = [ceilings.rare_budget_auc(budget, guided=guided) for budget in budgets]
                print(row("frontier, perfect reading", policy, values))
        print("\n| reads everything | AUC |\n|---|---|")
        for name, score in whole.items():
            print(f"| {name} | {auc(label, score):.3f} |")
        _compare(label, scores, whole, bound, budgets)


def _compare(
    label: np.ndarray,
    scores: Scores,
    whole: dict[str, np.ndarray],
    bound: dict[str, dict[str, Policy]],
    budgets: Sequence[float],
) -> None:
    """The differences that count, at every budget."""
    best = max(whole, key=lambda name: auc(label, whole[name]))
    print(
        f"\n| head and policy | share | less the best full reader ({best}) | less random-regions |\n|---|---|---|---|"
    )
    for head, own in bound.items():
        for name in own:
            for budget in budgets:
                tests = [delong_test(label, scores[head, name, budget], whole[best])]
                if "random-regions" in own:
                    tests.append(delong_test(label, scores[head, name, budget], scores[head, "random-regions", budget]))
                cells = [
                    f"{t.difference.estimate:+.3f} [{t.difference.low:+.3f}, {t.difference.high:+.3f}]" for t in tests
                ]
                print(f"| {head}, {name} | {budget:.1%} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
