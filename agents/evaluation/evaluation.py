"""Measuring a policy on prompts that it was not trained on."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from scipy import stats

from agents.common.processes import ALONE, Processes
from agents.evaluation.image_metrics import Array, ImageMetrics, Images
from agents.policy import UNetPolicy
from agents.ppo.update import gaussian_kl
from diffusion_gym.envs.infos import finished_episodes
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.reference import ReferencePolicy
from diffusion_gym.schedules.base import DenoisingStep

KL_TO_BASE = "kl_to_base"
"""Name of the drift from the base model among the metrics."""


@dataclass
class Evaluation:
    """Images of P prompts, S of each, and what they scored.

    Attributes:
        prompts: The P prompts.
        rewards: ``[P, S]``; NaN where the reward could not be computed.
        terms: The reward's parts, each ``[P, S]``.
        images: ``[P, S, H, W, 3]`` uint8.
        other_rewards: What the same images score for other rewards than the environment's, by
            name, each ``[P, S]``.
        metrics: Signs of over-optimisation by name, each ``[P]``: ``diversity/clip`` and
            ``diversity/structure`` (`agents.evaluation.diversity`; absent where S = 1), and
            ``kl_to_base``, a mean over latent dimensions and stochastic steps (`evaluate`; absent
            where no step is stochastic).
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
        """One mean of each: ``reward``, ``other_rewards/…`` and the metrics; for logs."""
        others = {f"other_rewards/{name}": v for name, v in self.other_rewards.items()}
        columns = {"reward": self.rewards} | others | self.metrics
        return {name: mean(values) for name, values in columns.items()}

    def failures(self) -> str | None:
        """A sentence on the images whose reward could not be computed, or None if all could."""
        failed = int(np.isnan(self.rewards).sum())
        if not failed:
            return None
        return f"the reward could not be computed for {failed} of {self.rewards.size} images"


def evaluate(
    policy: UNetPolicy | ReferencePolicy,
    env: VectorEnv[Any, Any, Any],
    *,
    samples: int,
    prompts: int | npt.NDArray[np.int64],
    seed: int,
    image_metrics: ImageMetrics | None = None,
    processes: Processes = ALONE,
    watch: Callable[[int, torch.Tensor], None] | None = None,
) -> Evaluation:
    """Draws images with a policy, from noise that belongs to each image.

    The initial latent and every step's noise of an image depend on the seed, the text of its
    prompt and its number among that prompt's images, and on nothing else: any batch size, any
    device and any company of other prompts give the same picture, up to the rounding of kernels.
    Two policies evaluated with the same arguments start from the same latents and add the same
    noise at every step, so their images can be compared one by one. Neither the policy's generator
    nor its count of denoiser evaluations is changed.

    With image metrics, ``kl_to_base`` is measured along the way: the mean of ‖μ - μ_base‖² / (2σ²)
    over latent dimensions and over the stochastic steps of each prompt's first trajectory. The KL
    divergence of whole trajectories is that times dimensions times stochastic steps: .248 on 1,024
    dimensions and 10 steps is 2,540 nats. The other trajectories would add little to a mean over
    prompts, and a denoiser evaluation per step.

    Args:
        policy: The policy, or `diffusion_gym.reference_policy`, the model before any training.
        env: A vector environment of torch tensors, over the prompts to evaluate on.
        samples: Images per prompt.
        prompts: Most prompts to use, spread evenly over the environment's, which may be sorted; or
            the places of those to use.
        seed: Seed of the noise.
        image_metrics: What to measure besides the reward; None measures the reward only.
        processes: Those that evaluate the same policy together: each draws some of the batches and
            measures the images of some of the prompts, and all get the whole.
        watch: Called with i and the latents x_i, ``[N, C, h, w]``, of every batch that is drawn
            here, from i = 0 to T.

    Raises:
        InvalidInputError: The environment has another model than the policy.
    """
    base: Any = env.unwrapped
    _check_model(policy, base)
    # 1. Which images, and where their noise comes from.
    chosen = spread(len(base.prompts), prompts) if isinstance(prompts, int) else prompts
    count = len(chosen)
    texts = [base.prompts[i] for i in chosen]
    ids = np.repeat(chosen, samples)
    seeds = np.array(_image_seeds(seed, texts, samples))
    compared = (np.arange(len(ids)) % samples == 0) & (image_metrics is not None)

    # 2. The images, batch by batch.
    places = [slice(at, at + env.num_envs) for at in range(0, len(ids), env.num_envs)]
    with _uncounted(policy):
        drawn = [
            (number, _draw(policy, env, ids[rows], seeds[rows], compared[rows], watch))
            for number, rows in list(enumerate(places))[processes.rank :: processes.count]
        ]
    batches = [batch for _, batch in sorted(processes.joined(drawn), key=lambda pair: pair[0])]

    # 3. Their figures, by prompt.
    def merged(parts: list[Any]) -> Any:
        whole = np.concatenate(parts)
        return whole.reshape(count, samples, *whole.shape[1:])

    names = dict.fromkeys(name for batch in batches for name in batch.terms)
    result = Evaluation(
        prompts=texts,
        rewards=merged([batch.rewards for batch in batches]),
        terms={name: merged([batch.term(name) for batch in batches]) for name in names},
        images=merged([batch.images for batch in batches]),
    )
    if image_metrics is not None:
        _measure(result, image_metrics, base.prompts.metadata, processes)
        if policy.schedule.stochastic.any():
            result.metrics[KL_TO_BASE] = merged([b.divergence for b in batches])[:, 0]
    return result


def spread(total: int, count: int) -> npt.NDArray[np.int64]:
    """Places of at most so many, spread evenly over 0 … total - 1, both ends among them."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


@contextmanager
def _uncounted(policy: UNetPolicy | ReferencePolicy) -> Iterator[None]:
    """Leaves a policy's count of denoiser evaluations, of those that have one, as it is."""
    counted = policy.denoiser_evaluations if isinstance(policy, UNetPolicy) else 0
    try:
        yield
    finally:
        if isinstance(policy, UNetPolicy):
            policy.denoiser_evaluations = counted


def _check_model(policy: UNetPolicy | ReferencePolicy, base: Any) -> None:
    ours, theirs = policy.model, base.model
    # What has one name is one model: hashing gigabytes takes seconds.
    if ours.name != theirs.name and ours.weights_hash != theirs.weights_hash:
        raise InvalidInputError(
            f"the policy draws for the model {ours.name!r} with the weights "
            f"{ours.weights_hash[:16]}…, expected an environment with the same ones, got "
            f"{theirs.name!r} with {theirs.weights_hash[:16]}…"
        )
    negative_prompts = bool(base.prompts.negative_prompts)
    theirs.check_guidance(policy.guidance, negative_prompts=negative_prompts)


def _image_seeds(seed: int, texts: Sequence[str], samples: int) -> list[int]:
    """A seed for each of the images, prompt by prompt, that depends on nothing but the image."""
    images = (f"{seed} {number} {text}" for text in texts for number in range(samples))
    digests = (hashlib.sha256(image.encode("utf-8", "surrogatepass")).digest() for image in images)
    return [int.from_bytes(digest[:4], "big") for digest in digests]


class _Batch(NamedTuple):
    """What one batch gave, of N images.

    Attributes:
        images: ``[N, H, W, 3]`` uint8.
        rewards: ``[N]``; NaN where the reward could not be computed.
        terms: The reward's parts, ``[N]`` each; none where no image could be scored.
        divergence: ``[N]``; NaN where the image is not compared with the base model's.
    """

    images: Images
    rewards: Array
    terms: dict[str, Array]
    divergence: Array

    def term(self, name: str) -> Array:
        """One of the terms, NaN where there is none."""
        return self.terms.get(name, np.full_like(self.rewards, np.nan))


@torch.no_grad()
def _draw(
    policy: UNetPolicy | ReferencePolicy,
    env: VectorEnv[Any, Any, Any],
    ids: npt.NDArray[Any],
    seeds: npt.NDArray[Any],
    compared: npt.NDArray[np.bool_],
    watch: Callable[[int, torch.Tensor], None] | None,
) -> _Batch:
    """One batch; a last, smaller one is filled up with rows that are then left out."""
    base: Any = env.unwrapped
    padded, row_seeds = np.resize(ids, env.num_envs), np.resize(seeds, env.num_envs).tolist()
    # On the host whatever the device is, so that the noise is the same on all.
    generators = [torch.Generator().manual_seed(number) for number in row_seeds]
    rows = torch.from_numpy(np.flatnonzero(compared)).to(base.device)
    observation, infos = env.reset(seed=row_seeds, options={"prompt_ids": padded})
    rewards = torch.zeros(env.num_envs)
    base.next_prompt_ids = padded  # else autoreset would encode prompts that nobody looks at
    divergences = []
    if watch:
        watch(0, observation["latent"][: len(ids)])
    for i in range(base.schedule.num_steps):
        shape = observation["latent"].shape[1:]
        noise = torch.stack([torch.randn(shape, generator=own) for own in generators])
        actions, gaussian = _acted(policy, observation, noise)
        if gaussian.stochastic and len(rows):
            parts = (gaussian.mean, gaussian.std, gaussian.predicted_clean)
            mean, std, clean = (part[rows] for part in parts)
            own = DenoisingStep(mean, std, clean)
            other = own  # of the model before any training
            if isinstance(policy, UNetPolicy):
                chosen = {key: value[rows] for key, value in observation.items()}
                other = policy.base_transition(*policy.conditions(chosen))
            divergences.append(gaussian_kl(own, other))
        if watch:
            watch(i + 1, actions[: len(ids)])
        base.report(gaussian.predicted_clean)
        observation, rewards, _, _, infos = env.step(actions)

    episodes = finished_episodes(infos)
    rewards = rewards.double().masked_fill(~episodes.reward_valid, torch.nan)
    divergence = torch.full_like(rewards, torch.nan)
    if divergences:
        divergence[rows] = torch.stack(divergences).double().mean(0)

    def column(values: torch.Tensor) -> Any:
        return values.cpu().numpy()[: len(ids)]

    terms = {name: column(term.double()) for name, term in episodes.reward_terms.items()}
    return _Batch(column(episodes.image), column(rewards), terms, column(divergence))


def _acted(
    policy: UNetPolicy | ReferencePolicy, observation: dict[str, torch.Tensor], noise: torch.Tensor
) -> tuple[torch.Tensor, DenoisingStep]:
    """Actions that are drawn with some noise, and the Gaussian that they are drawn from."""
    if isinstance(policy, UNetPolicy):
        step = policy.act(observation, noise=noise)
        return step.actions, step.gaussian
    gaussian = policy.transition(observation)
    return policy.schedule.sample(gaussian, noise=noise), gaussian


def _measure(
    result: Evaluation,
    metrics: ImageMetrics,
    metadata: Mapping[str, Mapping[str, Any]] | None,
    processes: Processes,
) -> None:
    """Fills in other rewards and diversity; each process measures the images of some prompts."""
    count = len(result.prompts)
    first, end = (count * rank // processes.count for rank in (processes.rank, processes.rank + 1))
    images, texts = result.images[first:end], result.prompts[first:end]
    own = [(*metrics.scores(images, texts, metadata), metrics.diversity(images))] if texts else []
    scores, left_out, diversity = zip(*processes.joined(own), strict=True)
    result.left_out = {name: why for part in left_out for name, why in part.items()}
    for found, parts in ((result.other_rewards, scores), (result.metrics, diversity)):
        # What one process could not read is left out by all.
        for name in [name for name in parts[0] if name not in result.left_out]:
            found[name] = np.concatenate([part[name] for part in parts])


def mean(values: Array) -> float:
    """The mean of what could be measured; NaN where nothing could."""
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if measured.size else float("nan")


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a difference with its 95% confidence interval.

    Attributes:
        mean: The mean; NaN where nothing could be measured.
        low: The interval's lower end; NaN where one value alone gives no interval.
        high: Its upper end; likewise.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "not measured"
        if math.isnan(self.low):
            return f"{self.mean:+.3f} (one value: no interval)"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(before: Array, after: Array) -> PairedDifference:
    """Student's t interval of ``after - before``, with the prompt as the unit.

    Images of one prompt are no independent measurements of what happens on new prompts, so they
    are averaged first. What could not be measured both times is left out. One prompt says nothing
    about others: there is no interval then.

    Args:
        before: ``[P, S]``, or ``[P]`` for what is measured per prompt.
        after: Likewise, drawn from the same noise.
    """
    differences = (after - before).reshape(len(before), -1)
    measured = ~np.isnan(differences).all(axis=1)
    per_prompt = np.nanmean(differences[measured], axis=1)
    average = mean(per_prompt)
    if len(per_prompt) < 2:
        return PairedDifference(average, math.nan, math.nan)
    spread = float(stats.sem(per_prompt))
    if spread == 0.0:  # scipy would divide by it
        return PairedDifference(average, average, average)
    low, high = stats.t.interval(0.95, len(per_prompt) - 1, average, spread)
    return PairedDifference(average, float(low), float(high))


def pairs(
    before: Mapping[str, Array], after: Mapping[str, Array]
) -> Iterator[tuple[str, Array, Array]]:
    """What was measured before or after, by name, with NaN where it was not.

    A term of a reward is missing, for instance, where no image could be scored.
    """
    for name in dict.fromkeys((*before, *after)):
        known = before[name] if name in before else after[name]
        missing = np.full_like(known, np.nan)
        yield name, before.get(name, missing), after.get(name, missing)
