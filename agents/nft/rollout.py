"""Drawing one batch of images, of which only the final latents are kept."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.common.processes import ALONE, Processes
from agents.common.rollout import measured, play
from agents.common.sb3_vec_env import SB3VecEnv
from agents.nft.buffer import FinalImages
from agents.policy import UNetPolicy
from diffusion_gym.envs.infos import FinishedEpisodes
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import SparseReward, shapings
from diffusion_gym.wrappers.hindsight import PROTOCOL_KEYS

ABOUT_STEPS = tuple(key for key in PROTOCOL_KEYS if key != "advantage")
"""What wrappers may say of the steps of an episode."""


def check_unshaped(env: SB3VecEnv) -> None:
    """Refuses wrappers that say something of the steps, which are not trained here.

    Raises:
        InvalidInputError: There is one.
    """
    for shaping in shapings(env.vector_env):
        if not isinstance(shaping, SparseReward):
            raise _lost(shaping.shaping_name)


def collect_images(
    policy: UNetPolicy,
    env: VectorEnv[Any, Any, Any],
    prompt_ids: npt.NDArray[np.int64],
    processes: Processes = ALONE,
) -> tuple[FinalImages, dict[str, Any]]:
    """Draws one image in every row of the environment.

    Args:
        policy: Draws the actions.
        env: A vector environment of torch tensors.
        prompt_ids: Prompt of every row, ``[B]``.
        processes: Those that draw other rows of the batch.

    Returns:
        The images, with NaN where the advantage is still to be estimated, and the infos of the
        last step.

    Raises:
        InvalidInputError: A wrapper says something of their steps.
    """

    def act(observation: dict[str, Tensor], infos: dict[str, Any]) -> tuple[Tensor, Tensor]:
        del infos
        noise = processes.noise(observation["latent"].shape, policy.generator)
        step = policy.act(observation, noise=noise)
        return step.actions, step.gaussian.predicted_clean

    played = play(env, prompt_ids, act)
    episodes = played.episodes
    for key in ABOUT_STEPS:
        if bool(episodes.has(key).any()):
            raise _lost(f"one that writes {key!r}")
    images = FinalImages(
        latents=played.latents,
        prompt_ids=episodes.prompt_id,
        returns=played.returns,
        valid=episodes.reward_valid,
        advantages=_advantages(episodes, played.returns),
        extras=measured(episodes),
        reward_terms=dict(episodes.reward_terms),
    )
    return images, played.infos


def _advantages(episodes: FinishedEpisodes, returns: Tensor) -> Tensor:
    """A wrapper's own, NaN where there is none, ``[B]``."""
    unknown = torch.full_like(returns, torch.nan)
    own = episodes.extras.get("advantage")
    return unknown if own is None else torch.where(episodes.has("advantage"), own.float(), unknown)


def _lost(what: str) -> InvalidInputError:
    return InvalidInputError(
        "DiffusionNFT trains on final images, whatever the steps to them: what a wrapper says of "
        f"the steps would be lost. Expected no wrapper that does, or SparseReward, got {what}"
    )
