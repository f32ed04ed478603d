"""Measuring a policy on prompts that it was not trained on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from scipy import stats

from agents.policy import UNetPolicy
from diffusion_gym.infos import finished_episodes


@dataclass
class Evaluation:
    """Images of P prompts, S of each, and what they scored.

    Attributes:
        prompts: The P prompts.
        rewards: ``[P, S]``; NaN where the reward could not be computed.
        terms: The reward's parts, each ``[P, S]``.
        images: ``[P, S, H, W, 3]`` uint8.
    """

    prompts: list[str]
    rewards: npt.NDArray[np.float64]
    terms: dict[str, npt.NDArray[np.float64]]
    images: npt.NDArray[np.uint8]


def evaluate(
    policy: UNetPolicy, env: VectorEnv[Any, Any, Any], *, samples: int, prompts: int, seed: int
) -> Evaluation:
    """Draws images with a policy, from noise that depends on the seed alone.

    Two policies evaluated with the same arguments start from the same latents and add the same
    noise at every step, so their images can be compared one by one. Neither the policy's
    generator nor its count of denoiser evaluations is changed.

    Args:
        policy: The policy.
        env: A vector environment of torch tensors, over the prompts to evaluate on.
        samples: Images per prompt.
        prompts: Most prompts to use; the first ones are taken.
        seed: Seed of the noise.
    """
    base: Any = env.unwrapped
    count = min(prompts, len(base.prompts))
    ids = np.repeat(np.arange(count), samples)
    state, evaluations = policy.generator.get_state(), policy.denoiser_evaluations
    policy.generator.manual_seed(seed)
    batches = [
        _draw(policy, env, ids[start : start + env.num_envs], seed + start)
        for start in range(0, len(ids), env.num_envs)
    ]
    policy.generator.set_state(state)
    policy.denoiser_evaluations = evaluations
    merged = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    shaped = {key: v.reshape(count, samples, *v.shape[1:]) for key, v in merged.items()}
    images, rewards = shaped.pop("image"), shaped.pop("reward")
    return Evaluation(list(base.prompts.texts[:count]), rewards, shaped, images)


def _draw(
    policy: UNetPolicy, env: VectorEnv[Any, Any, Any], ids: npt.NDArray[Any], seed: int
) -> dict[str, npt.NDArray[Any]]:
    """One batch; a last, smaller one is filled up with rows that are then left out."""
    base: Any = env.unwrapped
    padded = np.resize(ids, env.num_envs)
    observation, infos = env.reset(seed=seed, options={"prompt_ids": padded})
    rewards = torch.zeros(env.num_envs)
    for _ in range(base.schedule.num_steps):
        step = policy.act(observation)
        base.report(step.predicted_clean)
        observation, rewards, _, _, infos = env.step(step.actions)
    episodes = finished_episodes(infos)
    invalid = ~episodes.reward_valid
    columns = {"reward": rewards.double().masked_fill(invalid, torch.nan)}
    columns |= {name: term.double() for name, term in episodes.reward_terms.items()}
    columns["image"] = episodes.image
    return {name: value.cpu().numpy()[: len(ids)] for name, value in columns.items()}


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a difference with its 95% confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(
    before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]
) -> PairedDifference:
    """Student's t interval of ``after - before``, with the prompt as the unit.

    Images of one prompt are no independent measurements of what happens on new prompts, so they
    are averaged first.

    Args:
        before: ``[P, S]``.
        after: ``[P, S]``, drawn from the same noise.
    """
    per_prompt = np.nanmean(after - before, axis=1)
    mean, spread = float(per_prompt.mean()), float(stats.sem(per_prompt))
    if len(per_prompt) < 2 or spread == 0.0:
        return PairedDifference(mean, mean, mean)
    low, high = stats.t.interval(0.95, len(per_prompt) - 1, mean, spread)
    return PairedDifference(mean, float(low), float(high))
