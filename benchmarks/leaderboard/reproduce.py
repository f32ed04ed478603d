"""A record's run once more, and what differs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.leaderboard.jobs import Job
from benchmarks.leaderboard.methods import MethodFile
from benchmarks.leaderboard.protocol import Protocol
from benchmarks.leaderboard.record import Record
from benchmarks.leaderboard.results import check_protocol
from benchmarks.leaderboard.runner import run_job
from diffusion_gym.errors import InvalidInputError

CIRCUMSTANCES = ("versions", "commit", "clean", "machine")
"""What explains other numbers."""


def reproduce(
    protocol: Protocol,
    methods: Mapping[str, MethodFile],
    record: Record,
    picture: Path | None = None,
) -> Record:
    """Makes a record's run again, with as many threads and on the same kind of device.

    Args:
        protocol: The record's.
        methods: By name.
        record: The record.
        picture: File for a row of pictures of the last evaluation; None: they are not kept.

    Raises:
        InvalidInputError: It is of another protocol, or of a method that there is not.
    """
    check_protocol(protocol, record, "the run to make again")
    if record["method"] not in methods:
        raise InvalidInputError(f"expected a method of {sorted(methods)}, got {record['method']!r}")
    machine = record["machine"]
    device = "cpu" if machine["device"].startswith("cpu") else "auto"
    job, method = Job.of(record), methods[record["method"]]
    threads = machine["threads"]
    return run_job(protocol, method, job, device=device, threads=threads, picture=picture)


def differences(record: Record, again: Record) -> list[str]:
    """What two records of a run differ in, bit for bit, but for seconds and circumstances."""
    ignored = {*CIRCUMSTANCES, "date"}
    first, second = ({n: v for n, v in r.items() if n not in ignored} for r in (record, again))
    return [d for d in _differences("", first, second) if not d.startswith("spent.training_sec")]


def changed_circumstances(record: Record, again: Record) -> list[str]:
    """Versions, commit and machine that are not the same."""
    first, second = ({name: r[name] for name in CIRCUMSTANCES} for r in (record, again))
    return list(_differences("", first, second))


def _differences(path: str, first: Any, second: Any) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in sorted(first.keys() | second.keys()):
            own = f"{path}.{name}" if path else name
            if name in first and name in second:
                yield from _differences(own, first[name], second[name])
            else:
                yield f"{own}: only in the {'first' if name in first else 'second'}"
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for number, pair in enumerate(zip(first, second, strict=True)):
            yield from _differences(f"{path}[{number}]", *pair)
    elif first != second:
        yield f"{path}: {first!r}, now {second!r}"
