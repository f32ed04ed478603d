"""What is logged of a round, as pure functions of what it left."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.common.episodes import Episodes


def episode_figures(episodes: Episodes) -> dict[str, float]:
    """Rewards of a round, and what the wrappers measured.

    Returns:
        By name: ``rollout/…`` and ``shaping/…``.
    """
    returns = episodes.returns[episodes.valid]
    figures: dict[str, float] = {
        "rollout/reward_mean": returns.mean().item(),
        "rollout/reward_std": returns.std(correction=0).item(),
        "rollout/failed_rewards": int((~episodes.valid).sum()),
    }
    for name, values in episodes.extras.items():
        figures[f"shaping/{name}"] = values[~values.isnan()].mean().item()
    return figures


def update_figures(
    names: Sequence[str],
    logs: Sequence[tuple[NamedTuple, int]],
    gradient_norms: Sequence[Tensor],
) -> dict[str, float]:
    """Means over a round's pairs; the largest of what is called a deviation of a ratio.

    Args:
        names: The fields of a log.
        logs: Of every minibatch, scalars, and the number of its pairs.
        gradient_norms: Of every optimiser step; one that overflowed was not used, nor counts it.

    Returns:
        By name, ``train/…``; NaN where nothing was left to train on: every round has the same
        columns.
    """
    if not logs:
        return {f"train/{name}": float("nan") for name in (*names, "gradient_norm")}
    figures = {}
    pairs = [count for _, count in logs]
    for name in names:
        values: Any = torch.stack([getattr(log, name) for log, _ in logs])
        value = values.max() if name == "ratio_deviation" else _mean(values, pairs)
        figures[f"train/{name}"] = value.item()
    norms = torch.stack(list(gradient_norms))
    norms = norms.masked_fill(~norms.isfinite(), torch.nan)
    figures["train/gradient_norm"] = norms.nanmean().item()
    return figures


def _mean(values: Tensor, weights: Sequence[int]) -> Tensor:
    if len(set(weights)) == 1:
        return values.mean()
    return (values * torch.tensor(weights).to(values)).sum() / sum(weights)
