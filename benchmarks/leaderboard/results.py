"""The records of a folder of results."""

from pathlib import Path

from benchmarks.leaderboard.jobs import Job, Matrix
from benchmarks.leaderboard.record import Record, read_record
from diffusion_gym.errors import InvalidInputError


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
        expected = matrix.protocol.task(record["task"]).sha256
        if record["protocol"]["hash"] != expected:
            raise InvalidInputError(
                f"expected records of the protocol {expected[:16]} in {folder}, got "
                f"{record['protocol']['hash'][:16]} in {path}: move it away"
            )
        records[Job.of(record)] = record
    return records
