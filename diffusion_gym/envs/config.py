"""What an environment is about: a model, its schedule, prompts and a reward."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_gym.models import DiffusionModel, load_model
from diffusion_gym.prompts import PromptList, load_prompts
from diffusion_gym.rewards import RewardFunction, make_reward
from diffusion_gym.schedules.base import Schedule
from diffusion_gym.schedules.registry import make_schedule


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """The keyword arguments that single and vector environments share; None: the model's default.

    Attributes:
        model: An embedded model's name, a diffusers folder, a .safetensors file, or a hub id.
        prompts: A built-in set's name, a file, or a list of texts.
        reward: A registered reward's name, or weights by name.
        num_inference_steps: T.
        sampler: Family of transitions: "ddim", or "flow_sde" for flow-matching models.
        eta: Noise scale of the transitions.
        device: "auto", or a torch device.
        dtype: Precision of the frozen networks.
        model_options: Further options of `diffusion_gym.models.load_model`, by name.
        reward_options: Options of rewards: for each reward's name its options by name.
    """

    model: str = "emoji-64"
    prompts: str | Sequence[str] | None = None
    reward: str | Mapping[str, float] | None = None
    num_inference_steps: int | None = None
    sampler: str | None = None
    eta: float | None = None
    device: str = "auto"
    dtype: str = "float32"
    model_options: Mapping[str, Any] | None = None
    reward_options: Mapping[str, Mapping[str, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class EnvParts:
    """Loaded `EnvConfig`; the schedule is on the model's device."""

    model: DiffusionModel
    prompts: PromptList
    reward_function: RewardFunction
    schedule: Schedule


def load_parts(settings: EnvConfig) -> EnvParts:
    """Loads what the settings name.

    Raises:
        InvalidInputError: For unknown names and options, and impossible numbers.
        ModelLoadError: If the model's or the reward's weights cannot be loaded.
    """
    model = load_model(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        **(settings.model_options or {}),
    )
    prompts = model.default_prompts if settings.prompts is None else settings.prompts
    reward = model.default_reward if settings.reward is None else settings.reward
    steps = settings.num_inference_steps
    if steps is None:
        steps = model.default_num_inference_steps
    schedule = make_schedule(model.scheduler, steps, sampler=settings.sampler, eta=settings.eta)
    return EnvParts(
        model=model,
        prompts=load_prompts(prompts),
        reward_function=make_reward(
            reward, device=str(model.device), options=settings.reward_options
        ),
        schedule=schedule.to(model.device),
    )
