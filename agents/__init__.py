"""Agents that fine-tune text-to-image diffusion models in diffusion_gym's environments."""
