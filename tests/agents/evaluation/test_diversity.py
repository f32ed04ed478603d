"""Distances between the images of one prompt."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.evaluation.diversity import (
    C1,
    C2,
    embedding_diversity,
    structural_diversity,
    structural_similarity,
)
from diffusion_gym.errors import InvalidInputError


def random_embeddings(rng: np.random.Generator, prompts: int, samples: int) -> Any:
    return rng.normal(size=(prompts, samples, 5))


def random_images(rng: np.random.Generator, prompts: int, samples: int) -> Any:
    return rng.integers(0, 256, (prompts, samples, 16, 13, 3), np.uint8)


MEASURES = [(embedding_diversity, random_embeddings), (structural_diversity, random_images)]


@pytest.mark.parametrize(("measure", "draw"), MEASURES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), prompts=st.integers(1, 4), samples=st.integers(2, 5))
def test_what_holds_for_any_images(
    measure: Any, draw: Any, seed: int, prompts: int, samples: int
) -> None:
    rng = np.random.default_rng(seed)
    values = draw(rng, prompts, samples)
    result = measure(values)
    assert result.shape == (prompts,)
    assert (result > 0).all()
    # The sum of all S² cosines is a squared length, hence the tighter bound of the embeddings.
    assert (result <= (samples / (samples - 1) if measure is embedding_diversity else 2)).all()
    order = rng.permutation(samples)
    np.testing.assert_allclose(measure(values[:, order]), result, rtol=1e-12)
    order = rng.permutation(prompts)
    np.testing.assert_allclose(measure(values[order]), result[order], rtol=1e-12)
    same = np.repeat(values[:, :1], samples, axis=1)
    np.testing.assert_allclose(measure(same), 0, atol=1e-12)


def test_cosine_distances_by_hand() -> None:
    right, up, left = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    # Pairs: right-up 1, right-left 2, up-left 1. Lengths do not matter.
    embeddings = np.array([[right, up, left], [right, np.multiply(7, right), right]])
    np.testing.assert_allclose(embedding_diversity(embeddings), [4 / 3, 0], atol=1e-15)
    # S vectors to the corners of a simplex are as far apart as can be.
    corners = np.array([[[np.cos(a), np.sin(a)] for a in 2 * np.pi * np.arange(3) / 3]])
    assert embedding_diversity(corners) == pytest.approx(3 / 2)


def test_ssim_of_plain_images_compares_their_brightness() -> None:
    dark, bright = np.full((1, 12, 14), 0.2), np.full((1, 12, 14), 0.7)
    expected = (2 * 0.2 * 0.7 + C1) / (0.2**2 + 0.7**2 + C1)
    np.testing.assert_allclose(structural_similarity(dark, bright), expected)


def test_ssim_of_a_chessboard_compares_its_contrast() -> None:
    # Any window sees as much white as black: mean 1/2, variance contrast², to the last digits.
    chessboard = np.indices((1, 20, 20)).sum(0) % 2 - 0.5
    strong, weak, inverted = (0.5 + factor * chessboard for factor in (0.8, 0.2, -0.8))
    covariance, variances = 0.4 * 0.1, 0.4**2 + 0.1**2
    similar = (2 * covariance + C2) / (variances + C2)
    np.testing.assert_allclose(structural_similarity(strong, weak), similar, rtol=1e-6)
    opposite = (-2 * 0.4**2 + C2) / (2 * 0.4**2 + C2)
    np.testing.assert_allclose(structural_similarity(strong, inverted), opposite, rtol=1e-6)
    assert structural_similarity(strong, strong) == pytest.approx(1)


def test_ssim_weighs_its_window_as_the_paper_does() -> None:
    """One window, 11 x 11: the sums written out."""
    x, y = np.random.default_rng(0).random((2, 1, 11, 11))
    falloff = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(falloff, falloff) / falloff.sum() ** 2
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    variances = (weights * (x - mean_x) ** 2).sum() + (weights * (y - mean_y) ** 2).sum()
    covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
    expected = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    expected /= (mean_x**2 + mean_y**2 + C1) * (variances + C2)
    assert structural_similarity(x, y) == pytest.approx(expected)


def test_structure_is_seen_in_grey() -> None:
    images = np.zeros((1, 2, 12, 12, 3), np.uint8)
    images[0, 0, ..., 0], images[0, 1, ..., 1] = 255, 0  # red against black
    grey = 0.299
    assert structural_diversity(images) == pytest.approx(1 - C1 / (grey**2 + C1))
    images[0, 1, ..., 1] = round(255 * 0.299 / 0.587)  # green of the same grey
    assert structural_diversity(images) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: embedding_diversity(np.ones((3, 1, 4))), r"at least two images.*\[3, 1, 4\]"),
        (lambda: embedding_diversity(np.ones((3, 4))), r"\[P, S, D\].*got \[3, 4\]"),
        (lambda: structural_diversity(np.ones((2, 2, 64, 64), np.uint8)), r"\[P, S, H, W, 3\]"),
        (lambda: structural_diversity(np.ones((1, 2, 10, 64, 3), np.uint8)), "11 x 11.*10 x 64"),
    ],
)
def test_what_cannot_be_compared(call: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()
