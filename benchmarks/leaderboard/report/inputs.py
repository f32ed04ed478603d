"""The protocol's tasks and the records, as a report needs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.leaderboard.jobs import Job
from benchmarks.leaderboard.protocol import Protocol
from benchmarks.leaderboard.record import Record, read_record
from benchmarks.leaderboard.results import check_protocol
from benchmarks.leaderboard.strips import SUFFIX, chosen


@dataclass(frozen=True)
class Strip:
    """A row of pictures of a run.

    Attributes:
        task: The task's name.
        method: The method's name.
        seed: The run's seed.
        prompts: What they are of.
        image: The file's bytes.
    """

    task: str
    method: str
    seed: int
    prompts: Sequence[str]
    image: bytes


def measured_records(protocol: Protocol, folder: Path) -> Sequence[Record]:
    """All measured runs of a protocol below a folder of results, by task, method and seed.

    Raises:
        InvalidInputError: A record is damaged, or another protocol's.
    """
    found = []
    for path in (folder / protocol.name).glob("*/*/seed*.json"):
        record = read_record(path)
        check_protocol(protocol, record, str(path))
        found.append(record)
    return sorted(found, key=lambda each: (each["task"], each["method"], each["seed"]))


def strips(protocol: Protocol, folder: Path, records: Sequence[Record]) -> list[Strip]:
    """The pictures that are kept beside the records."""
    found = []
    for record in records:
        path = (folder / protocol.name / Job.of(record).file).with_suffix(SUFFIX)
        if path.is_file():
            prompts = [record["prompts"][k] for k in chosen(len(record["prompts"]))]
            about = (record["task"], record["method"], record["seed"])
            found.append(Strip(*about, prompts, path.read_bytes()))
    return found
