import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.shaping import report, seeds
from benchmarks.shaping.__main__ import compare, publish
from benchmarks.shaping.protocol import Budget
from benchmarks.shaping.runs import Run, complete

ROOT = Path(__file__).parents[3]

TOY = Budget(
    images=20,
    seeds=(0,),
    learning_rates=(1e-4, 2e-4),
    evaluations=3,
    common={"num_envs": 10, "samples_per_prompt": 5, "num_inference_steps": 2},
    evaluation={"eval_prompts": 2, "eval_samples": 2},
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shaping")
    results = compare(TOY, ["house_style"], ["sparse", "b2"], folder / "runs", workers=2)
    return folder, results


@pytest.mark.slow
def test_every_method_gets_the_same_budget(finished):
    _, results = finished
    assert {run["summary"]["images"] for run in results["runs"]} == {20}
    for method in ("sparse", "b2"):
        trials = [trial for trial in results["search"] if trial["method"] == method]
        rates = [trial["learning_rate"] for trial in trials[:3]]
        better = max(trials[:2], key=lambda trial: trial["reward"])
        assert rates == [1e-4, 2e-4, 4e-4 if better is trials[1] else 5e-5]
        best = max(trials[:3], key=lambda trial: trial["reward"])
        assert trials[3]["learning_rate"] == best["learning_rate"]
        assert len({trial["clip_range"] for trial in trials}) == 2
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
    again = compare(TOY, ["house_style"], ["sparse", "b2"], folder / "runs", workers=2)
    assert again == results
    assert files == {f: f.stat().st_mtime_ns for f in (folder / "runs").rglob("*.json")}
    publish(results, folder / "results", Console(quiet=True))
    assert (folder / "results" / "shaping.png").stat().st_size > 10_000
    kept = json.loads((folder / "results" / "shaping.json").read_text())
    assert (folder / "results" / "shaping.md").read_text() == report.document(kept)


@pytest.mark.slow
def test_runs_of_another_protocol_are_refused(finished):
    folder, _ = finished
    (path,) = (folder / "runs" / "measured" / "house_style" / "sparse").glob("*-seed0")
    with pytest.raises(ValueError, match="settings of this benchmark"):
        complete(Run(path, TOY.measured("house_style", "sparse", 1)))


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


def test_the_readme_has_the_published_tables():
    results = json.loads((ROOT / "benchmarks" / "results" / "shaping.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for task in results["tasks"]:
        assert report.markdown(report.COLUMNS, report.comparison(results, task)) in readme
    document = (ROOT / "benchmarks" / "results" / "shaping.md").read_text()
    assert document == report.document(results)
