"""Registers the environment with gymnasium, without importing it."""

import gymnasium

ENV_ID = "DiffusionT2I-v0"


def register_envs() -> None:
    """Makes the id known to `gymnasium.make` and `gymnasium.make_vec`; harmless when repeated.

    No ``max_episode_steps``: every episode terminates after its T steps, and gymnasium's time
    limit would call that a truncation.
    """
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            id=ENV_ID,
            entry_point="diffusion_gym.envs.env:DiffusionT2IEnv",
            vector_entry_point="diffusion_gym.envs.vector_env:DiffusionT2IVectorEnv",
        )
