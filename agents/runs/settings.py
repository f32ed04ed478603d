"""Settings of a training run, and what is recommended for each reward."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from agents.runs.presets import load_preset, preset_names
from agents.runs.recommended import recommended
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models.embedded import EMBEDDED_DEFAULTS, OTHER_DEFAULTS

BY_METHOD = "by default as fits model, reward and shaping"
BY_MODEL = "by default as fits the model"


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainSettings:
    """One training run; every field is an option of ``python -m agents.train``.

    None is filled in with what is recommended. ``preset`` only records where the values come from:
    `from_options` reads it.
    """

    preset: str | None = _option(
        None,
        f"published recipe, one of {', '.join(preset_names())}; or the path of a .toml file like "
        "theirs; options given beside it override it",
    )
    model: str = _option(
        "emoji-64", "embedded model, diffusers folder, single .safetensors file or hub id"
    )
    model_options: Mapping[str, Any] | None = _option(
        None, """how to load it, as JSON such as '{"vae_dtype": "float32", "vae_slicing": true}'"""
    )
    prompts: str | None = _option(
        None,
        "built-in prompt set, or a .txt, .json, .jsonl, .tsv or .csv file; "
        "by default as fits the reward",
    )
    reward: str | None = _option(None, "a registered reward; by default the model's own")
    reward_options: Mapping[str, Any] | None = _option(
        None, """options of rewards by their names, as JSON such as '{"aesthetic": {"clip": …}}'"""
    )
    num_inference_steps: int | None = _option(None, f"denoising steps T; {BY_MODEL}")
    sampler: str | None = _option(None, f"transitions: ddim or flow_sde; {BY_MODEL}")
    eta: float | None = _option(None, "noise scale of the sampler; by default as fits it")
    device: str = _option("auto", "torch device")
    dtype: str | None = _option(
        None,
        "precision of the frozen networks: float32, bfloat16 or float16; by default float16 "
        "for checkpoints on a GPU",
    )
    images: int | None = _option(None, f"images to draw in training, in whole rounds; {BY_MODEL}")
    shaping: str = _option("sparse", "reward shaping: sparse, uniform, coca, b2 or b2+coca")
    b2_start: int | None = _option(
        None, "B²'s trained steps in the first round, which rise to T; by default 0.7 T"
    )
    num_envs: int | None = _option(None, f"images drawn at once; {BY_METHOD}")
    samples_per_prompt: int | None = _option(
        None, f"images of the same prompt in a batch; {BY_METHOD}"
    )
    batches_per_round: int | None = _option(
        None, f"batches drawn before each round of updates; {BY_MODEL}"
    )
    updates_per_round: int = _option(4, "optimiser steps per epoch of a round")
    epochs: int | None = _option(None, f"passes over each round; {BY_METHOD}")
    batch_size: int | None = _option(
        None, f"(image, step) pairs per forward and backward pass; {BY_MODEL}"
    )
    learning_rate: float | None = _option(None, f"AdamW's rate; {BY_METHOD}")
    clip_range: float | None = _option(
        None, f"PPO's clip range, on the ratio of mean log-probabilities; {BY_METHOD}"
    )
    advantage: str = _option("group", "baseline: 'group' (of the round) or 'prompt' (running)")
    statistics_buffer_size: int = _option(32, "rewards remembered per prompt by 'prompt'")
    statistics_min_count: int = _option(
        16, "rewards that a prompt needs for statistics of its own; the round's until then"
    )
    standardise_steps: str | None = _option(
        None,
        "of steps' advantages: CoCA's second, 'center' or 'scale'; 'unit_variance'; or 'none'; "
        f"{BY_METHOD}",
    )
    kl_coef: float = _option(0.0, "weight of the KL divergence to the base model")
    max_grad_norm: float = _option(1.0, "bound on the gradient's norm")
    guidance: float | None = _option(
        None, f"classifier-free guidance scale, in rollout and update; {BY_MODEL}"
    )
    lora_rank: int | None = _option(
        None, f"rank of LoRA adapters; 0 trains all weights; {BY_MODEL}: 0 or 4"
    )
    lora_alpha: float | None = _option(None, "LoRA's alpha; by default the rank")
    lora_targets: Sequence[str] | None = _option(
        None, "layers to adapt, by the ends of their names; by default the attention's"
    )
    autocast: str | None = _option(
        None, "precision of the denoiser's arithmetic; by default that of the frozen networks"
    )
    gradient_checkpointing: bool = _option(
        False, "compute activations twice instead of keeping them: less memory, more time"
    )
    optimizer: str = _option("adamw", "adamw, adamw_fused or adamw_8bit")
    compile: bool = _option(False, "compile the denoiser with torch.compile")
    seed: int = _option(0, "seed of everything random")
    eval_samples: int = _option(4, "images per held-out prompt in the evaluations")
    eval_prompts: int = _option(64, "most held-out prompts to evaluate on")
    eval_every: int = _option(0, "rounds between evaluations during training; 0: none")
    checkpoint_every: int = _option(5, "rounds between checkpoints")
    keep_checkpoints: int = _option(2, "checkpoints to keep")
    output: str | None = _option(None, "run folder; by default runs/REWARD-seedN[-K]")

    def __post_init__(self) -> None:
        """Fills in what is recommended, and checks the numbers.

        Raises:
            InvalidInputError: A count is below 1, or a rate is not positive.
        """
        own = asdict(EMBEDDED_DEFAULTS.get(self.model, OTHER_DEFAULTS))
        device = _device_type() if self.device == "auto" else self.device
        reward = self.reward or own["reward"]
        self._fill_in(own | recommended(self.model, reward, self.shaping, device))
        self._fill_in({"autocast": self.dtype})
        for name in COUNTS:
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidInputError(f"expected {name} to be at least 1, got {value}")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"expected {name} above 0, got {getattr(self, name)}")
        if self.lora_rank < 0:
            raise InvalidInputError(f"expected lora_rank to be at least 0, got {self.lora_rank}")

    def _fill_in(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "TrainSettings":
        """The settings of a preset, where there is one, overridden by the other options.

        With another reward, the preset's options of its own reward are dropped.

        Args:
            options: Values by the names of the fields.

        Raises:
            InvalidInputError: The preset does not exist, or sets what cannot be set.
        """
        recipe = {}
        if "preset" in options:
            recipe = load_preset(options["preset"], typing.get_type_hints(cls))
        if "reward" in options:
            recipe.pop("reward_options", None)  # they are another reward's
        return cls(**(recipe | options))

    @property
    def rounds(self) -> int:
        """Rounds of the whole run."""
        return -(-self.images // (self.num_envs * self.batches_per_round))

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def env_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the environment."""
        names = (
            "model",
            "model_options",
            "prompts",
            "reward",
            "reward_options",
            "num_inference_steps",
            "sampler",
            "eta",
            "device",
            "dtype",
        )
        return {name: getattr(self, name) for name in names}

    def agent_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of `DiffusionPPO`."""
        names = (
            "learning_rate",
            "samples_per_prompt",
            "batches_per_round",
            "updates_per_round",
            "batch_size",
            "clip_range",
            "advantage",
            "kl_coef",
            "max_grad_norm",
            "seed",
        )
        statistics = {
            "buffer_size": self.statistics_buffer_size,
            "min_count": self.statistics_min_count,
        }
        return {name: getattr(self, name) for name in names} | {
            "n_epochs": self.epochs,
            "standardise_steps": _unless_none(self.standardise_steps),
            "advantage_kwargs": statistics if self.advantage == "prompt" else None,
            "policy_kwargs": self.policy_kwargs(),
        }

    def policy_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of `UNetPolicy`."""
        names = (
            "guidance",
            "lora_alpha",
            "lora_targets",
            "autocast",
            "gradient_checkpointing",
            "optimizer",
            "compile",
        )
        rank = {"lora_rank": self.lora_rank or None}
        return {name: getattr(self, name) for name in names} | rank


def _unless_none(name: str | None) -> str | None:
    return None if name == "none" else name


def _device_type() -> str:
    """What "auto" means."""
    return "cuda" if torch.cuda.is_available() else "cpu"


COUNTS = (
    "images",
    "num_envs",
    "samples_per_prompt",
    "batches_per_round",
    "updates_per_round",
    "epochs",
    "batch_size",
    "b2_start",
    "statistics_buffer_size",
    "statistics_min_count",
    "eval_samples",
    "eval_prompts",
    "checkpoint_every",
    "keep_checkpoints",
)
POSITIVE = ("learning_rate", "clip_range", "max_grad_norm")
