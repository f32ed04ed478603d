"""The small network on top of an embedding that aesthetic scores and ImageReward end with."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn

from diffusion_gym.errors import ModelLoadError

_LINEAR, _RELU = (0, 2, 4, 6, 7), (0, 3, 6, 9, 11)
"""Places of the five linear layers among all layers, in the two networks that are in use.

A file holds the layers that have weights. Linear layers, with dropout after all but the last two,
are ImageReward's and LAION's ``linearMSE``; ``reluMSE`` has a ReLU before each dropout as well,
and one before the last layer.
"""


def linear_head(reward: str, file: Path, weights: Mapping[str, Tensor], prefix: str) -> nn.Module:
    """Builds a chain of linear layers that ends in one number.

    What stands between the layers is not in the file, only that something does: the gaps in their
    numbers. Layers without gaps, and the known networks' gaps, tell it; others are refused, since
    a ReLU taken for a dropout gives wrong scores and no error.

    Args:
        reward: Whose layers they are, for messages.
        file: Where they come from, for messages.
        weights: Holds the layers as ``{prefix}0.weight``, ``{prefix}0.bias`` …; others are ignored.
        prefix: What the layers' names begin with.

    Returns:
        The frozen layers, in float32.

    Raises:
        ModelLoadError: The layers are not there, or one does not fit the next, or what stands
            between them is unknown.
    """
    numbers = sorted(
        int(number)
        for number in (
            name.removeprefix(prefix).removesuffix(".weight")
            for name in weights
            if name.startswith(prefix)
            and name.endswith(".weight")
            and f"{name.removesuffix('weight')}bias" in weights
        )
        if number.isdecimal()
    )
    matrices = [weights[f"{prefix}{number}.weight"] for number in numbers]
    fits = all(matrix.ndim == 2 for matrix in matrices) and all(
        first.shape[0] == second.shape[1] for first, second in pairwise(matrices)
    )
    if not matrices or not fits or matrices[-1].shape[0] != 1:
        shapes = [list(matrix.shape) for matrix in matrices]
        raise ModelLoadError(
            f"{reward} needs linear layers named {prefix}0.weight, {prefix}0.bias … that end in "
            f"one number, got from {file} layers of shapes {shapes}"
        )
    relu = _has_relu(reward, file, [number - numbers[0] for number in numbers])
    head = nn.Sequential()
    for number, matrix in zip(numbers, matrices, strict=True):
        if relu and len(head):
            head.append(nn.ReLU())
        layer = nn.Linear(matrix.shape[1], matrix.shape[0])
        layer.load_state_dict({"weight": matrix, "bias": weights[f"{prefix}{number}.bias"]})
        head.append(layer)
    return head.requires_grad_(False).eval()


def _has_relu(reward: str, file: Path, places: list[int]) -> bool:
    """Whether ReLUs stand between linear layers at these places, counted from the first."""
    if tuple(places) == _RELU:
        return True
    if tuple(places) == _LINEAR or places == list(range(len(places))):
        return False
    raise ModelLoadError(
        f"{reward} cannot tell from {file} what stands between its linear layers, at places "
        f"{places}: expected {list(_LINEAR)} (dropout), {list(_RELU)} (ReLU and dropout), or "
        "layers without gaps (nothing). Layers with only dropout between them can be saved again "
        "under numbers without gaps"
    )
