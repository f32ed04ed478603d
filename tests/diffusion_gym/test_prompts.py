"""Prompt sets, files and lists."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.prompts import Prompts, PromptSet, load_prompts, prompt_set_names
from diffusion_gym.scenes import OBJECTS, parse


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
    ],
)
def test_built_in_sets_never_change(spec: str, content_hash: str) -> None:
    assert load_prompts(spec).content_hash.startswith(content_hash)


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
    assert Prompts("other name", ("a cat", "a dog")).content_hash == expected


def test_text_files_hold_one_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  ein Bär \n", encoding="utf-8")
    assert load_prompts(str(file)).texts == ("a cat", "ein Bär")
    assert load_prompts(f"{file}:train").texts == ("a cat", "ein Bär")
    with pytest.raises(InvalidInputError, match="held_out must hold at least one prompt"):
        load_prompts(f"{file}:held_out")


def test_json_files_hold_a_list_or_both_parts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(["a cat", "a dog"]))
    assert load_prompts(str(file)).texts == ("a cat", "a dog")
    file.write_text(json.dumps({"train": ["a cat"], "held_out": ["a dog"]}))
    assert load_prompts(str(file)).texts == ("a cat",)
    assert load_prompts(f"{file}:held_out").texts == ("a dog",)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.txt", "\n \n", "at least one prompt"),
        ("p.txt", "a cat\na dog\na cat\n", r"twice or more: \['a cat'\]"),
        ("p.json", "{", "not valid JSON"),
        ("p.json", "[]", "at least one prompt"),
        ("p.json", '[["a cat"]]', "must hold a list of prompts"),
        ("p.json", '"a cat"', "must hold a list of prompts"),
        ("p.json", '{"test": ["a cat"]}', "must hold a list of prompts"),
        ("p.json", '{"train": ["a cat", " "]}', "prompt 1 must be a text that is not empty"),
        ("p.json", '{"train": ["a cat"], "held_out": ["a cat"]}', r"share \['a cat'\]"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: str, reason: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(InvalidInputError, match=reason) as error:
        load_prompts(str(file))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ([], "at least one prompt"),
        (["a cat", ""], "prompt 1 must be a text"),
        (["a cat", 3], "prompt 1 must be a text"),
        (["a cat", "a cat"], "twice or more"),
        ("emoji", r"unknown prompt set 'emoji'; known: emoji-captions\[:held_out\]"),
        ("emoji-objects:test", "unknown prompt set 'emoji-objects:test'"),
        ("nowhere.txt", "nowhere.txt does not exist"),
    ],
)
def test_bad_specifications_are_refused(spec: object, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        load_prompts(spec)


def test_no_prompt_is_both_trained_and_tested() -> None:
    with pytest.raises(InvalidInputError, match="train and held_out share"):
        PromptSet("mine", ("a cat", "a dog"), ("a dog",))
    for name in prompt_set_names():
        assert not set(load_prompts(name)) & set(load_prompts(f"{name}:held_out"))
