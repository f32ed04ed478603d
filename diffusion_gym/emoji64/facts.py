"""Whether a picture shows what a caption states, fact by fact."""

from typing import NamedTuple

from diffusion_gym.emoji64.scenes import Scene, StatedObject

FACTS = ("objects", "count", "relation", "background", "style")
"""The facts a caption can state: ``objects`` and ``count`` always, the others where it says so."""


class DetectedObject(NamedTuple):
    """An object found in a picture.

    Attributes:
        object_index: Index into :data:`diffusion_gym.emoji64.scenes.OBJECTS`.
        style: Name of the drawing style.
        x: Horizontal position of the centre, in pixels from the left.
        y: Vertical position of the centre, in pixels from the top.
        score: Probability that an object is centred there.
        probability: Probability that it is the object named by ``object_index``.
    """

    object_index: int
    style: str
    x: float
    y: float
    score: float
    probability: float


class DetectedScene(NamedTuple):
    """Everything that was found in a picture."""

    objects: tuple[DetectedObject, ...]
    background: str
    background_probability: float


def check_scene(found: DetectedScene, wanted: Scene, margin: float) -> dict[str, bool]:
    """Compares a picture with the scene that a caption states.

    Args:
        found: What the picture shows.
        wanted: What the caption states.
        margin: How far apart the objects of a relation must be along its axis, in pixels.

    Returns:
        One entry for each of :data:`FACTS` that the caption states: ``objects`` (these and no
        others, each as often as stated), ``count`` (as many objects as stated, whichever they are),
        ``relation``, ``background`` and ``style`` (each object in its stated style).
    """
    names = wanted.objects * (wanted.count if wanted.kind == "count" else 1)
    facts = {
        "objects": sorted(item.object_index for item in found.objects)
        == sorted(stated.object_index for stated in names),
        "count": len(found.objects) == wanted.count,
    }
    if wanted.relation is not None:
        facts["relation"] = _shows_relation(found, wanted.objects, wanted.relation, margin)
    if wanted.background is not None:
        facts["background"] = found.background == wanted.background
    if any(stated.style is not None for stated in names):
        shown = [(item.object_index, item.style) for item in found.objects]
        facts["style"] = all(_take(shown, stated.object_index, stated.style) for stated in names)
    return facts


def _take(shown: list[tuple[int, str]], index: int, style: str | None) -> bool:
    """Removes one object of this index and style (None: any style) from those shown."""
    for item in shown:
        if item[0] == index and style in (None, item[1]):
            shown.remove(item)
            return True
    return False


def _shows_relation(
    found: DetectedScene, pair: tuple[StatedObject, ...], relation: str, margin: float
) -> bool:
    first, second = (
        [item for item in found.objects if item.object_index == stated.object_index]
        for stated in pair
    )
    if len(first) != 1 or len(second) != 1:
        return False
    right, down = first[0].x - second[0].x, first[0].y - second[0].y
    along, across = {
        "to the left of": (-right, down),
        "to the right of": (right, down),
        "above": (-down, right),
        "below": (down, right),
    }[relation]
    return along > margin and along > abs(across)
