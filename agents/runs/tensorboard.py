"""TensorBoard events of a run."""

from pathlib import Path

from stable_baselines3.common.logger import TensorBoardOutputFormat
from torch.utils.tensorboard.writer import SummaryWriter

from agents.evaluation import Evaluation
from agents.runs.boards import Board, measured
from agents.runs.pictures import Pictures, evaluation_sheet


class TensorBoard(TensorBoardOutputFormat, Board):
    """What TensorBoard shows.

    Args:
        folder: Where the events go.
        done: Images drawn before a resumption: what was written beyond them will be repeated, and
            is not shown.
    """

    def __init__(self, folder: Path, done: int = 0) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)
        self._is_closed = False

    def evaluation(self, evaluation: Evaluation, images: int) -> None:
        """Writes ``eval/…`` and ``eval/pictures``."""
        for name, value in measured(evaluation).items():
            self.writer.add_scalar(name, value, images)
        sheet = evaluation_sheet(evaluation)
        self.writer.add_image("eval/pictures", sheet, images, dataformats="HWC")
        self.writer.flush()

    def pictures(self, pictures: Pictures, images: int) -> None:
        """Writes ``pictures``, all of them as one."""
        self.writer.add_image("pictures", pictures.sheet(), images, dataformats="HWC")
        self.writer.flush()
