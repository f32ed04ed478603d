"""Callbacks for a training run: checkpoints, evaluations, and an orderly end on Ctrl-C."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from agents.common.checkpoint import save_checkpoint
from agents.common.checkpoint_folder import prune_checkpoints
from agents.evaluation.evaluation import Evaluation
from agents.ppo import DiffusionPPO


class Checkpoints(BaseCallback):
    """Writes a checkpoint every so many rounds, before the first one, and at the end.

    A checkpoint is only ever written between two rounds: the rollout's start is the first moment
    after an update that Stable-Baselines3 tells callbacks about.

    Args:
        folder: Parent of the checkpoints.
        every: Rounds between them.
        keep: How many to keep.
        saved_round: The round of the checkpoint that the agent was resumed from.
    """

    model: DiffusionPPO

    def __init__(self, folder: Path, every: int, keep: int, saved_round: int | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.every = every
        self.keep = keep
        self.saved_round = saved_round

    def save(self) -> None:
        """Writes a checkpoint of this round, unless there is one."""
        if self.saved_round != self.model.rounds:
            save_checkpoint(self.model, self.folder / f"round-{self.model.rounds:06d}")
            self.saved_round = self.model.rounds
            prune_checkpoints(self.folder, self.keep)

    def _on_rollout_start(self) -> None:
        if self.model.rounds % self.every == 0:
            self.save()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.save()


class Evaluations(BaseCallback):
    """Logs an evaluation every so many rounds, of the policy that draws the round's images.

    Args:
        measure: Evaluates the policy.
        every: Rounds between evaluations; 0: none.
    """

    model: DiffusionPPO

    def __init__(self, measure: Callable[[], Evaluation], every: int) -> None:
        super().__init__()
        self.measure = measure
        self.every = every

    def _on_rollout_start(self) -> None:
        if self.every and self.model.rounds % self.every == 0:
            for name, value in self.measure().scalars().items():
                self.logger.record(f"eval/{name}", value)

    def _on_step(self) -> bool:
        return True


class StopOnInterrupt(BaseCallback):
    """Turns the first Ctrl-C into a checkpoint after the current round, and stops there.

    A second Ctrl-C stops at once, leaving the last checkpoint.

    Args:
        checkpoints: Writes the checkpoint.
        announce: Told what happens, in words.
    """

    model: DiffusionPPO

    def __init__(self, checkpoints: Checkpoints, announce: Any) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.announce = announce
        self.interrupted = False
        self._previous: Any = None

    def _on_training_start(self) -> None:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        del number, frame
        self.interrupted = True
        signal.signal(signal.SIGINT, self._previous)
        self.announce("Ctrl-C: finishing this round, then saving. Press again to stop at once.")

    def _on_rollout_start(self) -> None:
        if self.interrupted:
            self.checkpoints.save()
            self.model.stopping = True

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        signal.signal(signal.SIGINT, self._previous)
