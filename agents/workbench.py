"""Environments, agent and evaluations of a run, built from its settings."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

import diffusion_gym  # noqa: F401  (registers the environment)
from agents.evaluation import Evaluation, evaluate
from agents.policy import UNetPolicy
from agents.ppo import DiffusionPPO
from agents.run_folder import RunFolder
from agents.settings import TrainSettings
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.prompts import load_prompts

EVALUATION_SEED = 20_000
HELD_OUT, TRAIN = ":held_out", ":train"


def make_env(settings: TrainSettings, **changes: Any) -> VectorEnv[Any, Any, Any]:
    """The vector environment of a run, with some keyword arguments changed."""
    kwargs = settings.env_kwargs() | {"num_envs": settings.num_envs} | changes
    return gym.make_vec("DiffusionT2I-v0", array_type="torch", **kwargs)


def make_agent(settings: TrainSettings, env: VectorEnv[Any, Any, Any]) -> DiffusionPPO:
    """A new agent."""
    return DiffusionPPO("UNetPolicy", env, **settings.agent_kwargs())


def evaluation_prompts(settings: TrainSettings, env: VectorEnv[Any, Any, Any]) -> str:
    """The held-out part of the run's prompt set, or the training prompts where it has none."""
    base: Any = env.unwrapped
    spec = str(settings.prompts or base.model.default_prompts)
    held_out = f"{spec.removesuffix(TRAIN).removesuffix(HELD_OUT)}{HELD_OUT}"
    try:
        load_prompts(held_out)
    except InvalidInputError:
        return spec
    return held_out


def evaluate_run(
    settings: TrainSettings, policy: UNetPolicy, env: VectorEnv[Any, Any, Any]
) -> Evaluation:
    """Evaluates a policy on an environment as every evaluation of this run does it."""
    return evaluate(
        policy,
        env,
        samples=settings.eval_samples,
        prompts=settings.eval_prompts,
        seed=EVALUATION_SEED,
    )


def load_policy(run: RunFolder, *, device: str = "auto") -> UNetPolicy:
    """The newest trained policy of a run."""
    return DiffusionPPO.load(run.agent_file, device=device).policy


def base_policy(policy: UNetPolicy) -> UNetPolicy:
    """The policy as it was before training, with the same guidance and precision."""
    fresh = UNetPolicy(
        policy.observation_space,
        policy.action_space,
        lambda _: 0.0,
        model=policy.model,
        schedule=policy.schedule,
        guidance=policy.guidance,
        autocast=policy.autocast,
    )
    fresh.denoiser.requires_grad_(False)
    return fresh


def save_evaluation(evaluation: Evaluation, run: RunFolder) -> None:
    """Keeps the evaluation of the base model for the end of the run."""
    partial = run.before_file.with_name(".before.partial.npz")
    np.savez_compressed(
        partial,
        prompts=np.array(evaluation.prompts),
        rewards=evaluation.rewards,
        images=evaluation.images,
        **{f"term/{name}": values for name, values in evaluation.terms.items()},
    )
    partial.replace(run.before_file)


def load_evaluation(run: RunFolder) -> Evaluation:
    """Reads back what `save_evaluation` wrote."""
    if not run.before_file.is_file():
        raise InvalidInputError(f"expected the evaluation before training in {run.before_file}")
    with np.load(run.before_file) as data:
        terms = {k.removeprefix("term/"): data[k] for k in data.files if k.startswith("term/")}
        return Evaluation(data["prompts"].tolist(), data["rewards"], terms, data["images"])
