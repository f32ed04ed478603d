"""The observation and action spaces of a model's denoising process."""

from typing import Any

import numpy as np
from gymnasium import spaces

from diffusion_gym.models.embedding import NEGATIVE, PROMPT
from diffusion_gym.models.model import DiffusionModel
from diffusion_gym.schedules.base import Schedule

#: Bound of latents and actions. A Gaussian policy with standard deviations near 1 never reaches it.
LATENT_BOUND = 100.0

#: Bound of prompt embeddings: the largest half-precision number, beyond any text encoder's output.
EMBEDDING_BOUND = 65504.0


def observation_space(
    model: DiffusionModel, schedule: Schedule, *, negative_prompts: bool = False
) -> spaces.Dict:
    """What one policy sees: the latent, its timestep, and the embedded prompt.

    The timestep is that of the training schedule, 0 once the episode is over.

    Args:
        model: The model.
        schedule: The denoising steps.
        negative_prompts: Whether prompts have negative prompts of their own.

    Returns:
        ``latent`` Box ``[C, h, w]``, ``timestep`` Box ``[1]``, ``prompt_embedding`` Box
        ``[L, D]`` and, where the model has one, ``pooled_prompt_embedding`` Box ``[P]``; with
        negative prompts the same of them, as ``negative_prompt_embedding`` and
        ``pooled_negative_prompt_embedding``.
    """
    boxes: dict[str, spaces.Space[Any]] = {
        "latent": _box(LATENT_BOUND, model.latent_shape),
        "timestep": spaces.Box(0.0, schedule.max_timestep, (1,), np.float32),
    }
    for tokens in (PROMPT, NEGATIVE) if negative_prompts else (PROMPT,):
        boxes[tokens] = _box(EMBEDDING_BOUND, model.prompt_embedding_shape)
        if model.pooled_embedding_shape is not None:
            boxes[f"pooled_{tokens}"] = _box(EMBEDDING_BOUND, model.pooled_embedding_shape)
    return spaces.Dict(boxes)


def action_space(model: DiffusionModel) -> spaces.Box:
    """The next latent, Box ``[C, h, w]``."""
    return _box(LATENT_BOUND, model.latent_shape)


def _box(bound: float, shape: tuple[int, ...]) -> spaces.Box:
    return spaces.Box(-bound, bound, shape, np.float32)
