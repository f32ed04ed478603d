"""Per-step gradients of a policy, batch by batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.common.advantages import GroupStatistics
from agents.common.rollout import draw_prompts
from agents.policy import UNetPolicy
from agents.ppo.rollout import collect_batch
from benchmarks.step_signal.moments import Array
from diffusion_gym.models import PromptEmbedding


def inner_products(
    policy: UNetPolicy,
    env: Any,
    *,
    batches: int,
    samples_per_prompt: int,
    pairs_per_pass: int,
    seed: int,
    done: Callable[[int], None] = lambda _: None,
) -> Array:
    """Inner products of all batches' gradients of all steps with noise, ``[B, T, B, T]``.

    The gradient of step i is that of DDPO's loss before the first update, mean -A log π_i over the
    images of a batch, with advantages over the images of a prompt.

    Memory: B · T gradients of all trained weights, in float32.

    Args:
        policy: Whose gradients; its weights are not changed.
        env: A vector environment of torch tensors: a batch is one episode in each of its rows.
        batches: B.
        samples_per_prompt: Images of one prompt in a batch.
        pairs_per_pass: Images in one backward pass.
        seed: Draws prompts, latents and noise.
        done: Told the number of batches so far.
    """
    rng = np.random.default_rng(seed)
    policy.generator.manual_seed(seed)
    env.reset(seed=seed)
    steps = policy.schedule.stochastic.nonzero()[:, 0].tolist()
    size = sum(parameter.numel() for parameter in policy.trainable_parameters())
    gradients = torch.empty(batches, len(steps), size)
    for batch in range(batches):
        prompt_ids = draw_prompts(rng, len(env.unwrapped.prompts), env.num_envs, samples_per_prompt)
        data, _ = collect_batch(policy, env, prompt_ids)
        if not bool(data.valid.all()):
            raise RuntimeError("expected a reward of every image, got failures; see the warnings")
        ids, returns = data.prompt_ids.cpu().numpy(), data.returns.cpu().numpy()
        advantages = torch.as_tensor(GroupStatistics().update(ids, returns)).to(data.returns)
        embedding = env.unwrapped.prompt_embedding(data.prompt_ids)
        for place, step in enumerate(steps):
            latents, following = data.latents[:, step], data.latents[:, step + 1]
            gradients[batch, place] = _step_gradient(
                policy, step, latents, following, embedding, advantages, pairs_per_pass
            )
        done(batch + 1)
    flat = gradients.flatten(0, 1)
    products = (flat @ flat.T).double().numpy()
    return np.asarray(products.reshape(batches, len(steps), batches, len(steps)))


def _step_gradient(
    policy: UNetPolicy,
    step: int,
    latents: Tensor,
    following: Tensor,
    embedding: PromptEmbedding,
    advantages: Tensor,
    pairs_per_pass: int,
) -> Tensor:
    """The gradient of mean -A log π of one step, all trained weights in one row, on the CPU."""
    policy.optimizer.zero_grad(set_to_none=True)
    for rows in torch.arange(len(latents), device=latents.device).split(pairs_per_pass):
        index = torch.full((len(rows),), step, device=latents.device)
        transition = policy.transition(latents[rows], index, embedding.select(rows))
        log_prob = policy.log_prob(following[rows], transition)
        (-(advantages[rows] * log_prob).sum() / len(latents)).backward()
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in policy.trainable_parameters()
        ]
    ).cpu()
