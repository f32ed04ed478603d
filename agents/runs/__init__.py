"""A training run: its settings, its folder, what is seen of it, and what builds its parts."""

from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from agents.runs.training import Training

__all__ = ["RunFolder", "TrainSettings", "Training"]
