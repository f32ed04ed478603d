"""Drawing one batch of complete episodes with a policy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.common.sb3_vec_env import row_infos
from agents.policy import UNetPolicy
from agents.ppo.buffer import Trajectories
from diffusion_gym.envs.infos import FinishedEpisodes, finished_episodes, to_numpy
from diffusion_gym.wrappers.hindsight import PROTOCOL_KEYS, hindsight


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


def collect_batch(
    policy: UNetPolicy,
    env: VectorEnv[Any, Any, Any],
    prompt_ids: npt.NDArray[np.int64],
) -> tuple[Trajectories, dict[str, Any]]:
    """Runs one episode in every row of the environment.

    Where a wrapper marks rows as inactive (``infos["active"]``: it replaces their actions), the
    denoiser is not evaluated for them.

    Args:
        policy: Draws the actions.
        env: A vector environment of torch tensors.
        prompt_ids: Prompt of every row, ``[B]``.

    Returns:
        The trajectories, with NaN where the advantage is still to be estimated, and the infos of
        the last step.
    """
    observation, infos = env.reset(options={"prompt_ids": prompt_ids})
    base: Any = env.unwrapped
    base.next_prompt_ids = prompt_ids  # autoreset encodes no others in vain
    num_steps = base.schedule.num_steps
    latents: list[Tensor] = []
    log_probs: list[Tensor] = []
    actions = rewards = observation["latent"]
    for _ in range(num_steps):
        actions, log_prob, predicted_clean = _act(policy, observation, infos)
        latents.append(observation["latent"])
        log_probs.append(log_prob)
        base.report(predicted_clean)
        observation, rewards, _, _, infos = env.step(actions)
    latents.append(actions)
    episodes = finished_episodes(infos)
    outcome = hindsight(episodes, num_steps)
    trajectories = Trajectories(
        latents=torch.stack(latents, 1),
        log_probs=torch.stack(log_probs, 1),
        prompt_ids=episodes.prompt_id,
        returns=rewards,
        valid=episodes.reward_valid,
        credit=outcome.credit,
        step_weight=outcome.step_weight,
        step_mask=outcome.step_mask,
        advantages=(
            torch.full_like(rewards, torch.nan) if outcome.advantage is None else outcome.advantage
        ),
        extras=_measured(episodes),
    )
    return trajectories, infos


def finished_step(
    trajectories: Trajectories, infos: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """A finished batch as what Stable-Baselines3's callbacks find in their ``locals``.

    Args:
        trajectories: The batch.
        infos: Of its last step.
        seconds: Time since the training's start.

    Returns:
        ``rewards`` ``[B]``, ``dones`` ``[B]``, all true, and ``infos``, a list with a dictionary a
        row that has the ``episode`` which their `Monitor` writes.
    """
    rewards = to_numpy(trajectories.returns)
    dones = np.ones(len(rewards), dtype=bool)
    rows = row_infos(to_numpy(infos), dones, truncated=~dones)
    length = trajectories.log_probs.shape[1]
    for row, reward in zip(rows, rewards.tolist(), strict=True):
        row["episode"] = {"r": reward, "l": length, "t": seconds}
    return {"rewards": rewards, "dones": dones, "infos": rows}


def _measured(episodes: FinishedEpisodes) -> dict[str, Tensor]:
    """The numbers ``[B]`` float32 that wrappers wrote beside the protocol; NaN where they lack."""
    measured = {}
    for key, value in episodes.extras.items():
        if key in PROTOCOL_KEYS or not isinstance(value, Tensor) or value.ndim != 1:
            continue
        measured[key] = value.float().masked_fill(~episodes.has(key), torch.nan)
    return measured


def _act(
    policy: UNetPolicy, observation: dict[str, Tensor], infos: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Actions, log-probabilities and predicted clean latents; inactive rows repeat their latent."""
    active = infos.get("active")
    if active is None or bool(active.all()):
        step = policy.act(observation)
        return step.actions, step.log_prob, step.gaussian.predicted_clean
    step = policy.act({key: value[active] for key, value in observation.items()})
    actions, predicted_clean = observation["latent"].clone(), observation["latent"].clone()
    log_prob = actions.new_zeros(len(actions))
    actions[active], predicted_clean[active] = step.actions, step.gaussian.predicted_clean
    log_prob[active] = step.log_prob
    return actions, log_prob, predicted_clean
