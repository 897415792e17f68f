"""What it gains to order tiles anew while they are read, beside the policy that gives its order beforehand.

    python benchmarks/zoom_rounds.py --cohort hetero
    python benchmarks/zoom_rounds.py --cohort rare

Draws a cohort of `zoom_xscale.py`, fits a contrast head on whole slides, and scores test slides that are read to some
budgets by `entropy` and by `entropy-rounds`; what is not read is NaN. Prints the AUC of both and the difference with
DeLong's 95 % interval. A model of size T is pretrained on other slides, or --model names one.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from threadpoolctl import threadpool_limits
from zoom_xscale import draw, policies, pretrained, read_and_score, settings_of, tell

from parfocal.cohort import Outcome
from parfocal.heads import fit_contrast
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.stats import auc, delong_test

BUDGETS = (1 / 64, 2 / 64, 3 / 64, 6 / 64)
BEFOREHAND, ROUNDS = "entropy", "entropy-rounds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", choices=("rare", "hetero"), default="rare")
    parser.add_argument("--slides", type=int, default=800, help="labelled slides")
    parser.add_argument("--test", type=int, default=800, help="test slides")
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS), help="shares of the fine tiles")
    parser.add_argument("--model", type=Path, help="checkpoint of a model with a decoder")
    parser.add_argument("--unlabelled", type=int, default=200, help="slides that a model is pretrained on without one")
    parser.add_argument("--steps", type=int, default=400, help="of the pretraining")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seed = arguments.seed
    with threadpool_limits(1), TemporaryDirectory() as folder:
        drawn = draw(arguments.cohort, arguments.slides, arguments.test, seed)
        tell(f"{arguments.slides} labelled and {arguments.test} test slides are drawn")
        (head,) = fit_contrast(drawn.bags, Outcome.binary(drawn.label), [drawn.fold], settings_of(seed))
        assert isinstance(head, FittedContrast)
        label = drawn.test_label
        tell(f"contrast: {head.chosen}, AUC {auc(label, head.score(drawn.bags, drawn.fold.test)[:, 0]):.3f} of all")
        model = arguments.model
        if model is None:
            model = pretrained(drawn, arguments.unlabelled, arguments.steps, Path(folder))
        bound = policies((BEFOREHAND, ROUNDS), drawn, {"contrast": head}, model, seed)
        scores = read_and_score(drawn, {"contrast": head}, bound, sorted(arguments.budgets), seed)
    print("\n| cohort | share | beforehand | in rounds | difference |\n|---|---|---|---|---|")
    for budget in sorted(arguments.budgets):
        before, rounds = (scores["contrast", name, budget] for name in (BEFOREHAND, ROUNDS))
        found = delong_test(label, rounds, before).difference
        print(
            f"| {arguments.cohort} | {budget:.1%} | {auc(label, before):.3f} | {auc(label, rounds):.3f} "
            f"| {found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}] |"
        )


if __name__ == "__main__":
    main()
