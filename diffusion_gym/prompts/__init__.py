"""Prompt sets: which texts the pictures are drawn for."""

from diffusion_gym.prompts.loading import load_prompts, prompt_set_names
from diffusion_gym.prompts.prompt_set import PromptList, PromptSet

__all__ = ["PromptList", "PromptSet", "load_prompts", "prompt_set_names"]
