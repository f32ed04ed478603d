"""What is logged of a round, as pure functions of what it left."""

from collections.abc import Sequence

import torch
from torch import Tensor

from agents.ppo.buffer import Trajectories
from agents.ppo.update import UpdateLog


def rollout_figures(data: Trajectories) -> dict[str, float]:
    """Rewards of a round, each step's mean share in them, and what the wrappers measured.

    Args:
        data: The round's B episodes.

    Returns:
        By name: ``rollout/…``, ``credit/step_00`` … and ``shaping/…``.
    """
    returns = data.returns[data.valid]
    figures: dict[str, float] = {
        "rollout/reward_mean": returns.mean().item(),
        "rollout/reward_std": returns.std(correction=0).item(),
        "rollout/failed_rewards": int((~data.valid).sum()),
    }
    for step, share in enumerate(data.credit.mean(0).tolist()):
        figures[f"credit/step_{step:02d}"] = share
    for name, values in data.extras.items():
        figures[f"shaping/{name}"] = values[~values.isnan()].mean().item()
    return figures


def update_figures(logs: Sequence[UpdateLog], gradient_norms: Sequence[Tensor]) -> dict[str, float]:
    """Means over a round's updates; the largest deviation of a ratio.

    Args:
        logs: Of every minibatch.
        gradient_norms: Of every optimiser step; one that overflowed was not used, nor counts it.

    Returns:
        By name, ``train/…``; NaN where nothing was left to train on: every round has the same
        columns.
    """
    if not logs:
        names = (*UpdateLog._fields, "gradient_norm", "initial_ratio_deviation")
        return {f"train/{name}": float("nan") for name in names}
    figures = {}
    for name in UpdateLog._fields:
        values = torch.stack([getattr(log, name) for log in logs])
        value = values.max() if name == "ratio_deviation" else values.mean()
        figures[f"train/{name}"] = value.item()
    norms = torch.stack(list(gradient_norms))
    norms = norms.masked_fill(~norms.isfinite(), torch.nan)
    figures["train/gradient_norm"] = norms.nanmean().item()
    return figures
