"""Fine-tunes a text-to-image model with PPO: ``python -m agents.train``."""

import argparse
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from agents.common.checkpoint import checkpoints_in
from agents.evaluation.evaluation import Evaluation
from agents.policy import UNetPolicy
from agents.policy.export import export
from agents.ppo import DiffusionPPO
from agents.runs import cli
from agents.runs.builders import (
    HELD_OUT,
    base_policy,
    evaluate_run,
    evaluation_prompts,
    load_evaluation,
    make_agent,
    make_env,
    save_evaluation,
)
from agents.runs.callbacks import Checkpoints, Evaluations, StopOnInterrupt
from agents.runs.live import LiveView
from agents.runs.methods import Course, shape_rewards
from agents.runs.report import write_report
from agents.runs.run_folder import MetricsFile, RunFolder, write_json
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import InvalidInputError

PACKAGES = ("diffusion-gym", "torch", "diffusers", "transformers", "gymnasium", "stable-baselines3")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, or continues a run; returns the exit status (130 after Ctrl-C)."""
    options = _parser().parse_args(arguments)
    given = cli.given_options(options, TrainSettings)
    console = Console()
    if options.resume is None:
        return Training(TrainSettings.from_options(given), console).run()
    if given:
        raise InvalidInputError(
            "a resumed run keeps its settings: expected --resume alone, got "
            f"--{', --'.join(name.replace('_', '-') for name in given)} as well"
        )
    run = RunFolder.open(options.resume)
    return Training(run.settings, console, run).run()


class Training:
    """One training run from its first evaluation to its report.

    Args:
        settings: The run's settings.
        console: Where to report.
        run: The folder of the run to continue, or None for a new run.
    """

    def __init__(
        self, settings: TrainSettings, console: Console, run: RunFolder | None = None
    ) -> None:
        self.settings = settings
        self.console = console
        course = Course(settings.rounds, settings.batches_per_round, settings.b2_start)
        self.env = shape_rewards(make_env(settings), settings.shaping, course)
        base: Any = self.env.unwrapped
        prompts = evaluation_prompts(settings, self.env)
        self.where = "held-out" if str(prompts).endswith(HELD_OUT) else "training"
        self.eval_env = make_env(settings, prompts=prompts)
        self.reward = str(base.reward_function.name)
        checkpoints = checkpoints_in(run.checkpoints) if run else []
        if run and checkpoints:
            self.agent = DiffusionPPO.resume(checkpoints[-1], self.env)
            run.keep_metrics(self.agent.rounds)
        else:
            self.agent = make_agent(settings, self.env)
        self.resumed = bool(checkpoints)
        self.is_new = run is None
        self.run_folder = run or RunFolder.create(settings)
        write_json(self.run_folder.record_file, _record(base))

    def run(self) -> int:
        """Evaluates, trains, evaluates again, reports."""
        self.console.print(
            f"[bold]{self.reward}[/] on {self.settings.model}: {self.settings.images:,} images, "
            f"run folder {self.run_folder.path}",
            highlight=False,
            soft_wrap=True,
        )
        if not self.run_folder.before_file.is_file():
            self._evaluate_before()
        if not self._train():
            self.console.print(
                "[bold]Stopped and saved.[/] Continue with:\n"
                f"  python -m agents.train --resume {self.run_folder.path}",
                highlight=False,
                soft_wrap=True,
            )
            return 130
        export(self.agent.policy, self.run_folder.exported)
        write_report(
            self.run_folder,
            load_evaluation(self.run_folder),
            self._evaluate(self.agent.policy),
            self.reward,
            self.where,
            self.console,
        )
        return 0

    def _evaluate_before(self) -> None:
        """Evaluates the base model; where that fails, a new run leaves nothing behind."""
        policy = base_policy(self.agent.policy) if self.resumed else self.agent.policy
        try:
            save_evaluation(self._evaluate(policy), self.run_folder)
        except BaseException:
            if self.is_new:
                shutil.rmtree(self.run_folder.path)
            raise

    def _train(self) -> bool:
        """Trains to the end; False where Ctrl-C came first."""
        remaining = self.settings.images - self.agent.num_timesteps
        if remaining <= 0:
            return True
        checkpoints = Checkpoints(
            self.run_folder.checkpoints,
            self.settings.checkpoint_every,
            self.settings.keep_checkpoints,
            saved_round=self.agent.rounds if self.resumed else None,
        )
        interrupt = StopOnInterrupt(checkpoints, self.console.print)
        evaluations = Evaluations(
            lambda: evaluate_run(self.settings, self.agent.policy, self.eval_env),
            self.settings.eval_every,
        )
        earlier = [row["rollout/reward_mean"] for row in self.run_folder.metrics()]
        with LiveView(self.console, self.settings.images, earlier) as live:
            outputs: list[KVWriter] = [
                MetricsFile(self.run_folder.metrics_file),
                TensorBoardOutputFormat(str(self.run_folder.tensorboard)),
                live,
            ]
            self.agent.set_logger(Logger(str(self.run_folder.path), outputs))
            self.agent.learn(
                remaining,
                callback=CallbackList([checkpoints, interrupt, evaluations]),
                reset_num_timesteps=not self.resumed,
            )
        return self.agent.num_timesteps >= self.settings.images

    def _evaluate(self, policy: UNetPolicy) -> Evaluation:
        with self.console.status(f"drawing images of the {self.where} prompts"):
            return evaluate_run(self.settings, policy, self.eval_env)


def _record(base: Any) -> dict[str, Any]:
    """What the figures of a run depend on besides its settings."""
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "model": {"name": base.model.name, "weights_sha256": base.model.weights_hash},
        "reward": {"name": base.reward_function.name, "version": base.reward_function.version},
        "prompts_sha256": base.prompts.content_hash,
        "device": str(base.model.device),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agents.train",
        description=__doc__,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34),
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in a folder")
    cli.add_options(parser, TrainSettings)
    return parser


if __name__ == "__main__":
    cli.run(main)
