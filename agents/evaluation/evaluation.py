"""Measuring a policy on prompts that it was not trained on."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from scipy import stats

from agents.evaluation.image_metrics import Array, ImageMetrics, Images
from agents.policy import UNetPolicy
from agents.ppo.update import gaussian_kl
from diffusion_gym.envs.infos import finished_episodes
from diffusion_gym.schedules.base import DenoisingStep

KL_TO_BASE = "kl_to_base"


@dataclass
class Evaluation:
    """Images of P prompts, S of each, and what they scored.

    Attributes:
        prompts: The P prompts.
        rewards: ``[P, S]``; NaN where the reward could not be computed.
        terms: The reward's parts, each ``[P, S]``.
        images: ``[P, S, H, W, 3]`` uint8.
        other_rewards: What the same images score for rewards that were not trained on, by name,
            each ``[P, S]``.
        metrics: Signs of over-optimisation by name, each ``[P]``: ``diversity/clip`` and
            ``diversity/structure`` (`agents.evaluation.diversity`; absent where S = 1), and
            ``kl_to_base`` (`evaluate`; absent where no step is stochastic).
        left_out: Why a reward is not among the others, by name.
    """

    prompts: list[str]
    rewards: Array
    terms: dict[str, Array]
    images: Images
    other_rewards: dict[str, Array] = field(default_factory=dict)
    metrics: dict[str, Array] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """One mean of each: ``reward``, ``not_trained_on/…`` and the metrics; for logs."""
        others = {f"not_trained_on/{name}": v for name, v in self.other_rewards.items()}
        columns = {"reward": self.rewards} | others | self.metrics
        return {name: mean(values) for name, values in columns.items()}


def evaluate(
    policy: UNetPolicy,
    env: VectorEnv[Any, Any, Any],
    *,
    samples: int,
    prompts: int,
    seed: int,
    image_metrics: ImageMetrics | None = None,
) -> Evaluation:
    """Draws images with a policy, from noise that depends on the seed alone.

    Two policies evaluated with the same arguments start from the same latents and add the same
    noise at every step, so their images can be compared one by one. Neither the policy's
    generator nor its count of denoiser evaluations is changed.

    With image metrics, ``kl_to_base`` is measured along the way: the mean of ‖μ - μ_base‖² / (2σ²)
    over latent dimensions and over the stochastic steps of each prompt's first trajectory. The
    other trajectories would add little to a mean over prompts, and a denoiser evaluation per step.

    Args:
        policy: The policy.
        env: A vector environment of torch tensors, over the prompts to evaluate on.
        samples: Images per prompt.
        prompts: Most prompts to use, spread evenly over the environment's, which may be sorted.
        seed: Seed of the noise.
        image_metrics: What to measure besides the reward; None measures the reward only.
    """
    base: Any = env.unwrapped
    count = min(prompts, len(base.prompts))
    chosen = np.linspace(0, len(base.prompts) - 1, count).round().astype(np.int64)
    ids = np.repeat(chosen, samples)
    compared = (np.arange(len(ids)) % samples == 0) & (image_metrics is not None)
    state, evaluations = policy.generator.get_state(), policy.denoiser_evaluations
    policy.generator.manual_seed(seed)
    batches = []
    for start in range(0, len(ids), env.num_envs):
        rows = slice(start, start + env.num_envs)
        batches.append(_draw(policy, env, ids[rows], compared[rows], seed + start))
    policy.generator.set_state(state)
    policy.denoiser_evaluations = evaluations
    merged = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    divergence = merged.pop(KL_TO_BASE)[compared]
    shaped = {key: v.reshape(count, samples, *v.shape[1:]) for key, v in merged.items()}
    images, rewards = shaped.pop("image"), shaped.pop("reward")
    result = Evaluation([base.prompts[i] for i in chosen], rewards, shaped, images)
    if image_metrics is not None:
        result.other_rewards, result.left_out = image_metrics.scores(images, result.prompts)
        result.metrics = image_metrics.diversity(images)
        if policy.schedule.stochastic.any():
            result.metrics[KL_TO_BASE] = divergence
    return result


@torch.no_grad()
def _draw(
    policy: UNetPolicy,
    env: VectorEnv[Any, Any, Any],
    ids: npt.NDArray[Any],
    compared: npt.NDArray[np.bool_],
    seed: int,
) -> dict[str, npt.NDArray[Any]]:
    """One batch; a last, smaller one is filled up with rows that are then left out.

    ``kl_to_base`` is NaN in the rows that are not to be compared with the base model.
    """
    base: Any = env.unwrapped
    padded = np.resize(ids, env.num_envs)
    rows = torch.from_numpy(np.flatnonzero(compared)).to(base.device)
    observation, infos = env.reset(seed=seed, options={"prompt_ids": padded})
    rewards = torch.zeros(env.num_envs)
    divergences = []
    for _ in range(base.schedule.num_steps):
        actions, _, gaussian = policy.act(observation)
        if gaussian.stochastic and len(rows):
            chosen = {key: value[rows] for key, value in observation.items()}
            other = policy.base_transition(*policy.conditions(chosen))
            parts = gaussian.mean, gaussian.std, gaussian.predicted_clean
            own = DenoisingStep(*(part[rows] for part in parts))
            divergences.append(gaussian_kl(own, other))
        base.report(gaussian.predicted_clean)
        observation, rewards, _, _, infos = env.step(actions)
    episodes = finished_episodes(infos)
    columns = {"reward": rewards.double().masked_fill(~episodes.reward_valid, torch.nan)}
    columns |= {name: term.double() for name, term in episodes.reward_terms.items()}
    columns["image"] = episodes.image
    columns[KL_TO_BASE] = torch.full_like(columns["reward"], torch.nan)
    if divergences:
        columns[KL_TO_BASE][rows] = torch.stack(divergences).double().mean(0)
    return {name: value.cpu().numpy()[: len(ids)] for name, value in columns.items()}


def mean(values: Array) -> float:
    """The mean of what could be measured; NaN where nothing could."""
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if measured.size else float("nan")


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a difference with its 95% confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(before: Array, after: Array) -> PairedDifference:
    """Student's t interval of ``after - before``, with the prompt as the unit.

    Images of one prompt are no independent measurements of what happens on new prompts, so they
    are averaged first. What could not be measured both times is left out.

    Args:
        before: ``[P, S]``, or ``[P]`` for what is measured per prompt.
        after: Likewise, drawn from the same noise.
    """
    differences = (after - before).reshape(len(before), -1)
    measured = ~np.isnan(differences).all(axis=1)
    per_prompt = np.nanmean(differences[measured], axis=1)
    average = mean(per_prompt)
    spread = float(stats.sem(per_prompt)) if len(per_prompt) > 1 else 0.0
    if spread == 0.0:
        return PairedDifference(average, average, average)
    low, high = stats.t.interval(0.95, len(per_prompt) - 1, average, spread)
    return PairedDifference(average, float(low), float(high))
