"""Captions and the scenes that they state."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_gym.emoji64.scenes import (
    BACKGROUNDS,
    COUNTS,
    KINDS,
    OBJECTS,
    RELATIONS,
    STYLES,
    Scene,
    StatedObject,
    article,
    caption,
    parse,
    plural,
)
from diffusion_gym.errors import InvalidInputError

INDEX = {item.name: index for index, item in enumerate(OBJECTS)}
COUNTABLE = [index for index, item in enumerate(OBJECTS) if item.countable]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    kind = draw(st.sampled_from(KINDS))
    pool = COUNTABLE if kind == "count" else range(len(OBJECTS))
    names = 2 if kind in ("and", "relation") else 1
    indices = draw(st.lists(st.sampled_from(pool), min_size=names, max_size=names, unique=True))
    style = st.none() | st.sampled_from(STYLES)
    return Scene(
        kind,
        tuple(StatedObject(index, draw(style)) for index in indices),
        draw(st.sampled_from(sorted(COUNTS))) if kind == "count" else names,
        draw(st.sampled_from(RELATIONS)) if kind == "relation" else None,
        draw(st.none() | st.sampled_from(sorted(BACKGROUNDS))),
    )


@settings(max_examples=500, deadline=None)
@given(scenes())
def test_every_scene_survives_the_way_through_its_caption(scene: Scene) -> None:
    assert parse(caption(scene)) == scene


@settings(max_examples=200, deadline=None)
@given(scenes(), scenes())
def test_different_scenes_have_different_captions(first: Scene, second: Scene) -> None:
    assert (caption(first) == caption(second)) == (first == second)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("a an two three cat cats red circle 3d on and above".split())))
def test_whatever_is_accepted_is_the_caption_of_its_scene(words: list[str]) -> None:
    text = " ".join(words)
    try:
        scene = parse(text)
    except InvalidInputError:
        return
    assert caption(scene) == text


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("a cat", Scene("single", (StatedObject(INDEX["cat"]),))),
        ("grapes", Scene("single", (StatedObject(INDEX["grapes"]),))),
        (
            "an orange on an orange background",
            Scene("single", (StatedObject(INDEX["orange"]),), background="orange"),
        ),
        (
            "a flat orange circle and 3d bread",
            Scene(
                "and",
                (StatedObject(INDEX["orange circle"], "flat"), StatedObject(INDEX["bread"], "3d")),
                2,
            ),
        ),
        (
            "an apple to the left of a cartoon owl on a white background",
            Scene(
                "relation",
                (StatedObject(INDEX["apple"]), StatedObject(INDEX["owl"], "cartoon")),
                2,
                "to the left of",
                "white",
            ),
        ),
        ("two fish", Scene("count", (StatedObject(INDEX["fish"]),), 2)),
        ("four 3d ice creams", Scene("count", (StatedObject(INDEX["ice cream"], "3d"),), 4)),
    ],
)
def test_reads_captions(text: str, scene: Scene) -> None:
    assert parse(text) == scene
    assert caption(scene) == text


def test_letter_case_and_spaces_do_not_matter() -> None:
    assert parse("  A 3D  cat on a Blue background ") == parse("a 3d cat on a blue background")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unknown object ''; known: airplane"),
        ("cat", "did you mean 'a cat'"),
        ("an cat", "did you mean 'a cat'"),
        ("an 3d apple", "did you mean 'a 3d apple'"),
        ("a cat on an blue background", "did you mean 'a cat on a blue background'"),
        ("a dragon", "unknown object 'dragon'"),
        ("a cat on a mauve background", "unknown background 'mauve'; known: black, blue"),
        ("a cat and a cat", "must differ"),
        ("two grapes", "unknown object 'grapes'"),
        ("two cat", "unknown object 'cat'; known: airplanes"),
        ("five cats", "unknown object 'five cats'"),
        ("a cat and a dog and a bus", "unknown object"),
    ],
)
def test_what_is_no_caption_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match="is not a caption of the emoji scenes") as error:
        parse(text)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("group", ((0, None),)), "unknown kind of scene 'group'"),
        (("single", ()), "names 1 object"),
        (("and", ((0, None),), 2), "names 2 object"),
        (("and", ((0, None), (0, "3d")), 2), "must differ"),
        (("single", ((137, None),)), "lies in"),
        (("single", ((0, "oil"),)), "unknown style 'oil'; known: 3d, cartoon, flat"),
        (("single", ((0, None),), 2), "got count 2"),
        (("count", ((0, None),), 5), "got 5"),
        (("count", ((INDEX["bread"], None),), 2), "'bread' cannot be counted"),
        (("relation", ((0, None), (1, None)), 2), "states a relation; got None"),
        (("relation", ((0, None), (1, None)), 2, "near"), "unknown relation 'near'; known: above"),
        (("and", ((0, None), (1, None)), 2, "above"), "states a relation; got 'above'"),
        (("single", ((0, None),), 1, None, "mauve"), "unknown background 'mauve'"),
    ],
)
def test_a_scene_outside_the_grammar_cannot_be_made(arguments: tuple, reason: str) -> None:
    kind, objects, *rest = arguments
    with pytest.raises(InvalidInputError, match=r".") as error:
        Scene(kind, tuple(StatedObject(*stated) for stated in objects), *rest)
    assert reason in str(error.value)


def test_articles_and_plurals() -> None:
    assert [article(INDEX[name]) for name in ("apple", "cat", "books")] == ["an", "a", ""]
    assert [article(INDEX[name], "flat") for name in ("apple", "books")] == ["a", ""]
    names = ("mouse", "fish", "butterfly", "fox", "bus")
    plurals = ["mice", "fish", "butterflies", "foxes", "buses"]
    assert [plural(INDEX[name]) for name in names] == plurals


def test_scenes_load_no_network_library() -> None:
    modules = "sys, diffusion_gym.emoji64.scenes, diffusion_gym.prompts"
    code = f"import {modules}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
