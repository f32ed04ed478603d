"""What is recommended where a run's settings leave something open."""

from collections.abc import Mapping
from typing import Any

import torch

from agents.runs.methods import method
from diffusion_gym.models.embedded import EMBEDDED_DEFAULTS, EMOJI64

EMBEDDED: Mapping[str, Any] = {
    "images": 1216,
    "guidance": 1.0,
    "lora_rank": 0,
    "batch_size": 160,
    "learning_rate": 2e-4,
    "clip_range": 2e-3,
    "num_envs": 64,
    "samples_per_prompt": 8,
    "batches_per_round": 1,
    "n_epochs": 1,
}
"""For the embedded model."""

EMBEDDED_REWARDS: Mapping[str, Mapping[str, Any]] = {
    "house_style": {"prompts": "emoji-objects"},
    "jpeg_compressibility": {"prompts": "emoji-objects", "learning_rate": 4e-4},
    "jpeg_incompressibility": {"prompts": "emoji-objects", "learning_rate": 4e-4},
    "clip_score": {"prompts": "emoji-captions"},
    "scene_alignment": {"prompts": "emoji-captions"},
}
"""What was found to learn on the embedded model; docs/results.md has the figures."""

NOISE_AWARE: Mapping[str, Mapping[str, Any]] = {
    "house_style": {"images": 256},
    "jpeg_compressibility": {"learning_rate": 5e-5, "images": 512},
}
"""Rewards that noise-aware step weights have been measured with, in several seeds, and are
recommended for; and what differs from the usual settings then."""

CHECKPOINT: Mapping[str, Any] = {
    "images": 25_600,
    "dtype": "float16",
    "guidance": 5.0,
    "lora_rank": 4,
    "batch_size": 4,
    "learning_rate": 3e-4,
    "clip_range": 1e-4,
    "num_envs": 32,
    "samples_per_prompt": 8,
    "batches_per_round": 8,
    "n_epochs": 1,
}
"""For any other model: DDPO's published setting (arXiv 2305.13301; kvablack/ddpo-pytorch), 100
rounds of 256 images, but in groups of 8 images per prompt; not tried here on real weights."""

ON_CPU: Mapping[str, Any] = {"dtype": "float32"}
"""CPUs compute slower in half precisions than in float32, or not at all."""


def recommended(
    model: str,
    reward: Any = None,
    shaping: str | None = None,
    device: str = "auto",
    algorithm: str = "ppo",
) -> dict[str, Any]:
    """Settings for a model, a reward and a shaping on a device, later ones taking precedence.

    Args:
        model: Its name.
        reward: Its name; None is the model's own. A weighted sum has no settings of its own.
        shaping: Its name; None is the one that is recommended.
        device: A torch device, or "auto".
        algorithm: The agent's name.

    Raises:
        InvalidInputError: There is no such shaping.
    """
    if shaping is None:
        shaping = recommended_shaping(model, reward, algorithm)
    own = method(shaping)
    if model == EMOJI64:
        rewarded = EMBEDDED_REWARDS.get(_reward_name(model, reward), {})
        weighed = NOISE_AWARE if shaping == "noise-aware" else {}
        tuned = weighed.get(_reward_name(model, reward), {})
        general = {**EMBEDDED, **rewarded, **own.published, **own.embedded, **tuned}
    else:
        on_cpu = device.startswith("cpu") or (device == "auto" and not torch.cuda.is_available())
        half = ON_CPU if on_cpu else {}
        general = {**CHECKPOINT, **half, **own.published, **own.checkpoint}
    return {**general, "shaping": shaping}


def recommended_shaping(model: str, reward: Any = None, algorithm: str = "ppo") -> str:
    """The reward shaping of runs that name none.

    Step weights are for agents that train on denoising steps, and recommended where they have been
    measured with several seeds: for the rewards in `NOISE_AWARE`, on the embedded model.
    """
    measured = model == EMOJI64 and _reward_name(model, reward) in NOISE_AWARE
    return "noise-aware" if measured and algorithm == "ppo" else "sparse"


def _reward_name(model: str, reward: Any) -> str:
    """The reward of a run on the embedded model; none of a weighted sum."""
    named = reward if isinstance(reward, str) or reward is None else ""
    return EMBEDDED_DEFAULTS[model].reward if named is None else named
