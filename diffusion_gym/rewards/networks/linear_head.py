"""The small network on top of an embedding that aesthetic scores and ImageReward end with."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn

from diffusion_gym.errors import ModelLoadError


def linear_head(reward: str, file: Path, weights: Mapping[str, Tensor], prefix: str) -> nn.Module:
    """Builds a chain of linear layers that ends in one number; there is nothing between them.

    In training there was dropout between them, which leaves gaps in the layers' numbers.

    Args:
        reward: Whose layers they are, for messages.
        file: Where they come from, for messages.
        weights: Holds the layers as ``{prefix}0.weight``, ``{prefix}0.bias`` …; others are ignored.
        prefix: What the layers' names begin with.

    Returns:
        The frozen layers, in float32.

    Raises:
        ModelLoadError: The layers are not there, or one does not fit the next.
    """
    numbers = sorted(
        int(name.removeprefix(prefix).removesuffix(".weight"))
        for name in weights
        if name.startswith(prefix)
        and name.endswith(".weight")
        and f"{name.removesuffix('weight')}bias" in weights
    )
    matrices = [weights[f"{prefix}{number}.weight"] for number in numbers]
    fits = all(first.shape[0] == second.shape[1] for first, second in pairwise(matrices))
    if not matrices or not fits or matrices[-1].shape[0] != 1:
        shapes = [list(matrix.shape) for matrix in matrices]
        raise ModelLoadError(
            f"{reward} needs linear layers named {prefix}0.weight, {prefix}0.bias … that end in "
            f"one number, got from {file} layers of shapes {shapes}"
        )
    head = nn.Sequential()
    for number, matrix in zip(numbers, matrices, strict=True):
        layer = nn.Linear(matrix.shape[1], matrix.shape[0])
        layer.load_state_dict({"weight": matrix, "bias": weights[f"{prefix}{number}.bias"]})
        head.append(layer)
    return head.requires_grad_(False).eval()
