"""All runs of a matrix, scheduled by Ray; what is recorded is never run again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from benchmarks.leaderboard.jobs import Job, Matrix
from benchmarks.leaderboard.methods import MethodFile
from benchmarks.leaderboard.protocol import Protocol
from benchmarks.leaderboard.record import Record, write_record
from benchmarks.leaderboard.results import records_of
from benchmarks.leaderboard.runner import run_job
from diffusion_gym.errors import InvalidInputError

ANY_TIMES = -1
"""Ray's word for a run that is tried again as often as its worker is lost."""

Watcher = Callable[[Mapping[Job, Record], list[Job]], None]
"""Told of all records, and of the runs that were handed to Ray and have not ended."""


@dataclass(frozen=True)
class Resources:
    """What a run is given.

    Attributes:
        cpus: Cores; the threads that it computes with, at least 1.
        gpus: Part of a GPU, so that several runs share one; 0 computes on the CPU.
    """

    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def threads(self) -> int:
        """Threads of a run."""
        return max(1, int(self.cpus))

    @property
    def device(self) -> str:
        """The device of a run."""
        return "cuda" if self.gpus else "cpu"


def run_matrix(
    matrix: Matrix, folder: Path, resources: Resources, watch: Watcher = lambda *_: None
) -> dict[Job, Record]:
    """Makes all runs that have no record, on the Ray cluster that is connected to.

    The records are written here alone, by this process: a run whose worker or node is lost is made
    again, and has one record.

    Args:
        matrix: What to run.
        folder: Of the results.
        resources: Of each run.
        watch: Called at the start and after every run.

    Returns:
        All records of the matrix.

    Raises:
        InvalidInputError: A record in the folder is damaged or another protocol's; or a run cannot
            be made.
    """
    records = records_of(matrix, folder)
    remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=ANY_TIMES)(
        _run
    )
    flying: dict[Any, Job] = {}
    while True:
        for job in matrix.ready(records):
            if job not in flying.values():
                method = matrix.methods[job.method]
                flying[remote.remote(matrix.protocol, method, job, resources)] = job
        watch(records, list(flying.values()))
        if not flying:
            return records
        (done, *_), _ = ray.wait(list(flying), num_returns=1)
        job = flying.pop(done)
        try:
            records[job] = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise InvalidInputError(f"{job.file}: {error.cause}") from error
        write_record(folder / matrix.protocol.name / job.file, records[job])


def _run(protocol: Protocol, method: MethodFile, job: Job, resources: Resources) -> Record:
    """One run, in a process of Ray's."""
    return run_job(protocol, method, job, device=resources.device, threads=resources.threads)
