import numpy as np
import pytest

from benchmarks.emoji64.icons import all_icons
from benchmarks.emoji64.sprites import (
    ATLAS_FILE,
    load_atlas,
    read_icon_sets,
    render_sprites,
)
from diffusion_gym.emoji64.scenes import OBJECTS
from diffusion_gym.errors import InvalidInputError


@pytest.fixture
def icon_set():
    return {
        "prefix": "made-up",
        "width": 100,
        "height": 100,
        "icons": {
            "corner": {"body": '<rect x="10" y="10" width="20" height="20" fill="#f00"/>'},
            "flat": {"body": '<rect x="10" y="40" width="80" height="20" fill="#00f"/>'},
            "own-box": {
                "body": '<circle cx="8" cy="8" r="4" fill="#0f0"/>',
                "width": 16,
                "height": 16,
            },
            "empty": {"body": ""},
        },
    }


def test_render_centres_and_scales_the_content(icon_set):
    atlas = render_sprites([icon_set], ["corner", "flat", "own-box"])

    assert atlas.shape == (1, 3, 64, 64, 4)
    corner, flat, circle = atlas[0]
    # A square fills the 60 pixels in the middle, wherever it was drawn.
    assert corner[10:54, 10:54, 3].min() > 240
    assert corner[:2].max() == corner[:, :2].max() == corner[62:].max() == 0
    np.testing.assert_array_equal(corner[32, 32], [255, 0, 0, 255])
    # A wide one keeps its proportions: 60 by 15 pixels.
    assert (flat[..., 3] > 127).any(axis=0).sum() == pytest.approx(60, abs=2)
    assert (flat[..., 3] > 127).any(axis=1).sum() == pytest.approx(15, abs=2)
    # An icon's own box replaces that of its set: with the set's the circle would be a speck.
    np.testing.assert_array_equal(circle[32, 32], [0, 255, 0, 255])
    assert (circle[..., 3] > 127).mean() == pytest.approx(np.pi * 30**2 / 64**2, rel=0.05)


@pytest.mark.parametrize(
    ("icon", "message"), [("absent", "'made-up' has no icon 'absent'"), ("empty", "it is empty")]
)
def test_icons_that_cannot_be_rendered_are_named(icon_set, icon, message):
    with pytest.raises(InvalidInputError, match=message):
        render_sprites([icon_set], [icon])


def test_missing_icon_sets_are_named(tmp_path):
    with pytest.raises(InvalidInputError, match=r"noto/icons\.json"):
        read_icon_sets(tmp_path)


def test_shipped_atlas_shows_every_object_in_every_style():
    atlas = load_atlas()

    assert atlas.shape == (3, len(OBJECTS), 64, 64, 4)
    assert len(set(all_icons())) == len(OBJECTS)
    visible = (atlas[..., 3] > 127).mean((2, 3))
    assert visible.min() > 0.05


def test_atlas_of_other_objects_is_refused(tmp_path):
    with np.load(ATLAS_FILE) as content:
        np.savez(tmp_path / "other.npz", atlas=content["atlas"], names=content["names"][::-1])
    with pytest.raises(InvalidInputError, match="in the order of the scenes"):
        load_atlas(tmp_path / "other.npz")
