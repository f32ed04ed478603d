"""What each of several processes does for the tests: small trainings, and what they exchange.

torchrun starts this file as a program; one process alone imports it and does the same.
"""

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_agents import make_agent, make_env, weights
from small_nft import make_nft
from stable_baselines3.common.logger import KVWriter, Logger

from agents import train
from agents.common.checkpoint import save_checkpoint
from agents.common.image_algorithm import ImageAlgorithm
from agents.common.processes import ElsewhereError, Processes, join, leave
from agents.runs.run_folder import RunFolder
from agents.runs.screen import Screen
from agents.runs.training import Training
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import B2DiffuRLReward, VectorNoiseAwareReward

IMAGES = 8
"""Of a batch, in all processes together."""

RUN = (
    "--images 20 --num-envs 4 --samples-per-prompt 4 --num-inference-steps 2 --lora-rank 2 "
    "--eval-prompts 3 --eval-samples 2 --reward jpeg_compressibility --also clip_score "
    "--eval-every 4 --checkpoint-every 1 --keep-checkpoints 9 --device cpu"
).split()
"""Options of a run of five rounds."""

# ------------------------------------------------------------------------------- agents

#: With so large an ε Adam's steps are proportional to the gradients: rounding stays rounding.
ADAM: dict[str, Any] = {
    "learning_rate": 1.0,
    "policy_kwargs": {"optimizer_kwargs": {"eps": 100.0, "weight_decay": 0.0}},
}


def sparse(env: Any, **options: Any) -> ImageAlgorithm:
    # Groups of 8 have images of every process; two batches a round are in one order.
    return make_agent(env, samples_per_prompt=8, batches_per_round=2, **options, **ADAM)


def overlapped(env: Any) -> ImageAlgorithm:
    return sparse(env, overlap_rewards=True)


def noise_aware(env: Any) -> ImageAlgorithm:
    shaped = VectorNoiseAwareReward(env, min_weight=0.2)
    statistics = {"advantage": "prompt", "statistics_min_count": 2, "standardise_steps": "scale"}
    return make_agent(shaped, samples_per_prompt=4, **statistics, **ADAM)


def branches(env: Any) -> ImageAlgorithm:
    shaped = B2DiffuRLReward(env, branches=4, schedule=(1, 3), positive=0.9, negative=-0.9)
    return make_agent(shaped, samples_per_prompt=8, n_epochs=2, **ADAM)


def decoupled(env: Any) -> ImageAlgorithm:
    statistics = {"advantage": "prompt", "statistics_min_count": 2}
    aggregation = {"multi_objective_aggregation": "normalize_then_sum"}
    return make_agent(env, samples_per_prompt=8, **statistics, **aggregation, **ADAM)


def nft(env: Any) -> ImageAlgorithm:
    return make_nft(env, samples_per_prompt=8, batch_size=3, decay_rate=0.2, **ADAM)


def adapters(**policy: Any) -> dict[str, Any]:
    return ADAM | {"policy_kwargs": {"lora_rank": 2, **policy, **ADAM["policy_kwargs"]}}


def nft_adapters(env: Any) -> ImageAlgorithm:
    return make_nft(env, samples_per_prompt=8, batch_size=3, reference_coef=0.1, **adapters())


def negative(env: Any) -> ImageAlgorithm:
    return make_agent(env, samples_per_prompt=4, kl_coef=0.1, **adapters(guidance=2.0))


KINDS: Mapping[str, Callable[[Any], ImageAlgorithm]] = {
    "sparse": sparse,
    "overlapped": overlapped,
    "noise_aware": noise_aware,
    "branches": branches,
    "decoupled": decoupled,
    "nft": nft,
    "nft_adapters": nft_adapters,
    "negative": negative,
}
NEGATIVES = [{"prompt": "a cat", "negative_prompt": "a dog"}, "a dog", "a fox"]
RESUMED = ("branches", "decoupled", "nft")
"""Those whose wrapper, or agent, or estimator, has a state of its own."""


class LastRow(KVWriter):
    """Keeps what was logged of the last round."""

    def __init__(self) -> None:
        self.row: dict[str, Any] = {}

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        del key_excluded, step
        self.row = dict(key_values)

    def close(self) -> None:
        pass


def small_env(kind: str, processes: Processes) -> Any:
    """This process's part of an environment of `IMAGES` rows, with a smooth reward."""
    kinds: dict[str, dict[str, Any]] = {
        "nft": {"eta": 0.0},
        "nft_adapters": {"eta": 0.0},
        "negative": {"prompts": NEGATIVES},
        "decoupled": {"reward": {"house_style": 1.0, "clip_score": 0.5}},
    }
    options = {"reward": "house_style"} | kinds.get(kind, {})
    return make_env(IMAGES // processes.count, **options)


def trained(kind: str, processes: Processes) -> dict[str, Any]:
    """Two rounds on this process's part: weights before and after, counters, and the log."""
    env, last = small_env(kind, processes), LastRow()
    agent = KINDS[kind](env)
    before = weights(agent)
    agent.set_logger(Logger(None, [last]))
    agent.learn(2 * IMAGES * agent.config.batches_per_round)
    assert env.unwrapped.images_scored * processes.count == agent.reward_queries
    return {
        "before": before,
        "after": weights(agent),
        "counters": {name: getattr(agent, name) for name in agent.COUNTERS if name != "seconds"},
        "logged": last.row,
        "statistics": agent.advantage_estimator.state_dict(),
    }


def check_resumption(kind: str, after: torch.Tensor, folder: Path, processes: Processes) -> None:
    """A round, a checkpoint, and another round of the agent that it makes: the same weights."""
    agent = KINDS[kind](small_env(kind, processes))
    images = IMAGES * agent.config.batches_per_round
    agent.learn(images)
    checkpoint = save_checkpoint(agent, folder / f"{kind}-checkpoint")
    shaped = KINDS[kind](small_env(kind, processes)).env
    resumed = type(agent).resume(checkpoint, shaped)
    resumed.learn(images, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), after), kind


# ---------------------------------------------------------------------------- exchanges


def check_exchanges(processes: Processes) -> None:
    """Everything that `Processes` and `Rows` do, between two real processes."""
    count, rank = processes.count, processes.rank

    # Rows: two batches of 3 rows in each process, numbered as one process would have them.
    rows = processes.rows(3)
    whole = torch.arange(2 * count * 3)
    parts = whole.view(2, count, 3)
    own = parts[:, rank].flatten()
    for dtype in (torch.int64, torch.float32, torch.bool):
        assert torch.equal(rows.everyone(own.to(dtype)), whole.to(dtype))
    assert torch.equal(rows.everyone(torch.stack([own, -own], 1))[:, 1], -whole)
    assert torch.equal(rows.own(whole), own)

    # Noise: parts of one draw, also of different lengths; the generators stay in step.
    generator, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    drawn = torch.randn((3 * count, 4, 2), generator=other)
    assert torch.equal(processes.noise((3, 4, 2), generator), drawn[processes.part(3)])
    lengths = [1 + 2 * number for number in range(count)]
    drawn = torch.randn((sum(lengths), 4, 2), generator=other)
    start = sum(lengths[:rank])
    uneven = processes.noise((lengths[rank], 4, 2), generator, uneven=True)
    assert torch.equal(uneven, drawn[start : start + lengths[rank]])
    assert torch.equal(generator.get_state(), other.get_state())

    # Flags, numbers, lists.
    assert processes.any(rank == count - 1)
    assert not processes.any(False)
    assert processes.total(rank + 1) == count * (count + 1) // 2
    assert processes.joined(["x"] * rank) == ["x"] * (count * (count - 1) // 2)

    # Gradients: of all, of the last one alone, of none.
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(3)]
    parameters[0].grad = torch.full((2, 3), float(rank + 1))
    if rank == count - 1:
        parameters[1].grad = torch.ones(2, 3)
    processes.add_gradients(parameters)
    assert parameters[0].grad.unique().item() == count * (count + 1) / 2
    assert parameters[1].grad is not None
    assert parameters[1].grad.unique().item() == 1
    assert parameters[2].grad is None

    # Errors: the process that has one raises it, the others say so.
    def fails() -> None:
        raise InvalidInputError("no")

    with pytest.raises(InvalidInputError if rank == 0 else ElsewhereError, match="no"):
        processes.from_main(fails)
    assert processes.from_main(lambda: {"rank": rank}) == {"rank": 0}
    last = rank == count - 1
    with pytest.raises(InvalidInputError if last else ElsewhereError, match="no"):
        together(processes, fails if last else lambda: None)
    together(processes, lambda: None)


def together(processes: Processes, function: Callable[[], None]) -> None:
    with processes.together():
        function()


# --------------------------------------------------------------------------------- runs


def run(folder: Path, *, resume: bool = False) -> int:
    """Trains, or goes on with, the run of `RUN` in a folder."""
    folder_of_run = RunFolder.open(folder) if resume else None
    settings = (
        folder_of_run.settings
        if folder_of_run
        else train.read_settings([*RUN, "--output", str(folder)])
    )
    return Training(settings, Screen(quiet=True), folder_of_run).run()


def terminate_after_a_round(folder: Path) -> threading.Thread:
    """Asks this process to end once the run in a folder has a round."""

    def wait() -> None:
        table = RunFolder(folder).metrics_file
        while not table.is_file() or len(table.read_text().splitlines()) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def main(folder: Path) -> None:
    """All of it, in each of several processes; the first one writes what came of it."""
    processes = join("cpu")
    assert not processes.alone
    check_exchanges(processes)
    for kind in KINDS:
        outcome = trained(kind, processes)
        if kind in RESUMED:
            check_resumption(kind, outcome["after"], folder, processes)
        if processes.is_main:
            torch.save(outcome, folder / f"{kind}.pt")
        else:
            assert not outcome["logged"]

    statuses = [run(folder / "whole")]
    if processes.rank == processes.count - 1:
        terminate_after_a_round(folder / "stopped")
    statuses.append(run(folder / "stopped"))
    rounds = len(RunFolder(folder / "stopped").metrics())
    statuses.append(run(folder / "stopped", resume=True))
    report = {"statuses": processes.gathered(statuses), "stopped_after": rounds}
    if processes.is_main:
        (folder / "runs.json").write_text(json.dumps(report))
    leave()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
