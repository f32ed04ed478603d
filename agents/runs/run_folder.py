"""The folder that a training run leaves behind."""

import csv
import json
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter

from agents.common.checkpoint import AGENT, latest_checkpoint
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import InvalidInputError

CREDIT = "credit/step_"
"""What the columns of a step's credit begin with."""


class RunFolder:
    """Names of everything inside a run's folder.

    ::

        settings.json    the resolved settings
        record.json      versions and hashes of what was used
        metrics.csv      one row per round
        before.npz       evaluation of the base model
        summary.json     the final figures
        before_after.png, reward_curve.png, credit_per_step.png
        checkpoints/     round-000005/ …
        exported/        the trained weights in diffusers' format
        tensorboard/

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_file = path / "settings.json"
        self.record_file = path / "record.json"
        self.metrics_file = path / "metrics.csv"
        self.before_file = path / "before.npz"
        self.summary_file = path / "summary.json"
        self.pictures_file = path / "before_after.png"
        self.curve_file = path / "reward_curve.png"
        self.credit_file = path / "credit_per_step.png"
        self.checkpoints = path / "checkpoints"
        self.exported = path / "exported"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def create(cls, settings: TrainSettings) -> "RunFolder":
        """Makes the folder of a new run and writes the settings into it.

        Raises:
            InvalidInputError: The folder is in use, or cannot be written to.
        """
        path = Path(settings.output) if settings.output else _free_name(settings)
        run = cls(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InvalidInputError(
                f"expected a new or empty run folder, got {path}, which is in use; continue that "
                f"run with --resume {path}, or name another with --output"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(run.settings_file, settings.as_dict())
        except OSError as error:
            raise InvalidInputError(
                f"expected a run folder that can be written to, got {path}: {error.strerror}"
            ) from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Finds an existing run.

        Raises:
            InvalidInputError: There is no run in that folder.
        """
        run = cls(Path(path))
        if not run.settings_file.is_file():
            raise InvalidInputError(
                f"expected the folder of a training run, got {path}, which has no "
                f"{run.settings_file.name}"
            )
        return run

    @property
    def settings(self) -> TrainSettings:
        """The settings the run was started with.

        Raises:
            InvalidInputError: The file is damaged, or of another version.
        """
        try:
            return TrainSettings(**json.loads(self.settings_file.read_text()))
        except (ValueError, TypeError) as error:
            raise InvalidInputError(
                f"expected the settings of a training run in {self.settings_file}, got: {error}"
            ) from error

    @property
    def agent_file(self) -> Path:
        """The newest agent, for `DiffusionPPO.load`."""
        return latest_checkpoint(self.checkpoints) / AGENT

    def summary(self) -> dict[str, Any]:
        """The final figures of a run that has ended."""
        figures: dict[str, Any] = json.loads(self.summary_file.read_text())
        return figures

    def metrics(self) -> list[dict[str, float]]:
        """The rounds' figures so far."""
        if not self.metrics_file.is_file():
            return []
        with self.metrics_file.open(newline="") as stream:
            return [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(stream)
            ]

    def mean_credit(self) -> list[float]:
        """Each denoising step's share of the return, ``[T]``, a mean over the rounds."""
        rows = self.metrics()
        names = sorted(name for name in rows[0] if name.startswith(CREDIT))
        return [sum(row[name] for row in rows) / len(rows) for name in names]

    def keep_metrics(self, rounds: int) -> None:
        """Drops the rounds after a checkpoint, which a resumed run will repeat."""
        rows = [row for row in self.metrics() if row["count/rounds"] <= rounds]
        self.metrics_file.unlink(missing_ok=True)
        writer = MetricsFile(self.metrics_file)
        for row in rows:
            writer.write(row, {})


class MetricsFile(KVWriter):
    """Stable-Baselines3 logger output: one line of CSV per round, added at once.

    Args:
        path: The file; its header comes from the first round.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        """Adds a round."""
        del key_excluded, step
        columns = sorted(key_values)
        if self.path.is_file():
            with self.path.open(newline="") as stream:
                columns = next(csv.reader(stream))
        with self.path.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
            if stream.tell() == 0:
                writer.writeheader()
            writer.writerow(key_values)

    def close(self) -> None:
        """Every line is on disk already."""


def write_json(path: Path, content: Any) -> None:
    """Writes JSON under a temporary name and renames it, so that no half file is ever seen."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def _free_name(settings: TrainSettings) -> Path:
    shaping = "" if settings.shaping == "sparse" else f"-{settings.shaping}"
    stem = f"{settings.reward}{shaping}-seed{settings.seed}"
    names = (stem if k == 1 else f"{stem}-{k}" for k in range(1, 10**6))
    return next(p for p in (Path("runs") / name for name in names) if not p.exists())
