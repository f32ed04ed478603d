"""The PPO update on denoising steps, as pure functions of a policy and a minibatch."""

from typing import NamedTuple

import torch
from torch import Tensor

from agents.common.surrogate import clipped_losses
from agents.policy import UNetPolicy
from agents.ppo.buffer import Minibatch
from diffusion_gym.models import PromptEmbedding
from diffusion_gym.schedules.base import DenoisingStep


class UpdateLog(NamedTuple):
    """Figures of one minibatch, detached.

    Attributes:
        loss: Mean loss.
        clip_fraction: Share of pairs whose ratio left the clip range.
        approx_kl: Mean of ρ - 1 - log ρ, an estimate of KL(old || new) in the log-prob's reduction.
        ratio_deviation: Largest |ρ - 1|.
        kl_to_base: Mean of ‖μ - μ_base‖² / (2σ²) over latent dimensions and steps; NaN without a
            KL penalty, since it is not computed then.
    """

    loss: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor
    ratio_deviation: Tensor
    kl_to_base: Tensor


def ppo_loss(
    policy: UNetPolicy,
    batch: Minibatch,
    embedding: PromptEmbedding,
    *,
    clip_range: float,
    kl_coef: float = 0.0,
    on_policy: bool = False,
) -> tuple[Tensor, UpdateLog]:
    """Clipped PPO loss of (trajectory, step) pairs, without a critic (DDPO, arXiv 2305.13301).

    ``mean max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)) + kl_coef * mean ‖μ - μ_base‖² / (2σ²)``.

    Args:
        policy: The policy being trained.
        batch: N pairs.
        embedding: Prompt embeddings of the pairs.
        clip_range: ε.
        kl_coef: Weight of the KL divergence to the base model (DPOK, arXiv 2305.16381).
        on_policy: The policy is still the one that drew the pairs, so ρ = 1 by construction, and
            what kernels round otherwise in another batch is no matter.

    Returns:
        The loss, a scalar with gradient, and its figures.
    """
    step = policy.transition(batch.latents, batch.steps, embedding)
    log_prob = policy.log_prob(batch.next_latents, step)
    log_ratio = log_prob - (log_prob.detach() if on_policy else batch.old_log_prob)
    loss = clipped_surrogate(log_ratio.exp(), batch.advantages, clip_range)
    kl_to_base = loss.new_full((), torch.nan)
    if kl_coef > 0:
        base = policy.base_transition(batch.latents, batch.steps, embedding)
        divergence = gaussian_kl(step, base).mean()
        loss = loss + kl_coef * divergence
        kl_to_base = divergence.detach()
    return loss, _log(loss.detach(), log_ratio.detach(), clip_range, kl_to_base)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """PPO's pessimistic surrogate loss (arXiv 1707.06347, equation 7), a scalar.

    Args:
        ratio: ρ, ``[N]``.
        advantages: A, ``[N]``.
        clip_range: ε.
    """
    return clipped_losses(ratio, advantages, clip_range).mean()


def gaussian_kl(step: DenoisingStep, other: DenoisingStep) -> Tensor:
    """KL of two Gaussians of the same deviation, a mean over latent dimensions, ``[B]``.

    ‖μ - μ'‖² / (2σ²), as DPOK (arXiv 2305.16381) has it. Flow-GRPO's paper (2505.05470) has the
    same; its released code leaves out the factor −Δt of the variance, so that its KL is −Δt times
    this one (a factor of 3.7 to 1,000 less) and its β is not ``kl_coef``.
    """
    return ((step.mean - other.mean).square() / (2 * step.std.square())).flatten(1).mean(1)


def _log(loss: Tensor, log_ratio: Tensor, clip_range: float, kl_to_base: Tensor) -> UpdateLog:
    ratio = log_ratio.exp()
    deviation = (ratio - 1).abs()
    return UpdateLog(
        loss=loss,
        clip_fraction=(deviation > clip_range).float().mean(),
        approx_kl=(ratio - 1 - log_ratio).mean(),
        ratio_deviation=deviation.max(),
        kl_to_base=kl_to_base,
    )
