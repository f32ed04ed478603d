"""The records of a folder of results."""

from pathlib import Path

from benchmarks.leaderboard.jobs import Job, Matrix
from benchmarks.leaderboard.protocol import Protocol
from benchmarks.leaderboard.record import Record, read_record
from diffusion_gym.errors import InvalidInputError


def check_protocol(protocol: Protocol, record: Record, where: str) -> None:
    """Refuses a record of another protocol.

    Args:
        protocol: What it shall follow.
        record: The record.
        where: What it is, for the message.

    Raises:
        InvalidInputError: It follows another one, or is of no task of this one.
    """
    expected = protocol.task(record["task"]).sha256
    if record["protocol"]["hash"] != expected:
        raise InvalidInputError(
            f"{where}: expected a record of the protocol {expected[:16]}, got one of "
            f"{record['protocol']['hash'][:16]}"
        )


def records_of(matrix: Matrix, folder: Path) -> dict[Job, Record]:
    """The matrix's records in a folder of results.

    Raises:
        InvalidInputError: One is damaged, or of another protocol.
    """
    records = {}
    for path in sorted((folder / matrix.protocol.name).rglob("*.json")):
        record = read_record(path)
        if record["task"] not in matrix.tasks or record["method"] not in matrix.methods:
            continue
        try:
            check_protocol(matrix.protocol, record, str(path))
        except InvalidInputError as error:
            raise InvalidInputError(f"{error}: move it away") from error
        records[Job.of(record)] = record
    return records
