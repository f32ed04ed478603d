"""Films of the denoising: what is in them, and how they are written."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

import diffusion_gym  # noqa: F401  (registers the environment)
from agents.evaluation import evaluate
from agents.evaluation.film import (
    HOLD_MS,
    LONGEST_SIDE,
    STEP_MS,
    DecodedSteps,
    film_sheets,
    film_to_write,
    write_film,
)
from agents.policy import UNetPolicy
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.images import to_uint8

PROMPTS = ("a cat", "a dog", "a rocket")
T = 3


@pytest.fixture(scope="module")
def env() -> Any:
    return gym.make_vec(
        "DiffusionT2I-v0",
        num_envs=2,
        array_type="torch",
        prompts=PROMPTS,
        reward="jpeg_compressibility",
        num_inference_steps=T,
    )


@pytest.fixture(scope="module")
def policy(env: Any) -> UNetPolicy:
    base = env.unwrapped
    return UNetPolicy(
        base.single_observation_space,
        base.single_action_space,
        lambda _: 0.0,
        model=base.model,
        schedule=base.schedule,
    )


def test_the_steps_lead_from_noise_to_the_very_pictures(env: Any, policy: UNetPolicy) -> None:
    steps = DecodedSteps(policy.model)
    # Three images in batches of two: the row that fills up the last one is nobody's.
    result = evaluate(policy, env, samples=1, prompts=3, seed=4, watch=steps)
    frames = steps.frames
    assert [len(images) for images in frames] == [3] * (T + 1)
    np.testing.assert_array_equal(frames[-1], result.images[:, 0])

    plain = evaluate(policy, env, samples=1, prompts=3, seed=4)
    np.testing.assert_array_equal(plain.images, result.images)  # being watched changes nothing

    # The first frame is the environment's own noise, decoded.
    seen = []
    evaluate(policy, env, samples=1, prompts=2, seed=4, watch=lambda i, x: seen.append((i, x)))
    assert [i for i, _ in seen] == list(range(T + 1))
    noise = seen[0][1]
    assert 0.8 < noise.std() < 1.2
    decoded = to_uint8(policy.model.decode(noise)).numpy()
    np.testing.assert_array_equal(decoded[0], frames[0][0])


def waves(size: tuple[int, int], count: int = 4) -> list[Image.Image]:
    """Smooth frames that differ, which every codec can keep."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return [
        Image.fromarray(
            np.stack([255 * x, 255 * y, np.full_like(x, 60 * k)], axis=-1).astype(np.uint8)
        )
        for k in range(count)
    ]


def test_a_gif_holds_every_step_and_the_last_one_longest(tmp_path: Path) -> None:
    frames = waves((96, 64))
    write_film(frames, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == len(frames)  # type: ignore[attr-defined]
        assert film.info["loop"] == 0
        read = [
            (np.asarray(frame.convert("RGB"), float), frame.info["duration"])
            for frame in ImageSequence.Iterator(film)
        ]
    assert [duration for _, duration in read] == [STEP_MS] * 3 + [HOLD_MS]
    for (shown, _), frame in zip(read, frames, strict=True):
        assert np.abs(shown - np.asarray(frame, float)).mean() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]


@pytest.mark.parametrize("size", [(96, 64), (65, 33)])
def test_an_mp4_is_what_ffmpeg_reads_back(size: tuple[int, int], tmp_path: Path) -> None:
    frames = waves(size)
    write_film(frames, tmp_path / "film.mp4")
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    about = next(reader)
    width, height = (side + side % 2 for side in size)
    assert about["size"] == (width, height)
    assert about["duration"] == pytest.approx((3 * STEP_MS + HOLD_MS) / 1000, abs=0.05)
    assert about["pix_fmt"].startswith("yuv420p")
    read = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    per_step = STEP_MS * about["fps"] / 1000
    for k, frame in enumerate(frames):
        shown = read[int((k + 0.5) * per_step)][: size[1], : size[0]]
        assert np.abs(shown.astype(float) - np.asarray(frame, float)).mean() < 6


def test_large_films_are_made_smaller() -> None:
    images = np.zeros((4, 512, 256, 3), np.uint8)
    (sheet,) = film_sheets([images], 4, scale=3)
    assert sheet.size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    (sheet,) = film_sheets([images], 2, scale=1)
    assert sheet.size == (512, 1024)


def test_names_that_are_no_film(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a film's name.*film\.avi"):
        film_to_write(str(tmp_path / "film.avi"))
    with pytest.raises(InvalidInputError, match="expected an existing folder"):
        film_to_write(str(tmp_path / "nowhere" / "film.gif"))


def test_an_mp4_without_ffmpeg_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InvalidInputError, match=r"pip install imageio-ffmpeg.*film\.gif"):
        film_to_write(str(tmp_path / "film.mp4"))
    assert film_to_write(str(tmp_path / "film.gif")) == tmp_path / "film.gif"
