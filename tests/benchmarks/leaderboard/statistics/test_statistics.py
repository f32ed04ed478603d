import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from benchmarks.leaderboard.statistics import coverage
from benchmarks.leaderboard.statistics.intervals import (
    INTERVALS,
    bca_bootstrap,
    interquartile_mean,
    interval,
    percentile_bootstrap,
    percentile_bootstrap_of_iqm,
    student_t,
)
from benchmarks.leaderboard.statistics.pareto import pareto_front
from benchmarks.leaderboard.statistics.ranks import rank_stability
from benchmarks.leaderboard.statistics.significance import (
    detectable_effect,
    holm,
    needed_seeds,
    sign_flip,
    smallest_p,
)
from benchmarks.leaderboard.statistics.target import (
    queries_to_target,
    restricted,
    share_reached,
    times_fewer,
)
from diffusion_gym.errors import InvalidInputError

ROOT = Path(__file__).parents[4]
RLIABLE = json.loads((Path(__file__).parent / "rliable.json").read_text())["methods"]


@pytest.fixture(scope="module")
def gains():
    """Every method's gains in the pilot, by seed."""
    runs = json.loads((ROOT / "benchmarks/results/comparison-256.json").read_text())["runs"]
    methods = dict.fromkeys(run["method"] for run in runs)
    return {
        method: np.array([run["summary"]["difference"] for run in runs if run["method"] == method])
        for method in methods
    }


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_student_t_is_scipys(n):
    values = np.random.default_rng(n).lognormal(size=n)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert np.allclose(student_t(values), (expected.low, expected.high))
    found = interval(values)
    assert (found.mean, found.seeds) == (pytest.approx(values.mean()), n)
    assert found.excludes(expected.low - 1e-9)
    assert not found.excludes(values.mean())


def test_fewer_than_two_seeds_have_no_interval():
    assert np.isnan(interval(np.array([1.0])).low)
    assert np.isnan(interval(np.array([])).mean)
    assert not interval(np.array([1.0])).excludes(0)


@pytest.mark.parametrize("method", RLIABLE)
def test_rliables_numbers(method, gains):
    theirs, values = RLIABLE[method], gains[method]
    assert values.mean() == pytest.approx(theirs["mean"])
    assert interquartile_mean(values) == pytest.approx(theirs["iqm"])
    for bounds, name in (
        (percentile_bootstrap, "mean_interval"),
        (percentile_bootstrap_of_iqm, "iqm_interval"),
    ):
        # Both are drawn: 1000 resamples here, 50000 there.
        assert np.allclose(bounds(values), theirs[name], atol=0.1 * np.ptp(values))


def test_a_sample_of_equal_values_has_an_interval_without_width():
    equal = np.full((2, 4), 0.7)
    for bounds in INTERVALS.values():
        assert np.allclose(bounds(equal), 0.7)


def test_bca_corrects_what_the_percentile_does_not():
    skewed = np.random.default_rng(0).lognormal(0, 1, 12)
    own, plain = bca_bootstrap(skewed), percentile_bootstrap(skewed)
    assert own[0] > plain[0]
    assert own[1] > plain[1]


@pytest.mark.parametrize("n", [2, 3, 6, 10])
def test_the_sign_flip_test_is_scipys(n):
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.5, 2.0):
        x, y = rng.normal(shift, 1, n), rng.normal(0, 1, n)
        theirs = stats.permutation_test(
            (x, y),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        )
        assert sign_flip(x - y) == pytest.approx(theirs.pvalue)


def test_the_sign_flip_test_counts_ties_and_zeros():
    assert sign_flip(np.array([0.1, 0.2, 0.3])) == 2 / 8  # 0.1 + 0.2 is not quite 0.3
    assert sign_flip(np.array([0.1, 0.2, -0.3])) == 1
    assert sign_flip(np.zeros(4)) == 1
    assert sign_flip(np.ones(5)) == smallest_p(5) == 2 / 32


@pytest.mark.parametrize("n", [0, 21])
def test_the_sign_flip_test_says_how_many_seeds_it_takes(n):
    with pytest.raises(InvalidInputError, match=f"expected 1 to 20 seeds, got {n}"):
        sign_flip(np.ones(n))


def test_holm_is_statsmodels():
    rng = np.random.default_rng(0)
    for m in (1, 2, 7, 12):
        p = rng.uniform(0, 0.2, m)
        p[-1] = p[0]
        assert np.allclose(holm(p), multipletests(p, method="holm")[1])


def test_needed_seeds():
    for m in range(1, 40):
        n = needed_seeds(m)
        assert smallest_p(n) <= 0.05 / m < smallest_p(n - 1)


@pytest.mark.parametrize("n", [4, 10])
def test_the_detectable_effect_has_the_power_that_statsmodels_says(n):
    differences = np.random.default_rng(n).normal(0, 3, n)
    effect = detectable_effect(differences, methods=4) / differences.std(ddof=1)
    assert TTestPower().power(effect, n, 0.05 / 4) == pytest.approx(0.8, abs=1e-3)


def curve(*rewards):
    return [{"reward_queries": 64.0 * k, "reward": reward} for k, reward in enumerate(rewards)]


def test_queries_are_counted_in_whole_rounds():
    assert queries_to_target(curve(0.4, 0.5, 0.7, 0.6), 0.6) == 128
    assert queries_to_target(curve(0.4, 0.5, 0.6), 0.6) == 128
    assert queries_to_target(curve(0.4, 0.5), 0.6) == np.inf
    assert queries_to_target(curve(0.7, 0.5, 0.6), 0.6) == 128  # training has not begun before
    assert queries_to_target([], 0.6) == np.inf


def test_the_restricted_mean_is_the_area_under_the_survival_curve():
    queries = np.array([64, 128, 128, np.inf, np.inf, 256])
    survival = stats.ecdf(
        stats.CensoredData.right_censored(np.minimum(queries, 256), queries > 256)
    )
    times = np.arange(256)
    area = np.sum(survival.sf.evaluate(times))  # steps lie at whole numbers
    assert restricted(queries, 256).mean() == pytest.approx(area)
    assert share_reached(queries) == pytest.approx(4 / 6)


def test_times_fewer():
    found = times_fewer(np.array([256, 256, np.inf]), np.array([64, 128, 64.0]), 256)
    assert found.mean == pytest.approx(32 ** (1 / 3))
    assert found.low < found.mean < found.high
    assert np.log(found.mean / found.low) == pytest.approx(np.log(found.high / found.mean))


def test_rank_stability():
    rng = np.random.default_rng(0)
    apart = np.array([[0.0], [10], [20]]) + rng.normal(size=(3, 6))
    assert all(each.tau == pytest.approx(1) for each in rank_stability(apart))
    alike = rank_stability(rng.normal(size=(5, 6)))
    assert [each.seeds for each in alike] == [1, 2, 3, 4, 5, 6]
    assert (alike[-1].tau, alike[-1].same_leader) == (pytest.approx(1), 1)
    assert alike[0].tau < 0.8
    by_hand = rank_stability(np.array([[1.0, 0], [0, 3]]))  # means 0.5 and 1.5
    assert (by_hand[0].tau, by_hand[0].same_leader) == (0, 0.5)


@pytest.mark.parametrize("name", coverage.DISTRIBUTIONS)
def test_the_means_of_the_distributions(name):
    distribution = coverage.DISTRIBUTIONS[name]
    drawn = distribution.draw(np.random.default_rng(1), (400_000,))
    assert drawn.mean() == pytest.approx(distribution.mean, abs=4 * drawn.std() / 400_000**0.5)


def test_coverage_in_small():
    result = coverage.simulate(trials=400, seeds=(3,))
    found = {(row["distribution"], row["interval"]): row["coverage"] for row in result["rows"]}
    assert found["normal", "Student t"] == pytest.approx(0.95, abs=0.04)
    assert found["normal", coverage.IQM] < 0.85
    assert all(name in coverage.document(result) for name in coverage.DISTRIBUTIONS)


def test_the_committed_simulation_backs_the_chosen_interval():
    folder = ROOT / "benchmarks/results/leaderboard"
    result = json.loads((folder / "coverage.json").read_text())
    assert coverage.document(result) == (folder / "coverage.md").read_text()
    lowest = {name: min(coverage.worst(result, n)[name] for n in (3, 5, 10)) for name in INTERVALS}
    assert max(lowest, key=lowest.get) == "Student t"
    assert coverage.worst(result, 10)["Student t"] > 0.9


def test_the_front_is_of_those_that_none_beats_in_both():
    gain = np.array([1.0, 2.0, 2.0, 3.0, 0.5, np.nan, 3.0])
    cost = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 4.0])
    assert pareto_front(gain, cost) == [0, 1, 3, 6]
    # From outside: the skyline by brute force over random points.
    rng = np.random.default_rng(0)
    gain, cost = rng.normal(size=(2, 50))
    beaten = (gain[:, None] > gain) & (cost[:, None] < cost)
    assert set(pareto_front(gain, cost)) == set(np.flatnonzero(~beaten.any(0)))
