"""What is recommended where a run's settings leave something open."""

from typing import Any

from diffusion_gym.models.embedded import EMOJI64

EMBEDDED: dict[str, Any] = {
    "images": 1216,
    "eta": 1.0,
    "dtype": "float32",
    "guidance": 1.0,
    "lora_rank": 0,
    "batch_size": 160,
    "learning_rate": 2e-4,
    "clip_range": 2e-3,
    "num_envs": 64,
    "samples_per_prompt": 8,
    "batches_per_round": 1,
    "epochs": 1,
}
EMBEDDED_REWARDS: dict[str, dict[str, Any]] = {
    "house_style": {"prompts": "emoji-objects"},
    "jpeg_compressibility": {"prompts": "emoji-objects", "learning_rate": 4e-4},
    "jpeg_incompressibility": {"prompts": "emoji-objects", "learning_rate": 4e-4},
    "clip_score": {"prompts": "emoji-captions"},
    "scene_alignment": {"prompts": "emoji-captions"},
}
"""What was found to learn on the embedded model; README, "What was tried", has the figures."""

CHECKPOINT: dict[str, Any] = {
    "prompts": "animals",
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
    "epochs": 1,
}
"""For any other model: DDPO's published setting (arXiv 2305.13301; kvablack/ddpo-pytorch), 100
rounds of 256 images, but in groups of 8 images per prompt; not tried here on real weights."""

ON_CPU = {"dtype": "float32"}
"""CPUs compute slower in half precisions than in float32, or not at all."""

BRANCHED = {"num_envs": 60, "samples_per_prompt": 5, "clip_range": 0.1, "epochs": 2}
SHAPED: dict[str, dict[str, Any]] = {
    "coca": {"standardise_steps": "center"},
    "b2": BRANCHED,
    "b2+coca": BRANCHED,
}
"""Published with the methods: CoCA's second standardisation (arXiv 2505.19196), B²-DiffuRL's five
branches, two passes and wide clip range (2503.11240)."""

SHAPED_EMBEDDED: dict[str, dict[str, Any]] = {
    "uniform": {"learning_rate": 1e-4},
    "coca": {"learning_rate": 5e-5},
    "b2": {"learning_rate": 1e-4},
    "b2+coca": {"learning_rate": 5e-5},
}
"""What ``python -m benchmarks.shaping`` found for `house_style`: the more of the credit the early,
noisy steps get, the lower a rate they need."""

SHAPED_CHECKPOINT = {shaping: {"learning_rate": 1e-4} for shaping in SHAPED}
"""Their published learning rate, for Stable Diffusion."""


def recommended(model: str, reward: str, shaping: str, device: str = "cpu") -> dict[str, Any]:
    """Defaults for a model, a reward and a shaping on a device, later ones taking precedence.

    Args:
        model: Its name.
        reward: Its name.
        shaping: Its name.
        device: A torch device, not "auto".
    """
    shaped = SHAPED.get(shaping, {})
    if model == EMOJI64:
        own = EMBEDDED_REWARDS.get(reward, {})
        return EMBEDDED | own | shaped | SHAPED_EMBEDDED.get(shaping, {})
    on_device = ON_CPU if device.startswith("cpu") else {}
    return CHECKPOINT | on_device | shaped | SHAPED_CHECKPOINT.get(shaping, {})
