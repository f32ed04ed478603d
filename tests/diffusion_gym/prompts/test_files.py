"""Prompts from files, in the formats of the field's standard sets."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.prompts import load_prompts


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
        ("p.json", "{", "not valid JSON"),
        ("p.json", "[]", "at least one prompt"),
        ("p.json", '[["a cat"]]', "must hold a list of prompts"),
        ("p.json", '"a cat"', "must hold a list of prompts"),
        ("p.json", '{"test": ["a cat"]}', "must hold a list of prompts"),
        ("p.json", '{"train": ["a cat", " "]}', "not empty, got in item 2 ' '"),
        ("p.json", '{"train": ["a cat"], "held_out": ["a cat"]}', "share 'a cat'$"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: str, reason: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(InvalidInputError, match=reason) as error:
        load_prompts(str(file))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "item_id,text,keywords\n1,a red bench,\n2,two cats,\n"),  # DSG's columns
        ("metadata.jsonl", '{"file_name": "1.png", "text": "a red bench"}\n{"text": "two cats"}\n'),
        ("p.json", '[{"id": "1", "text": "a red bench"}, {"id": "2", "text": "two cats"}]'),
    ],
)
def test_prompts_may_be_called_texts(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert load_prompts(str(tmp_path / name)).texts == ("a red bench", "two cats")


def test_a_prompt_comes_before_a_text(tmp_path: Path) -> None:
    """ImageReward's comparisons have both."""
    (tmp_path / "p.jsonl").write_text('{"text": "long", "prompt": "a cat"}\n')
    prompts = load_prompts(str(tmp_path / "p.jsonl"))
    assert prompts.texts == ("a cat",)
    assert prompts.metadata == {"a cat": {"text": "long"}}


def test_a_folder_holds_a_prompt_a_file(tmp_path: Path) -> None:
    """DPG-Bench's: dense prompts, some of several lines, numbered."""
    texts = {"10.txt": "last", "2.txt": "a cat\non a mat\n", "1.TXT": "first", "a1.txt": "named"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "._1.txt").write_text("what a Mac leaves")
    (tmp_path / "more.txt").mkdir()
    expected = ("first", "a cat on a mat", "last", "named")
    assert load_prompts(str(tmp_path)).texts == expected
    assert load_prompts(tmp_path).texts == expected
    assert load_prompts(f"{tmp_path}:train").texts == expected


def test_folders_without_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"has no \.txt files"):
        load_prompts(str(tmp_path))
    (tmp_path / "1.txt").write_text(" \n")
    with pytest.raises(InvalidInputError, match=r"1\.txt is empty"):
        load_prompts(str(tmp_path))


# The first lines of the real files, and lines that are peculiar to them.
PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tBiology-inspired concepts with multiple meanings\n"
    '"G I G G L E" painted in thick letters\tIllustrations\tWriting & Symbols\t\n'
    'a sign that says "Deep, deep Learning\tArts\tWriting & Symbols\t\n'
)
DRAWBENCH = (
    "Prompts,Category\nA red colored car.,Colors\n"
    '"An emoji of a baby panda wearing a red hat, green gloves, red shirt, and green pants."'
    ",DALL-E\n"
)
GENEVAL = (
    '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], '
    '"prompt": "a photo of a bench"}\n'
    '{"tag": "counting", "include": [], "exclude": [], "prompt": "a photo of two clocks"}\n\n'
)
HPD_ANNOTATIONS = (
    '[{"prompt": "a fox", "image_path": ["1.jpg", "2.jpg"], "rank": [0, 1]}, '
    '{"prompt": "a car", "image_path": []}, {"prompt": "a fox", "image_path": ["3.jpg"]}]'
)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        (
            "PartiPrompts.tsv",
            PARTI,
            [
                "bond",
                '"G I G G L E" painted in thick letters',
                'a sign that says "Deep, deep Learning',
            ],
        ),
        (
            "DrawBench Prompts.csv",
            DRAWBENCH,
            [
                "A red colored car.",
                "An emoji of a baby panda wearing a red hat, green gloves, red shirt, and green "
                "pants.",
            ],
        ),
        ("drawbench.CSV", "\ufeffPrompts,Category\r\nA car.,Colors\r\n", ["A car."]),
        ("captions.csv", 'id,caption\n1,"a ""big"" cat,\nasleep"\n', ['a "big" cat,\nasleep']),
        ("evaluation_metadata.jsonl", GENEVAL, ["a photo of a bench", "a photo of two clocks"]),
        ("texts.jsonl", '"a cat"\n"two\u2028lines"\n', ["a cat", "two\u2028lines"]),
        ("test.json", HPD_ANNOTATIONS, ["a fox", "a car"]),
        ("photo.json", '["a man at a desk", "a bench", "a bench"]', ["a man at a desk", "a bench"]),
        ("template1_train.json", '["a cat washing dishes"]', ["a cat washing dishes"]),
        ("pickscore.txt", "a cat\r\na dog\na cat\n", ["a cat", "a dog"]),
    ],
)
def test_standard_files(tmp_path: Path, name: str, content: str, texts: list[str]) -> None:
    file = tmp_path / name
    file.write_bytes(content.encode())
    prompts = load_prompts(str(file))
    assert list(prompts) == texts
    assert prompts.name == f"{file}:train"
    assert prompts.content_hash == load_prompts(texts).content_hash
    with pytest.raises(InvalidInputError, match="held_out must hold at least one prompt"):
        load_prompts(f"{file}:held_out")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.tsv", "", r"header .*columns prompt, prompts, caption, text, got the columns \(none\)"),
        ("p.tsv", "Prompt,Category\na,b\n", "got the columns Prompt,Category"),
        ("p.csv", "title,id\na cat,1\n", "got the columns title, id"),
        ("p.csv", "prompt,id\na cat,1\n,2\n", "empty cell in column 'prompt' in line 3"),
        ("p.csv", 'prompt\n"two\nlines"\n" "\n', "empty cell in column 'prompt' in line 4"),
        ("p.tsv", "prompt\tid\n\t1\n", "empty cell in column 'prompt' in line 2"),
        ("p.csv", 'prompt\na cat\n"a dog\na cow\n', "row that begins in line 3: unexpected end"),
        ("p.csv", 'prompt\n"a" dog,1\n', "row that begins in line 2: .*expected after"),
        ("p.csv", "prompt,id\na\0cat,1\n", "prompt 0 must be made of characters|NUL"),
        ("p.csv", "prompt\n" + "x" * 200_000 + "\n", "field larger than field limit"),
        ("p.txt", "a cat\na\0dog\n", "prompt 1 must be made of characters, got NUL or half"),
        ("p.json", '["a cat", "\\ud83d"]', "prompt 1 must be made of characters, got NUL or half"),
        ("p.json", "[" * 200_000, "is not valid JSON: it is nested too deeply"),
        ("p.jsonl", '"a cat"\n' + "[" * 200_000, "is not valid JSON in line 2: it is nested too"),
        ("p.jsonl", '"a cat"\n\n""\n', "prompts that are not empty, got in line 3 ''"),
        ("p.csv", "prompt,negative_prompt\na,dog\na,\n", "'a' with different .*'dog' and ''"),
        ("p.tsv", "Prompt\tNegative Prompt\na\tx\na\ty\n", "different negative .*'x' and 'y'"),
        ("p.jsonl", '{"prompt": "a", "negative_prompt": ["x"]}', r"got in line 1 \[\['x'\]\]"),
        ("p.json", '[{"prompt": "a", "negative_prompt": 3}]', r"got in item 1 \[3\]"),
        (
            "p.csv",
            "prompt,negative prompt,negative_prompt\na,x,y\n",
            r"a text as a negative prompt, got in line 2 \['x', 'y'\]",
        ),
        (
            "p.json",
            '{"train": [{"prompt": "a", "negative_prompt": "x"}], "held_out": ["a"]}',
            "'a' with different negative prompts",
        ),
        ("p.json", '[{"prompt": "a", "negative_prompt": "\\ud83d"}]', "negative prompt 0 must be"),
        ("p.jsonl", '{"prompt": "a cat"}\n{"prompt": \n', "not valid JSON in line 2"),
        ("p.jsonl", '{"tag": "counting"}\n', "one of the keys .* got in line 1 .*counting"),
        ("p.json", '[{"prompt": 3}]', "got in item 1"),
        ("p.json", '{"prompt": "a cat"}', "must hold a list of prompts"),
        ("p.json", '{"train": "a cat"}', "must hold a list of prompts"),
        ("p.txt", b"a caf\xe9\n", "not UTF-8 text"),
    ],
)
def test_malformed_standard_files(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInputError, match=reason) as error:
        load_prompts(str(file))
    assert str(file) in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("p.csv", "id,prompt,Category\n1,a cat,x\n", {"id", "Category"}),
        ("p.tsv", PARTI, {"Category", "Challenge", "Note"}),
        ("p.jsonl", GENEVAL, {"tag", "include", "exclude"}),
        ("p.json", HPD_ANNOTATIONS, {"image_path", "rank"}),
        ("p.csv", "prompt,negative_prompt\na cat,\n", set()),
        ("p.csv", "Prompt,,\na cat,x,\n", set()),
        ("p.json", '["a cat"]', set()),
    ],
)
@pytest.mark.filterwarnings("ignore:the prompt file")
def test_other_columns_are_metadata(
    tmp_path: Path, name: str, content: str, columns: set[str]
) -> None:
    file = tmp_path / name
    file.write_text(content)
    prompts = load_prompts(str(file))
    assert set(prompts.metadata) <= set(prompts.texts)
    assert {column for about in prompts.metadata.values() for column in about} == columns


def test_metadata_is_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('prompt,count,note\na cat,2,"x, y"\na dog,,\n')
    table = load_prompts(tmp_path / "p.csv")
    assert table.metadata == {
        "a cat": {"count": "2", "note": "x, y"},
        "a dog": {"count": "", "note": ""},
    }
    lines = [{"prompt": "a cat", "include": [{"class": "cat", "count": 2}]}, {"prompt": "a dog"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    objects = load_prompts(tmp_path / "p.jsonl")
    assert objects.metadata == {"a cat": {"include": [{"class": "cat", "count": 2}]}}
    assert objects.metadata_hash != table.metadata_hash
    assert objects.content_hash == table.content_hash


def test_metadata_follow_their_part(tmp_path: Path) -> None:
    parts = {"train": [{"prompt": "a cat", "n": 1}], "held_out": [{"prompt": "a dog", "n": 2}]}
    (tmp_path / "p.json").write_text(json.dumps(parts))
    assert load_prompts(f"{tmp_path / 'p.json'}:held_out").metadata == {"a dog": {"n": 2}}


def test_a_prompt_with_two_metadata_has_the_first_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,n\na cat,1\na cat,2\na dog,3\na dog,3\n")
    with pytest.warns(UserWarning, match="1 rows repeat a prompt with other metadata.*'a cat'"):
        prompts = load_prompts(tmp_path / "p.csv")
    assert prompts.metadata["a cat"] == {"n": "1"}


def test_comments_in_text_files(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# animals\na cat\n  # indented\n#\n#1 fan\n#hashtag\na # b\n")
    assert load_prompts(file).texts == ("a cat", "#1 fan", "#hashtag", "a # b")


def test_rows_without_anything_are_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,negative_prompt\na cat,\n,\n\na dog,\n")
    assert load_prompts(file).texts == ("a cat", "a dog")


def test_paths_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec in (
        tmp_path / "prompts.txt",
        "~/prompts.txt",
        "~/prompts.txt:train",
        Path("~/prompts.txt"),
    ):
        assert load_prompts(spec).texts == ("a cat",)
    with pytest.raises(InvalidInputError, match="home"):
        load_prompts("~nobody-here/prompts.txt")
    with pytest.raises(InvalidInputError, match=r"cannot be read|does not exist"):
        load_prompts("x" * 5000 + ".txt")


def test_other_suffixes_are_no_prompt_files(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("- a cat\n")
    with pytest.raises(InvalidInputError, match=r"unknown prompt set .*\.txt, \.json, \.jsonl"):
        load_prompts(str(file))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "prompt,negative_prompt\na cat,\na dog, blurry\n"),
        ("p.tsv", "Prompt\tNegative Prompt\na cat\t\na dog\tblurry\n"),
        (
            "p.jsonl",
            '{"prompt": "a cat", "negative_prompt": null}\n'
            '{"negative_prompts": "blurry", "text": "a dog"}\n',
        ),
        ("p.json", '["a cat", {"prompt": "a dog", "negative_prompt": "blurry"}]'),
        (
            "p.json",
            '{"train": ["a cat", {"prompt": "a dog", "negative_prompt": "blurry"}], "held_out": '
            '[{"prompt": "a gnu", "negative_prompt": "x"}]}',
        ),
    ],
)
def test_negative_prompts(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    prompts = load_prompts(tmp_path / name)
    assert prompts.texts == ("a cat", "a dog")
    assert prompts.negative_prompts == (None, "blurry")
    assert prompts.content_hash != load_prompts(["a cat", "a dog"]).content_hash
    if "held_out" in content:
        assert load_prompts(f"{tmp_path / name}:held_out").negative_prompts == ("x",)


def test_a_list_may_have_negative_prompts() -> None:
    listed = ["a cat", {"prompt": "a dog", "negative_prompt": "blurry"}]
    prompts = load_prompts(listed)
    assert (prompts.texts, prompts.negative_prompts) == (("a cat", "a dog"), (None, "blurry"))
    assert load_prompts([{"prompt": "a cat"}]) == load_prompts(["a cat"])
    known = load_prompts(["a cat", {"prompt": "a dog", "count": 2}])
    assert (dict(known.metadata), known.negative_prompts) == ({"a dog": {"count": 2}}, ())


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([{"negative_prompt": "a"}], "the list of prompts must hold .* got in item 1"),
        ([{"prompt": "a"}, 3], "got in item 2 3"),
        ([{"prompt": "a"}, "a"], "prompts must differ"),
        ([{1: "a"}], "got in item 1"),
        ([{"prompt": "a", "negative_prompt": 3}], "a text as a negative prompt"),
    ],
)
def test_lists_that_are_none_of_prompts(listed: list[Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_prompts(listed)
