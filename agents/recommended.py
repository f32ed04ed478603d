"""What is recommended where a run's settings leave something open."""

from typing import Any

from diffusion_gym.models.embedded import EMOJI64

DEFAULTS: dict[str, Any] = {
    "learning_rate": 2e-4,
    "clip_range": 2e-3,
    "num_envs": 64,
    "samples_per_prompt": 8,
    "epochs": 1,
}
EMBEDDED: dict[str, dict[str, Any]] = {
    "house_style": {"prompts": "emoji-objects"},
    "jpeg_compressibility": {"prompts": "emoji-objects", "learning_rate": 4e-4},
    "jpeg_incompressibility": {"prompts": "emoji-objects", "learning_rate": 4e-4},
    "clip_score": {"prompts": "emoji-captions"},
    "scene_alignment": {"prompts": "emoji-captions"},
}
"""What was found to learn on the embedded model; README, "What was tried", has the figures."""

BRANCHED = {"num_envs": 60, "samples_per_prompt": 5, "clip_range": 0.1, "epochs": 2}
SHAPED: dict[str, dict[str, Any]] = {
    "coca": {"standardise_steps": "center"},
    "b2": BRANCHED,
    "b2+coca": BRANCHED,
}
"""Published with the methods: CoCA's second standardisation (arXiv 2505.19196), B²-DiffuRL's five
branches, two passes and wide clip range (2503.11240). Learning rates are the reward's."""


def recommended(model: str, reward: str, shaping: str) -> dict[str, Any]:
    """Defaults for a model, a reward and a shaping, the later ones taking precedence."""
    embedded = EMBEDDED.get(reward, {}) if model == EMOJI64 else {}
    return DEFAULTS | embedded | SHAPED.get(shaping, {})
