import copy
import dataclasses
import json
from pathlib import Path

import pytest

from agents.runs import own_parts
from agents.runs.algorithms import ALGORITHMS
from agents.runs.builders import make_agent, make_env
from agents.runs.methods import METHODS, shape_rewards
from agents.runs.settings import TrainSettings
from benchmarks.leaderboard import __main__ as command
from benchmarks.leaderboard.check import problems
from benchmarks.leaderboard.jobs import MEASURED, SEARCH, Job, Matrix
from benchmarks.leaderboard.methods import MethodFile, load_methods
from benchmarks.leaderboard.protocol import NEWEST, load_protocol
from benchmarks.leaderboard.record import checked_record, read_record, write_record
from benchmarks.leaderboard.reproduce import differences
from benchmarks.leaderboard.runner import job_options, run_job
from benchmarks.leaderboard.tuning import best_step, is_inside, next_steps
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import load_model
from diffusion_gym.prompts import load_prompts
from diffusion_gym.rewards import make_reward

SPARSE = Job("house_style", "sparse", MEASURED, 0, 1e-4)


@pytest.fixture(scope="module")
def smoke():
    return load_protocol("smoke")


@pytest.fixture(scope="module")
def record(smoke):
    return run_job(smoke, load_methods()["sparse"], SPARSE, device="cpu", threads=1)


def test_the_protocol_is_of_the_files_that_there_are():
    protocol = load_protocol("standard")
    assert protocol.seeds == tuple(range(10, 20))
    assert protocol.model_sha256 == load_model("emoji-64", device="cpu").weights_hash
    for task in protocol.tasks.values():
        assert load_prompts(f"{task.prompts}:train").content_hash == task.train_sha256
        assert load_prompts(f"{task.prompts}:held_out").content_hash == task.held_out_sha256
        assert str(make_reward(task.reward, device="cpu").version) == task.reward_version


def test_the_hash_is_over_what_changes_results(tmp_path):
    text, path = NEWEST.read_text(), tmp_path / "v0.toml"
    standard, smoke = load_protocol("standard"), load_protocol("smoke")
    assert standard.task("house_style").sha256 != smoke.task("house_style").sha256

    def changed(old, new):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        tasks, known = load_protocol("standard", path).tasks, standard.tasks
        return [
            name
            for name, task in tasks.items()
            if name in known and task.sha256 != known[name].sha256
        ]

    assert changed('title = "Small', 'record = -1.5\ntitle = "Very small') == []
    assert changed("eval_prompts = 2\n", "eval_prompts = 3\n") == []  # smoke's own
    assert changed("seeds = [10,", 'methods = ["sparse"]\nseeds = [10,') == []
    added = f"[tasks.another]\n{text.split('[tasks.house_style]')[1].split('[')[0]}"
    assert changed("[tasks.house_style]", f"{added}[tasks.house_style]") == []
    assert changed("queries = 256", "queries = 448") == ["house_style"]
    for old, new in (
        ("eval_samples = 2", "eval_samples = 5"),
        ("ratio = 2.0", "ratio = 3.0"),
        ("[10, 11, 12,", "[20, 11, 12,"),
        ("776b2700", "776b2701"),
    ):
        assert changed(old, new) == list(standard.tasks)
    with pytest.raises(InvalidInputError, match="not published"):
        changed("search_seeds = [100, 101]", "search_seeds = [11, 101]")
    with pytest.raises(InvalidInputError, match="evaluation noise"):
        changed("seed = 20000", "seed = 20001")


@pytest.mark.parametrize("name", load_methods())
def test_methods_are_settings_of_whole_rounds_within_the_budget(name):
    protocol, method = load_protocol("standard"), load_methods()[name]
    method.prepare()
    for task in protocol.tasks.values():
        for kind in (SEARCH, MEASURED):
            job = Job(task.name, name, kind, 0, 1e-4)
            settings = TrainSettings.of(**job_options(protocol, method, job))
            drawn = settings.rounds * settings.run.num_envs * settings.agent.batches_per_round
            assert task.queries - 64 < drawn <= task.queries
            assert settings.agent.learning_rate == 1e-4


OWN = """
from agents.ppo import DiffusionPPO
from diffusion_gym.wrappers import CreditReward, VectorShaping

class Early(CreditReward):
    def assign_credit(self, episodes, step_mask, infos):
        return {"step_weight": step_mask.float()}

class VectorEarly(Early, VectorShaping, form_of=Early):
    pass

class Agent(DiffusionPPO):
    pass
"""


def test_runs_stay_what_they_were_whatever_is_recommended_by_now():
    """All settings of the methods that were measured are what they were then."""
    frozen = json.loads((Path(__file__).parent / "v0_settings.json").read_text())
    protocol, methods = load_protocol("standard"), load_methods()
    for name, task in protocol.tasks.items():
        for method, own in frozen[name].items():
            methods[method].prepare()
            options = protocol.options(task, methods[method], seed=10, rate=2e-4)
            settings = TrainSettings.of(**options, device="cpu").flat()
            expected = frozen["common"] | own
            found = json.loads(json.dumps({key: settings[key] for key in expected}))
            assert found == expected, (name, method)


@pytest.fixture
def forgotten():
    """What a test registers is not there for the next one."""
    tables = (METHODS, ALGORITHMS, own_parts._SHAPINGS, own_parts._AGENTS)
    known = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, known, strict=True):
        table.clear()
        table.update(before)


@pytest.mark.usefixtures("forgotten")
def test_methods_of_ones_own(tmp_path, monkeypatch):
    with pytest.raises(InvalidInputError, match="those of the protocol"):
        MethodFile(title="longer", options={"images": 10_000})
    for options in ({"algorithm": "agents.ppo:nothing"}, {"shaping": "agents.ppo:DiffusionPPO"}):
        with pytest.raises(InvalidInputError, match=r"--(algorithm|shaping) .*'agents.ppo:"):
            MethodFile(title="none", options=options).prepare()
    with pytest.raises(InvalidInputError, match="can be imported"):
        MethodFile(title="none", module="no.such.module").prepare()
    named = {"shaping": "own_shaping:Early", "algorithm": "own_shaping:Agent"}
    (tmp_path / "own_shaping.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = MethodFile(title="own", options=named)
    own.prepare()
    smoke = load_protocol("smoke")
    settings = TrainSettings.of(**smoke.options(smoke.task("house_style"), own, 0, 1.0))
    assert {"shaping": settings.shaping.shaping, "algorithm": settings.run.algorithm} == named
    env = shape_rewards(make_env(settings), settings.shaping, settings.length)
    agent = make_agent(settings, env)
    assert type(agent).__name__ == "Agent"


def test_the_search_goes_beyond_the_end_that_is_best():
    optimum = 3

    def reached(step):
        return -abs(step - optimum)

    scores = {}
    while steps := next_steps(scores, 7):
        scores |= {step: reached(step) for step in steps}
    assert len(scores) == 7
    assert best_step(scores) == optimum
    assert is_inside(scores)
    assert not is_inside({-1: 0.0, 0: 1.0, 1: float("nan")} | {1: 2.0})
    assert best_step({-1: float("nan"), 0: 1.0}) == 0


def made_up(job, reward):
    return {
        "kind": job.kind,
        "seed": job.seed,
        "searched": {"learning_rate": job.learning_rate},
        "training_rewards": [0.0, reward],
        "failed": None,
    }


def test_measured_runs_wait_for_the_search(smoke):
    methods = {name: load_methods()[name] for name in ("untrained", "sparse")}
    matrix = Matrix(smoke, methods, ["house_style"], smoke.seeds)
    records = {}
    ready = matrix.ready(records)
    assert [job.kind for job in ready] == [SEARCH] * 6 + [MEASURED] * 2
    while ready := matrix.ready(records):
        job = ready[0]
        assert job not in records
        records[job] = made_up(job, job.learning_rate)
    assert len(records) == matrix.size == 6 + 2 + 2
    rates = {j.learning_rate for j in records if (j.method, j.kind) == ("sparse", MEASURED)}
    assert rates == {4e-4}  # where the most was reached


@pytest.mark.slow
def test_a_record_has_everything_and_the_run_is_the_same_again(smoke, record, tmp_path):
    write_record(tmp_path / SPARSE.file, record)
    kept = read_record(tmp_path / SPARSE.file)
    assert kept == record
    assert [point["reward_queries"] for point in kept["curve"]] == [0, 10, 20]
    assert [point["round"] for point in kept["curve"]] == [0, 1, 2]
    assert len(kept["training_rewards"]) == 2
    assert kept["before"]["rewards"] != kept["after"]["rewards"]
    again = ["reproduce", str(tmp_path / SPARSE.file), "--tier", "smoke"]
    assert command.main(again) == 0
    kept["after"]["rewards"][0][0] += 1e-12
    assert len(differences(record, kept)) == 1


@pytest.mark.slow
def test_damaged_records_are_refused(record):
    for change in (
        {"seed": "0"},
        {"clean": 1},
        {"after": None},
        {"extra": 1},
        {"prompts": ["one"]},
        {"spent": {}},
        {"kind": "other"},
    ):
        with pytest.raises(InvalidInputError):
            checked_record(record | change)


@pytest.mark.slow
def test_submissions_are_checked(smoke, record, tmp_path):
    methods = load_methods()
    good = copy.deepcopy(record) | {"clean": True, "commit": "0" * 40}
    folder = tmp_path / "results"

    def write(job, content):
        changed = {"kind": job.kind, "seed": job.seed, "method": job.method}
        searched = {"searched": {"learning_rate": job.learning_rate}}
        options = {"options": job_options(smoke, methods[job.method], job)}
        whole = copy.deepcopy(content) | changed | searched | options
        if job.kind == SEARCH:  # two prompts, one image each
            for when in ("before", "after"):
                whole[when]["rewards"] = [row[:1] for row in whole[when]["rewards"]]
        write_record(folder / job.file, whole)
        return whole

    matrix = Matrix(smoke, {"sparse": methods["sparse"]}, ["house_style"], smoke.seeds)
    made = {}
    while ready := matrix.ready(made):
        made |= {job: write(job, good) for job in ready}
    assert problems(smoke, methods, [folder]) == []

    last = next(job for job in made if job.kind == MEASURED)
    for change, message in (
        ({"clean": False}, "committed state"),
        ({"protocol": {"name": "v0", "hash": "0"}}, "expected the protocol"),
        ({"spent": good["spent"] | {"reward_queries": 30}}, "at most 20"),
        ({"training_rewards": [0.5]}, "expected 2 rounds"),
        ({"curve": good["curve"][:1]}, "every whole round"),
    ):
        write(last, good | change)
        found = problems(smoke, methods, [folder])
        assert any(message in text for text in found), (message, found)
    write(last, good)
    options = read_record(folder / last.file)
    options["options"] = options["options"] | {"num_envs": 20}
    write_record(folder / last.file, options)
    assert any("another num_envs" in text for text in problems(smoke, methods, [folder]))
    write(last, good)
    write(dataclasses.replace(last, learning_rate=3e-4), good)
    assert any("missing" in text for text in problems(smoke, methods, [folder]))
    assert any("choice alone" in text for text in problems(smoke, methods, [folder], partial=True))
    (folder / last.file).unlink()
    assert problems(smoke, methods, [folder], partial=True) == []
    write(last, good)
    (folder / next(job for job in made if job.kind == SEARCH).file).unlink()
    assert any("missing" in text for text in problems(smoke, methods, [folder]))
    (folder / last.file).write_text(json.dumps({"schema": 1}))
    assert any("missing" in text for text in problems(smoke, methods, [folder]))
    assert "expected a record in" in problems(smoke, methods, [tmp_path / "nothing"])[0]
