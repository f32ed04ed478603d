"""Which model and schedule an agent was trained with, to find them again without an environment."""

from typing import Any

import torch

from diffusion_gym.envs.vector_env import DiffusionT2IVectorEnv
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import DiffusionModel, load_model
from diffusion_gym.schedules.base import Schedule
from diffusion_gym.schedules.registry import make_schedule

ModelSpec = dict[str, Any]


def model_spec(env: DiffusionT2IVectorEnv) -> ModelSpec:
    """What `load_spec` needs to load an environment's model and schedule again."""
    window = env.schedule.window
    return {
        "name": env.model.name,
        "weights_hash": env.model.weights_hash,
        "dtype": str(env.model.dtype).removeprefix("torch."),
        "model_options": dict(env.config.model_options or {}),
        "negative_prompts": bool(env.prompts.negative_prompts),
        "num_inference_steps": env.schedule.num_steps,
        "sampler": env.config.sampler,
        "eta": env.schedule.eta,
        "stochastic_steps": None if window is None else list(window),
    }


def check_same_weights(saved: ModelSpec, current: ModelSpec) -> None:
    """Refuses another model than the agent was trained on.

    Raises:
        InvalidInputError: The weights differ. What else differs is the user's to decide: another
            number of steps, say, or another precision.
    """
    if saved["weights_hash"] != current["weights_hash"]:
        raise InvalidInputError(
            f"the agent was trained on the model {saved['name']!r} with the weights "
            f"{saved['weights_hash'][:16]}…, expected the same ones, got "
            f"{current['name']!r} with {current['weights_hash'][:16]}…"
        )


def load_spec(spec: ModelSpec, device: torch.device) -> tuple[DiffusionModel, Schedule]:
    """Loads model and schedule as the environment of `model_spec` had them.

    Raises:
        InvalidInputError: There are other weights under the model's name by now.
        ModelLoadError: It cannot be loaded.
    """
    model = load_model(
        spec["name"], device=str(device), dtype=spec["dtype"], **spec["model_options"]
    )
    check_same_weights(spec, {"name": spec["name"], "weights_hash": model.weights_hash})
    schedule = make_schedule(
        model.scheduler,
        spec["num_inference_steps"],
        sampler=spec["sampler"],
        eta=spec["eta"],
        stochastic_steps=spec.get("stochastic_steps"),  # older checkpoints do not say
    )
    return model, schedule.to(device)
