"""The protocol and the records, as a report needs them."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_gym.errors import InvalidInputError

BASELINE = "sparse"
SCHEMA = 1

Record = Mapping[str, Any]
"""One run, as its file has it."""


@dataclass(frozen=True)
class Task:
    """What a report needs to know of a task.

    Attributes:
        name: Its name.
        budget: Reward queries of a run.
        untrained: Held-out reward of the untrained model, which scores 0.
        best: Best known held-out reward, which scores 1.
        target: The held-out reward to reach; None until the pilot has fixed it.
    """

    name: str
    budget: int
    untrained: float
    best: float
    target: float | None


def tasks(path: Path) -> tuple[Task, ...]:
    """The tasks of a protocol's TOML file.

    Raises:
        InvalidInputError: The file lacks what a report needs.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        return tuple(
            Task(
                name=name,
                budget=each["queries"],
                untrained=each["untrained"],
                best=each["best"],
                target=each.get("target"),
            )
            for name, each in table["tasks"].items()
        )
    except KeyError as error:
        raise InvalidInputError(
            f"{path}: expected tasks with queries, untrained and best, got none of the name {error}"
        ) from error


def measured_records(folder: Path) -> Sequence[Record]:
    """All measured runs below a protocol's folder, by task, method and seed.

    Raises:
        InvalidInputError: A record has another schema than this code reads.
    """
    found = []
    for path in folder.glob("*/*/seed*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("schema") != SCHEMA:
            raise InvalidInputError(
                f"{path}: expected schema {SCHEMA}, got {record.get('schema')!r}"
            )
        found.append(record)
    return sorted(found, key=lambda each: (each["task"], each["method"], each["seed"]))
