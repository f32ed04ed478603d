"""Prompt sets and lists."""

import hashlib
from collections import Counter

import pytest

from diffusion_gym.emoji64.scenes import OBJECTS, parse
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.prompts import PromptList, PromptSet, load_prompts, prompt_set_names
from diffusion_gym.prompts.b2_templates import ACTIVITIES


def test_emoji_objects_are_the_countable_objects_a_quarter_of_each_kind_held_out() -> None:
    train, held_out = load_prompts("emoji-objects"), load_prompts("emoji-objects:held_out")
    named = {parse(text).objects[0] for text in (*train, *held_out)}
    countable = [index for index, item in enumerate(OBJECTS) if item.countable]
    assert sorted(stated.object_index for stated in named) == countable
    assert all(stated.style is None for stated in named)
    assert (len(train), len(held_out)) == (100, 30)
    kinds = Counter(OBJECTS[parse(text).objects[0].object_index].kind for text in held_out)
    assert kinds == {"animal": 12, "food": 4, "thing": 8, "shape": 6}


def test_emoji_captions_cover_the_grammar() -> None:
    train, held_out = load_prompts("emoji-captions:train"), load_prompts("emoji-captions:held_out")
    assert (len(train), len(held_out)) == (512, 256)
    assert not set(train) & set(held_out)
    kinds = Counter(parse(text).kind for text in held_out)
    assert kinds == {"single": 64, "and": 64, "relation": 64, "count": 64}
    shares = Counter(parse(text).kind for text in train)
    for kind, share in {"single": 0.35, "and": 0.15, "relation": 0.35, "count": 0.15}.items():
        assert shares[kind] / 512 == pytest.approx(share, abs=0.06)
    stated = [parse(text).background is not None for text in train]
    assert sum(stated) / 512 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("spec", "content_hash"),
    [
        ("emoji-objects:train", "76b8ad1a3e85"),
        ("emoji-objects:held_out", "ce4570f95552"),
        ("emoji-captions:train", "1d3fa77704a0"),
        ("emoji-captions:held_out", "8f628c660f56"),
        # Taken of the lists in the methods' repositories, in the same way.
        ("animals:train", "9f86b8fb6cb1"),
        ("animals:held_out", "e31390585961"),
        ("imagenet-animals:train", "0cac1c31c4b9"),
        ("b2-activities:train", "759da18b256e"),
        ("b2-activities:held_out", "c8a386e91adc"),
        ("b2-colours:train", "c0c9c2f1839e"),
        ("b2-colours:held_out", "97b9c738d8f7"),
        ("b2-relations:train", "4f334de08993"),
        ("b2-relations:held_out", "189263948af3"),
    ],
)
def test_built_in_sets_never_change(spec: str, content_hash: str) -> None:
    assert load_prompts(spec).content_hash.startswith(content_hash)


@pytest.mark.parametrize(
    ("name", "train", "held_out", "first", "last"),
    [
        ("animals", 45, 8, "cat", "jellyfish"),
        ("b2-activities", 45, 90, "a cat washing dishes", "a kangaroo riding a bike"),
        ("b2-colours", 40, 40, "red apple", "white brussels sprouts"),
        ("b2-relations", 40, 30, "chair under umbrella", "road on the left of tree"),
    ],
)
def test_published_sets(name: str, train: int, held_out: int, first: str, last: str) -> None:
    parts = load_prompts(name), load_prompts(f"{name}:held_out")
    assert tuple(map(len, parts)) == (train, held_out)
    assert (parts[0][0], parts[1][-1]) == (first, last)


def test_imagenet_animals_have_all_their_names_and_nothing_held_out() -> None:
    prompts = load_prompts("imagenet-animals")
    assert len(prompts) == 398
    assert prompts[0] == "tench, Tinca tinca"
    with pytest.raises(InvalidInputError, match="imagenet-animals:held_out must hold at least one"):
        load_prompts("imagenet-animals:held_out")


def test_the_templates_are_what_they_say() -> None:
    animals = load_prompts("animals").texts
    activities = [*load_prompts("b2-activities"), *load_prompts("b2-activities:held_out")]
    everything = {f"a {animal} {activity}" for animal in animals for activity in ACTIVITIES}
    assert set(activities) == everything
    trained = {prompt.split(" ", 1)[1] for prompt in load_prompts("b2-colours")}
    tested = {prompt.split(" ", 1)[1] for prompt in load_prompts("b2-colours:held_out")}
    assert len(trained) == 20
    assert trained < tested
    relations = ("behind", "in the front of")
    assert not [text for text in load_prompts("b2-relations") if any(r in text for r in relations)]
    held_out = load_prompts("b2-relations:held_out")
    assert sum(any(f" {r} " in text for r in relations) for text in held_out) == 10
    assert "trash can in the front of cabinet" in held_out.texts


def test_train_is_the_default_part() -> None:
    assert load_prompts("emoji-objects") == load_prompts("emoji-objects:train")
    assert load_prompts("emoji-objects").name == "emoji-objects:train"


def test_a_list_of_texts_is_a_prompt_set() -> None:
    prompts = load_prompts(["a cat", "a dog"])
    assert (len(prompts), prompts[1], prompts[:1]) == (2, "a dog", ("a cat",))
    assert list(prompts) == ["a cat", "a dog"]


def test_the_hash_is_that_of_texts_and_order() -> None:
    prompts = load_prompts(["a cat", "a dog"])
    expected = hashlib.sha256(b'["a cat", "a dog"]').hexdigest()
    assert prompts.content_hash == expected
    assert load_prompts(["a dog", "a cat"]).content_hash != expected
    assert PromptList("other name", ("a cat", "a dog")).content_hash == expected


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ([], "list must hold at least one prompt"),
        (["a cat", ""], "prompt 1 must be a text"),
        (["a cat", 3], "prompt 1 must be a text"),
        (["a cat", "a cat"], "prompts must differ, got 'a cat' twice or more"),
        ([f"prompt {i // 2}" for i in range(10_000)], "'prompt 2' and 4997 others twice or more"),
        (["x" * 100_000] * 2, "twice or more"),
        (["a cat", "\ud800"], "prompt 1 must be made of characters"),
        (["a\0cat"], "prompt 0 must be made of characters"),
        (["a cat", b"a dog"], "prompt 1 must be a text"),
        ({"a cat": 1}, "expected prompts as a list of texts, .*, got dict: {'a cat': 1}"),
        ({"a cat"}, "got set"),
        (b"animals", "got bytes"),
        (len, "got builtin_function_or_method"),
        (3, "got int: 3"),
        (None, "got NoneType"),
        ("emoji", r"unknown prompt set 'emoji'; known: animals\[:held_out\], .*emoji-captions"),
        ("emoji-objects:test", "unknown prompt set 'emoji-objects:test'"),
        ("nowhere.txt", "nowhere.txt does not exist"),
    ],
)
def test_bad_specifications_are_refused(spec: object, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason) as error:
        load_prompts(spec)
    assert len(str(error.value)) < 600


def test_no_prompt_is_both_trained_and_tested() -> None:
    with pytest.raises(InvalidInputError, match="train and held_out share"):
        PromptSet("mine", ("a cat", "a dog"), ("a dog",))
    for name in set(prompt_set_names()) - {"imagenet-animals"}:
        assert not set(load_prompts(name)) & set(load_prompts(f"{name}:held_out"))
