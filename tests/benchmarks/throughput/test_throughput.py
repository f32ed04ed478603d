import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.benchmark import Timer

from benchmarks.throughput import growth, machine, report
from benchmarks.throughput.__main__ import job_of, main
from benchmarks.throughput.bare import Passes
from benchmarks.throughput.jobs import Job
from benchmarks.throughput.machine import matrix_peak
from benchmarks.throughput.rounds import measure

QUICK = {
    "num_envs": 4,
    "samples_per_prompt": 2,
    "num_inference_steps": 3,
    "batches_per_round": 2,
    "batch_size": 5,
}
JOBS = [
    Job(options=QUICK),
    Job(options=QUICK | {"lora_rank": 2, "guidance": 3.0}),
    Job("small", options=QUICK | {"lora_rank": 2, "guidance": 2.0}),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.title[:40])
def test_bare_passes_are_those_of_the_round(job: Job) -> None:
    """As many rows go through the network, in batches as large, with the same results."""
    with job.built() as (_, agent):
        agent.learn(8)
        seen: list[tuple[int, bool]] = []

        def hook(module: object, arguments: tuple[torch.Tensor, ...], output: object) -> None:
            seen.append((len(arguments[0]), torch.is_grad_enabled()))

        handle = agent.policy.denoiser.register_forward_hook(hook)
        agent.learn(8, reset_num_timesteps=False)
        ours, seen[:] = list(seen), []
        passes = Passes.of(agent)
        passes.seconds()
        handle.remove()
        assert sorted(seen) == sorted(ours)

        # What the policy drew with is what the bare network is given.
        data = agent.rollout_buffer.trajectories
        rows = torch.tensor([0, 8 + 3, 2 * 8 + 7])  # images 0, 3 and 7 of 8, in steps 0, 1 and 2
        images, steps = rows % 8, rows // 8
        embedding = agent.base_env.prompt_embedding(data.prompt_ids[images])
        step = agent.policy.transition(data.latents[images, steps], steps, embedding)
        given = agent.policy.schedule.transition(passes.output(rows), passes.latents[rows], steps)
        torch.testing.assert_close(given.mean, step.mean)


def test_the_usual_loop_takes_the_same_pairs() -> None:
    """Every (image, step) pair once, in the order of either difference alone and of both."""
    with JOBS[0].built() as (_, agent):
        agent.learn(8)
        passes = Passes.of(agent)
        seen: list[tuple[torch.Tensor, ...]] = []

        def hook(module: object, arguments: tuple[torch.Tensor, ...], output: object) -> None:
            seen.append(arguments[:2])

        handle = agent.policy.denoiser.register_forward_hook(hook)
        orders: list[tuple[Callable[[], None], int, bool]] = [
            (lambda: passes.draw(2), 2, True),
            (lambda: passes.train_by_step(2), 2, True),
            (passes.train_by_step, 8 // len(passes.updates), True),
            (lambda: passes.train(2), 2, False),
        ]
        for work, size, one_step in orders:
            work()
            assert {len(latents) for latents, _ in seen} == {size}
            steps = [len(set(timesteps.flatten().tolist())) for _, timesteps in seen]
            assert (max(steps) == 1) is one_step
            rows = torch.cat([latents for latents, _ in seen])
            assert rows.shape == passes.latents.shape
            seen.clear()
            order = [tensor.flatten(1).sum(1).sort().values for tensor in (rows, passes.latents)]
            assert torch.equal(*order)
        handle.remove()


def test_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SECONDS", 0.05)
    figures = measure(JOBS[0], repeats=2, usual=2)
    assert figures["images"] == 8
    assert figures["steps"] == 3
    assert figures["evaluations"] == 2 * 8 * 3
    for each in figures["rounds"]:
        assert all(seconds > 0 for seconds in each.values())
        parts = sum(each[part] for part in ("rollout", "decode", "reward", "update"))
        assert parts <= each["round"]
    # A backward pass is about twice a forward pass; the first layer needs no gradient of its input.
    forward, update = figures["flops"]["rollout"], figures["flops"]["update"]
    assert 2.8 * forward < update <= 3 * forward
    header, *lines = report.table([("embedded", figures)])
    assert header == ["", "embedded"]
    shares = [line[1] for line in lines if line[0].startswith("part of a round")]
    assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=15)


def test_every_size_is_warmed_up() -> None:
    """A compiler is not to be at it while the others are timed."""
    with JOBS[0].built() as (_, agent):
        agent.learn(8)
        passes, seen = Passes.of(agent), set[tuple[int, bool]]()

        def hook(module: object, arguments: tuple[torch.Tensor, ...], output: object) -> None:
            seen.add((len(arguments[0]), torch.is_grad_enabled()))

        handle = agent.policy.denoiser.register_forward_hook(hook)
        passes.warm_up(3)
        warm = set(seen)
        seen.clear()
        passes.seconds()
        passes.usual_seconds(3)
        handle.remove()
    assert seen == warm


def test_ctrl_c_ends_the_rounds_and_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SECONDS", 0.05)
    asked: list[int] = []
    usual_seconds = Passes.usual_seconds

    def interrupted(passes: Passes, at_once: int) -> dict[str, float]:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return usual_seconds(passes, at_once)

    monkeypatch.setattr(Passes, "usual_seconds", interrupted)
    job = JOBS[0]
    figures = measure(job, repeats=9, usual=2)
    assert len(figures["rounds"]) == 1
    assert report.table([("embedded", figures)])
    asked[:] = [1]
    with pytest.raises(KeyboardInterrupt):
        measure(job, repeats=9, usual=2)


def test_the_peak_is_no_less_than_a_product() -> None:
    a = torch.randn(512, 512)
    timer = Timer(
        "torch.mm(a, a)", "import torch", globals={"a": a}, num_threads=torch.get_num_threads()
    )
    usual = 2 * 512**3 / timer.timeit(20).median
    assert usual / 2 < matrix_peak(torch.device("cpu"), torch.float32)


def test_jobs_of_the_command_line() -> None:
    job = job_of('small:{"lora_rank": 4}', "cpu")
    assert (job.model, job.options) == ("small", {"lora_rank": 4})
    assert job.title == "small, lora_rank 4"
    assert job_of("emoji-64", "cpu").options == {}


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENVS": (1, 2), "STEPS": (3,), "PROMPTS": (2,), "SECONDS": 0.01}.items():
        monkeypatch.setattr(growth, name, value)
    monkeypatch.setattr(growth.measure, "__defaults__", ("cpu", (1, 2)))
    monkeypatch.setattr(machine, "SECONDS", 0.05)
    quick = f"small:{json.dumps(QUICK)}"
    main(["--jobs", quick, "--repeats", "1", "--growth", "--results", str(tmp_path)])
    results = json.loads((tmp_path / "throughput.json").read_text())
    assert {row["embedding"] for row in results["growth"]} == {"24×128", "77×768"}
    page = (tmp_path / "throughput.md").read_text()
    assert "efficiency, update" in page
    assert "77×768" in page


@pytest.mark.slow
def test_a_step_costs_next_to_nothing() -> None:
    """Beside a denoiser's 90 ms for 64 images; milliseconds, on any machine that is not asleep."""
    rows = growth.measure("cpu", envs=(64,))
    usual = [row for row in rows if (row["steps"], row["prompts"]) == (50, 10)]
    assert {row["embedding"] for row in usual} == {"24×128", "77×768"}
    assert all(row["step_ms"] < 0.5 for row in usual)


def test_spread() -> None:
    assert report.spread(np.array([1.0, 3.0, 2.0])) == "2.00 [1.00, 3.00]"
