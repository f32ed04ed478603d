"""Settings of a training run, and what is recommended for each reward."""

from dataclasses import asdict, dataclass, field
from typing import Any

from diffusion_gym.errors import InvalidInputError


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainSettings:
    """One training run; every field is an option of ``python -m agents.train``."""

    model: str = _option("emoji-64", "embedded model, diffusers folder or hub id")
    prompts: str | None = _option(
        None, "built-in prompt set, or a .txt or .json file; by default as fits the reward"
    )
    reward: str | None = _option(None, "a registered reward; by default the model's own")
    num_inference_steps: int | None = _option(None, "denoising steps T; by default the model's own")
    eta: float = _option(1.0, "noise scale of the DDIM sampler")
    device: str = _option("auto", "torch device")
    dtype: str = _option("float32", "precision of the frozen networks")
    images: int = _option(1216, "images to draw in training, in whole rounds")
    num_envs: int = _option(64, "images drawn at once")
    samples_per_prompt: int = _option(8, "images of the same prompt in a batch")
    batches_per_round: int = _option(1, "batches drawn before each round of updates")
    updates_per_round: int = _option(4, "optimiser steps per epoch of a round")
    epochs: int = _option(1, "passes over each round")
    batch_size: int = _option(160, "(image, step) pairs per forward and backward pass")
    learning_rate: float | None = _option(None, "AdamW's rate; by default as fits the reward")
    clip_range: float = _option(2e-3, "PPO's clip range, on the ratio of mean log-probabilities")
    advantage: str = _option("group", "baseline: 'group' (of the round) or 'prompt' (running)")
    kl_coef: float = _option(0.0, "weight of the KL divergence to the base model")
    max_grad_norm: float = _option(1.0, "bound on the gradient's norm")
    guidance: float = _option(1.0, "classifier-free guidance scale, in rollout and update")
    lora_rank: int | None = _option(None, "rank of LoRA adapters; by default all weights train")
    lora_alpha: float | None = _option(None, "LoRA's alpha; by default the rank")
    autocast: str = _option("float32", "precision of the denoiser's arithmetic")
    seed: int = _option(0, "seed of everything random")
    eval_samples: int = _option(4, "images per held-out prompt in the evaluations")
    eval_prompts: int = _option(64, "most held-out prompts to evaluate on")
    checkpoint_every: int = _option(5, "rounds between checkpoints")
    keep_checkpoints: int = _option(2, "checkpoints to keep")
    output: str | None = _option(None, "run folder; by default runs/REWARD-seedN[-K]")

    def __post_init__(self) -> None:
        """Fills in what depends on the reward, and checks the numbers.

        Raises:
            InvalidInputError: A count is below 1, or a rate is not positive.
        """
        reward = self.reward or ("house_style" if self.model == "emoji-64" else None)
        for name, value in RECOMMENDED.get(reward or "", DEFAULTS).items():
            if getattr(self, name) is None and (name != "prompts" or self.model == "emoji-64"):
                object.__setattr__(self, name, value)
        for name in COUNTS:
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidInputError(f"expected {name} to be at least 1, got {value}")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"expected {name} above 0, got {getattr(self, name)}")

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def env_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the environment; what is None is left to it."""
        names = ("prompts", "reward", "num_inference_steps")
        chosen = {name: getattr(self, name) for name in names}
        common = {name: getattr(self, name) for name in ("model", "eta", "device", "dtype")}
        return common | {name: value for name, value in chosen.items() if value is not None}

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
        policy = ("guidance", "lora_rank", "lora_alpha", "autocast")
        return {name: getattr(self, name) for name in names} | {
            "n_epochs": self.epochs,
            "policy_kwargs": {name: getattr(self, name) for name in policy},
        }


COUNTS = (
    "images",
    "num_envs",
    "samples_per_prompt",
    "batches_per_round",
    "updates_per_round",
    "epochs",
    "batch_size",
    "lora_rank",
    "eval_samples",
    "eval_prompts",
    "checkpoint_every",
    "keep_checkpoints",
)
POSITIVE = ("learning_rate", "clip_range", "max_grad_norm")
DEFAULTS: dict[str, Any] = {"learning_rate": 2e-4}
RECOMMENDED: dict[str, dict[str, Any]] = {
    "house_style": {"learning_rate": 2e-4, "prompts": "emoji-objects"},
    "jpeg_compressibility": {"learning_rate": 4e-4, "prompts": "emoji-objects"},
    "jpeg_incompressibility": {"learning_rate": 4e-4, "prompts": "emoji-objects"},
    "clip_score": {"learning_rate": 2e-4, "prompts": "emoji-captions"},
    "scene_alignment": {"learning_rate": 2e-4, "prompts": "emoji-captions"},
}
"""What was found to learn on the embedded model; README, "What was tried", has the figures."""
