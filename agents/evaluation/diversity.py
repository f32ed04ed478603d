"""How different are the images of one prompt? Pure functions of arrays ``[P, S, …]``.

P prompts, S images of each. A fine-tuned model that draws one picture per prompt, whatever the
noise, scores high rewards and low diversity; the distances below show it.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from diffusion_gym.errors import InvalidInputError

Array = npt.NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601)."""

SIGMA, RADIUS = 1.5, 5
"""SSIM's window: a Gaussian of 1.5 pixels, cut to 11 x 11."""

C1, C2 = 0.01**2, 0.03**2
"""SSIM's constants for pixels in [0, 1]."""


def embedding_diversity(embeddings: Array) -> Array:
    """Mean pairwise cosine distance of the embeddings of each prompt's images.

    1 - cos, averaged over the S (S - 1) / 2 pairs of a prompt: 0 where all point in the same
    direction, at most S / (S - 1).

    Args:
        embeddings: ``[P, S, D]``, of any length other than 0.

    Returns:
        ``[P]``.

    Raises:
        InvalidInputError: There are fewer than two images per prompt.
    """
    _check_pairs(embeddings.shape, 3, "embeddings [P, S, D]")
    directions = embeddings / np.linalg.norm(embeddings, axis=2, keepdims=True)
    first, second = np.triu_indices(embeddings.shape[1], k=1)
    cosines = np.einsum("pkd,pkd->pk", directions[:, first], directions[:, second])
    distances: Array = 1 - cosines.mean(axis=1)
    return distances


def structural_diversity(images: npt.NDArray[np.uint8]) -> Array:
    """Mean pairwise 1 - SSIM of each prompt's images, in grey.

    0 where all images of a prompt are equal, at most 2. Unlike the distance of embeddings it sees
    where things are, and not what they are.

    Args:
        images: ``[P, S, H, W, 3]`` uint8, each side of at least 11 pixels.

    Returns:
        ``[P]``.

    Raises:
        InvalidInputError: There are fewer than two images per prompt, or they are too small.
    """
    _check_pairs(images.shape, 5, "images [P, S, H, W, 3]")
    first, second = np.triu_indices(images.shape[1], k=1)
    distances = np.empty(len(images))
    for prompt, group in enumerate(images):  # prompt by prompt, for large images' sake
        grey = group @ LUMA / 255
        distances[prompt] = 1 - structural_similarity(grey[first], grey[second]).mean()
    return distances


def structural_similarity(first: Array, second: Array) -> Array:
    """SSIM of grey images (Wang, Bovik, Sheikh and Simoncelli 2004, equation 13).

    The mean over all windows that lie inside the image of
    ``(2 μx μy + C1) (2 σxy + C2) / ((μx² + μy² + C1) (σx² + σy² + C2))``, with means, variances and
    covariance weighted by the Gaussian window, as in the authors' own code.

    Args:
        first: ``[N, H, W]`` in [0, 1], each side of at least 11 pixels.
        second: Likewise.

    Returns:
        ``[N]`` in [-1, 1]; 1 for equal images.

    Raises:
        InvalidInputError: The images are smaller than the window.
    """
    if min(first.shape[-2:]) <= 2 * RADIUS:
        raise InvalidInputError(
            f"SSIM needs images of at least {2 * RADIUS + 1} x {2 * RADIUS + 1} pixels, "
            f"got {first.shape[-2]} x {first.shape[-1]}"
        )
    mean_x, mean_y = _windows(first), _windows(second)
    variances = _windows(first**2) - mean_x**2 + _windows(second**2) - mean_y**2
    covariance = _windows(first * second) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    similarity: Array = (luminance * structure).mean(axis=(-2, -1))
    return similarity


def _windows(values: Array) -> Array:
    """Weighted means over every window inside ``[N, H, W]``: ``[N, H - 10, W - 10]``."""
    blurred = ndimage.gaussian_filter(values, SIGMA, radius=RADIUS, axes=(-2, -1))
    inside: Array = blurred[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
    return inside


def _check_pairs(shape: tuple[int, ...], dimensions: int, what: str) -> None:
    if len(shape) != dimensions or shape[1] < 2:
        raise InvalidInputError(
            f"diversity needs {what} with at least two images per prompt, got {list(shape)}"
        )
