"""TensorBoard events of a run: its rounds, its evaluations where they belong, and pictures."""

import math
from pathlib import Path

from stable_baselines3.common.logger import TensorBoardOutputFormat
from torch.utils.tensorboard.writer import SummaryWriter

from agents.evaluation import Evaluation
from diffusion_gym.images import image_grid

PICTURES, COLUMNS = 20, 10
"""Most pictures of an evaluation, one a prompt, and how many side by side."""


class TensorBoard(TensorBoardOutputFormat):
    """Stable-Baselines3 logger output that evaluations are told as well.

    Args:
        folder: Where the events go.
        done: Images drawn before a resumption: what was written beyond them will be repeated, and
            is not shown.
    """

    def __init__(self, folder: Path, done: int = 0) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)
        self._is_closed = False

    def evaluation(self, evaluation: Evaluation, images: int) -> None:
        """Writes ``eval/…`` and a sheet of pictures, at what had been drawn until then.

        Args:
            evaluation: The evaluation.
            images: Images drawn in training so far.
        """
        for name, value in evaluation.scalars().items():
            if not math.isnan(value):
                self.writer.add_scalar(f"eval/{name}", value, images)
        sheet = image_grid(evaluation.images[:PICTURES, 0], COLUMNS)
        self.writer.add_image("eval/pictures", sheet, images, dataformats="HWC")
        self.writer.flush()
