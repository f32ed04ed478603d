"""Training runs as the command line does them, each into a folder of its own; resumable."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from agents.runs.training import Training
from benchmarks.comparison.protocol import Options


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
        others = self.settings.differences(folder.settings)
        if others:
            raise ValueError(
                f"expected the run in {self.path} to have the settings of this benchmark, got "
                f"another {', '.join(others)}: remove it, or name another folder with --output"
            )
        return folder

    @property
    def settings(self) -> TrainSettings:
        """The settings that it is begun with."""
        return TrainSettings.of(**self.options, output=str(self.path))


def complete(run: Run) -> Run:
    """Trains a run to its end, from where it stands, as ``python -m agents.train`` does.

    What a terminal would show goes to a file beside the run's folder. Only the figures are kept:
    checkpoints, weights and TensorBoard's events are removed.

    Raises:
        ValueError: There is such a run, but it was made with other settings.
        KeyboardInterrupt: It was stopped; its checkpoint is there.
    """
    begun = (run.path / "settings.json").is_file()
    if begun and run.folder.summary_file.is_file():
        return run
    run.path.parent.mkdir(parents=True, exist_ok=True)
    with run.path.with_name(f"{run.path.name}.log").open("a") as log:
        folder = run.folder if begun else None
        settings = folder.settings if folder else run.settings
        if Training(settings, Console(file=log), folder).run():
            raise KeyboardInterrupt(f"stopped the run in {run.path}")
    for heavy in (run.folder.checkpoints, run.folder.exported, run.folder.tensorboard):
        shutil.rmtree(heavy)
    return run
