"""Prompt sets: which texts the pictures are drawn for."""

from diffusion_gym.prompts.loading import load_prompts, prompt_set_names
from diffusion_gym.prompts.prompt_set import Prompts, PromptSet

__all__ = ["PromptSet", "Prompts", "load_prompts", "prompt_set_names"]
