"""Several processes that train together do what one alone does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from process_trainings import KINDS, RUN, trained
from safetensors.torch import load_file
from small_agents import make_env

from agents import train
from agents.common.checkpoint import load_policy
from agents.common.checkpoint_folder import latest_checkpoint, read_checkpoint
from agents.common.figures import update_figures
from agents.common.processes import Processes, join
from agents.ppo.update import UpdateLog
from agents.runs.builders import load_evaluation, make_image_metrics
from agents.runs.run_folder import RunFolder
from diffusion_gym.errors import InvalidInputError

TESTS = Path(__file__).parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def environment() -> dict[str, str]:
    paths = (TESTS.parents[1], TESTS, os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)


# --------------------------------------------------------------------------- one process


def test_one_process_alone_exchanges_nothing() -> None:
    alone, values, rows = Processes(), [1, 2], torch.arange(6)
    assert alone.joined(values) is values
    assert alone.gathered_rows(rows) is rows
    assert alone.rows(3).everyone(rows) is rows
    assert alone.rows(3).own(rows) is rows
    where, own = alone.rows(3).own_pairs(rows, 2)
    assert own is rows
    assert rows[where].tolist() == rows.tolist()
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.total(3) == 3
    drawn, expected = (torch.Generator().manual_seed(0) for _ in range(2))
    noise = torch.randn((5, 3), generator=expected)
    assert torch.equal(alone.noise((5, 3), drawn, uneven=True), noise)


@pytest.mark.parametrize(("count", "size", "batches", "per_row"), [(2, 3, 2, 4), (3, 1, 4, 1)])
def test_every_pair_is_of_one_process(count: int, size: int, batches: int, per_row: int) -> None:
    total = batches * count * size * per_row
    pairs = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    # Where each row of the whole lies: batch by batch, in each batch rank by rank.
    places = [
        (rank, batch * size + row)
        for batch in range(batches)
        for rank in range(count)
        for row in range(size)
    ]
    seen: list[int] = []
    for rank in range(count):
        where, own = Processes(count, rank).rows(size).own_pairs(pairs, per_row)
        for pair, mine in zip(pairs[where].tolist(), own.tolist(), strict=True):
            assert places[pair // per_row] == (rank, mine // per_row)
            assert pair % per_row == mine % per_row
            seen.append(pair)
    assert sorted(seen) == list(range(total))


def test_figures_of_unequal_minibatches_are_means_over_pairs() -> None:
    def log(value: float) -> UpdateLog:
        return UpdateLog(*torch.full((5,), value))

    figures = update_figures(UpdateLog._fields, [(log(1.0), 3), (log(5.0), 1)], [torch.ones(())])
    assert figures["train/loss"] == 2.0
    assert figures["train/ratio_deviation"] == 5.0


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "--autocast"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--batch-size"),
    ],
)
def test_what_accelerate_would_have_to_do_is_refused(
    variable: str, value: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert join("cpu").alone
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInputError, match=what):
        join("cpu")


def test_processes_have_devices_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidInputError, match="got 'cuda:1'"):
        join("cuda:1")


# -------------------------------------------------------------------------- two processes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left that did all of `process_trainings`."""
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(TESTS / "process_trainings.py", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_does(kind: str, outcomes: Path) -> None:
    one = trained(kind, Processes())
    two: dict[str, Any] = torch.load(outcomes / f"{kind}.pt", weights_only=False)
    assert torch.equal(one["before"], two["before"])
    # Batches of 4 and of 8 round differently: 2e-6 to 8e-5 of what the weights have moved.
    moved, apart = one["after"] - one["before"], two["after"] - one["after"]
    assert moved.norm() > 1e-3
    assert apart.norm() < 1e-3 * moved.norm()
    assert two["counters"] == one["counters"]
    assert two["counters"]["reward_queries"] >= 16

    small = ("approx_kl", "loss", "initial_ratio_deviation", "ratio_deviation")
    rounding = {f"train/{name}" for name in small}
    for name, value in one["logged"].items():
        if not name.startswith("time/"):
            tolerance = {"abs": 1e-5} if name in rounding else {"rel": 1e-3}
            assert two["logged"][name] == pytest.approx(value, nan_ok=True, **tolerance), name
    for prompt, rewards in one["statistics"].get("rewards", {}).items():
        assert two["statistics"]["rewards"][prompt] == pytest.approx(rewards, rel=1e-4)


@pytest.mark.slow
def test_two_processes_that_overlap_rewards_learn_the_same(outcomes: Path) -> None:
    plain, overlapped = (
        torch.load(outcomes / f"{kind}.pt", weights_only=False) for kind in ("sparse", "overlapped")
    )
    assert torch.equal(plain["after"], overlapped["after"])
    assert plain["counters"] == overlapped["counters"]
    for name, value in plain["logged"].items():
        if not name.startswith("time/"):
            exactly = pytest.approx(value, rel=0, abs=0, nan_ok=True)
            assert overlapped["logged"][name] == exactly, name


def assert_same(checkpoint: Path, other: Path) -> None:
    """Both checkpoints hold the same, bit for bit, of both processes."""
    for name in ("weights", "optimizer", "state", "rank-00001"):
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (checkpoint, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    one, two = read_checkpoint(checkpoint), read_checkpoint(other)
    for mine, yours in ((one.state, two.state), (one.others[0], two.others[0])):
        assert mine["env"]["rng"] == yours["env"]["rng"]
        assert mine["random"]["prompts"] == yours["random"]["prompts"]
        assert mine["wrappers"] == yours["wrappers"]
        for name in ("rounds", "num_timesteps", "reward_queries"):
            assert mine["counters"][name] == yours["counters"][name]


@pytest.mark.slow
def test_all_stop_where_one_was_asked_to_and_go_on(outcomes: Path) -> None:
    report = json.loads((outcomes / "runs.json").read_text())
    assert report["statuses"] == [[0, 130, 0]] * 2
    assert 1 <= report["stopped_after"] < 5
    whole, stopped = RunFolder(outcomes / "whole"), RunFolder(outcomes / "stopped")
    assert whole.checkpoint.name == stopped.checkpoint.name == "round-000005"
    assert_same(whole.checkpoint, stopped.checkpoint)
    rewards = [[row["rollout/reward_mean"] for row in run.metrics()] for run in (whole, stopped)]
    assert len(rewards[0]) == 5
    assert rewards[0] == rewards[1]


@pytest.mark.slow
def test_a_run_of_two_is_written_once(outcomes: Path) -> None:
    run = RunFolder(outcomes / "whole")
    summary = run.summary()
    assert summary["images"] == 20
    assert summary["denoiser_evaluations"] == 20 * 2 + 20 * 2  # two steps: drawn, then trained
    assert summary["prompts"] == 3
    assert run.records()[0]["processes"] == 2
    assert len(list(run.tensorboard.iterdir())) == 1
    assert (run.exported / "pytorch_lora_weights.safetensors").is_file()
    # The first process alone draws; what round 4 shows is the evaluation's, drawn by both.
    drawn = sorted(path.stem for path in run.pictures.iterdir())
    assert drawn == [f"round-{number:06d}" for number in (0, 2, 4, 5)]
    stopped = RunFolder(outcomes / "stopped").pictures
    for name in drawn:
        pictures = [folder / f"{name}.png" for folder in (run.pictures, stopped)]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    checkpoint = read_checkpoint(run.checkpoint)
    assert len(checkpoint.others) == 1
    assert not torch.equal(
        checkpoint.state["env"]["latents"], checkpoint.others[0]["env"]["latents"]
    )
    policy = load_policy(run.checkpoint, device="cpu")  # unwrapped: one process can use it
    assert torch.equal(
        policy.state_dict()[next(iter(checkpoint.weights))], next(iter(checkpoint.weights.values()))
    )


@pytest.mark.slow
def test_what_each_measured_of_an_evaluation_is_of_all_prompts(outcomes: Path) -> None:
    evaluation = load_evaluation(RunFolder(outcomes / "whole").before_file)
    metrics = make_image_metrics(make_env(2), ["clip_score"])
    scores, _ = metrics.scores(evaluation.images, evaluation.prompts)
    assert evaluation.other_rewards.keys() == scores.keys() == {"clip_score"}
    np.testing.assert_allclose(
        evaluation.other_rewards["clip_score"], scores["clip_score"], atol=1e-5
    )
    diversity = metrics.diversity(evaluation.images)
    for name, values in diversity.items():
        np.testing.assert_allclose(evaluation.metrics[name], values, atol=1e-5)
    assert len(diversity) == 2


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_leaves_a_checkpoint(
    outcomes: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    command = [*TORCHRUN, "-m", "agents.train", *RUN, "--output", str(output)]
    run = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("round"):
            break
    (last,) = (one for one in psutil.Process(run.pid).children() if one.environ()["RANK"] == "1")
    last.kill()
    killed = time.monotonic()
    _, errors = run.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert run.returncode != 0
    assert "another process of this run has ended" in errors
    assert f"torchrun --nproc-per-node 2 -m agents.train --resume {output}" in errors

    # What it leaves is what the whole run has had at that round, and goes on with two alone.
    newest = latest_checkpoint(output / "checkpoints")
    assert_same(newest, outcomes / "whole" / "checkpoints" / newest.name)
    with pytest.raises(InvalidInputError, match="as many as have written the checkpoint, 2 "):
        train.main(["--resume", str(output)])
