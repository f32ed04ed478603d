"""The sprites: every object in every style as a small RGBA picture, rendered from three icon sets.

The rendered atlas lies in ``data/atlas.npz``. To render it again, get the icon sets by npm
(they hold SVG bodies in one ``icons.json`` each) and point this module at them::

    npm install --prefix icons @iconify-json/noto@1.2.9 \
        @iconify-json/fluent-emoji@1.2.7 @iconify-json/fluent-emoji-flat@1.2.6
    python -m benchmarks.emoji64.sprites --icons icons/node_modules/@iconify-json --out atlas.npz

With these versions and resvg_py 0.5.0 the result equals ``data/atlas.npz`` bit for bit.
"""

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.emoji64.icons import ICON_SETS, all_icons
from diffusion_gym.emoji64.scenes import OBJECTS, STYLES
from diffusion_gym.errors import InvalidInputError

ATLAS_FILE = Path(__file__).parent / "data" / "atlas.npz"

SPRITE_SIZE = 64
CONTENT_SIZE = 60
VISIBLE_ALPHA = 8

IconSet = Mapping[str, Any]
"""The parsed ``icons.json`` of one iconify package."""

Atlas = npt.NDArray[np.uint8]
"""Sprites of all styles and objects, RGBA with straight alpha, ``[styles, objects, 64, 64, 4]``."""


def read_icon_sets(folder: Path) -> list[IconSet]:
    """Reads the three icon sets.

    Args:
        folder: Holds one folder per set, as ``node_modules/@iconify-json`` does.

    Returns:
        The sets in the order of the styles.

    Raises:
        InvalidInputError: A set is missing.
    """
    sets = []
    for name in ICON_SETS:
        file = folder / name / "icons.json"
        if not file.is_file():
            raise InvalidInputError(
                f"expected the icon set {file}, and it is not there; "
                f"the sets {', '.join(ICON_SETS)} come from npm as @iconify-json/<set>"
            )
        sets.append(json.loads(file.read_text(encoding="utf-8")))
    return sets


def icon_svg(icon_set: IconSet, icon: str, size: int) -> str:
    """The stand-alone SVG document of one icon, ``size`` pixels wide and high."""
    if icon not in icon_set["icons"]:
        raise InvalidInputError(f"the icon set {icon_set['prefix']!r} has no icon {icon!r}")
    entry = icon_set["icons"][icon]
    # An icon states its box only where it differs from that of its set; 16 is iconify's default.
    width = entry.get("width", icon_set.get("width", 16))
    height = entry.get("height", icon_set.get("height", 16))
    view_box = f"{entry.get('left', 0)} {entry.get('top', 0)} {width} {height}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view_box}" width="{size}" height="{size}">{entry["body"]}</svg>'
    )


def centre_content(picture: Image.Image) -> Image.Image:
    """Crops an RGBA picture to what is visible and scales that to the middle of a sprite."""
    visible = np.asarray(picture)[..., 3] > VISIBLE_ALPHA
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if len(rows) == 0:
        raise InvalidInputError("expected an icon with visible content, and it is empty")
    content = picture.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    side = max(content.size)
    square = Image.new("RGBA", (side, side))
    square.paste(content, ((side - content.width) // 2, (side - content.height) // 2))
    square = square.resize((CONTENT_SIZE, CONTENT_SIZE), Image.Resampling.LANCZOS)
    margin = (SPRITE_SIZE - CONTENT_SIZE) // 2
    sprite = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
    sprite.paste(square, (margin, margin))
    return sprite


def render_sprites(icon_sets: Sequence[IconSet], icons: Sequence[str]) -> Atlas:
    """Renders every icon from every set.

    Args:
        icon_sets: One set per style.
        icons: Names of the icons.

    Returns:
        uint8 ``[styles, icons, 64, 64, 4]``, RGBA with straight alpha.
    """
    import resvg_py  # only rendering needs it; composing scenes from the atlas does not

    atlas = np.zeros((len(icon_sets), len(icons), SPRITE_SIZE, SPRITE_SIZE, 4), np.uint8)
    for style, icon_set in enumerate(icon_sets):
        for index, icon in enumerate(icons):
            png = bytes(resvg_py.svg_to_bytes(svg_string=icon_svg(icon_set, icon, SPRITE_SIZE)))
            picture = Image.open(io.BytesIO(png)).convert("RGBA")
            # Icons that are not square come out flatter than asked for.
            picture = picture.resize((SPRITE_SIZE, SPRITE_SIZE))
            atlas[style, index] = np.asarray(centre_content(picture))
    return atlas


def render_atlas(folder: Path) -> Atlas:
    """Renders every object in every style from the icon sets of a folder."""
    return render_sprites(read_icon_sets(folder), all_icons())


def save_atlas(atlas: Atlas, file: Path) -> None:
    """Writes an atlas with the names and kinds of its objects."""
    np.savez_compressed(
        file,
        atlas=atlas,
        kinds=np.array([item.kind for item in OBJECTS]),
        names=np.array([item.name for item in OBJECTS]),
    )


def load_atlas(file: Path = ATLAS_FILE) -> Atlas:
    """Reads an atlas.

    Returns:
        uint8 ``[styles, objects, 64, 64, 4]``.

    Raises:
        InvalidInputError: Its objects or styles are not those of the scenes.
    """
    with np.load(file) as content:
        names = [str(name) for name in content["names"]]
        atlas: Atlas = content["atlas"]
    expected = [item.name for item in OBJECTS]
    if names != expected or len(atlas) != len(STYLES):
        raise InvalidInputError(
            f"expected {len(expected)} objects in {len(STYLES)} styles, in the order of the "
            f"scenes; {file} has {len(names)} objects in {len(atlas)} styles"
        )
    return atlas


def main() -> None:
    """Command line: renders the atlas."""
    parser = argparse.ArgumentParser(description="Render the sprite atlas from the icon sets.")
    parser.add_argument("--icons", type=Path, required=True, help="folder of the icon sets")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    arguments = parser.parse_args()
    try:
        save_atlas(render_atlas(arguments.icons), arguments.out)
    except InvalidInputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
