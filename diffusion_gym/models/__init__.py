"""Text-to-image models: loading, prompt encoding, decoding, and fresh denoisers for policies."""

from diffusion_gym.models.embedded import emoji64_folder, model_names
from diffusion_gym.models.guidance import predict_noise
from diffusion_gym.models.loading import load_model
from diffusion_gym.models.model import DiffusionModel, PromptEmbedding

__all__ = [
    "DiffusionModel",
    "PromptEmbedding",
    "emoji64_folder",
    "load_model",
    "model_names",
    "predict_noise",
]
