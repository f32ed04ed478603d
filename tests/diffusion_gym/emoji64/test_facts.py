"""Comparing what a picture shows with what a caption states, by hand-made findings."""

import pytest

from diffusion_gym.emoji64.facts import DetectedObject, DetectedScene, check_scene
from diffusion_gym.emoji64.scenes import OBJECTS, parse

INDEX = {item.name: index for index, item in enumerate(OBJECTS)}
MARGIN = 6.0


def shows(*objects: tuple[str, str, float, float], background: str = "white") -> DetectedScene:
    items = [DetectedObject(INDEX[name], style, x, y, 1.0, 1.0) for name, style, x, y in objects]
    return DetectedScene(tuple(items), background, 1.0)


def check(found: DetectedScene, text: str) -> dict[str, bool]:
    return check_scene(found, parse(text), MARGIN)


def test_only_stated_facts_are_checked() -> None:
    cat = shows(("cat", "3d", 32, 32))
    assert check(cat, "a cat") == {"objects": True, "count": True}
    assert set(check(cat, "a 3d cat")) == {"objects", "count", "style"}
    assert set(check(cat, "a cat on a red background")) == {"objects", "count", "background"}
    assert set(check(cat, "a cat above a dog")) == {"objects", "count", "relation"}


def test_the_wrong_object_in_the_right_number() -> None:
    assert check(shows(("dog", "3d", 32, 32)), "a cat") == {"objects": False, "count": True}


@pytest.mark.parametrize(("shown", "right"), [(1, False), (2, False), (3, True), (4, False)])
def test_counts(shown: int, right: bool) -> None:
    found = shows(*[("cat", "flat", 16.0 * place, 16.0) for place in range(shown)])
    assert check(found, "three cats") == {"objects": right, "count": right}


def test_an_additional_object_is_wrong() -> None:
    found = shows(("cat", "3d", 16, 32), ("dog", "3d", 48, 32), ("dog", "3d", 48, 60))
    assert check(found, "a cat and a dog") == {"objects": False, "count": False}
    assert check(found, "a cat to the left of a dog")["relation"] is False


def test_styles_belong_to_their_objects() -> None:
    found = shows(("cat", "3d", 16, 32), ("dog", "flat", 48, 32))
    assert check(found, "a 3d cat and a flat dog")["style"]
    assert check(found, "a 3d cat and a dog")["style"]
    assert not check(found, "a flat cat and a 3d dog")["style"]
    assert not check(found, "a flat cat and a dog")["style"]


def test_every_copy_needs_the_stated_style() -> None:
    both = shows(("cat", "flat", 16, 16), ("cat", "flat", 48, 16))
    one = shows(("cat", "flat", 16, 16), ("cat", "3d", 48, 16))
    assert check(both, "two flat cats")["style"]
    assert not check(one, "two flat cats")["style"]


@pytest.mark.parametrize(
    ("x", "y", "true"),
    [
        (-20, 0, "to the left of"),
        (20, 0, "to the right of"),
        (0, -20, "above"),
        (0, 20, "below"),
        (-20, 19, "to the left of"),
        (19, -20, "above"),
        (-6, 0, None),  # not beyond the margin
        (-20, 20, None),  # neither axis is the longer one
    ],
)
def test_relations(x: int, y: int, true: str | None) -> None:
    found = shows(("cat", "3d", 32 + x, 32 + y), ("dog", "3d", 32, 32))
    for relation in ("to the left of", "to the right of", "above", "below"):
        assert check(found, f"a cat {relation} a dog")["relation"] is (relation == true)


def test_backgrounds() -> None:
    found = shows(("cat", "3d", 32, 32), background="black")
    assert check(found, "a cat on a black background")["background"]
    assert not check(found, "a cat on a gray background")["background"]
