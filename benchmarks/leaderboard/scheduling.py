"""Makes the runs of a matrix: here one after another, or many at a time with Ray."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.leaderboard.matrix import Matrix, Results
from benchmarks.leaderboard.methods import MethodFile
from benchmarks.leaderboard.protocol import Protocol
from benchmarks.leaderboard.training import Job, Result, run_job

Told = Callable[[list[Job], int], None]
"""Told of the runs at work, and of how many are finished."""

RETRIES = 3
"""How often a run is tried again whose worker was lost."""


@dataclass(frozen=True)
class Resources:
    """What one run gets.

    Attributes:
        cpus: CPU cores, and threads.
        gpus: GPUs; a fraction lets several runs share one.
    """

    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def threads(self) -> int:
        """Threads of a run."""
        return max(1, int(self.cpus))


def run_here(matrix: Matrix, results: Results, folder: Path, told: Told) -> None:
    """Makes all runs in this process, one after another.

    Args:
        matrix: What to run.
        results: What is finished, and where more of it goes.
        folder: Of the run folders.
        told: Hears what goes on.
    """
    while jobs := matrix.ready(results.found):
        job = jobs[0]
        told([job], len(results.found))
        results.add(job, run_job(matrix.protocol, matrix.methods[job.method], job, folder))
    told([], len(results.found))


def run_with_ray(
    matrix: Matrix, results: Results, folder: Path, resources: Resources, told: Told
) -> None:
    """Makes all runs on a Ray cluster that is connected already.

    A run whose worker or machine is lost is tried again; where the folder is shared by the
    machines, it goes on from its checkpoint. This process alone writes results, so that nothing is
    there twice.

    Args:
        matrix: What to run.
        results: What is finished, and where more of it goes.
        folder: Of the run folders.
        resources: What one run gets.
        told: Hears what goes on.
    """
    import ray

    remote: Any = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=RETRIES)(
        _remote_run
    )
    at_work: dict[Any, Job] = {}
    while True:
        begun = {job.name for job in at_work.values()}
        for job in matrix.ready(results.found):
            if job.name not in begun:
                method = matrix.methods[job.method]
                call = remote.options(name=job.name).remote(
                    matrix.protocol, method, job, str(folder.resolve()), resources.threads
                )
                at_work[call] = job
        told(list(at_work.values()), len(results.found))
        if not at_work:
            return
        done, _ = ray.wait(list(at_work), num_returns=1, timeout=5.0)
        for call in done:
            results.add(at_work.pop(call), ray.get(call))


def _remote_run(
    protocol: Protocol, method: MethodFile, job: Job, folder: str, threads: int
) -> Result:
    torch.set_num_threads(threads)
    return run_job(protocol, method, job, Path(folder))


@contextmanager
def live_table(console: Console, total: int, already: int) -> Iterator[Told]:
    """A table of what runs, what is left, and when it will be done.

    Args:
        console: Where it is shown.
        total: Runs of the whole matrix.
        already: How many of them were finished before.
    """
    started = time.monotonic()
    with Live(console=console, refresh_per_second=1) as live:

        def told(at_work: list[Job], finished: int) -> None:
            seconds = time.monotonic() - started
            live.update(progress_table(at_work, finished, total, already, seconds))

        yield told


def progress_table(
    at_work: list[Job], finished: int, total: int, already: int, seconds: float
) -> Table:
    """What runs now, how many are left, and the time that those will take at the pace so far."""
    made = finished - already
    left = total - finished
    hours = f"{seconds / made * left / 3600:.1f} h" if made else "not known yet"
    table = Table(title=f"{finished} of {total} runs finished, {left} left, to go: {hours}")
    for name in ("task", "method", "kind", "seed", "learning rate"):
        table.add_column(name)
    for job in at_work:
        rate = f"{job.learning_rate:g}"
        table.add_row(job.task, job.method, job.kind, str(job.seed), rate)
    return table


def counts(matrix: Matrix, found: Mapping[str, Result]) -> list[list[str]]:
    """Finished runs of every task and method: tuning, and measured."""
    rows = []
    for task in matrix.tasks:
        for method in matrix.methods:
            cells = []
            for kind in ("tuning", "measured"):
                cells.append(str(sum(n.startswith(f"{kind}/{task}/{method}/") for n in found)))
            rate = matrix.learning_rate(task, method, found)
            rows.append([task, method, *cells, "" if rate is None else f"{rate:g}"])
    return rows
