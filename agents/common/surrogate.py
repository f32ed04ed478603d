"""PPO's pessimistic surrogate, of whatever the ratio is of."""

import torch
from torch import Tensor


def clipped_losses(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """max(−A ρ, −A clip(ρ, 1 ± ε)) of every pair, ``[N]`` (arXiv 1707.06347, equation 7).

    Args:
        ratio: ρ, ``[N]``.
        advantages: A, ``[N]``.
        clip_range: ε.
    """
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)
