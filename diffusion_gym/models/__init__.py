"""Text-to-image models: loading, prompt encoding, decoding, and fresh denoisers for policies."""

from diffusion_gym.models.denoiser import Denoiser
from diffusion_gym.models.embedded import ModelDefaults, model_names
from diffusion_gym.models.embedding import PromptEmbedding
from diffusion_gym.models.guidance import guided_prediction
from diffusion_gym.models.loading import load_model, model_defaults, resolved_name
from diffusion_gym.models.model import DiffusionModel
from diffusion_gym.models.options import ModelOptions

__all__ = [
    "Denoiser",
    "DiffusionModel",
    "ModelDefaults",
    "ModelOptions",
    "PromptEmbedding",
    "guided_prediction",
    "load_model",
    "model_defaults",
    "model_names",
    "resolved_name",
]
