"""What an environment is made of, and the one place where that is loaded and defaults resolved."""

import dataclasses
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_gym.checks import Checked, NotNegative
from diffusion_gym.errors import one_line
from diffusion_gym.models import DiffusionModel, ModelOptions, load_model, model_names
from diffusion_gym.prompts import PromptList, load_prompts, prompt_set_names
from diffusion_gym.rewards import RewardFunction, make_reward
from diffusion_gym.rewards.base import wants_metadata
from diffusion_gym.schedules import Schedule, make_schedule


@dataclasses.dataclass(frozen=True)
class EnvConfig(Checked):
    """What a single environment, a vector environment and a training run have in common.

    Where a default is None, the model has one of its own.

    Raises:
        UnknownKeywordError: By `from_options`: there is no such field.
        InvalidInputError: A value is of another type or outside its range.
    """

    model: str = "emoji-64"
    """Embedded model's name, diffusers folder, .safetensors file, or id on the model hub."""

    model_options: Mapping[str, Any] | None = None
    """How the model is loaded, see `diffusion_gym.models.ModelOptions`, such as
    '{"vae_dtype": "float32", "vae_slicing": true}'."""

    prompts: str | Sequence[str | Mapping[str, str]] | None = None
    """Built-in prompt set, a .txt, .json, .jsonl, .tsv or .csv file, a folder of .txt files, or a
    list of texts, or of {"prompt": …, "negative_prompt": …}."""

    reward: str | Mapping[str, Any] | None = None
    """Registered reward, or weights by name, whose weighted sum is the reward, or
    '{"remote": "http://HOST:PORT"}'; by default the model's own."""

    reward_options: Mapping[str, Any] | None = None
    """Options of rewards by their names, such as '{"aesthetic": {"clip": "path/to/clip"}}'."""

    num_inference_steps: int | None = None
    """Denoising steps T; by default the model's own."""

    sampler: str | None = None
    """Family of transitions: ddim, or flow_sde or flow_cps for flow-matching models."""

    eta: NotNegative | None = None
    """Noise scale of the transitions; by default the sampler's published one."""

    stochastic_steps: Sequence[int] | None = None
    """The only steps with noise, by their indices from 0 to T - 1, with commas between; by default
    all to which the sampler gives some."""

    device: str = "auto"
    """Torch device."""

    dtype: str = "float32"
    """Precision of the frozen networks: float32, bfloat16 or float16; latents are float32."""


@dataclasses.dataclass(frozen=True)
class EnvParts:
    """A loaded `EnvConfig`.

    Attributes:
        config: The same with the model's defaults filled in; paths of models, their parts and
            prompt files are absolute, so that it means the same in any folder.
        model: The model.
        prompts: What episodes draw from.
        reward_function: What scores the decoded images.
        schedule: The denoising steps, on the model's device.
    """

    config: EnvConfig
    model: DiffusionModel
    prompts: PromptList
    reward_function: RewardFunction
    schedule: Schedule


def load_parts(config: EnvConfig) -> EnvParts:
    """Loads what a configuration names.

    Raises:
        InvalidInputError: For unknown names and options, and impossible numbers.
        ModelLoadError: If the model's or the reward's weights cannot be loaded.
    """
    # 1. The model, whose defaults stand in for what is not named.
    name = absolute(config.model, model_names())
    options = dict(config.model_options or {})
    options |= ModelOptions.parse(options).absolute()
    model = load_model(name, device=config.device, dtype=config.dtype, **options)
    prompts = model.default_prompts if config.prompts is None else config.prompts
    reward = model.default_reward if config.reward is None else config.reward
    if isinstance(prompts, str):
        prompts = absolute(prompts, prompt_set_names())
    steps = config.num_inference_steps
    if steps is None:
        steps = model.default_num_inference_steps

    # 2. What depends on it.
    schedule = make_schedule(
        model.scheduler,
        steps,
        sampler=config.sampler,
        eta=config.eta,
        stochastic_steps=config.stochastic_steps,
    )
    device = str(model.device)
    prompt_list = load_prompts(prompts)
    reward_function = make_reward(reward, device=device, options=config.reward_options)
    _warn_of_unused_metadata(prompt_list, reward_function)
    return EnvParts(
        config=dataclasses.replace(
            config,
            model=name,
            model_options=None if config.model_options is None else options,
            prompts=prompts,
            reward=reward,
            num_inference_steps=schedule.num_steps,
            sampler=schedule.sampler,
            eta=schedule.eta,
            stochastic_steps=schedule.window,
        ),
        model=model,
        prompts=prompt_list,
        reward_function=reward_function,
        schedule=schedule.to(model.device),
    )


def _warn_of_unused_metadata(prompts: PromptList, reward: RewardFunction) -> None:
    if prompts.metadata and not wants_metadata(reward):
        columns = dict.fromkeys(name for about in prompts.metadata.values() for name in about)
        warnings.warn(
            f"of {one_line(prompts.name)} only the prompts are used, not "
            f"{one_line(', '.join(columns))}: the reward {reward.name!r} has no parameter metadata",
            stacklevel=2,
        )


def absolute(name: str, built_in: Collection[str]) -> str:
    """The absolute path of a file or folder that is there; any other name as it is.

    Args:
        name: A name or a path; after a colon, the part of a prompt file.
        built_in: Names that are never taken for paths.
    """
    source, colon, part = name.partition(":")
    try:
        path = Path(source).expanduser()
        found = source not in built_in and path.exists()
    except (OSError, RuntimeError):  # too long, or in the home of nobody
        return name
    return f"{path.resolve()}{colon}{part}" if found else name
