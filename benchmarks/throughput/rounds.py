"""Whole rounds of an agent beside the bare network on the same batches and pairs."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from stable_baselines3.common.logger import KVWriter, Logger
from torch import Tensor

from agents.policy.precision import AUTOCAST
from agents.ppo import DiffusionPPO
from benchmarks.throughput import machine
from benchmarks.throughput.bare import Passes
from benchmarks.throughput.jobs import Job
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import RewardFunction, RewardResult

Seconds = dict[str, float]
"""Of one round, by part: see `measure`."""

Figures = dict[str, Any]


def measure(job: Job, repeats: int, usual: int) -> Figures:
    """Trains some rounds, each followed by the bare network's passes on the same data.

    Args:
        job: What is trained.
        repeats: How many rounds; Ctrl-C ends them after those that are complete.
        usual: Images at a time in the bare network's passes as the field's loops have them.

    Returns:
        ``rounds``, a list of seconds by part: ``rollout``, ``decode`` and ``reward`` (which are no
        part of the rollout here), ``update``, ``round`` (all of it, callbacks and logs included),
        ``bare_rollout`` and ``bare_update``, and those of `Passes.usual_seconds`, the same as the
        field's loops have it. Besides, ``images`` and ``evaluations`` of a round, ``usual``,
        ``flops`` of drawing and training, ``matrix_peak`` in FLOP/s and ``peak_memory`` in bytes.
    """
    with job.built() as (_, agent):
        assert isinstance(agent, DiffusionPPO)
        if agent.config.overlap_rewards:
            raise InvalidInputError(
                "expected a job whose parts can be timed apart, got overlap_rewards, with which "
                "drawing and rewards are at once"
            )
        device = agent.policy.model.device
        capture, clock = _Capture(), _Clock(agent)
        agent.set_logger(Logger(None, [capture]))
        images = agent.base_env.num_envs * agent.config.batches_per_round

        # 1. What is slow the first time: libraries choose kernels, compilers compile.
        agent.learn(images)
        Passes.of(agent).warm_up(usual)

        # 2. Rounds and bare passes in turn, so that a machine that drifts favours neither.
        machine.reset_peak_memory(device)
        rounds: list[Seconds] = []
        evaluations = 0
        try:
            while len(rounds) < repeats:
                clock.seconds.clear()
                before = agent.policy.denoiser_evaluations
                whole = machine.timed(
                    lambda: agent.learn(images, reset_num_timesteps=False), device
                )
                evaluations = agent.policy.denoiser_evaluations - before
                passes = Passes.of(agent)
                bare, loops = passes.seconds(), passes.usual_seconds(usual)
                rounds.append(_parts(whole, capture.row, clock.seconds, bare, loops))
        except KeyboardInterrupt:
            if not rounds:
                raise
        peak_memory = machine.peak_memory(device)

        # 3. How much arithmetic that is.
        dtype = AUTOCAST[agent.policy.precision.name] or torch.float32
        return {
            "images": images,
            "usual": usual,
            "steps": agent.policy.schedule.num_steps,
            "evaluations": evaluations,
            "rounds": rounds,
            "flops": dict(zip(("rollout", "update"), passes.flops(), strict=True)),
            "matrix_peak": machine.matrix_peak(device, dtype),
            "peak_memory": peak_memory,
        }


def _parts(
    whole: float,
    logged: dict[str, Any],
    watched: Seconds,
    bare: tuple[float, float],
    usual: Seconds,
) -> Seconds:
    """A round's seconds by part, from what was logged of it and what was watched."""
    decode, reward = watched["decode"], watched["reward"]
    return {
        "rollout": logged["time/rollout_seconds"] - decode - reward,
        "decode": decode,
        "reward": reward,
        "update": logged["time/update_seconds"],
        "round": whole,
        **dict(zip(("bare_rollout", "bare_update"), bare, strict=True)),
        **usual,
    }


class _Capture(KVWriter):
    """Keeps the last row that was logged."""

    row: dict[str, Any]

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        self.row = dict(key_values)

    def close(self) -> None:
        pass


class _Clock:
    """Adds up the time that an agent's environment decodes images and scores them."""

    def __init__(self, agent: DiffusionPPO) -> None:
        self.seconds: Seconds = defaultdict(float)
        base = agent.base_env
        self.device = base.device
        base.model.decode = self._watched("decode", base.model.decode)  # type: ignore[method-assign]
        base.reward_function = _Watched(
            base.reward_function, self._watched("reward", base.reward_function)
        )

    def _watched(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            results: list[Any] = []
            self.seconds[part] += machine.timed(
                lambda: results.append(work(*arguments)), self.device
            )
            return results[0]

        return watched


class _Watched:
    """A reward function under a clock."""

    def __init__(self, reward: RewardFunction, watched: Callable[..., RewardResult]) -> None:
        self.name, self.version = reward.name, reward.version
        self._watched = watched

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        return self._watched(images, prompts)
