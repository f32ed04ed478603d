"""Which icon of the three icon sets draws which object of the scenes.

Most icons carry the object's own name, with hyphens for spaces; the table holds the others. All
three sets must have the icon, so that every object exists in every style.
"""

from diffusion_gym.emoji64.scenes import OBJECTS

ICON_SETS: tuple[str, ...] = ("noto", "fluent-emoji", "fluent-emoji-flat")
"""Folder of each style's set, in the order of the styles: cartoon, 3d, flat."""

_FACES = (
    "cat",
    "dog",
    "horse",
    "tiger",
    "cow",
    "pig",
    "mouse",
    "rabbit",
    "monkey",
)

_OTHER_NAMES = {
    "apple": "red-apple",
    "bee": "honeybee",
    "black square": "black-large-square",
    "cake": "birthday-cake",
    "car": "automobile",
    "cheese": "cheese-wedge",
    "gem": "gem-stone",
    "gift": "wrapped-gift",
    "ice cream": "soft-ice-cream",
    "ladybug": "lady-beetle",
    "lightbulb": "light-bulb",
    "moon": "crescent-moon",
    "orange": "tangerine",
    "sheep": "ewe",
    "squirrel": "chipmunk",
    "tree": "evergreen-tree",
    "white square": "white-large-square",
}


def icon_name(object_name: str) -> str:
    """Name of the icon that draws an object, for example ``"red-apple"`` for ``"apple"``."""
    if object_name in _FACES:
        return f"{object_name}-face"
    return _OTHER_NAMES.get(object_name, object_name.replace(" ", "-"))


def all_icons() -> tuple[str, ...]:
    """Icon names of all objects, in the order of the class ids."""
    return tuple(icon_name(item.name) for item in OBJECTS)
