import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from agents.runs.builders import make_env
from agents.runs.methods import Method, register, shape_rewards
from agents.runs.settings import TrainSettings
from benchmarks.comparison import report, seeds
from benchmarks.comparison.__main__ import publish
from benchmarks.comparison.compare import compare
from benchmarks.comparison.protocol import BUDGETS, METHODS, Budget, as_json
from benchmarks.comparison.runs import Run, complete
from benchmarks.tables import markdown_table
from diffusion_gym.errors import InvalidInputError

ROOT = Path(__file__).parents[3]
PUBLISHED = sorted((ROOT / "benchmarks" / "results").glob("comparison-*.json"))

TOY = Budget(
    images=20,
    tasks=("house_style",),
    methods=("sparse", "b2", "nft"),
    seeds=(0,),
    search_seeds=(100, 101),
    judged=1 / 2,
    learning_rates=(1e-4, 2e-4),
    clip_ranges=(2e-3, 1e-1),
    evaluations=3,
    common={"num_envs": 10, "samples_per_prompt": 5, "num_inference_steps": 2},
    evaluation={"eval_prompts": 2, "eval_samples": 2},
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    results = compare(TOY, ["house_style"], ["sparse", "b2", "nft"], folder / "runs", workers=2)
    return folder, results


@pytest.mark.slow
def test_every_method_gets_the_same_budget(finished):
    folder, results = finished
    assert results["budget"] == as_json(TOY)
    searched = [
        path.name for path in (folder / "runs" / "search").glob("*/*/*-seed*") if path.is_dir()
    ]
    assert {name.rpartition("-")[2] for name in searched} == {"seed100", "seed101"}
    assert {run["summary"]["images"] for run in results["runs"]} == {20}
    for method in ("sparse", "b2"):
        trials = [trial for trial in results["search"] if trial["method"] == method]
        rates = [trial["searched"]["learning_rate"] for trial in trials[:3]]
        better = max(trials[:2], key=lambda trial: trial["reward"])
        assert rates == [1e-4, 2e-4, 4e-4 if better is trials[1] else 5e-5]
        best = max(trials[:3], key=lambda trial: trial["reward"])
        assert trials[3]["searched"]["learning_rate"] == best["searched"]["learning_rate"]
        assert len({trial["searched"]["clip_range"] for trial in trials}) == 2
    nft = [trial["searched"] for trial in results["search"] if trial["method"] == "nft"]
    assert [list(searched) for searched in nft] == [["learning_rate"]] * 3  # it has no clip range
    sparse, b2 = (seeds.of_method(results["runs"], "house_style", m)[0] for m in ("sparse", "b2"))
    queries = [point["reward_queries"] for point in sparse["curve"]]
    assert queries == [point["reward_queries"] for point in b2["curve"]] == [0, 10, 20]
    spent = [point["denoiser_evaluations"] for point in sparse["curve"]]
    assert spent == [0, 10 * 2 * 2, 20 * 2 * 2]  # two steps, drawn and trained on once
    assert sparse["curve"][0]["reward"] == pytest.approx(b2["curve"][0]["reward"])


@pytest.mark.slow
def test_results_survive_a_second_call_and_a_file(finished):
    folder, results = finished
    files = {f: f.stat().st_mtime_ns for f in (folder / "runs").rglob("*.json")}
    again = compare(TOY, ["house_style"], ["sparse", "b2", "nft"], folder / "runs", workers=2)
    assert again == results
    assert files == {f: f.stat().st_mtime_ns for f in (folder / "runs").rglob("*.json")}
    publish(results, folder / "results", "toy", Console(quiet=True))
    assert (folder / "results" / "toy.png").stat().st_size > 10_000
    kept = json.loads((folder / "results" / "toy.json").read_text())
    assert kept == results
    assert (folder / "results" / "toy.md").read_text() == report.document(kept)
    # Without the runs, nothing that is among the figures is run again.
    elsewhere, told = folder / "elsewhere", []
    again = compare(TOY, ["house_style"], ["sparse"], elsewhere, 1, kept, told.append)
    assert again == results == told[-1]  # the other method's figures are kept
    assert not elsewhere.exists()
    with pytest.raises(ValueError, match="another"):
        compare(Budget(**vars(TOY) | {"images": 30}), [], [], elsewhere, 1, kept)


@pytest.mark.slow
def test_runs_of_another_protocol_are_refused(finished):
    folder, _ = finished
    (path,) = (folder / "runs" / "measured" / "house_style" / "sparse").glob("*-seed0")
    with pytest.raises(ValueError, match="settings of this benchmark"):
        complete(Run(path, TOY.measured("house_style", "sparse", 1)))


def test_budgets_name_methods_that_there_are():
    for budget in BUDGETS.values():
        assert set(budget.methods) <= set(METHODS)
        assert not set(budget.seeds) & set(budget.search_seeds)
        for task in budget.tasks:
            for method in budget.methods:
                assert TrainSettings.of(**budget.measured(task, method, 0)).rounds > 1


def test_a_weighting_of_ones_own():
    """σ/g, which is registered for the comparison alone."""
    settings = TrainSettings.of(shaping="sigma/g", num_envs=2)
    env = shape_rewards(make_env(settings), settings.shaping, settings.length)
    schedule = env.unwrapped.schedule
    step_mask = torch.ones(2, 10, dtype=torch.bool)
    weights = env.assign_credit(None, step_mask, {})["step_weight"]
    expected = schedule.std / schedule.gradient_scale
    torch.testing.assert_close(weights, (expected / expected.max()).expand(2, 10))
    with pytest.raises(InvalidInputError, match="taken"):
        register("sparse", Method(lambda env, config, length: env))


def made_up(method, gains):
    curve = [
        {"reward_queries": q, "denoiser_evaluations": 10 * q, "reward": 0.5 + 0.1 * q}
        for q in (0, 1, 2)
    ]
    return [
        {"task": "t", "method": method, "seed": seed, "curve": curve, "summary": {"difference": g}}
        for seed, g in enumerate(gains)
    ]


def test_seeds_are_paired():
    baseline = made_up("sparse", [0.1, 0.2, 0.3])
    runs = made_up("b2", [0.2, 0.3, 0.4])
    difference = seeds.advantage(runs, baseline)
    assert difference.mean == pytest.approx(0.1)
    assert difference.high - difference.low < 1e-6  # the same on every seed


def test_of_method_orders_by_seed():
    runs = made_up("sparse", [0.1, 0.2])[::-1] + made_up("b2", [0.3])
    assert [run["seed"] for run in seeds.of_method(runs, "t", "sparse")] == [0, 1]
    points, rewards = seeds.curves(seeds.of_method(runs, "t", "sparse"), "reward_queries")
    assert points.tolist() == [0, 1, 2]
    assert rewards.shape == (2, 3)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(0.4, 0.0), (0.5, 0.0), (0.55, 50.0), (0.7, 150.0), (0.9, math.inf)],
)
def test_spent_until_goes_along_the_curve(target, expected):
    spent = np.array([0.0, 100.0, 200.0])
    rewards = np.array([0.5, 0.6, 0.8])
    assert seeds.spent_until(spent, rewards, target) == pytest.approx(expected)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_the_page_has_the_published_tables(file):
    results = json.loads(file.read_text())
    page = (ROOT / "docs" / "comparison.md").read_text()
    assert f"## With {int(file.stem.removeprefix('comparison-')):,} queries" in page
    assert results["budget"] == as_json(BUDGETS[file.stem.removeprefix("comparison-")])
    for task in results["tasks"]:
        assert markdown_table(report.COLUMNS, report.comparison(results, task)) in page
    assert file.with_suffix(".md").read_text() == report.document(results)
