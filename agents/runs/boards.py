"""Where a run is watched: rounds, evaluations where they belong, and pictures."""

import abc
import math

from stable_baselines3.common.logger import KVWriter

from agents.evaluation import Evaluation
from agents.runs.pictures import Pictures


class Board(KVWriter, abc.ABC):
    """Stable-Baselines3 logger output that is told of evaluations and pictures as well."""

    @abc.abstractmethod
    def evaluation(self, evaluation: Evaluation, images: int) -> None:
        """Shows ``eval/…`` and a sheet of pictures.

        Args:
            evaluation: The evaluation.
            images: Images drawn in training until then.
        """

    @abc.abstractmethod
    def pictures(self, pictures: Pictures, images: int) -> None:
        """Shows ``pictures``.

        Args:
            pictures: Of held-out prompts.
            images: Images drawn in training until then.
        """


def measured(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation's figures by the names that boards have for them, without what has none."""
    scalars = evaluation.scalars().items()
    return {f"eval/{name}": value for name, value in scalars if not math.isnan(value)}
