"""Drawing one batch of complete episodes with a policy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from agents.policy import UNetPolicy
from agents.ppo.buffer import Trajectories
from diffusion_gym.envs.infos import finished_episodes
from diffusion_gym.wrappers.hindsight import hindsight


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
    callback: BaseCallback,
) -> Trajectories | None:
    """Runs one episode in every row of the environment.

    Where a wrapper marks rows as inactive (``infos["active"]``: it replaces their actions), the
    denoiser is not evaluated for them.

    Args:
        policy: Draws the actions.
        env: A vector environment of torch tensors.
        prompt_ids: Prompt of every row, ``[B]``.
        callback: Called at every step.

    Returns:
        The trajectories, with NaN where the advantage is still to be estimated; None where the
        callback asked to stop.
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
        callback.update_locals(locals())
        if not callback.on_step():
            return None
    latents.append(actions)
    episodes = finished_episodes(infos)
    outcome = hindsight(episodes, num_steps)
    return Trajectories(
        latents=torch.stack(latents, 1),
        log_probs=torch.stack(log_probs, 1),
        prompt_ids=episodes.prompt_id,
        returns=rewards,
        valid=episodes.reward_valid,
        credit=outcome.credit,
        step_mask=outcome.step_mask,
        advantages=(
            torch.full_like(rewards, torch.nan) if outcome.advantage is None else outcome.advantage
        ),
        credit_negative=episodes.extras.get("credit_negative", torch.zeros_like(rewards)),
        credit_guarded=episodes.extras.get("credit_guarded", torch.zeros_like(rewards).bool()),
    )


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
