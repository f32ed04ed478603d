"""The losses on the forward process, as pure functions of predicted clean latents.

Notation, following DiffusionNFT (arXiv 2509.16117; its ``train_nft_sd3.py``):

=================  ===========================================================================
``clean``          x0, a latent that was drawn, ``[N, C, h, w]``
``predicted``      x̂0 of the trained weights for x_t, some noise added to x0
``old``            x̂0 of the weights that drew x0, for the same x_t; a constant
``noise_scale``    b_t of x_t = a_t x0 + b_t ε, ``[N]``
=================  ===========================================================================

The authors mix velocities of flows. Whatever a network predicts, x̂0 is linear in it with factors
that depend on x_t and t alone, so that mixtures whose parts sum to 1 can be mixed as x̂0; and
errors of the velocity are those of x̂0 over b_t (`diffusion_gym.schedules.base.Schedule`). So these
losses serve ε-, v-, sample- and flow-predicting networks alike.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from agents.common.surrogate import clipped_losses
from agents.nft.config import NFTConfig

LEAST_WEIGHT = 1e-5
"""Of the mean error that a loss is divided by, as released."""


class ForwardLog(NamedTuple):
    """Figures of one minibatch, detached.

    Attributes:
        loss: Mean loss, that of the reference included.
        old_deviation: Mean of ‖v − v_old‖², how far training has left the weights that draw.
        reference_deviation: Mean of ‖v − v_ref‖²; NaN where it does not count.
        clip_fraction: Share of pairs whose ratio left the clip range; NaN where there is none.
    """

    loss: Tensor
    old_deviation: Tensor
    reference_deviation: Tensor
    clip_fraction: Tensor


class Predictions(NamedTuple):
    """What several weights make of the same noisy latents, ``[N, C, h, w]`` each.

    Attributes:
        clean: x0, from which they were made.
        predicted: x̂0 of the trained weights, with gradient.
        old: x̂0 of the weights that drew x0.
        base: x̂0 of the base model; None where it does not count.
    """

    clean: Tensor
    predicted: Tensor
    old: Tensor
    base: Tensor | None


def forward_loss(
    config: NFTConfig,
    predictions: Predictions,
    advantages: Tensor,
    noise_scale: Tensor,
    times: Tensor,
) -> tuple[Tensor, ForwardLog]:
    """The mean loss of N pairs of an image and a noise level, and its figures.

    The loss that the configuration names, plus ``reference_coef`` · ‖v − v_ref‖².

    Args:
        config: Names the loss and its coefficients.
        predictions: x0, and what the weights predict of it.
        advantages: A of the images, ``[N]``.
        noise_scale: b_t, ``[N]``.
        times: t from 0 to 1, ``[N]``.
    """
    clean, predicted, old, base = predictions
    outside = from_reference = torch.full_like(noise_scale, torch.nan)
    if config.loss == "nft":
        losses = nft_loss(
            clean,
            predicted,
            old,
            advantages,
            beta=config.beta,
            advantage_clip=config.advantage_clip,
        )
    else:
        losses, outside = awm_loss(
            clean,
            predicted,
            old,
            advantages,
            noise_scale,
            clip_range=config.awm_clip_range,
            time_weight=times**config.awm_time_power,
        )
    if base is not None:
        from_reference = velocity_distance(predicted, base, noise_scale)
        losses = losses + config.reference_coef * from_reference
    loss = losses.mean()
    log = ForwardLog(
        loss=loss.detach(),
        old_deviation=velocity_distance(predicted.detach(), old, noise_scale).mean(),
        reference_deviation=from_reference.detach().mean(),
        clip_fraction=outside.float().mean(),
    )
    return loss, log


def nft_loss(
    clean: Tensor,
    predicted: Tensor,
    old: Tensor,
    advantages: Tensor,
    *,
    beta: float,
    advantage_clip: float,
) -> Tensor:
    """DiffusionNFT's loss of every pair, ``[N]`` (arXiv 2509.16117, as released).

    With c the bound on advantages and r = clip(A/c, ±1)/2 + ½, the chance that an image is good:

    c/β · [ r ‖x̂0⁺ − x0‖²/w⁺ + (1−r) ‖x̂0⁻ − x0‖²/w⁻ ],  x̂0± = x̂0_old ± β (x̂0 − x̂0_old).

    The norms are means over the latent's dimensions, and w± = mean ``|x̂0± − x0|``, a constant of at
    least 1e-5, brings all noise levels to one scale. At β = 1, x̂0⁺ is x̂0 itself.

    Args:
        clean: x0.
        predicted: x̂0, with gradient.
        old: x̂0_old.
        advantages: A, ``[N]``.
        beta: β.
        advantage_clip: c.
    """
    chance = (advantages / advantage_clip).clamp(-1, 1) / 2 + 0.5
    step = beta * (predicted - old)
    good = self_normalised_error(old + step, clean)
    bad = self_normalised_error(old - step, clean)
    return advantage_clip / beta * (chance * good + (1 - chance) * bad)


def self_normalised_error(predicted: Tensor, clean: Tensor) -> Tensor:
    """Mean (x̂0 − x0)² / w with the constant w = mean |x̂0 − x0|, at least 1e-5, ``[N]``."""
    error = (predicted - clean).flatten(1)
    weight = error.detach().abs().mean(1).clamp(min=LEAST_WEIGHT)
    return error.square().mean(1) / weight


def velocity_distance(clean: Tensor, other: Tensor, noise_scale: Tensor) -> Tensor:
    """Mean (v − v')² of two predictions for one x_t, given as clean latents, ``[N]``.

    The true velocity belongs to the true x0, so this is also a prediction's error.
    """
    return (clean - other).flatten(1).square().mean(1) / noise_scale.square()


def awm_loss(
    clean: Tensor,
    predicted: Tensor,
    old: Tensor,
    advantages: Tensor,
    noise_scale: Tensor,
    *,
    clip_range: float,
    time_weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advantage-weighted matching's loss, and which pairs were clipped, ``[N]`` each.

    max(−A ρ, −A clip(ρ, 1 ± ε)) with ρ = exp(log π − log π_old) and log π = −w_t ‖v − v*‖², v* the
    velocity of x0 and its noise (AWM, arXiv 2509.25050; ELBO-based RL, arXiv 2602.04663).

    Args:
        clean: x0.
        predicted: x̂0, with gradient.
        old: x̂0_old.
        advantages: A, ``[N]``.
        noise_scale: b_t, ``[N]``.
        clip_range: ε.
        time_weight: w_t, ``[N]``: 1, t or t² with t from 0 to 1.
    """
    log_pi, log_pi_old = (
        -time_weight * velocity_distance(one, clean, noise_scale) for one in (predicted, old)
    )
    ratio = (log_pi - log_pi_old).exp()
    outside = (ratio.detach() - 1).abs() > clip_range
    return clipped_losses(ratio, advantages, clip_range), outside
