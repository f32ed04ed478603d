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
===========  =====================================================================  ==============

Empty lines are skipped, and a prompt that a file repeats, as GenEval's training data and HPDv2's
annotations do, counts once. Whether a key or column begins with a capital does not matter, and
"prompts" or "caption" will do as well.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.prompts.prompt_set import SPLITS

KEYS = ("prompt", "prompts", "caption")
"""What the column or key that holds a prompt can be called."""

Parts = dict[str, tuple[str, ...]]
"""The prompts of a set by its parts; "train" is always there."""


def read_prompt_file(file: Path) -> Parts:
    """Reads the prompts of a file; its suffix says which format it has.

    Returns:
        The prompts of each part, without repetitions.

    Raises:
        InvalidInputError: The file does not exist, or its content is not of its format.
    """
    if not file.is_file():
        raise InvalidInputError(f"the prompt file {file} does not exist")
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"the prompt file {file} is not UTF-8 text: {error}") from error
    try:
        parts = READERS[file.suffix.lower()](text)
    except InvalidInputError as error:
        raise InvalidInputError(f"the prompt file {file} {error}") from error
    return {split: tuple(dict.fromkeys(texts)) for split, texts in parts.items()}


class _PlainTabs(csv.excel_tab):
    """Values between tabs, none of them in quotation marks."""

    quoting = csv.QUOTE_NONE


def _lines(text: str) -> Parts:
    return {"train": tuple(line.strip() for line in text.splitlines() if line.strip())}


def _json(text: str) -> Parts:
    content = _parsed(text, "JSON")
    parts = {"train": content} if isinstance(content, list) else content
    named = isinstance(parts, dict) and "train" in parts and set(parts) <= set(SPLITS)
    if not named or not all(isinstance(items, list) for items in parts.values()):
        raise InvalidInputError(
            "must hold a list of prompts or an object with the lists 'train' and, if there are "
            f"any, 'held_out', got {text[:80]!r}"
        )
    return {split: _prompts(items, "item") for split, items in parts.items()}


def _json_lines(text: str) -> Parts:
    numbered = enumerate(text.split("\n"), start=1)  # texts may hold other line separators
    items = [_parsed(line, f"JSON in line {n}") for n, line in numbered if line.strip()]
    return {"train": _prompts(items, "line")}


def _table(text: str, dialect: type[csv.Dialect]) -> Parts:
    rows = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect)
    column = _key(rows.fieldnames or ())
    if column is None:
        raise InvalidInputError(
            f"must begin with a header that has one of the columns {', '.join(KEYS)}, got the "
            f"columns {', '.join(rows.fieldnames or ()) or '(none)'}"
        )
    return {"train": tuple((row[column] or "").strip() for row in rows)}


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"is not valid {what}: {error}") from error


def _prompts(items: Sequence[Any], what: str) -> tuple[str, ...]:
    """The prompts of texts or of objects that have one."""
    return tuple(_prompt(item, f"{what} {number}") for number, item in enumerate(items, start=1))


def _prompt(item: Any, where: str) -> str:
    key = _key(item) if isinstance(item, dict) else None
    text = item if key is None else item[key]
    if not isinstance(text, str):
        raise InvalidInputError(
            f"must hold a list of prompts, as texts or as objects with one of the keys "
            f"{', '.join(KEYS)}, got in {where} {json.dumps(item)[:80]}"
        )
    return text


def _key(names: Iterable[str]) -> str | None:
    """The name among these that stands for the prompt."""
    by_lower = {name.strip().lower(): name for name in names}
    return next((by_lower[key] for key in KEYS if key in by_lower), None)


READERS: dict[str, Callable[[str], Parts]] = {
    ".txt": _lines,
    ".json": _json,
    ".jsonl": _json_lines,
    ".tsv": lambda text: _table(text, _PlainTabs),
    ".csv": lambda text: _table(text, csv.excel),
}
"""What turns a file's text into prompts, by suffix."""
