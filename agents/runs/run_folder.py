"""The folder that a training run leaves behind."""

import csv
import fcntl
import itertools
import json
import math
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter

from agents.common.checkpoint_folder import latest_checkpoint
from agents.files import atomic, file_to_write, is_leftover
from agents.runs.named_code import short
from agents.runs.own_parts import unknown
from agents.runs.recommended import recommended_shaping
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import InvalidInputError, first_line, one_line
from diffusion_gym.parsing import parse

RUNS = Path("runs")
"""Where runs go that are not told otherwise."""

COLUMNS = (
    *("count/rounds", "count/reward_queries", "rollout/reward_mean"),
    *("time/rollout_seconds", "time/update_seconds"),
)
"""What every row of metrics.csv has."""

CREDIT = "credit/step_"
"""What the columns of a step's credit begin with."""


class RunFolder:
    """Names of everything inside a run's folder.

    ::

        settings.json    the resolved settings
        record.json      versions and hashes of what was used, at each start
        metrics.csv      one row per round
        before.npz       evaluation of the base model
        after.npz        evaluation of the trained one
        summary.json     the final figures
        report.html      all of it on one page
        before_after.png, reward_curve.png, credit_per_step.png
        pictures/        of held-out prompts while it trained: round-000002.png …
        checkpoints/     round-000005/ …
        exported/        the trained weights in diffusers' format
        tensorboard/
        wandb/, wandb.json

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made = False
        self.settings_file = path / "settings.json"
        self.record_file = path / "record.json"
        self.lock_file = path / ".lock"
        self.metrics_file = path / "metrics.csv"
        self.before_file = path / "before.npz"
        self.after_file = path / "after.npz"
        self.summary_file = path / "summary.json"
        self.report_file = path / "report.html"
        self.wandb_file = path / "wandb.json"
        self.wandb = path / "wandb"
        self.pictures_file = path / "before_after.png"
        self.curve_file = path / "reward_curve.png"
        self.credit_file = path / "credit_per_step.png"
        self.pictures = path / "pictures"
        self.checkpoints = path / "checkpoints"
        self.exported = path / "exported"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def create(cls, settings: TrainSettings) -> "RunFolder":
        """Makes the folder of a new run and writes the settings into it.

        Raises:
            InvalidInputError: The folder is in use, or cannot be written to.
        """
        output = settings.run.output
        if output and (found := _existing(output)):
            if not found.is_dir() or any(not is_leftover(entry) for entry in found.iterdir()):
                raise InvalidInputError(
                    f"expected a new or empty run folder, got {found}, which is in use; continue "
                    f"that run with --resume {shlex.quote(str(found))}, or name another with "
                    "--output"
                )
        try:
            path = Path(output).expanduser() if output else _new_folder(settings)
            made = not output or not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path)
            run.made = made
            write_json(run.settings_file, settings.flat())
        except OSError as error:
            raise InvalidInputError(
                "expected a run folder that can be written to, got "
                f"{one_line(output or str(RUNS))}: {error.strerror}"
            ) from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Finds an existing run.

        Raises:
            InvalidInputError: There is no run in that folder.
        """
        run = cls(Path(path))
        try:
            found, why = run.settings_file.is_file(), f"which has no {run.settings_file.name}"
        except OSError as error:  # a name that is too long, a circle of links
            found, why = False, f"which cannot be read: {error.strerror}"
        if not found:
            raise InvalidInputError(
                f"expected the folder of a training run, got {one_line(str(path))}, {why}"
            )
        return run

    @property
    def settings(self) -> TrainSettings:
        """The settings the run was started with.

        Of an agent whose code nobody has imported, its own options are left out.

        Raises:
            InvalidInputError: The file is damaged, or of another version.
        """
        flat = self.flat_settings()
        try:
            if any(each.kind == "algorithm" for each in unknown(flat)):
                return TrainSettings.of_unknown_agent(flat)
            return TrainSettings.from_flat(flat)
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"expected the settings of a training run in {self.settings_file}, got: {error}"
            ) from error

    def flat_settings(self) -> dict[str, Any]:
        """The values of the settings by name, as the file has them.

        Raises:
            InvalidInputError: The file is damaged.
        """
        try:
            return dict(parse(json.loads, self.settings_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InvalidInputError(
                f"expected the settings of a training run in {self.settings_file}, got: {error}"
            ) from error

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint, for the agent's ``resume`` and `load_policy`."""
        return latest_checkpoint(self.checkpoints)

    def summary(self) -> dict[str, Any]:
        """The final figures of a run that has ended."""
        figures: dict[str, Any] = json.loads(self.summary_file.read_text())
        return figures

    def metrics(self) -> list[dict[str, float]]:
        """The rounds' figures so far."""
        if not self.metrics_file.is_file():
            return []
        with self.metrics_file.open(newline="") as stream:
            rows = csv.reader(stream)
            try:
                columns = next(rows, [])
                read = [
                    {name: float(cell) for name, cell in zip(columns, row, strict=True) if cell}
                    for row in rows
                    if len(row) == len(columns)  # a full disk, or a kill, cuts the last one
                ]
                for name in COLUMNS:
                    if not all(name in row for row in read):
                        raise ValueError(f"a round without {name}")
                return read
            except (ValueError, csv.Error) as error:
                raise InvalidInputError(
                    f"expected a table of numbers in {self.metrics_file}, got: {first_line(error)}"
                ) from error

    def check_writable(self) -> None:
        """Checks that what will be written can be.

        Raises:
            InvalidInputError: Something else is in a file's, or the folder's, place.
        """
        pictures = (self.pictures_file, self.curve_file, self.credit_file, self.report_file)
        tables = (self.record_file, self.metrics_file, self.before_file, self.after_file)
        for file in (*tables, self.summary_file, self.wandb_file, *pictures):
            file_to_write(str(file))
        if self.exported.is_symlink() or (self.exported.exists() and not self.exported.is_dir()):
            raise InvalidInputError(f"expected a folder to write to, got {self.exported}")
        if self.pictures.exists() and not self.pictures.is_dir():
            raise InvalidInputError(f"expected a folder to write to, got {self.pictures}")

    def discard(self) -> None:
        """Removes what a run that failed at once has left, and the folder if the run made it."""
        if self.made:
            shutil.rmtree(self.path)
            if self.path.parent == RUNS:
                with suppress(OSError):  # others' runs are in it
                    RUNS.rmdir()
            return
        for file in (self.settings_file, self.record_file, self.wandb_file):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.wandb, ignore_errors=True)

    def records(self) -> list[dict[str, Any]]:
        """What was recorded at the start of the run and whenever it went on.

        Raises:
            InvalidInputError: The file is damaged.
        """
        if not self.record_file.is_file():
            return []
        try:
            text = self.record_file.read_text(encoding="utf-8")
            records = parse(json.loads, text)["parts"]
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInputError(
                f"expected the record of a training run in {self.record_file}, got "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        return list(records)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from going on with this run meanwhile.

        Raises:
            InvalidInputError: One is at it.
        """
        with self.lock_file.open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidInputError(
                    f"another process is training the run in {self.path}: expected one at a time"
                ) from error
            yield

    def mean_credit(self) -> list[float]:
        """Each denoising step's share of the return, a mean over the rounds.

        ``[T]``; empty where the agent does not train the steps.
        """
        rows = self.metrics()
        names = sorted(name for name in rows[0] if name.startswith(CREDIT))
        return [sum(row[name] for row in rows) / len(rows) for name in names]

    def keep_metrics(self, rounds: int) -> None:
        """Drops the rounds after a checkpoint, which a resumed run will repeat."""
        if not self.metrics_file.is_file():
            return
        text = self.metrics_file.read_text()
        header, *lines = text.splitlines(keepends=True) or [""]
        columns = next(csv.reader([header]), [])
        kept = [header] if lines else []
        for line in lines:  # numbers alone: no comma stands inside a cell
            cells = line.split(",")
            if len(cells) != len(columns) or not line.endswith("\n"):
                continue  # a full disk, or a kill, cut it
            if float(cells[columns.index("count/rounds")]) <= rounds:
                kept.append(line)
        if "".join(kept) != text:
            with atomic(self.metrics_file) as partial:
                partial.write_text("".join(kept))


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
                columns = next(csv.reader(stream), columns)
        with self.path.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
            if stream.tell() == 0:
                writer.writeheader()
            writer.writerow(key_values)

    def close(self) -> None:
        """Every line is on disk already."""


def write_json(path: Path, content: Any) -> None:
    """Writes JSON such that no half file is ever seen; numbers that are not finite are null.

    Raises:
        InvalidInputError: The path is neither a file nor free.
    """
    text = json.dumps(with_null(content), indent=2, allow_nan=False)
    with atomic(path) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")


def with_null(content: Any) -> Any:
    """The same with None for NaN and infinities, which JSON does not have."""
    if isinstance(content, dict):
        return {name: with_null(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [with_null(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def training_seconds(rounds: Iterable[Mapping[str, float]]) -> float:
    """What drawing and updates have taken in the rounds of `RunFolder.metrics`, in seconds."""
    return sum(row["time/rollout_seconds"] + row["time/update_seconds"] for row in rounds)


def _existing(output: str) -> Path | None:
    """What is in the place of a run folder, if anything.

    Raises:
        InvalidInputError: Nothing can be there.
    """
    try:
        path = Path(output).expanduser()
        return path if path.exists() or path.is_symlink() else None
    except (OSError, RuntimeError) as error:  # too long, or of a user that is not there
        raise InvalidInputError(
            f"expected a run folder that can be written to, got {one_line(output)}: "
            f"{first_line(error)}"
        ) from error


def _new_folder(settings: TrainSettings) -> Path:
    """Makes a folder of a name that no run has, also where two runs start at the same moment."""
    reward = settings.env.reward
    names = [reward] if isinstance(reward, str) else list(reward or ())
    algorithm, shaping = settings.run.algorithm, settings.shaping.shaping
    usual = recommended_shaping(settings.env.model, reward, algorithm)
    parts = [
        "+".join(map(short, names)),
        "" if algorithm == "ppo" else short(algorithm),
        "" if shaping == usual else short(shaping),
    ]
    stem = "-".join([*(part for part in parts if part), f"seed{settings.run.seed}"])
    for number in itertools.count(1):
        path = RUNS / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("numbers do not end")
