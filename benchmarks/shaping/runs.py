"""Training runs by the command line, in parallel, each into a folder of its own; resumable."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agents.run_folder import RunFolder
from agents.settings import TrainSettings
from benchmarks.shaping.protocol import Options

LOG_TAIL = 2000
"""Characters of a failed run's output to show."""


@dataclass(frozen=True)
class Run:
    """One run of ``python -m agents.train``.

    Attributes:
        path: Its folder.
        options: Its options, by the names of `TrainSettings`.
    """

    path: Path
    options: Options

    @property
    def folder(self) -> RunFolder:
        """The folder of a run that was begun.

        Raises:
            ValueError: It was made with other settings.
        """
        folder = RunFolder.open(self.path)
        wished = TrainSettings(**self.options, output=str(self.path))
        if folder.settings != wished:
            raise ValueError(
                f"expected the run in {self.path} to have the settings of this benchmark, got "
                "others: remove it, or name another folder with --output"
            )
        return folder


def complete(
    runs: Iterable[Run], workers: int, on_done: Callable[[Run], None] = lambda run: None
) -> None:
    """Trains what is not trained yet, several runs at a time, one thread each.

    Args:
        runs: The runs.
        workers: How many at a time.
        on_done: Called with every run that has ended, also those that had ended before.

    Raises:
        RuntimeError: A run failed; the others that had begun are finished first.
    """
    with ThreadPoolExecutor(workers) as pool:
        for run in pool.map(_complete, runs):
            on_done(run)


def _complete(run: Run) -> Run:
    """Trains one run to its end, from where it stands."""
    begun = (run.path / "settings.json").is_file()
    if begun and run.folder.summary_file.is_file():
        return run
    arguments = ["--resume", str(run.path)] if begun else command_line(run)
    run.path.parent.mkdir(parents=True, exist_ok=True)
    with run.path.with_name(f"{run.path.name}.log").open("a") as log:
        process = subprocess.run(
            [sys.executable, "-m", "agents.train", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    if process.returncode:
        tail = Path(log.name).read_text()[-LOG_TAIL:]
        raise RuntimeError(f"the run in {run.path} failed ({process.returncode}):\n{tail}")
    for heavy in (run.folder.checkpoints, run.folder.exported, run.folder.tensorboard):
        shutil.rmtree(heavy)
    return run


def command_line(run: Run) -> list[str]:
    """The arguments of ``python -m agents.train`` that start the run."""
    options = {**run.options, "output": run.path}
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
