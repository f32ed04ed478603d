"""Small agents on the forward process."""

from typing import Any

from small_agents import make_env

from agents.nft import DiffusionNFT


def make_nft(env: Any = None, **kwargs: Any) -> DiffusionNFT:
    """An agent that trains on two prompts a round, in two updates, at two noise levels an image."""
    options = {
        "samples_per_prompt": 2,
        "updates_per_round": 2,
        "timesteps_per_image": 2,
        "batch_size": 4,
        "seed": 3,
    } | kwargs
    return DiffusionNFT("UNetPolicy", env or make_env(eta=0.0), **options)
