"""One training run, from its first evaluation to its report."""

import dataclasses
from contextlib import ExitStack

from rich.console import Console
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import KVWriter, Logger

from agents.common.checkpoint_folder import checkpoints_in
from agents.common.image_algorithm import ImageAlgorithm
from agents.evaluation import Evaluation
from agents.policy import UNetPolicy, export
from agents.runs.algorithms import ALGORITHMS
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
from agents.runs.callbacks import Checkpoints, Evaluations, StopOnSignal
from agents.runs.live import LiveView
from agents.runs.methods import shape_rewards
from agents.runs.record import check_same, describe
from agents.runs.report import write_report
from agents.runs.run_folder import MetricsFile, RunFolder, write_json
from agents.runs.screen import command, say
from agents.runs.settings import TrainSettings
from agents.runs.tensorboard import TensorBoard
from diffusion_gym.errors import InvalidInputError


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
        self._lock = ExitStack()  # let go of when `run` ends, or with this object
        if run is not None:
            self._lock.enter_context(run.locked())

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
        self.image_metrics = make_image_metrics(self.eval_env, settings.evaluation.also)

        # 2. The agent, new or from the newest checkpoint of the very same run.
        record = describe(base, settings)
        records = run.records() if run else []
        if records:
            check_same(records[0], record)
        checkpoints = checkpoints_in(run.checkpoints) if run else []
        if run:  # what is damaged is found before anything is written
            run.check_writable()
            run.metrics()
        has_before = run is not None and run.before_file.is_file()
        self._base_evaluation = load_evaluation(run) if run and has_before else None
        if run and checkpoints:
            kind = ALGORITHMS[settings.run.algorithm].agent
            self.agent = kind.resume(checkpoints[-1], self.env)
            if self.agent.num_timesteps >= settings.run.images and not run.metrics():
                raise InvalidInputError(
                    f"expected the rounds of a run that has ended in {run.metrics_file}, found "
                    "none: there is nothing to train, and nothing to report"
                )
            run.keep_metrics(self.agent.rounds)
        else:
            self.agent = make_agent(settings, self.env)
        self.resumed = bool(checkpoints)

        # 3. The folder, last: whatever cannot work has failed by now and left nothing behind.
        self.is_new = run is None
        if run is None:
            run = RunFolder.create(settings)
            self._lock.enter_context(run.locked())
        self.run_folder = run
        write_json(run.record_file, {"parts": [*records, record]})

    def run(self) -> int:
        """Evaluates, trains, evaluates again, reports; returns the exit status."""
        with self._lock:
            return self._run()

    def _run(self) -> int:
        model, images = self.settings.env.model, self.settings.run.images
        say(
            self.console,
            f"on {model}: {images:,} images, run folder {self.run_folder.path}",
            heading=self.reward,
            style="bold",
        )
        before = self._before()
        done = self.agent.num_timesteps
        board = TensorBoard(self.run_folder.tensorboard, done)
        if not done and not self.settings.evaluation.eval_every:  # else the first round's is it
            board.evaluation(before, 0)
        if not self._train(board):
            self.console.print("[bold]Stopped and saved.[/] Continue with:")
            resume = ("python", "-m", "agents.train", "--resume", self.run_folder.path)
            say(self.console, f"  {command(resume)}")
            return 130
        export(self.agent.policy, self.run_folder.exported)
        after = self._evaluate(self.agent.policy)
        board.evaluation(after, self.agent.num_timesteps)
        board.close()
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
        if self._base_evaluation is not None:
            return self._base_evaluation
        policy = base_policy(self.agent.policy) if self.resumed else self.agent.policy
        try:
            evaluation = self._evaluate(policy)
            save_evaluation(evaluation, self.run_folder)
        except BaseException:
            if self.is_new:
                self.run_folder.discard()
            raise
        return evaluation

    def _train(self, board: TensorBoard) -> bool:
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
            board=board,
            max_kl=self.settings.evaluation.max_kl,
        )

        # 2. The rounds, seen on the screen, in metrics.csv and in TensorBoard.
        earlier = [row["rollout/reward_mean"] for row in self.run_folder.metrics()]
        with LiveView(self.console, images, self.agent.num_timesteps, earlier) as live:
            outputs: list[KVWriter] = [MetricsFile(self.run_folder.metrics_file), board, live]
            self.agent.set_logger(Logger(str(self.run_folder.path), outputs))
            self.agent.learn(
                remaining,
                callback=CallbackList([checkpoints, stop, evaluations]),
                reset_num_timesteps=not self.resumed,
            )
        if evaluations.drifted is not None:
            say(
                self.console,
                f"ended after {self.agent.num_timesteps:,} images: the KL divergence to the base "
                f"model is {evaluations.drifted:.3f}, above {self.settings.evaluation.max_kl:g}",
            )
        return self.agent.num_timesteps >= images or evaluations.drifted is not None

    def _evaluate(self, policy: UNetPolicy) -> Evaluation:
        with self.console.status(f"drawing images of the {self.where} prompts"):
            return self._measure(policy)

    def _measure(self, policy: UNetPolicy) -> Evaluation:
        return evaluate_run(self.settings, policy, self.eval_env, self.image_metrics)
