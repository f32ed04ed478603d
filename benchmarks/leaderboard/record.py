"""The record of a run: one JSON file each; its schema, reading and writing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.runs.run_folder import write_json
from diffusion_gym.errors import InvalidInputError, first_line, shown
from diffusion_gym.parsing import parse

SCHEMA = 1
"""Version of the records."""

RESULTS = Path(__file__).parents[1] / "results" / "leaderboard"
"""The records that are kept in the repository."""

DIVERSITY = "diversity/clip"
"""The metric that a curve has as its diversity."""

Record = dict[str, Any]

_NUMBER = (int, float)
_EVALUATION = {"rewards": list, "metrics": dict, "other_rewards": dict}
_POINT = {
    "round": int,
    "reward_queries": int,
    "denoiser_evaluations": int,
    "reward": (*_NUMBER, type(None)),
    "kl_to_base": (*_NUMBER, type(None)),
    "diversity": (*_NUMBER, type(None)),
}
_FIELDS = {
    "schema": int,
    "protocol": dict,
    "task": str,
    "method": str,
    "seed": int,
    "kind": str,
    "options": dict,
    "searched": dict,
    "prompts": list,
    "before": (dict, type(None)),
    "after": (dict, type(None)),
    "curve": list,
    "training_rewards": list,
    "spent": dict,
    "failed": (str, type(None)),
    "versions": dict,
    "commit": (str, type(None)),
    "clean": bool,
    "machine": dict,
    "date": str,
}
_SPENT = {"reward_queries": int, "denoiser_evaluations": int, "training_seconds": _NUMBER}


def read_record(path: Path) -> Record:
    """Reads a record.

    Raises:
        InvalidInputError: It cannot be read, or does not fit the schema.
    """
    try:
        content = parse(json.loads, path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"expected a record in {path}, got: {first_line(error)}") from error
    try:
        return checked_record(content)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def write_record(path: Path, record: Record) -> None:
    """Writes a record such that no half file is ever seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, checked_record(record))


def checked_record(content: Any) -> Record:
    """A record that fits the schema.

    Raises:
        InvalidInputError: It does not; the message names the field.
    """
    _check("the record", content, _FIELDS)
    if content["schema"] != SCHEMA:
        raise InvalidInputError(f"expected schema {SCHEMA}, got {content['schema']}")
    _check("protocol", content["protocol"], {"name": str, "hash": str})
    _check("spent", content["spent"], _SPENT)
    _check("machine", content["machine"], {"device": str, "threads": int})
    for number, point in enumerate(content["curve"]):
        _check(f"curve[{number}]", point, _POINT)
    for reward in content["training_rewards"]:
        _check_kind("training_rewards", reward, (*_NUMBER, type(None)))
    if content["kind"] not in ("measured", "search"):
        raise InvalidInputError(f"expected kind measured or search, got {content['kind']!r}")
    searched = content["searched"]
    _check("searched", searched, {"learning_rate": _NUMBER} if searched else {})
    for when in ("before", "after"):
        if content[when] is not None:
            _check_evaluation(when, content[when], len(content["prompts"]))
        elif content["failed"] is None:
            raise InvalidInputError(f"expected {when} of a run that did not fail, got none")
    record: Record = content
    return record


def _check_evaluation(when: str, evaluation: Any, prompts: int) -> None:
    """Checks ``[P, S]`` numbers or nulls for rewards, ``[P]`` for metrics."""
    _check(when, evaluation, _EVALUATION)
    tables = {"rewards": evaluation["rewards"]} | evaluation["other_rewards"]
    for name, rows in tables.items():
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise InvalidInputError(f"expected rows of numbers in {when}.{name}, got {shown(rows)}")
        if len(rows) != prompts or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise InvalidInputError(
                f"expected {prompts} equal rows in {when}.{name}, got {[len(row) for row in rows]}"
            )
        for value in (value for row in rows for value in row):
            _check_kind(f"{when}.{name}", value, (*_NUMBER, type(None)))
    for name, values in evaluation["metrics"].items():
        if not isinstance(values, list) or len(values) != prompts:
            raise InvalidInputError(
                f"expected {prompts} numbers in {when}.{name}, got {shown(values)}"
            )
        for value in values:
            _check_kind(f"{when}.{name}", value, (*_NUMBER, type(None)))


def _check(what: str, content: Any, fields: Mapping[str, Any]) -> None:
    if not isinstance(content, dict):
        raise InvalidInputError(f"expected an object as {what}, got {shown(content)}")
    if set(content) != set(fields):
        missing, extra = sorted(set(fields) - set(content)), sorted(set(content) - set(fields))
        raise InvalidInputError(
            f"expected other fields in {what}: missing {missing}, not known {extra}"
        )
    for name, kind in fields.items():
        _check_kind(f"{what}.{name}", content[name], kind)


def _check_kind(what: str, value: Any, kind: Any) -> None:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(own.__name__ for own in kinds)
        raise InvalidInputError(f"expected {names} as {what}, got {shown(value)}")
