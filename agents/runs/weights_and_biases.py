"""Weights & Biases, where it is installed and asked for."""

import json
import math
import secrets
from typing import Any

from agents.evaluation import Evaluation
from agents.runs.boards import Board, measured
from agents.runs.pictures import Pictures, evaluation_sheet
from agents.runs.run_folder import RunFolder, write_json
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import InvalidInputError, first_line, shown
from diffusion_gym.parsing import parse

IMAGES = "images"
"""What everything is shown against: images drawn in training."""


class WeightsAndBiases(Board):
    """What Weights & Biases shows; a resumed run goes on in the same place.

    What is logged twice because a resumed run repeats it has the same values.

    Args:
        run: The run's folder, below which its files go.
        settings: The run's, which name the project.

    Raises:
        InvalidInputError: It is not installed, is not logged in, or cannot be reached.
    """

    def __init__(self, run: RunFolder, settings: TrainSettings) -> None:
        self._wandb = library()
        self._wandb.setup(self._wandb.Settings(silent=True))  # the screen is this run's own
        try:
            self._run = self._wandb.init(
                project=settings.run.wandb,
                dir=str(run.path),
                id=_id(run),
                name=run.path.resolve().name,
                config=settings.flat(),
                allow_val_change=True,  # a run that is extended has more images than before
                resume="allow",
                reinit="create_new",
                settings=self._wandb.Settings(console="off"),
            )
        except (self._wandb.Error, OSError, ValueError) as error:
            raise InvalidInputError(
                f"cannot log to the project {shown(settings.run.wandb)} of Weights & Biases: "
                f"expected to be logged in and online, or WANDB_MODE=offline, got "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        self._run.define_metric(IMAGES, hidden=True)
        self._run.define_metric("*", step_metric=IMAGES)

    @property
    def address(self) -> str | None:
        """Where the run can be seen; None offline."""
        return None if self._run.offline else self._run.url

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        """Logs a round, but for what TensorBoard is not told either: evaluations come apart."""
        self._log(
            {
                name: value
                for name, value in key_values.items()
                if "tensorboard" not in (key_excluded.get(name) or ()) and _is_number(value)
            },
            step,
        )

    def evaluation(self, evaluation: Evaluation, images: int) -> None:
        """Logs ``eval/…`` and ``eval/pictures``."""
        sheet = self._wandb.Image(evaluation_sheet(evaluation))
        self._log({**measured(evaluation), "eval/pictures": sheet}, images)

    def pictures(self, pictures: Pictures, images: int) -> None:
        """Logs ``pictures``, each with its prompt."""
        pairs = zip(pictures.images, pictures.prompts, strict=True)
        shown_ones = [self._wandb.Image(one, caption=_text(prompt)) for one, prompt in pairs]
        self._log({"pictures": shown_ones}, images)

    def close(self) -> None:
        """Waits until everything is sent; offline, until wandb's own process has all to write."""
        self._run.finish()

    def _log(self, values: dict[str, Any], images: int) -> None:
        self._run.log({**values, IMAGES: images})


def library() -> Any:
    """The package.

    Raises:
        InvalidInputError: It is not installed.
    """
    try:
        import wandb

        _ = wandb.init  # a folder named wandb can be imported, too
    except (ImportError, AttributeError) as error:
        raise InvalidInputError(
            f"--wandb needs the package wandb, which is not installed ({error}): expected it, by "
            "pip install wandb, or no --wandb"
        ) from error
    return wandb


def _id(run: RunFolder) -> str:
    """What the run is called by Weights & Biases, now and when it goes on.

    Raises:
        InvalidInputError: The file that holds it is damaged.
    """
    try:
        known = parse(json.loads, run.wandb_file.read_text(encoding="utf-8"))
        return str(known["id"])
    except FileNotFoundError:
        write_json(run.wandb_file, {"id": secrets.token_hex(8)})
        return _id(run)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"expected the id of a run of Weights & Biases in {run.wandb_file}, which is damaged "
            f"({type(error).__name__}: {first_line(error)}); without the file it gets a new one"
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _text(prompt: str) -> str:
    return prompt.encode("utf-8", "replace").decode()
