"""One training run, from its first evaluation to its report."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import KVWriter, Logger

from agents.common.checkpoint_folder import checkpoints_in
from agents.common.image_algorithm import ImageAlgorithm
from agents.common.processes import ProcessLostError, current
from agents.evaluation import Evaluation
from agents.policy import UNetPolicy, export
from agents.runs.algorithms import algorithm
from agents.runs.boards import Board
from agents.runs.builders import (
    base_env,
    base_policy,
    evaluate_run,
    evaluation_prompts,
    load_evaluation,
    make_agent,
    make_env,
    make_evaluation_env,
    make_image_metrics,
    save_evaluation,
)
from agents.runs.callbacks import (
    Checkpoints,
    Evaluations,
    OwnCallbacks,
    PicturesOfRounds,
    StopOnSignal,
)
from agents.runs.live import LiveView
from agents.runs.methods import shape_rewards
from agents.runs.own_parts import make_callbacks, named
from agents.runs.pictures import HeldOutPictures, save_pictures
from agents.runs.record import check_same, describe
from agents.runs.report import write_report
from agents.runs.run_folder import MetricsFile, RunFolder, write_json
from agents.runs.screen import command, say
from agents.runs.settings import TrainSettings
from agents.runs.start import begin_with, read_start
from agents.runs.tensorboard import TensorBoard
from agents.runs.weights_and_biases import WeightsAndBiases, library
from diffusion_gym.errors import InvalidInputError, RewardServerError
from diffusion_gym.wrappers import B2DiffuRLReward, shapings


class Training:
    """One training run from its first evaluation to its report.

    Args:
        settings: The run's settings.
        console: Where to report.
        run: The folder of the run to continue, or None for a new run.
    """

    settings: TrainSettings
    """The run's settings, with the model's own defaults filled in."""

    agent: ImageAlgorithm
    """What is trained."""

    run_folder: RunFolder
    """Where everything goes."""

    def __init__(
        self, settings: TrainSettings, console: Console, run: RunFolder | None = None
    ) -> None:
        self.console = console
        self.processes = current()
        self._lock = ExitStack()  # let go of when `run` ends, or with this object
        self._boards: list[Board] = []
        self.is_new = run is None
        with self.processes.together():
            record = self._prepare(settings, run)

        # The folder, last: whatever cannot work has failed by now and left nothing behind.
        self.run_folder = self.processes.from_main(lambda: self._folder(run, record))

    def _prepare(self, settings: TrainSettings, run: RunFolder | None) -> dict[str, Any]:
        """Builds what trains and what evaluates; returns what is to be recorded of it.

        Of several processes the first one alone looks at the folder of a run, but for its
        checkpoints.
        """
        mine = run if self.processes.is_main else None
        if mine is not None:
            self._lock.enter_context(mine.locked())
        if settings.run.wandb is not None:
            library()
        self._own = OwnCallbacks(make_callbacks(settings.run.callback))

        # 1. What is trained on, and what is evaluated on. The environment knows the model's own
        #    defaults: from here on the settings have them, too.
        self.env = shape_rewards(make_env(settings), settings.shaping, settings.length)
        base = base_env(self.env)
        self.settings = settings = dataclasses.replace(settings, env=base.config)
        reason = base.schedule.why_deterministic
        if settings.evaluation.max_kl is not None and reason is not None:
            raise InvalidInputError(
                "expected steps with noise, whose divergence max_kl is the bound of, got "
                f"max_kl={settings.evaluation.max_kl:g} although {reason}"
            )
        self.reward = base.reward_function.name
        prompts = evaluation_prompts(self.env)
        self.where = "training" if prompts == base.config.prompts else "held-out"
        evaluated = settings.evaluation
        self.eval_env = make_evaluation_env(
            settings, prompts, count=evaluated.eval_prompts, samples=evaluated.eval_samples
        )
        self.image_metrics = make_image_metrics(
            self.eval_env, evaluated.also, diversity_clip=evaluated.diversity_clip
        )
        drawn = self.processes.is_main and settings.evaluation.picture_every
        self._held_out = HeldOutPictures(settings, prompts) if drawn else None

        # 2. The agent, new or from the newest checkpoint of the very same run.
        record = describe(base, settings)
        self._records = mine.records() if mine else []
        if self._records:
            check_same(self._records[0], record)
            self._check_extension(self._records[0]["settings"]["images"])
        checkpoints = checkpoints_in(run.checkpoints) if run else []
        if mine:  # what is damaged is found before anything is written
            mine.check_writable()
            mine.metrics()
        has_before = mine is not None and mine.before_file.is_file()
        self._base_evaluation = load_evaluation(mine.before_file) if mine and has_before else None
        if checkpoints:
            kind = algorithm(settings.run.algorithm).agent
            self.agent = kind.resume(checkpoints[-1], self.env)
            ended = self.agent.num_timesteps >= settings.run.images
            if mine and ended and not mine.metrics():
                raise InvalidInputError(
                    f"expected the rounds of a run that has ended in {mine.metrics_file}, found "
                    "none: there is nothing to train, and nothing to report"
                )
            record["start"] = self._records[0].get("start") if self._records else None
        else:
            self.agent = make_agent(settings, self.env)
            record["start"] = self._begin()
        self.resumed = bool(checkpoints)
        return record

    def _begin(self) -> dict[str, Any] | None:
        """Gives a new agent the weights that it is to begin with; what is recorded of them.

        Raises:
            InvalidInputError: They do not fit; or they are not those that the run began with.
        """
        if self.settings.run.from_run is None:
            return None
        start = read_start(self.settings.run.from_run)
        known = self._records[0].get("start") if self._records else None
        if known is not None and known["sha256"] != start.sha256:
            raise InvalidInputError(
                f"expected the weights that the run began with in {start.place}, which have "
                "changed since"
            )
        base_hash = base_env(self.env).model.weights_hash
        self.agent.begin_with(begin_with(self.agent.policy, start, base_hash))
        return {"place": str(start.place), "sha256": start.sha256}

    def _check_extension(self, images: int) -> None:
        """Refuses more images than the run was started with where what is trained goes by them."""
        planned = [each for each in shapings(self.env) if isinstance(each, B2DiffuRLReward)]
        if planned and self.settings.run.images != images:
            raise InvalidInputError(
                f"expected {images} images as at the run's start, since B2DiffuRLReward's trained "
                f"steps grow over the whole of them, got {self.settings.run.images}"
            )

    def _folder(self, run: RunFolder | None, record: dict[str, Any]) -> RunFolder:
        """The folder of the run, a new one where there is none yet, with the record in it."""
        if run is None:
            run = RunFolder.create(self.settings)
            self._lock.enter_context(run.locked())
        elif self.resumed:
            run.keep_metrics(self.agent.rounds)
            if run.settings.run.images != self.settings.run.images:
                write_json(run.settings_file, self.settings.flat())
        write_json(run.record_file, {"parts": [*self._records, record]})
        return run

    def run(self) -> int:
        """Evaluates, trains, evaluates again, reports; returns the exit status."""
        with self._lock:
            try:
                with self._boards_closed():
                    return self._run()
            except (ProcessLostError, RewardServerError) as error:
                if not checkpoints_in(self.run_folder.checkpoints):
                    raise
                raise type(error)(
                    f"{error}. The last checkpoint is whole; continue with: {self._resume}"
                ) from error

    @property
    def _resume(self) -> str:
        """The command that continues this run."""
        several = ("torchrun", "--nproc-per-node", self.processes.count)
        start = ("python",) if self.processes.alone else several
        trust = ("--trust",) if named(self.settings.flat()) else ()
        return command((*start, "-m", "agents.train", "--resume", self.run_folder.path, *trust))

    def _run(self) -> int:
        model, images = self.settings.env.model, self.settings.run.images
        say(
            self.console,
            f"on {model}: {images:,} images, run folder {self.run_folder.path}",
            heading=self.reward,
            style="bold",
        )
        if self.settings.run.wandb is not None:
            with self._or_nothing():
                self.processes.from_main(self._open_wandb)
        before = self._before()
        done = self.agent.num_timesteps
        if done >= images:
            say(self.console, "it has ended: evaluating it again (--images N would extend it)")
        if self.processes.is_main:
            self._boards.append(TensorBoard(self.run_folder.tensorboard, done))
            if not done:
                self._show(before)
                if not self.settings.evaluation.eval_every:  # else the first round makes it
                    self._tell(before)
        if not self._train():
            self.console.print("[bold]Stopped and saved.[/] Continue with:")
            say(self.console, f"  {self._resume}")
            return 130
        self.processes.from_main(lambda: export(self.agent.policy, self.run_folder.exported))
        after = self._evaluate(self.agent.policy)
        if self.processes.is_main:  # the others have done their part
            self._tell(after)
            self._show(after)
            save_evaluation(after, self.run_folder.after_file)
            write_report(
                self.run_folder,
                before,
                after,
                self.reward,
                self.where,
                self.console,
            )
        return 0

    def _before(self) -> Evaluation:
        """The base model's evaluation; a new run that cannot make it leaves nothing behind."""
        known = self.processes.from_main(lambda: self._base_evaluation)
        if known is not None:
            return known
        trained = self.resumed or self.settings.run.from_run is not None
        policy = base_policy(self.agent.policy) if trained else self.agent.policy
        file = self.run_folder.before_file
        with self._or_nothing():
            evaluation = self._evaluate(policy)
            self.processes.from_main(lambda: save_evaluation(evaluation, file))
        return evaluation

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """What a new run begins with: where it fails, the run leaves nothing behind."""
        try:
            yield
        except BaseException:
            if self.is_new and self.processes.is_main:
                self._close_boards()
                self.run_folder.discard()
            raise

    def _train(self) -> bool:
        """Trains to the end, or to the drift allowed; False where somebody asked to stop before."""
        images = self.settings.run.images
        remaining = images - self.agent.num_timesteps
        if remaining <= 0:
            return True

        # 1. What happens between the rounds.
        checkpoints = Checkpoints(
            self.run_folder.checkpoints,
            every=self.settings.run.checkpoint_every,
            minutes=self.settings.run.checkpoint_minutes,
            keep=self.settings.run.keep_checkpoints,
            saved_round=self.agent.rounds if self.resumed else None,
        )
        stop = StopOnSignal(checkpoints, lambda text: say(self.console, text))
        evaluations = Evaluations(
            lambda: self._measure(self.agent.policy),
            every=self.settings.evaluation.eval_every,
            boards=self._boards,
            max_kl=self.settings.evaluation.max_kl,
        )
        pictures = PicturesOfRounds(
            self._show,
            every=self.settings.evaluation.picture_every,
            evaluations=evaluations,
        )

        # 2. The rounds, seen on the screen, in metrics.csv and on the boards.
        callback = CallbackList([checkpoints, stop, evaluations, pictures, self._own])
        if not self.processes.is_main:
            self._learn(remaining, callback)
            return self._has_ended(evaluations)
        earlier = [row["rollout/reward_mean"] for row in self.run_folder.metrics()]
        with LiveView(self.console, images, self.agent.num_timesteps, earlier) as live:
            table = MetricsFile(self.run_folder.metrics_file)
            outputs: list[KVWriter] = [table, *self._boards, live]
            self.agent.set_logger(Logger(str(self.run_folder.path), outputs))
            self._learn(remaining, callback)
        if evaluations.drifted is not None:
            say(
                self.console,
                f"ended after {self.agent.num_timesteps:,} images: the KL divergence to the base "
                f"model is {evaluations.drifted:.3f}, above {self.settings.evaluation.max_kl:g}",
            )
        if self._own.asked:
            say(
                self.console,
                f"ended after {self.agent.num_timesteps:,} images: a callback asked to",
            )
        return self._has_ended(evaluations)

    # ----------------------------------------------------------------------- to be watched

    def _open_wandb(self) -> None:
        board = WeightsAndBiases(self.run_folder, self.settings)
        self._boards.append(board)
        if board.address:
            say(self.console, board.address, heading="Weights & Biases:")

    def _tell(self, evaluation: Evaluation) -> None:
        """Shows an evaluation of the policy as it is."""
        for board in self._boards:
            board.evaluation(evaluation, self.agent.num_timesteps)

    def _show(self, evaluation: Evaluation | None) -> None:
        """Shows pictures of the policy as it is, an evaluation's where there is one."""
        if self._held_out is None:
            return
        if evaluation is None:
            pictures = self._held_out.draw(self.agent.policy)
        else:
            pictures = self._held_out.of(evaluation)
        file = self.run_folder.pictures / f"round-{self.agent.rounds:06d}.png"
        save_pictures(pictures, file)
        for board in self._boards:
            board.pictures(pictures, self.agent.num_timesteps)

    @contextmanager
    def _boards_closed(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._close_boards()

    def _close_boards(self) -> None:
        while self._boards:
            self._boards.pop().close()

    # ------------------------------------------------------------------------------- parts

    def _learn(self, images: int, callback: BaseCallback) -> None:
        self.agent.learn(images, callback=callback, reset_num_timesteps=not self.resumed)

    def _has_ended(self, evaluations: Evaluations) -> bool:
        done = self.agent.num_timesteps >= self.settings.run.images
        return done or evaluations.drifted is not None or self._own.asked

    def _evaluate(self, policy: UNetPolicy) -> Evaluation:
        with self.console.status(f"drawing images of the {self.where} prompts"):
            return self._measure(policy)

    def _measure(self, policy: UNetPolicy) -> Evaluation:
        return evaluate_run(self.settings, policy, self.eval_env, self.image_metrics)
