"""Films of the denoising, from noise to picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from agents.files import atomic, file_to_write
from diffusion_gym.errors import InvalidInputError, one_line
from diffusion_gym.images import Frame, image_grid, to_uint8
from diffusion_gym.models import DiffusionModel

STEP_MS, HOLD_MS = 160, 2400
"""How long a step is shown, and the last picture."""

FPS = 25
"""Frames a second of an MP4, in which a step lasts several."""

LONGEST_SIDE = 1920
"""Of a frame, in pixels."""

COLOURS, PALETTE_PIXELS = 256, 4_000_000
"""Of a GIF, and how many pixels at most they are chosen by."""


class DecodedSteps:
    """Watches an evaluation (`agents.evaluation.evaluate`) and keeps what it draws in every step.

    What is shown in a step is the latent itself, decoded.

    Args:
        model: The model that decodes.
    """

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        self._frames: dict[int, list[Frame]] = {}

    def __call__(self, index: int, latents: Tensor) -> None:
        """Decodes x_i, ``[N, C, h, w]``, of one batch."""
        images = to_uint8(self.model.decode(latents)).numpy(force=True)
        self._frames.setdefault(index, []).append(images)

    @property
    def frames(self) -> list[Frame]:
        """All images after 0, 1 … T steps, T + 1 times ``[N, H, W, 3]``."""
        return [np.concatenate(self._frames[index]) for index in sorted(self._frames)]


def film_to_write(text: str) -> Path:
    """The path of a film that a command shall write, checked before there is anything to write.

    Raises:
        InvalidInputError: Its suffix names no kind of film, or one that is not installed; or no
            file can be written there.
    """
    path = file_to_write(text)
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise InvalidInputError(
            f"expected a film's name, film.gif or film.mp4, got {one_line(str(path))}"
        )
    if suffix == ".mp4":
        _ffmpeg()
    return path


def film_sheets(frames: Sequence[Frame], columns: int, *, scale: int) -> list[Image.Image]:
    """The frames of a film, in each all images side by side.

    Args:
        frames: Images after every step, each ``[N, H, W, 3]``.
        columns: Images per row.
        scale: Enlargement, without smoothing. What is larger than `LONGEST_SIDE` is made smaller.
    """
    sheets = [Image.fromarray(image_grid(images, columns, gap=0)) for images in frames]
    width, height = (side * scale for side in sheets[0].size)
    shrunk = min(1.0, LONGEST_SIDE / max(width, height))
    size = (max(1, round(width * shrunk)), max(1, round(height * shrunk)))
    how = Image.Resampling.NEAREST if shrunk == 1.0 else Image.Resampling.LANCZOS
    return [sheet.resize(size, how) for sheet in sheets]


def write_film(frames: Sequence[Image.Image], path: Path) -> None:
    """Writes a film of frames of one size, a GIF or an MP4 as its suffix says.

    Every frame is shown for `STEP_MS`, the last one for `HOLD_MS`.

    Raises:
        InvalidInputError: It is an MP4, and imageio-ffmpeg is not installed.
    """
    with atomic(path) as partial:
        if path.suffix.lower() == ".mp4":
            _write_mp4(frames, partial)
        else:
            _write_gif(frames, partial)


def _write_gif(frames: Sequence[Image.Image], path: Path) -> None:
    """With one palette for all frames, so that nothing flickers."""
    width, height = frames[0].size
    factor = int(np.ceil(np.sqrt(max(1.0, width * height * len(frames) / PALETTE_PIXELS))))
    small = [frame.reduce(factor) for frame in frames]
    together = Image.new("RGB", (small[0].width, small[0].height * len(small)))
    for number, frame in enumerate(small):
        together.paste(frame, (0, frame.height * number))
    palette = together.quantize(COLOURS, kmeans=1)
    coded = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [STEP_MS] * (len(frames) - 1) + [HOLD_MS]
    coded[0].save(
        path, save_all=True, append_images=coded[1:], duration=durations, loop=0, optimize=True
    )


def _write_mp4(frames: Sequence[Image.Image], path: Path) -> None:
    """In H.264 with 4:2:0 colours, which every player reads and which takes even sides."""
    width, height = (side + side % 2 for side in frames[0].size)
    writer = _ffmpeg().write_frames(
        str(path),
        (width, height),
        fps=FPS,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=None,  # as the CRF says
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-crf", "18"],
    )
    writer.send(None)
    try:
        for number, frame in enumerate(frames):
            even = Image.new("RGB", (width, height), "white")
            even.paste(frame)
            shown = HOLD_MS if number == len(frames) - 1 else STEP_MS
            for _ in range(shown * FPS // 1000):
                writer.send(even.tobytes())
    finally:
        writer.close()


def _ffmpeg() -> Any:
    """The package that brings ffmpeg.

    Raises:
        InvalidInputError: It is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise InvalidInputError(
            f"an MP4 needs the package imageio-ffmpeg, which is not installed ({error}): "
            "pip install imageio-ffmpeg, or expected a name such as film.gif"
        ) from error
    return imageio_ffmpeg
