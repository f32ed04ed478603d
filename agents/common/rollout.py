"""Drawing one batch of complete episodes, whatever is kept of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.common.episodes import Episodes
from agents.common.sb3_vec_env import row_infos
from diffusion_gym.envs.infos import FinishedEpisodes, finished_episodes, to_numpy
from diffusion_gym.wrappers.hindsight import PROTOCOL_KEYS

Act = Callable[[dict[str, Tensor], dict[str, Any]], tuple[Tensor, Tensor]]
"""From observation and infos to actions and predicted clean latents, ``[B, C, h, w]`` each."""


def draw_prompts(
    rng: np.random.Generator, num_prompts: int, num_images: int, samples_per_prompt: int
) -> npt.NDArray[np.int64]:
    """Chooses prompts for a batch, each for ``samples_per_prompt`` consecutive rows.

    Prompts differ within the batch where there are enough of them.

    Returns:
        Prompt ids, ``[num_images]``.
    """
    groups = num_images // samples_per_prompt
    chosen = rng.choice(num_prompts, groups, replace=groups > num_prompts)
    return np.repeat(chosen, samples_per_prompt)


class Played(NamedTuple):
    """One episode of every row.

    Attributes:
        latents: x_T, ``[B, C, h, w]``.
        returns: Rewards of the last step, as wrappers left them, ``[B]``.
        episodes: What the infos tell of them.
        infos: Of the last step.
    """

    latents: Tensor
    returns: Tensor
    episodes: FinishedEpisodes
    infos: dict[str, Any]


def play(env: VectorEnv[Any, Any, Any], prompt_ids: npt.NDArray[np.int64], act: Act) -> Played:
    """Runs one episode in every row of the environment.

    Args:
        env: In same-step autoreset, of torch tensors.
        prompt_ids: Prompts of the rows, ``[B]``.
        act: Called once a step.
    """
    observation, infos = env.reset(options={"prompt_ids": prompt_ids})
    base: Any = env.unwrapped
    base.next_prompt_ids = prompt_ids  # autoreset encodes no others in vain
    actions = rewards = observation["latent"]
    for _ in range(base.schedule.num_steps):
        actions, predicted_clean = act(observation, infos)
        base.report(predicted_clean)
        observation, rewards, _, _, infos = env.step(actions)
    return Played(actions, rewards, finished_episodes(infos), infos)


def finished_step(
    batch: Episodes, num_steps: int, infos: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """A finished batch as what Stable-Baselines3's callbacks find in their ``locals``.

    Args:
        batch: The batch.
        num_steps: T.
        infos: Of its last step.
        seconds: Time since the training's start.

    Returns:
        ``rewards`` ``[B]``, ``dones`` ``[B]``, all true, and ``infos``, a list with a dictionary a
        row that has the ``episode`` which their `Monitor` writes.
    """
    rewards = to_numpy(batch.returns)
    dones = np.ones(len(rewards), dtype=bool)
    rows = row_infos(to_numpy(infos), dones, truncated=~dones)
    for row, reward in zip(rows, rewards.tolist(), strict=True):
        row["episode"] = {"r": reward, "l": num_steps, "t": seconds}
    return {"rewards": rewards, "dones": dones, "infos": rows}


def measured(episodes: FinishedEpisodes) -> dict[str, Tensor]:
    """The numbers ``[B]`` float32 that wrappers wrote beside the protocol; NaN where they lack."""
    found = {}
    for key, value in episodes.extras.items():
        if key in PROTOCOL_KEYS or not isinstance(value, Tensor) or value.ndim != 1:
            continue
        found[key] = value.float().masked_fill(~episodes.has(key), torch.nan)
    return found
