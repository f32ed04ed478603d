"""Settings of a training run, and what is recommended for each reward."""

from dataclasses import asdict, dataclass, field
from typing import Any

from agents.recommended import recommended
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models.embedded import EMBEDDED_DEFAULTS, OTHER_DEFAULTS

BY_METHOD = "by default as fits reward and shaping"


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
    shaping: str = _option("sparse", "reward shaping: sparse, uniform, coca, b2 or b2+coca")
    num_envs: int | None = _option(None, f"images drawn at once; {BY_METHOD}")
    samples_per_prompt: int | None = _option(
        None, f"images of the same prompt in a batch; {BY_METHOD}"
    )
    batches_per_round: int = _option(1, "batches drawn before each round of updates")
    updates_per_round: int = _option(4, "optimiser steps per epoch of a round")
    epochs: int | None = _option(None, f"passes over each round; {BY_METHOD}")
    batch_size: int = _option(160, "(image, step) pairs per forward and backward pass")
    learning_rate: float | None = _option(None, f"AdamW's rate; {BY_METHOD}")
    clip_range: float | None = _option(
        None, f"PPO's clip range, on the ratio of mean log-probabilities; {BY_METHOD}"
    )
    advantage: str = _option("group", "baseline: 'group' (of the round) or 'prompt' (running)")
    standardise_steps: str | None = _option(
        None, "CoCA's second standardisation: 'center' or 'scale'; or 'unit_variance'"
    )
    kl_coef: float = _option(0.0, "weight of the KL divergence to the base model")
    max_grad_norm: float = _option(1.0, "bound on the gradient's norm")
    guidance: float = _option(1.0, "classifier-free guidance scale, in rollout and update")
    lora_rank: int | None = _option(None, "rank of LoRA adapters; by default all weights train")
    lora_alpha: float | None = _option(None, "LoRA's alpha; by default the rank")
    autocast: str = _option("float32", "precision of the denoiser's arithmetic")
    seed: int = _option(0, "seed of everything random")
    eval_samples: int = _option(4, "images per held-out prompt in the evaluations")
    eval_prompts: int = _option(64, "most held-out prompts to evaluate on")
    eval_every: int = _option(0, "rounds between evaluations during training; 0: none")
    checkpoint_every: int = _option(5, "rounds between checkpoints")
    keep_checkpoints: int = _option(2, "checkpoints to keep")
    output: str | None = _option(None, "run folder; by default runs/REWARD-seedN[-K]")

    def __post_init__(self) -> None:
        """Fills in what depends on the reward, and checks the numbers.

        Raises:
            InvalidInputError: A count is below 1, or a rate is not positive.
        """
        own = asdict(EMBEDDED_DEFAULTS.get(self.model, OTHER_DEFAULTS))
        reward = self.reward or own["reward"]
        for name, value in (own | recommended(self.model, reward, self.shaping)).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in COUNTS:
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidInputError(f"expected {name} to be at least 1, got {value}")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"expected {name} above 0, got {getattr(self, name)}")

    @property
    def rounds(self) -> int:
        """Rounds of the whole run."""
        return -(-self.images // (self.num_envs * self.batches_per_round))

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def env_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the environment."""
        names = ("model", "prompts", "reward", "num_inference_steps", "eta", "device", "dtype")
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
            "standardise_steps",
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
