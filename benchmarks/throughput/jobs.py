"""What is measured: one way to train one model."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.common.image_algorithm import ImageAlgorithm
from agents.runs.builders import Env, make_agent, make_env
from agents.runs.methods import shape_rewards
from agents.runs.settings import TrainSettings
from benchmarks.sized.checkpoints import save_checkpoint_of
from benchmarks.sized.networks import SD3, SD15, SDXL, SMALL, SMALL_3, SMALL_XL, ModelSize

EMBEDDED = "emoji-64"
SIZES: dict[str, ModelSize] = {
    "sd15": SD15,
    "sdxl": SDXL,
    "sd3": SD3,
    "small": SMALL,
    "small-xl": SMALL_XL,
    "small-3": SMALL_3,
}
"""Models with random weights, by the names that a job may have besides checkpoints."""


@dataclass(frozen=True)
class Job:
    """One way to train one model.

    Attributes:
        model: A name in `SIZES`, or what ``python -m agents.train --model`` takes.
        device: A torch device.
        options: Other options of ``python -m agents.train``, by the names of `TrainSettings`.
    """

    model: str = EMBEDDED
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Model and options, for tables."""
        return ", ".join([self.model, *(f"{key} {self.options[key]}" for key in self.options)])

    def settings(self, model: str) -> TrainSettings:
        """The settings of such a run.

        Args:
            model: The checkpoint.
        """
        own = {} if model == EMBEDDED else {"prompts": "animals", "reward": "jpeg_compressibility"}
        return TrainSettings.of(
            **{"model": model, "device": self.device, "seed": 0} | own | self.options
        )

    @contextmanager
    def built(self) -> Iterator[tuple[Env, ImageAlgorithm]]:
        """Environment and agent, as the command line builds them, until the ``with`` block ends."""
        with tempfile.TemporaryDirectory() as folder:
            model = self.model
            if model in SIZES:
                model = str(save_checkpoint_of(SIZES[model], Path(folder) / model, self.device))
            settings = self.settings(model)
            env = shape_rewards(make_env(settings), settings.shaping, settings.length)
            yield env, make_agent(settings, env)
            env.close()
