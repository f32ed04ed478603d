"""Drawing one batch of complete trajectories with a policy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.common.processes import ALONE, Processes
from agents.common.rollout import measured, play
from agents.policy import UNetPolicy
from agents.ppo.buffer import Trajectories
from diffusion_gym.wrappers.hindsight import hindsight


def collect_batch(
    policy: UNetPolicy,
    env: VectorEnv[Any, Any, Any],
    prompt_ids: npt.NDArray[np.int64],
    processes: Processes = ALONE,
) -> tuple[Trajectories, dict[str, Any]]:
    """Runs one episode in every row of the environment.

    Where a wrapper marks rows as inactive (``infos["active"]``: it replaces their actions), the
    denoiser is not evaluated for them.

    Args:
        policy: Draws the actions.
        env: A vector environment of torch tensors.
        prompt_ids: Prompt of every row, ``[B]``.
        processes: Those that draw other rows of the batch.

    Returns:
        The trajectories, with NaN where the advantage is still to be estimated, and the infos of
        the last step.
    """
    latents: list[Tensor] = []
    log_probs: list[Tensor] = []

    def act(observation: dict[str, Tensor], infos: dict[str, Any]) -> tuple[Tensor, Tensor]:
        actions, log_prob, predicted_clean = _act(policy, observation, infos, processes)
        latents.append(observation["latent"])
        log_probs.append(log_prob)
        return actions, predicted_clean

    played = play(env, prompt_ids, act)
    latents.append(played.latents)
    outcome = hindsight(played.episodes, len(log_probs))
    trajectories = Trajectories(
        latents=torch.stack(latents, 1),
        log_probs=torch.stack(log_probs, 1),
        prompt_ids=played.episodes.prompt_id,
        returns=played.returns,
        valid=played.episodes.reward_valid,
        credit=outcome.credit,
        step_weight=outcome.step_weight,
        step_mask=outcome.step_mask,
        advantages=(
            torch.full_like(played.returns, torch.nan)
            if outcome.advantage is None
            else outcome.advantage
        ),
        extras=measured(played.episodes),
        reward_terms=dict(played.episodes.reward_terms),
    )
    return trajectories, played.infos


def _act(
    policy: UNetPolicy, observation: dict[str, Tensor], infos: dict[str, Any], processes: Processes
) -> tuple[Tensor, Tensor, Tensor]:
    """Actions, log-probabilities and predicted clean latents; inactive rows repeat their latent."""
    active = infos.get("active")
    everywhere = active is None or bool(active.all())
    acting = observation if everywhere else {key: x[active] for key, x in observation.items()}
    noise = processes.noise(acting["latent"].shape, policy.generator, uneven=active is not None)
    step = policy.act(acting, noise=noise)
    if everywhere:
        return step.actions, step.log_prob, step.gaussian.predicted_clean
    actions, predicted_clean = observation["latent"].clone(), observation["latent"].clone()
    log_prob = actions.new_zeros(len(actions))
    actions[active], predicted_clean[active] = step.actions, step.gaussian.predicted_clean
    log_prob[active] = step.log_prob
    return actions, log_prob, predicted_clean
