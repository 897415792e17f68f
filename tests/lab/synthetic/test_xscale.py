import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from parfocal.lab.synthetic.ceilings import iid_mixed_auc, reliability, strat_log_likelihood_ratio
from parfocal.lab.synthetic.feature_model import COARSE, FINE, FeatureModel, RegionFactors
from parfocal.lab.synthetic.xscale import (
    FeatureCohort,
    IidSettings,
    PanelSettings,
    StratSettings,
    draw_cohort,
    hetero_settings,
    rare_settings,
    write_cohort,
)
from parfocal.stats.auc import auc
from parfocal.store import open_set

from .fourier import FourierAdversary

SMALL = FeatureModel(dim=32)


def _strata(factors: RegionFactors) -> list[tuple]:
    return list(zip(factors.tissue_type, factors.orientation, factors.h1, factors.h2, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        StratSettings(n_slides=10),
        StratSettings(n_slides=10, n_types=4, orientation=True, stratum=2),
        StratSettings(n_slides=10, n_types=3, product=False, omega=1.5),
    ],
)
def test_every_stratum_has_the_same_counts_in_every_slide(settings: StratSettings) -> None:
    cohort = draw_cohort(settings)

    seen = set()
    for factors in cohort.factors:
        strata = _strata(factors)
        counts = Counter(strata)
        assert len(counts) == settings.n_strata
        assert set(counts.values()) == {settings.stratum}
        for attribute in (factors.a, factors.c):
            having = Counter(stratum for stratum, has in zip(strata, attribute, strict=True) if has)
            assert having == dict.fromkeys(counts, settings.stratum // 2)
        seen.add(frozenset(counts))
    assert len(seen) == 1
    assert cohort.labels["pairing"].sum() == 5


def test_the_noisy_ceiling_is_reached_by_exact_evidence_from_the_embeddings() -> None:
    cohort = draw_cohort(StratSettings(n_slides=300, model=SMALL))
    evidence = []
    for number, tokens in enumerate(cohort):
        strata = _strata(cohort.factors[number])
        order = np.argsort([str(stratum) for stratum in strata], kind="stable")
        evidence.append([cohort.space.log_odds_a(tokens)[order], cohort.space.log_odds_c(tokens)[order]])
    a, c = np.array(evidence).transpose(1, 0, 2).reshape(2, 300, 8, 8)

    reached = auc(cohort.labels["pairing"], strat_log_likelihood_ratio(a, c, 2.0))

    assert reached == pytest.approx(0.9665, abs=0.035)  # quoted ceiling; three standard errors of 300 slides


def _adversary_auc(cohort: FeatureCohort, label: str, n_fit: int) -> float:
    coarse, fine = [], []
    for tokens in cohort:
        coarse.append(tokens.features[COARSE].astype(np.float64))
        fine.append(tokens.features[FINE].astype(np.float64).reshape(tokens.n_regions, 16, -1).mean(axis=1))
    a, c = ([getattr(factors, name) for factors in cohort.factors] for name in ("a", "c"))
    adversary = FourierAdversary(n_components=6).fit(coarse[:n_fit], fine[:n_fit], a[:n_fit], c[:n_fit])
    scores = [adversary.score(x, y) for x, y in zip(coarse[n_fit:], fine[n_fit:], strict=True)]
    return auc(cohort.labels[label][n_fit:], np.array(scores))


def test_the_adversary_cannot_re_pair_a_stratified_cohort() -> None:
    settings = StratSettings(n_slides=400, omega=3.0, n_types=4, stratum=4, model=SMALL)

    assert _adversary_auc(draw_cohort(settings), "pairing", 100) == pytest.approx(0.5, abs=0.1)  # three se of 300


def test_the_adversary_re_pairs_by_a_shared_continuous_nuisance() -> None:
    model = SMALL.model_copy(update={"shared_nuisance": 6})
    settings = StratSettings(n_slides=240, omega=3.0, n_types=4, stratum=4, model=model)

    assert _adversary_auc(draw_cohort(settings), "pairing", 100) > 0.75


def test_the_adversary_stays_at_the_late_ceiling_on_the_iid_cohort() -> None:
    settings = IidSettings(n_slides=400, kappa=0.1, model=SMALL)  # rho = .4: late at most .70, mixed 1.00

    assert _adversary_auc(draw_cohort(settings), "label", 100) < 0.75


def test_iid_evidence_reaches_the_mixed_ceiling() -> None:
    model = FeatureModel(dim=32, separation_a=2.0, shift_c=0.5)
    settings = IidSettings(n_slides=500, kappa=0.05, model=model)
    cohort = draw_cohort(settings)

    assert settings.rho == pytest.approx(0.2)
    scores = []
    for tokens in cohort:
        product = np.tanh(cohort.space.log_odds_a(tokens) / 2) * np.tanh(cohort.space.log_odds_c(tokens) / 2)
        scores.append(np.log((1 + 0.2 * product) / (1 - 0.2 * product)).sum())
    ceiling = iid_mixed_auc(0.2, 64, reliability(2.0), reliability(2.0))
    assert auc(cohort.labels["label"], np.array(scores)) == pytest.approx(ceiling, abs=0.045)  # three se


def test_rare_regions_are_rare_and_c_is_equally_uncertain_in_all() -> None:
    cohort = draw_cohort(rare_settings(800))
    a, c = (np.concatenate([getattr(factors, name) for factors in cohort.factors]) for name in ("a", "c"))
    label = np.repeat(cohort.labels["label"], 64)

    assert a.mean() == pytest.approx(0.1, abs=0.006)
    assert c[a].mean() == pytest.approx(0.5, abs=0.03)
    assert c[~a].mean() == pytest.approx(0.5, abs=0.01)
    # In a class, P(C=1 | A=1) is .5 +- kappa / a = .75 or .25, and hardly moves where A=0.
    assert c[a & label].mean() == pytest.approx(0.75, abs=0.03)
    assert c[~a & label].mean() == pytest.approx(0.5 - 0.025 / 0.9, abs=0.01)


def test_hetero_is_rare_with_louder_regions() -> None:
    rare, hetero = draw_cohort(rare_settings(6)), draw_cohort(hetero_settings(6))

    assert all(np.array_equal(one.a, other.a) for one, other in zip(rare.factors, hetero.factors, strict=True))
    noise = np.concatenate(
        [hetero.tokens(number).features[FINE].reshape(64, 16, -1).std(axis=1).mean(axis=1) for number in range(6)]
    )
    assert auc(np.concatenate([factors.a for factors in hetero.factors]), noise.astype(np.float64)) > 0.99


def test_panel_labels_sit_where_they_should() -> None:
    cohort = draw_cohort(PanelSettings(n_slides=600, tau=0.1, omega=2.0))
    labels = cohort.labels
    statistic = {
        "redundant": np.array([factors.tissue_type.mean() for factors in cohort.factors]),
        "coarse": np.array([factors.a.mean() for factors in cohort.factors]),
        "fine": np.array([factors.c.mean() for factors in cohort.factors]),
        "pairing": np.array([(factors.a == factors.c).mean() for factors in cohort.factors]),
    }

    for label, values in labels.items():
        for name, numbers in statistic.items():
            reached = auc(values, numbers)
            if name == label:
                assert reached > 0.9, label
            else:
                assert reached == pytest.approx(0.5, abs=0.09), (label, name)  # standard error .024


def test_the_confounded_label_follows_the_stain_in_training_slides_only() -> None:
    cohort = draw_cohort(PanelSettings(n_slides=600, n_regions=8))
    training = np.array(cohort.split) == "train"
    stain, label = cohort.slide_vectors[:, 0], cohort.labels["confounded"]

    assert auc(label[training], stain[training]) > 0.85
    assert auc(label[~training], stain[~training]) == pytest.approx(0.5, abs=0.1)
    assert auc(cohort.labels["permuted"], stain) == pytest.approx(0.5, abs=0.08)


def test_a_slide_is_the_same_whenever_it_is_drawn() -> None:
    settings = StratSettings(n_slides=4, stratum=2, model=SMALL)

    one, other = draw_cohort(settings), draw_cohort(settings)

    other.tokens(0)
    assert np.array_equal(one.tokens(3).features[FINE], other.tokens(3).features[FINE])
    assert not np.array_equal(one.tokens(3).features[FINE], one.tokens(2).features[FINE])


def test_a_written_cohort_reads_as_any_set_of_embeddings(tmp_path: Path) -> None:
    cohort = draw_cohort(StratSettings(n_slides=3, stratum=2, model=SMALL, seed=5))

    path = write_cohort(cohort, tmp_path)

    embeddings = open_set(path)
    assert embeddings.kind == "tiles"
    assert embeddings.slides == cohort.slides
    assert embeddings.mpps == (2.0, 1.0, 0.5)
    for number, slide in enumerate(embeddings.slides):
        read, drawn = embeddings.read(slide), cohort.tokens(number)
        np.testing.assert_array_equal(read.region_xy_um, drawn.region_xy_um)
        for mpp in read.mpps:
            np.testing.assert_array_equal(read.features[mpp], drawn.features[mpp])
            np.testing.assert_array_equal(read.region[mpp], drawn.region[mpp])
            np.testing.assert_array_equal(read.center_um[mpp], drawn.center_um[mpp])
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["pairing"] for row in rows] == [str(int(label)) for label in cohort.labels["pairing"]]
    assert [row["slide"] for row in rows] == list(cohort.slides)


def test_an_impossible_iid_law_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="too large"):
        IidSettings(a=0.1, kappa=0.2)
