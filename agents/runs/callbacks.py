"""Callbacks for a training run: checkpoints, evaluations, and an end in good order."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from agents.common.checkpoint import save_checkpoint
from agents.common.checkpoint_folder import prune_checkpoints
from agents.common.image_algorithm import ImageAlgorithm
from agents.evaluation.evaluation import KL_TO_BASE, Evaluation
from agents.runs.boards import Board


class Checkpoints(BaseCallback):
    """Writes a checkpoint every so many rounds or minutes, before the first one, and at the end.

    A checkpoint is only ever written between two rounds: the rollout's start is the first moment
    after an update that Stable-Baselines3 tells callbacks about. Where several processes train,
    each has one of these, and the first one writes.

    Args:
        folder: Parent of the checkpoints.
        every: Most rounds between them.
        minutes: Most minutes between them, to whole rounds.
        keep: How many to keep.
        saved_round: The round of the checkpoint that the agent was resumed from.
    """

    model: ImageAlgorithm

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        minutes: float,
        keep: int,
        saved_round: int | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.every = every
        self.minutes = minutes
        self.saved_at = time.monotonic()
        self.keep = keep
        self.saved_round = saved_round

    def save(self) -> None:
        """Writes a checkpoint of this round, unless there is one."""
        if self.saved_round != self.model.rounds:
            save_checkpoint(self.model, self.folder / f"round-{self.model.rounds:06d}")
            self.saved_round = self.model.rounds
            self.saved_at = time.monotonic()
            if self.model.processes.is_main:
                prune_checkpoints(self.folder, self.keep)

    def _on_rollout_start(self) -> None:
        waited = time.monotonic() - self.saved_at
        due = self.model.rounds % self.every == 0 or waited >= 60 * self.minutes
        if self.model.processes.any(due):
            self.save()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.save()


class Evaluations(BaseCallback):
    """Logs an evaluation every so many rounds, of the policy that draws the round's images.

    In the log's rows it stands beside the round that follows; boards have it where it belongs.

    Args:
        measure: Evaluates the policy.
        every: Rounds between evaluations; 0: none.
        boards: Told of every evaluation; none where another process is.
        max_kl: Ends the training at the first evaluation whose KL divergence to the base model is
            larger; None: never.
    """

    model: ImageAlgorithm

    drifted: float | None = None
    """The divergence that ended the training."""

    latest: Evaluation | None = None
    """The evaluation of the policy that draws this round's images, if there is one."""

    def __init__(
        self,
        measure: Callable[[], Evaluation],
        *,
        every: int,
        boards: Sequence[Board],
        max_kl: float | None = None,
    ) -> None:
        super().__init__()
        self.measure = measure
        self.every = every
        self.boards = boards
        self.max_kl = max_kl

    def _on_rollout_start(self) -> None:
        self.latest = None
        if self.every and self.model.rounds % self.every == 0:
            self.latest = evaluation = self.measure()
            scalars = evaluation.scalars()
            for name, value in scalars.items():
                self.logger.record(f"eval/{name}", value, exclude="tensorboard")
            for board in self.boards:
                board.evaluation(evaluation, self.model.num_timesteps)
            limit = np.inf if self.max_kl is None else self.max_kl
            if self.model.rounds and scalars[KL_TO_BASE] > limit:
                self.drifted = scalars[KL_TO_BASE]
                self.model.stopping = True

    def _on_step(self) -> bool:
        return True


class OwnCallbacks(CallbackList):
    """Callbacks of the user's; where one asks to stop, the training ends after the round.

    Where several processes train, each has them, and all stop where one was asked to.
    """

    model: ImageAlgorithm

    asked: bool = False
    """Whether one of them, here or in another process, has ended the training."""

    def _on_step(self) -> bool:
        self.asked |= not super()._on_step()
        return True  # a round that is stopped would be lost

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        self.asked = self.model.processes.any(self.asked)
        self.model.stopping |= self.asked


class PicturesOfRounds(BaseCallback):
    """Has pictures of the policy shown every so many rounds, but for the one before the first.

    Where several processes train, the first one draws and the others wait for it.

    Args:
        show: Draws and shows them; told of an evaluation of the policy, if there is one.
        every: Rounds between them; 0: none.
        evaluations: Asked for the round's evaluation, after which it is called.
    """

    model: ImageAlgorithm

    def __init__(
        self,
        show: Callable[[Evaluation | None], None],
        *,
        every: int,
        evaluations: Evaluations,
    ) -> None:
        super().__init__()
        self.show = show
        self.every = every
        self.evaluations = evaluations

    def _on_rollout_start(self) -> None:
        rounds = self.model.rounds
        if self.every and rounds and rounds % self.every == 0:
            self.model.processes.from_main(self._show)

    def _show(self) -> None:
        if not self.model.stopping:  # which need not be known to all yet
            self.show(self.evaluations.latest)

    def _on_step(self) -> bool:
        return True


SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "Asked to end (SIGTERM)"}
"""What ends a run in good order: a person, or a job scheduler."""


class StopOnSignal(BaseCallback):
    """Turns the first Ctrl-C or SIGTERM into a checkpoint after the current round, and stops there.

    A second one stops at once, leaving the last checkpoint. Outside the main thread, where Python
    cannot be told of signals, it does nothing.

    Where several processes train, all stop where one was asked to. More signals do nothing then:
    the launcher passes on what a terminal has sent to all already, and itself kills what does not
    end in time.

    Args:
        checkpoints: Writes the checkpoint.
        announce: Told what happens, in words.
    """

    model: ImageAlgorithm

    def __init__(self, checkpoints: Checkpoints, announce: Callable[[str], None]) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.announce = announce
        self.asked = False
        self._previous: dict[int, Any] = {}

    def _on_training_start(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def _on_signal(self, number: int, frame: Any) -> None:
        del frame
        if self.asked:
            return
        self.asked = True
        once_more = ""
        if self.model.processes.alone:
            self._restore()
            once_more = " Once more stops at once."
        name = SIGNALS[signal.Signals(number)]
        self.announce(f"{name}: finishing this round, then saving.{once_more}")

    def _on_rollout_start(self) -> None:
        if self.model.processes.any(self.asked):
            self.checkpoints.save()
            self.model.stopping = True

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
