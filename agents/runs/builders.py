"""Environments, agent and evaluations of a run, built from its settings."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

import diffusion_gym  # noqa: F401  (registers the environment)
from agents.common.checkpoint import load_policy as load_checkpoint_policy
from agents.common.checkpoint_folder import checkpoints_in
from agents.common.image_algorithm import ImageAlgorithm
from agents.common.processes import current
from agents.evaluation import Evaluation, ImageMetrics, evaluate
from agents.files import atomic
from agents.policy import UNetPolicy
from agents.runs.algorithms import algorithm
from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.envs import DiffusionT2IVectorEnv, EnvConfig
from diffusion_gym.errors import InvalidInputError, shown, unknown_name
from diffusion_gym.models.embedded import EMOJI64
from diffusion_gym.prompts import load_prompts
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.networks.clip import load_clip
from diffusion_gym.rewards.registry import by_name

Env = VectorEnv[Any, Any, Any]
Prompts = str | Sequence[str | Mapping[str, str]]
"""As `load_prompts` takes them."""

EVALUATION_SEED = 20_000
HELD_OUT, TRAIN = ":held_out", ":train"
OTHER_REWARDS = {EMOJI64: ("clip_score", "scene_alignment", "house_style", "jpeg_compressibility")}
"""Rewards to watch besides the one that is trained on, by model: they know its pictures."""

FALLBACK_REWARDS = ("jpeg_compressibility",)
"""The same for any other model."""

GROUPS = ("terms", "other_rewards", "metrics", "left_out")
"""What an `Evaluation` has by name; in its file, the names follow the group and a slash."""


def make_env(settings: TrainSettings, **changes: Any) -> Env:
    """The vector environment of a run.

    Args:
        settings: The run's.
        **changes: Other values of fields of `EnvConfig`, and ``num_envs``, the rows of this
            process; by default its part of the run's. Options of rewards that are not used after
            the change are dropped.

    Raises:
        InvalidInputError: There are several processes, and they cannot share its rows evenly.
    """
    num_envs = changes.pop("num_envs", None)
    if num_envs is None:
        num_envs = own_part(settings.run.num_envs)
    config = dataclasses.replace(settings.env, **changes)
    if config.reward != settings.env.reward:
        config = dataclasses.replace(config, reward_options=_used_options(config))
    return gym.make_vec(
        "DiffusionT2I-v0",
        num_envs=num_envs,
        array_type="torch",
        **dataclasses.asdict(config),
    )


def own_part(num_envs: int) -> int:
    """The rows that each process has of so many.

    Raises:
        InvalidInputError: They cannot be shared out evenly.
    """
    processes = current().count
    if num_envs % processes:
        raise InvalidInputError(
            f"expected num_envs to be a multiple of the {processes} processes, which draw as many "
            f"images each, got {num_envs}"
        )
    return num_envs // processes


def make_evaluation_env(
    settings: TrainSettings,
    prompts: Prompts,
    *,
    count: int,
    samples: int,
    **changes: Any,
) -> Env:
    """An environment to evaluate on, of batches that are as equal as can be: none is half empty.

    Args:
        settings: The run's, whose ``num_envs`` is the most that is drawn at once. Of several
            processes each has as many of the batches.
        prompts: As `load_prompts` takes them.
        count: Most prompts to draw.
        samples: Images of each.
        **changes: As `make_env` takes them.
    """
    images = samples * min(count, len(load_prompts(prompts).texts))
    processes = current().count
    batches = math.ceil(images / settings.run.num_envs) * processes
    num_envs = math.ceil(images / batches)
    return make_env(settings, prompts=prompts, num_envs=num_envs, **changes)


def _used_options(config: EnvConfig) -> Mapping[str, Any] | None:
    names = [config.reward] if isinstance(config.reward, str) else list(config.reward or ())
    return {name: own for name, own in (config.reward_options or {}).items() if name in names}


def base_env(env: Env) -> DiffusionT2IVectorEnv:
    """The environment below every wrapper."""
    base = env.unwrapped
    assert isinstance(base, DiffusionT2IVectorEnv)
    return base


def make_agent(settings: TrainSettings, env: Env) -> ImageAlgorithm:
    """A new agent."""
    return algorithm(settings.run.algorithm).agent(
        "UNetPolicy",
        env,
        seed=settings.run.seed,
        policy_kwargs=dataclasses.asdict(settings.policy),
        **dataclasses.asdict(settings.agent),
    )


def evaluation_prompts(env: Env) -> Prompts:
    """The held-out part of an environment's prompt set; its own prompts where there is none."""
    spec = base_env(env).config.prompts
    assert spec is not None  # the environment's own is filled in
    if not isinstance(spec, str):
        return spec
    held_out = f"{spec.removesuffix(TRAIN).removesuffix(HELD_OUT)}{HELD_OUT}"
    try:
        load_prompts(held_out)
    except InvalidInputError:
        return spec
    return held_out


def evaluate_run(
    settings: TrainSettings, policy: UNetPolicy, env: Env, image_metrics: ImageMetrics
) -> Evaluation:
    """Evaluates a policy on an environment as every evaluation of this run does it."""
    return evaluate(
        policy,
        env,
        samples=settings.evaluation.eval_samples,
        prompts=settings.evaluation.eval_prompts,
        seed=EVALUATION_SEED,
        image_metrics=image_metrics,
        processes=current(),
    )


def make_image_metrics(
    env: Env,
    rewards: Iterable[str] | None = None,
    trained_on: Any = None,
    options: Mapping[str, Any] | None = None,
    diversity_clip: str | None = None,
) -> ImageMetrics:
    """What a run's evaluations measure besides the environment's reward.

    Args:
        env: The environment to evaluate on; its own reward is left out.
        rewards: Names of the others; None: as fits the model.
        trained_on: Name of the reward that the run trained on, where it is not the environment's:
            it is always among the others.
        options: Options of rewards by their names; of those that are not used here, too.
        diversity_clip: Folder or hub id of the CLIP by whose embeddings images are compared; None:
            the embedded one, whatever the model.
    """
    base = base_env(env)
    if rewards is None:
        rewards = OTHER_REWARDS.get(base.model.name, FALLBACK_REWARDS)
    if isinstance(trained_on, str):
        rewards = dict.fromkeys([trained_on, *rewards])
        _, options = by_name(trained_on, options or {})
    own = (base.config.reward, base.reward_function.name)
    device, options = str(base.device), options or {}
    embedded = (emoji64_folder() / "clip").resolve()  # shared with `clip_score`
    clip = load_clip(diversity_clip or embedded, device, reward="diversity_clip", option=None)
    return ImageMetrics(
        tuple(
            make_reward(
                name, device=device, options={k: v for k, v in options.items() if k == name}
            )
            for name in rewards
            if name not in own
        ),
        clip.embed_images,
    )


def load_policy(
    run: RunFolder, *, device: str = "auto", checkpoint: str | None = None
) -> UNetPolicy:
    """A trained policy of a run.

    Args:
        run: The run.
        device: Where to load it.
        checkpoint: The name of one of the run's checkpoints; None: the newest.

    Raises:
        InvalidInputError: There is no such checkpoint, or it is damaged.
    """
    folder = run.checkpoint
    if checkpoint is not None:
        known = {path.name: path for path in checkpoints_in(run.checkpoints)}
        if checkpoint not in known:
            raise unknown_name("checkpoint", checkpoint, known)
        folder = known[checkpoint]
    return load_checkpoint_policy(folder, device=device)


def check_subject(run: str | None, **others: str | None) -> None:
    """Checks that a command is about a run or about a model, not both.

    Args:
        run: The run folder, if there is one.
        **others: ``model``, which is instead of a run, and what only runs have.

    Raises:
        InvalidInputError: It is about both, or about what only a run has.
    """
    for name, value in others.items():
        if value is not None and (name == "model") == (run is not None):
            where = "without RUN" if name == "model" else "of a RUN"
            raise InvalidInputError(
                f"expected --{name} {where} alone, got {shown(value)} with "
                f"{shown(run) if run is not None else 'no RUN'}"
            )


def untrained_settings(model: str | None, device: str | None) -> TrainSettings:
    """Settings, as recommended, of a model that nothing here was trained on; None: the usual."""
    given = {"model": model, "device": device}
    return TrainSettings.of(**{name: value for name, value in given.items() if value is not None})


def untrained_policy(settings: TrainSettings, env: Env) -> UNetPolicy:
    """The policy that a run of these settings would begin with, on an environment's model."""
    base = base_env(env)
    return _frozen_policy(
        *(base.single_observation_space, base.single_action_space),
        *(base.model.share(), base.schedule),
        guidance=settings.policy.guidance,
        autocast=settings.policy.autocast,
        half=True,
    )


def base_policy(policy: UNetPolicy) -> UNetPolicy:
    """The policy as it was before training, with the same guidance and precision."""
    return _frozen_policy(
        *(policy.observation_space, policy.action_space, policy.model, policy.schedule),
        guidance=policy.guidance,
        autocast=policy.precision.name,
        half=policy.lora is not None,
    )


def _frozen_policy(
    observation_space: Any, action_space: Any, model: Any, schedule: Any, *, half: bool, **how: Any
) -> UNetPolicy:
    """A policy of the model's own weights.

    Args:
        observation_space: The environment's.
        action_space: The environment's.
        model: The model.
        schedule: The environment's.
        half: Whether the weights may be rounded, as those below adapters are, or are exact, as
            those that train.
        **how: Fields of `PolicyConfig`.
    """
    fresh = UNetPolicy(
        *(observation_space, action_space, lambda _: 0.0), model=model, schedule=schedule, **how
    )
    if half:
        fresh.precision.freeze(fresh.denoiser)
    else:
        fresh.denoiser.requires_grad_(False)
    return fresh


def save_evaluation(evaluation: Evaluation, file: Path) -> None:
    """Keeps an evaluation: the base model's for the end of the run, the last one for reports."""
    arrays: dict[str, Any] = {
        f"{group}/{name}": np.asarray(value)
        for group in GROUPS
        for name, value in getattr(evaluation, group).items()
    }
    arrays |= {
        "prompts": np.array(evaluation.prompts),
        "rewards": evaluation.rewards,
        "images": evaluation.images,
    }
    with atomic(file) as partial:
        np.savez_compressed(partial, **arrays)


def load_evaluation(file: Path) -> Evaluation:
    """Reads back what `save_evaluation` wrote.

    Raises:
        InvalidInputError: The file is missing or damaged.
    """
    if not file.is_file():
        raise InvalidInputError(f"expected an evaluation in {file}")
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    try:
        with np.load(file, allow_pickle=False) as data:
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
    except Exception as error:  # a damaged archive raises errors of many unrelated classes
        raise InvalidInputError(
            f"expected an evaluation in {file}, which is damaged ({type(error).__name__}: "
            f"{error}); remove it, and the run evaluates anew when it is resumed"
        ) from error
