"""Prompts from files, in the formats that the field's standard sets come in.

===========  =====================================================================  ==============
suffix       content                                                                for example
===========  =====================================================================  ==============
``.txt``     one prompt a line                                                      Pick-a-Pic
``.json``    a list of texts, or of objects with a "prompt"; or an object with the  HPDv2
             lists "train" and, if there is one, "held_out"
``.jsonl``   a text, or an object with a "prompt", a line                           GenEval
``.tsv``     a column "Prompt" under a header; quotation marks mean themselves      PartiPrompts
``.csv``     a column "Prompt" or "Prompts" under a header                          DrawBench
(a folder)   ``.txt`` files, each of them one prompt, in the order of their names   DPG-Bench
===========  =====================================================================  ==============

Empty lines are skipped, and a prompt that a file repeats, as GenEval's training data and HPDv2's
annotations do, counts once. Whether a key or column begins with a capital does not matter, and
"prompts", "caption" or "text" (as in Hugging Face's ``metadata.jsonl``) will do as well. In a
``.txt`` file of several prompts a line that begins with "# ", or is "#" alone, is a comment ("#1
fan" is a prompt; one that begins with "# " can stand in the other formats).

A key or column "negative_prompt" is what guidance leads away from in the images of that prompt;
where it is empty, the prompt has nothing of its own. Other columns and keys, such as a category,
are a prompt's metadata, for rewards that ask for it: texts from tables, whatever JSON has from the
others.
"""

import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from diffusion_gym.errors import InvalidInputError, first_line, one_line, shown
from diffusion_gym.parsing import parse
from diffusion_gym.prompts.prompt_set import SPLITS

KEYS = ("prompt", "prompts", "caption", "text")
"""What the column or key that holds a prompt can be called."""

NEGATIVE = ("negative_prompt", "negative_prompts", "negative prompt", "negative prompts")
"""What the column or key that holds what should not be in the picture can be called."""

Parts = dict[str, tuple[str, ...]]
"""The prompts of a set by its parts; "train" is always there."""


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        parts: Its prompts.
        negative_prompts: Those of the prompts that have one, by the prompts.
        metadata: What stands in the other columns or keys, by the prompts, where there are any; of
            a prompt that is repeated with others, the first.
        ambiguous: Prompts that are repeated with other metadata.
    """

    parts: Parts
    negative_prompts: dict[str, str]
    metadata: dict[str, Mapping[str, Any]]
    ambiguous: tuple[str, ...]


class Item(NamedTuple):
    """One prompt of a file.

    Attributes:
        prompt: The prompt.
        negative: Its negative prompt; "" where it has none.
        metadata: What is said of it besides.
    """

    prompt: str
    negative: str = ""
    metadata: Mapping[str, Any] = MappingProxyType({})


def read_prompt_file(file: Path) -> Content:
    """Reads the prompts of a file; its suffix says which format it has.

    Returns:
        The prompts of each part, without repetitions, with their negative prompts and metadata. Of
        a prompt that is repeated with other metadata, a warning tells.

    Raises:
        InvalidInputError: The file does not exist or cannot be read, its content is not of its
            format, or it has one prompt with different negative prompts.
    """
    text = _text(file)
    try:
        content = READERS[file.suffix.lower()](text)
    except InvalidInputError as error:
        raise InvalidInputError(f"the prompt file {file} {error}") from error
    if content.ambiguous:
        warnings.warn(
            f"the prompt file {file}: {len(content.ambiguous)} rows repeat a prompt with other "
            f"metadata, of which only the first counts: {one_line(content.ambiguous[0], 80)!r}",
            stacklevel=2,
        )
    unique = {split: tuple(dict.fromkeys(texts)) for split, texts in content.parts.items()}
    return content._replace(parts=unique)


def read_prompt_list(items: Sequence[Any]) -> Content:
    """Reads prompts that are texts, or objects as in a ``.json`` file.

    Returns:
        The prompts, as often as they are there, with their negative prompts and metadata.

    Raises:
        InvalidInputError: An item is neither, or one prompt has different negative prompts.
    """
    return _content({"train": _items(list(enumerate(items, start=1)), "item")})


def read_prompt_folder(folder: Path) -> Parts:
    """Reads a folder whose ``.txt`` files are one prompt each, however many lines it has.

    Returns:
        The prompts, in the order of the files' names, where 2 comes before 10.

    Raises:
        InvalidInputError: There is no such file, or one is empty or cannot be read.
    """
    try:
        files = [path for path in folder.iterdir() if _is_prompt(path)]
    except OSError as error:
        raise InvalidInputError(
            f"the prompt folder {one_line(str(folder))} cannot be read: {first_line(error)}"
        ) from error
    if not files:
        raise InvalidInputError(f"the prompt folder {folder} has no .txt files")
    prompts: dict[str, None] = {}
    for file in sorted(files, key=_natural):
        prompt = " ".join(_text(file).split())
        if not prompt:
            raise InvalidInputError(f"the prompt file {file} is empty")
        prompts[prompt] = None  # once, as in files
    return {"train": tuple(prompts)}


def _is_prompt(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and not path.name.startswith(".") and path.is_file()


def _natural(file: Path) -> list[tuple[bool, int, str]]:
    """What sorts names by the numbers in them."""
    parts = re.split(r"([0-9]+)", file.name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _text(file: Path) -> str:
    """A file's text.

    Raises:
        InvalidInputError: It does not exist or cannot be read.
    """
    try:
        if not file.is_file():
            raise InvalidInputError(f"the prompt file {file} does not exist")
        return file.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"the prompt file {file} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise InvalidInputError(
            f"the prompt file {one_line(str(file))} cannot be read: {first_line(error)}"
        ) from error


class _PlainTabs(csv.excel_tab):
    """Values between tabs, none of them in quotation marks."""

    quoting = csv.QUOTE_NONE


class _StrictCommas(csv.excel):
    """Values between commas; a quotation mark that is not closed is an error."""

    strict = True


def _lines(text: str) -> Content:
    lines = (line.strip() for line in text.splitlines())
    prompts = tuple(line for line in lines if line and line != "#" and not line.startswith("# "))
    return _content({"train": [Item(prompt) for prompt in prompts]})


def _content(parts: Mapping[str, Sequence[Item]]) -> Content:
    """The prompts of all parts, with what is said of them."""
    negatives: dict[str, str] = {}
    metadata: dict[str, Mapping[str, Any]] = {}
    ambiguous: list[str] = []
    for prompt, negative, about in (item for items in parts.values() for item in items):
        known = negatives.setdefault(prompt, negative)
        if known != negative:
            raise InvalidInputError(
                f"has the prompt {shown(prompt, 80)} with different negative prompts, "
                f"{shown(known, 80)} and {shown(negative, 80)}: expected one"
            )
        if about and metadata.setdefault(prompt, about) != about:
            ambiguous.append(prompt)
    return Content(
        {split: tuple(item.prompt for item in items) for split, items in parts.items()},
        {prompt: negative for prompt, negative in negatives.items() if negative},
        metadata,
        tuple(ambiguous),
    )


def _json(text: str) -> Content:
    content = _parsed(text, "JSON")
    parts = {"train": content} if isinstance(content, list) else content
    named = isinstance(parts, dict) and "train" in parts and set(parts) <= set(SPLITS)
    if not named or not all(isinstance(items, list) for items in parts.values()):
        raise InvalidInputError(
            "must hold a list of prompts or an object with the lists 'train' and, if there are "
            f"any, 'held_out', got {text[:80]!r}"
        )
    return _content(
        {split: _items(list(enumerate(items, start=1)), "item") for split, items in parts.items()}
    )


def _json_lines(text: str) -> Content:
    numbered = enumerate(text.split("\n"), start=1)  # texts may hold other line separators
    items = [(n, _parsed(line, f"JSON in line {n}")) for n, line in numbered if line.strip()]
    return _content({"train": _items(items, "line")})


def _table(text: str, dialect: type[csv.Dialect]) -> Content:
    rows = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect)
    prompts: list[Item] = []
    line = 1
    try:
        columns = [name or "" for name in rows.fieldnames or ()]
        column = _key(columns)
        if column is None:
            raise InvalidInputError(
                f"must begin with a header that has one of the columns {', '.join(KEYS)}, got the "
                f"columns {one_line(', '.join(columns)) or '(none)'}"
            )
        for row in rows:
            prompt = (row[column] or "").strip()
            cells = {name: row[name] for name in columns}
            if not prompt and any(row.values()):
                raise InvalidInputError(
                    f"must hold a prompt in every row, got an empty cell in column {column!r} in "
                    f"line {line + 1}"
                )
            if prompt:
                about = {name: row[name] or "" for name in columns if _is_metadata(name, column)}
                prompts.append(Item(prompt, _negative(cells, f"line {line + 1}"), about))
            line = rows.line_num
    except csv.Error as error:
        raise InvalidInputError(
            f"is not a valid table in the row that begins in line {line + 1}: {error} (is a "
            "quotation mark not closed?)"
        ) from error
    return _content({"train": prompts})


def _parsed(text: str, what: str) -> Any:
    try:
        return parse(json.loads, text)
    except ValueError as error:
        raise InvalidInputError(f"is not valid {what}: {error}") from error


def _items(items: Sequence[tuple[int, Any]], what: str) -> tuple[Item, ...]:
    """The prompts of numbered texts or objects that have one."""
    return tuple(_item(item, f"{what} {number}") for number, item in items)


def _is_metadata(name: str, key: str | None) -> bool:
    """Whether a column is neither the prompts' nor one of negative prompts, and has a name."""
    return bool(name) and name != key and not _is_negative(name)


def _item(item: Any, where: str) -> Item:
    named = isinstance(item, Mapping) and all(isinstance(name, str) for name in item)
    key = _key(item) if named else None
    text = item if key is None else item[key]
    if not isinstance(text, str):
        raise InvalidInputError(
            f"must hold a list of prompts, as texts or as objects with one of the keys "
            f"{', '.join(KEYS)}, got in {where} {shown(item, 80)}"
        )
    if not text.strip():
        raise InvalidInputError(f"must hold prompts that are not empty, got in {where} {text!r}")
    if not named:
        return Item(text)
    about = {name: value for name, value in item.items() if _is_metadata(name, key)}
    return Item(text, _negative(item, where), about)


def _key(names: Iterable[str]) -> str | None:
    """The name among these that stands for the prompt."""
    by_lower = {name.strip().lower(): name for name in names}
    return next((by_lower[key] for key in KEYS if key in by_lower), None)


def _is_negative(name: str) -> bool:
    return name.strip().lower() in NEGATIVE


def _negative(values: Mapping[str, Any], where: str) -> str:
    """The negative prompt among the values of an object or a row; "" where there is none."""
    given = [value for name, value in values.items() if _is_negative(name) and value is not None]
    if not all(isinstance(value, str) for value in given) or len(given) > 1:
        raise InvalidInputError(
            f"must hold a text as a negative prompt, got in {where} {shown(given, 80)}"
        )
    return given[0].strip() if given else ""


READERS: dict[str, Callable[[str], Content]] = {
    ".txt": _lines,
    ".json": _json,
    ".jsonl": _json_lines,
    ".tsv": lambda text: _table(text, _PlainTabs),
    ".csv": lambda text: _table(text, _StrictCommas),
}
"""What turns a file's text into prompts, by suffix."""
