"""The kinds of models that are supported, by the pipeline class that a checkpoint names."""

from diffusion_gym.models.architectures.base import Architecture
from diffusion_gym.models.architectures.stable_diffusion import StableDiffusion
from diffusion_gym.models.architectures.stable_diffusion_3 import StableDiffusion3
from diffusion_gym.models.architectures.stable_diffusion_xl import StableDiffusionXL

ARCHITECTURES: dict[str, Architecture] = {
    architecture.pipeline: architecture
    for architecture in (StableDiffusion(), StableDiffusionXL(), StableDiffusion3())
}

__all__ = ["ARCHITECTURES", "Architecture"]
