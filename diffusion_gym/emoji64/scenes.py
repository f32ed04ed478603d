"""The language of the emoji scenes: what a caption can say, as text and as a structure.

The embedded model was trained on pictures of one to four emoji on a plain background, and on
captions of this grammar::

    caption  := scene [ "on" ("a"|"an") COLOUR "background" ]
    scene    := one | one "and" one | one RELATION one | COUNT [STYLE] PLURAL
    one      := ["a"|"an"] [STYLE] NOUN

:func:`caption` writes a :class:`Scene` as text and :func:`parse` reads it back. Pure Python:
rewards, prompt sets and tests share it without loading a network.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from diffusion_gym.emoji64.folder import emoji64_folder
from diffusion_gym.errors import InvalidInputError, unknown_name

Kind = Literal["single", "and", "relation", "count"]

KINDS: tuple[Kind, ...] = get_args(Kind)
"""One object, two objects anywhere, two objects in a stated relation, two to four copies."""


def _read_json(name: str) -> Any:
    return json.loads((emoji64_folder() / name).read_text(encoding="utf-8"))


class SceneObject(NamedTuple):
    """Something that can be drawn; its index in :data:`OBJECTS` is the verifier's class."""

    name: str
    plural: str
    kind: str
    article: str
    countable: bool


_CHOICES = _read_json("backgrounds.json")

OBJECTS: tuple[SceneObject, ...] = tuple(
    SceneObject(**entry) for entry in _read_json("objects.json")
)
"""All objects, in the order of the verifier's classes."""

STYLES: tuple[str, ...] = tuple(_CHOICES["styles"])
"""Drawing styles, in the order of the verifier's classes."""

BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {
    name: (red, green, blue) for name, (red, green, blue) in _CHOICES["backgrounds"].items()
}
"""Background colours as 8-bit RGB, in the order of the verifier's classes."""

COUNTS: Mapping[int, str] = {int(number): word for number, word in _CHOICES["counts"].items()}
"""The numbers a caption can state, and their words."""

RELATIONS: tuple[str, ...] = tuple(name for name in _CHOICES["relations"] if name != "and")
"""Where the first object of a caption can lie, seen from the second."""

_BY_NAME = {item.name: index for index, item in enumerate(OBJECTS)}
_BY_PLURAL = {item.plural: index for index, item in enumerate(OBJECTS) if item.countable}
_NUMBERS = {word: number for number, word in COUNTS.items()}
_BACKGROUND = re.compile(r"(?P<scene>.+) on an? (?P<colour>\w+) background")
_PAIR = re.compile(rf"(?P<first>.+) (?P<link>and|{'|'.join(RELATIONS)}) (?P<second>.+)")


class StatedObject(NamedTuple):
    """An object as a caption states it: index into :data:`OBJECTS`, and style or None."""

    object_index: int
    style: str | None = None


@dataclass(frozen=True)
class Scene:
    """Everything that a caption states about a picture.

    Attributes:
        kind: One of :data:`KINDS`.
        objects: The objects named, in order; one for the kinds "single" and "count", two otherwise.
        count: How many objects the picture shall show.
        relation: One of :data:`RELATIONS` for the kind "relation", else None.
        background: A name in :data:`BACKGROUNDS`, or None where nothing is said.

    Raises:
        InvalidInputError: The parts do not make a scene of the grammar.
    """

    kind: Kind
    objects: tuple[StatedObject, ...]
    count: int = 1
    relation: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        """Checks that the parts fit each other."""
        _check_choices(self)
        expected = 2 if self.kind in ("and", "relation") else 1
        if len(self.objects) != expected:
            raise InvalidInputError(
                f"a scene of kind {self.kind!r} names {expected} object(s), got {len(self.objects)}"
            )
        indices = [stated.object_index for stated in self.objects]
        if len(set(indices)) != len(indices):
            raise InvalidInputError(f"the objects of a pair must differ, got {indices} twice")
        _check_count(self)
        if (self.relation is not None) != (self.kind == "relation"):
            raise InvalidInputError(
                f"the kind 'relation', and no other, states a relation; "
                f"got {self.relation!r} for {self.kind!r}"
            )


def _check_choices(scene: Scene) -> None:
    if scene.kind not in KINDS:
        raise unknown_name("kind of scene", scene.kind, KINDS)
    if scene.relation is not None and scene.relation not in RELATIONS:
        raise unknown_name("relation", scene.relation, RELATIONS)
    if scene.background is not None and scene.background not in BACKGROUNDS:
        raise unknown_name("background", scene.background, BACKGROUNDS)
    for stated in scene.objects:
        if not 0 <= stated.object_index < len(OBJECTS):
            raise InvalidInputError(
                f"an object's index lies in [0, {len(OBJECTS) - 1}], got {stated.object_index}"
            )
        if stated.style is not None and stated.style not in STYLES:
            raise unknown_name("style", stated.style, STYLES)


def _check_count(scene: Scene) -> None:
    if scene.kind != "count":
        if scene.count != len(scene.objects):
            raise InvalidInputError(
                f"a scene of kind {scene.kind!r} shows {len(scene.objects)} object(s), "
                f"got count {scene.count}"
            )
        return
    if scene.count not in COUNTS:
        raise InvalidInputError(f"count must be one of {list(COUNTS)}, got {scene.count}")
    counted = OBJECTS[scene.objects[0].object_index]
    if not counted.countable:
        raise InvalidInputError(f"{counted.name!r} cannot be counted")


def article(index: int, style: str | None = None) -> str:
    """Returns "a", "an" or "" for an object, before its style where one is given.

    Args:
        index: Index into :data:`OBJECTS`.
        style: The style that stands between article and noun.
    """
    own = OBJECTS[index].article
    return "a" if own and style else own


def plural(index: int) -> str:
    """Returns the plural of an object.

    Args:
        index: Index into :data:`OBJECTS`.
    """
    return OBJECTS[index].plural


def caption(scene: Scene) -> str:
    """Writes a scene as the text that the embedded model knows.

    Args:
        scene: The scene.

    Returns:
        The caption, such as ``"a 3d cat to the left of an apple on a blue background"``.
    """
    if scene.kind == "count":
        index, style = scene.objects[0]
        text = _join(COUNTS[scene.count], style, plural(index))
    else:
        link = f" {scene.relation or 'and'} "
        text = link.join(_one(stated) for stated in scene.objects)
    if scene.background is None:
        return text
    before_colour = "an" if scene.background[0] in "aeiou" else "a"
    return f"{text} on {before_colour} {scene.background} background"


def parse(text: str) -> Scene:
    """Reads a caption back into the scene that it states.

    Letter case and repeated spaces do not matter; everything else follows the grammar exactly.

    Args:
        text: A caption of the grammar.

    Returns:
        The scene; ``caption(parse(text)) == text``.

    Raises:
        InvalidInputError: The text is not of the grammar.
    """
    text = " ".join(text.lower().split())
    matched = _BACKGROUND.fullmatch(text)
    body, background = (matched["scene"], matched["colour"]) if matched else (text, None)
    try:
        scene = _parse_body(body, background)
    except InvalidInputError as error:
        raise InvalidInputError(f"{text!r} is not a caption of the emoji scenes: {error}") from None
    if caption(scene) != text:
        raise InvalidInputError(
            f"{text!r} is not a caption of the emoji scenes; did you mean {caption(scene)!r}?"
        )
    return scene


def _parse_body(body: str, background: str | None) -> Scene:
    first_word, _, rest = body.partition(" ")
    if first_word in _NUMBERS:
        counted = _parse_noun(rest, _BY_PLURAL)
        return Scene("count", (counted,), _NUMBERS[first_word], background=background)
    matched = _PAIR.fullmatch(body)
    if matched is None:
        return Scene("single", (_parse_one(body),), background=background)
    pair = (_parse_one(matched["first"]), _parse_one(matched["second"]))
    if matched["link"] == "and":
        return Scene("and", pair, 2, background=background)
    return Scene("relation", pair, 2, matched["link"], background)


def _parse_one(text: str) -> StatedObject:
    before, _, rest = text.partition(" ")
    return _parse_noun(rest if before in ("a", "an") else text, _BY_NAME)


def _parse_noun(text: str, nouns: Mapping[str, int]) -> StatedObject:
    before, _, rest = text.partition(" ")
    style, noun = (before, rest) if before in STYLES else (None, text)
    if noun not in nouns:
        raise unknown_name("object", noun, nouns)
    return StatedObject(nouns[noun], style)


def _one(stated: StatedObject) -> str:
    index, style = stated
    return _join(article(index, style), style, OBJECTS[index].name)


def _join(*words: str | None) -> str:
    return " ".join(word for word in words if word)
