"""What users write into pictures is no markup, and never ends a run."""

import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text
from PIL import Image

from agents.evaluation import pictures
from agents.evaluation.pictures import (
    CAPTION_LINES,
    CAPTION_WIDTH,
    before_after,
    caption,
    credit_per_step,
    reward_curve,
)

NASTY = [
    "throwing money $$ in the air",
    r"$\frac{a}$ and \frac{1}{2}",
    r"$\undefined{$",
    "a_b^c {d} & % # ~",
    "a cat\nwith\ttabs\r\n and \x00\x1b[31m bells\x07",
    "🦊 a fox 👩‍👩‍👧 with 👍🏽 skin",
    "一只在月光下的猫坐在屋顶上看着远处的城市灯光和星星",
    "W" * 60,
    "word " * 20_000,
    "x" * 50_000,
    "\u202eright to left\u202c \ud800 lone",
    "\x00\x01",
    "$",
    "مرحبا بالعالم",
]


@pytest.fixture(autouse=True)
def every_warning_is_an_error() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Text]:
    """Every text that was drawn, as it was when the picture was saved."""
    texts: list[Text] = []
    real = pictures._save

    def save(figure: Any, path: Path) -> None:
        real(figure, path)
        texts.extend(figure.findobj(Text))

    monkeypatch.setattr(pictures, "_save", save)
    return texts


def images(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 255, (count, 1, 8, 8, 3), dtype=np.uint8)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_any_prompt_is_shown_as_it_is(drawn: list[Text], tmp_path: Path) -> None:
    before_after(images(len(NASTY)), images(len(NASTY)), NASTY, tmp_path / "grid.png")
    shown = [text.get_text() for text in drawn]
    assert "throwing money $$ in\nthe air" in shown
    assert "$\\frac{a}$ and\n\\frac{1}{2}" in shown
    assert "$\\undefined{$" in shown
    assert "a_b^c {d} & % # ~" in shown
    assert "a cat with tabs and\n[31m bells" in shown
    assert not any(text.get_parse_math() or text.get_usetex() for text in drawn)
    width, height = size(tmp_path / "grid.png")
    assert width < 2000
    assert height < 1000


def test_captions_stay_below_their_pictures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def look(figure: Any, path: Path) -> None:
        figure.draw_without_rendering()  # puts labels in their places
        for axis in (axis for part in figure.subfigs for axis in part.axes if axis.get_xlabel()):
            label, picture = axis.xaxis.label.get_window_extent(), axis.get_window_extent()
            assert label.width <= 1.1 * picture.width  # letters come in whole pixels
            assert label.y1 < picture.y0
            assert label.y0 >= 0
            seen.append(axis.get_xlabel())
        plt.close(figure)

    monkeypatch.setattr(pictures, "_save", look)
    before_after(images(10), images(10), NASTY[:10], tmp_path / "grid.png")
    assert len(seen) == 10


@pytest.mark.parametrize("prompt", NASTY, ids=range(len(NASTY)))
def test_every_prompt_alone(prompt: str, tmp_path: Path) -> None:
    before_after(images(1), images(1), [prompt], tmp_path / "grid.png")
    assert size(tmp_path / "grid.png")[1] < 600
    lines = caption(prompt).split("\n")
    assert len(lines) <= CAPTION_LINES
    assert all(len(line) <= CAPTION_WIDTH for line in lines)


def test_a_rewards_name_is_no_markup(drawn: list[Text], tmp_path: Path) -> None:
    name = r"$my_\frac reward$ 🦊 with a name that goes on and on beyond what any axis can show"
    reward_curve([4, 8], [0.1, float("nan")], (0.2, float("nan")), name, tmp_path / "curve.png")
    credit_per_step([0.1, 0.2, 0.7], tmp_path / "credit.png")
    assert any(text.get_text().startswith(r"$my_\frac reward$ 🦊 with") for text in drawn)
    assert max(len(text.get_text()) for text in drawn) <= 50
    assert not any(text.get_parse_math() for text in drawn)


def test_the_users_own_settings_stay(tmp_path: Path) -> None:
    with matplotlib.rc_context({"text.parse_math": True, "text.usetex": True}):
        credit_per_step([0.5, 0.5], tmp_path / "credit.png")
        assert matplotlib.rcParams["text.parse_math"]
        assert matplotlib.rcParams["text.usetex"]
    assert plt.get_fignums() == []


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (32, 32)])
def test_pictures_keep_the_proportions_of_their_images(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    """Red below, so that its height tells the image's, and no band of white beside it."""
    images = np.zeros((2, 1, *shape, 3), np.uint8)
    images[..., 0] = 255
    before_after(images, images, ["a", "b"], tmp_path / "pairs.png")
    with Image.open(tmp_path / "pairs.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 240) & (pixels[..., 1:] < 20).all(-1)
    heights = np.diff(np.flatnonzero(np.diff(np.r_[0, red.any(1), 0])))[::2]
    widths = np.diff(np.flatnonzero(np.diff(np.r_[0, red.any(0), 0])))[::2]
    assert len(heights) == len(widths) == 2
    assert heights / widths == pytest.approx(shape[0] / shape[1], rel=0.05)
    assert widths.sum() > 0.6 * red.shape[1]
