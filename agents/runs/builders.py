"""Environments, agent and evaluations of a run, built from its settings."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

import diffusion_gym  # noqa: F401  (registers the environment)
from agents.evaluation.evaluation import Evaluation, evaluate
from agents.evaluation.image_metrics import ImageMetrics
from agents.policy import UNetPolicy
from agents.ppo import DiffusionPPO
from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models.embedded import EMOJI64
from diffusion_gym.prompts import load_prompts
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.networks.clip import load_clip

EVALUATION_SEED = 20_000
HELD_OUT, TRAIN = ":held_out", ":train"
OTHER_REWARDS = {EMOJI64: ("clip_score", "scene_alignment", "house_style", "jpeg_compressibility")}
"""Rewards to watch where they were not trained on, by model: they know its pictures."""

FALLBACK_REWARDS = ("jpeg_compressibility",)
"""The same for any other model."""

GROUPS = ("terms", "other_rewards", "metrics", "left_out")
"""What an `Evaluation` has by name; in its file, the names follow the group and a slash."""


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
    """Evaluates and monitors a policy on an environment as every evaluation of this run does it."""
    return evaluate(
        policy,
        env,
        samples=settings.eval_samples,
        prompts=settings.eval_prompts,
        seed=EVALUATION_SEED,
        image_metrics=make_image_metrics(settings, env),
    )


def make_image_metrics(
    settings: TrainSettings, env: VectorEnv[Any, Any, Any], rewards: Sequence[str] | None = None
) -> ImageMetrics:
    """What a run's evaluations measure besides the environment's reward.

    Embeddings are those of the embedded CLIP, whatever the model.

    Args:
        settings: The run's; the reward that it trained on is left out.
        env: The environment to evaluate on; its own reward is left out as well.
        rewards: Names of rewards that were not trained on; None: as fits the model.
    """
    base: Any = env.unwrapped
    known = (settings.reward or base.model.default_reward, base.reward_function.name)
    if rewards is None:
        rewards = OTHER_REWARDS.get(base.model.name, FALLBACK_REWARDS)
    device = str(base.device)
    clip = load_clip((emoji64_folder() / "clip").resolve(), device)  # shared with `clip_score`
    return ImageMetrics(
        tuple(make_reward(name, device=device) for name in rewards if name not in known),
        clip.embed_images,
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
        autocast=policy.precision.name,
    )
    if policy.lora is None:
        fresh.denoiser.requires_grad_(False)
    else:
        fresh.precision.freeze(fresh.denoiser)  # as the weights below the adapters are
    return fresh


def save_evaluation(evaluation: Evaluation, run: RunFolder) -> None:
    """Keeps the evaluation of the base model for the end of the run."""
    partial = run.before_file.with_name(".before.partial.npz")
    groups = {
        f"{group}/{name}": np.asarray(value)
        for group in GROUPS
        for name, value in getattr(evaluation, group).items()
    }
    np.savez_compressed(
        partial,
        prompts=np.array(evaluation.prompts),
        rewards=evaluation.rewards,
        images=evaluation.images,
        **groups,
    )
    partial.replace(run.before_file)


def load_evaluation(run: RunFolder) -> Evaluation:
    """Reads back what `save_evaluation` wrote."""
    if not run.before_file.is_file():
        raise InvalidInputError(f"expected the evaluation before training in {run.before_file}")
    with np.load(run.before_file) as data:
        groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for key in data.files:
            group, slash, name = key.partition("/")
            if slash:
                groups[group][name] = data[key]
        reasons = {name: str(text) for name, text in groups.pop("left_out").items()}
        return Evaluation(
            prompts=data["prompts"].tolist(),
            rewards=data["rewards"],
            images=data["images"],
            left_out=reasons,
            **groups,
        )
