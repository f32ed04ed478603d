"""One run: trained as ``python -m agents.train`` does, and kept as one record."""

import datetime
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from agents.evaluation import Evaluation
from agents.evaluation.evaluation import KL_TO_BASE
from agents.policy import UNetPolicy
from agents.runs.builders import base_env
from agents.runs.run_folder import training_seconds, with_null
from agents.runs.settings import TrainSettings
from agents.runs.training import Training
from benchmarks.leaderboard.jobs import SEARCH, Job
from benchmarks.leaderboard.methods import MethodFile
from benchmarks.leaderboard.protocol import Protocol, Task
from benchmarks.leaderboard.record import DIVERSITY, SCHEMA, Record
from benchmarks.leaderboard.strips import save_strip
from diffusion_gym.errors import InvalidInputError, first_line

SEARCH_EVALUATION: dict[str, Any] = {"eval_prompts": 2, "eval_samples": 1, "eval_every": 0}
"""The search goes by the training reward; every run ends with an evaluation."""


class RecordedTraining(Training):
    """Keeps the evaluations of the trained policy, each with what had been spent until then.

    Args:
        settings: The run's settings.
        console: Where to report.
    """

    def __init__(self, settings: TrainSettings, console: Console) -> None:
        super().__init__(settings, console)
        self.evaluations: dict[int, tuple[dict[str, Any], Evaluation]] = {}

    def evaluate_base(self) -> int:
        """The untrained model's evaluation; nothing is trained."""
        with self._lock:
            self._before()
        return 0

    def _measure(self, policy: UNetPolicy) -> Evaluation:
        rounds = self.agent.rounds
        if rounds not in self.evaluations:
            evaluation = super()._measure(policy)
            point = {
                "round": rounds,
                "reward_queries": int(self.agent.num_timesteps),
                "denoiser_evaluations": int(policy.denoiser_evaluations),
                "reward": float(np.nanmean(evaluation.rewards)),
                "kl_to_base": _mean(evaluation.metrics.get(KL_TO_BASE)),
                "diversity": _mean(evaluation.metrics.get(DIVERSITY)),
            }
            self.evaluations[rounds] = point, evaluation
        return self.evaluations[rounds][1]


def _mean(values: Any) -> float | None:
    return None if values is None else float(np.mean(values))


def raw_values(evaluation: Evaluation) -> dict[str, Any]:
    """What was measured of every prompt and image, as JSON has it."""
    return {
        "rewards": evaluation.rewards.tolist(),
        "metrics": {name: values.tolist() for name, values in evaluation.metrics.items()},
        "other_rewards": {n: values.tolist() for n, values in evaluation.other_rewards.items()},
    }


def job_options(protocol: Protocol, method: MethodFile, job: Job) -> dict[str, Any]:
    """All options of ``python -m agents.train`` that a run is given, but for device and folder."""
    rate = job.learning_rate or protocol.tuning.middle
    options = protocol.options(protocol.task(job.task), method, job.seed, rate)
    return options | (SEARCH_EVALUATION if job.kind == SEARCH else {})


def run_job(
    protocol: Protocol,
    method: MethodFile,
    job: Job,
    *,
    device: str = "auto",
    threads: int | None = None,
    log: Path | None = None,
    picture: Path | None = None,
) -> Record:
    """Makes one run and returns its record; a run that fails has one, too, with the reason.

    Args:
        protocol: The protocol.
        method: The method that the job names.
        job: The run.
        device: A torch device, or "auto".
        threads: Threads to compute with; None: as many as now.
        log: File that what a terminal would show is added to; None: it is not kept.
        picture: File for a row of pictures of the last evaluation; None: they are not kept.

    Raises:
        InvalidInputError: Model, prompts or reward are not the protocol's, or an option is wrong.
        KeyboardInterrupt: It was asked to stop.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    method.prepare()
    options = job_options(protocol, method, job)
    with tempfile.TemporaryDirectory(prefix="leaderboard-") as folder:
        stream = (log or Path(folder) / "log").open("a")
        with stream:
            output = str(Path(folder) / "run")
            settings = TrainSettings.of(**options, device=device, output=output, picture_every=0)
            training = RecordedTraining(settings, Console(file=stream))
            check_frozen(protocol, protocol.task(job.task), training)
            about, reason = training.run_folder.records()[-1], None
            try:
                if (training.run if method.trains else training.evaluate_base)():
                    raise KeyboardInterrupt("stopped")
            except torch.OutOfMemoryError:
                raise  # the machine's fault, not the method's
            except (ArithmeticError, ValueError, RuntimeError) as error:
                traceback.print_exc(file=stream)
                reason = f"{type(error).__name__}: {first_line(error)}"
            rows = training.run_folder.metrics()
    if picture is not None and training.evaluations:
        save_strip(training.evaluations[max(training.evaluations)][1].images, picture)
    return _record(protocol, method, job, options, training, about, rows, reason)


def check_frozen(protocol: Protocol, task: Task, training: Training) -> None:
    """Refuses a model, prompts or a reward that are not the protocol's.

    Raises:
        InvalidInputError: One differs.
    """
    base, held_out = base_env(training.env), base_env(training.eval_env)
    for what, now, expected in (
        ("the model's weights", base.model.weights_hash, protocol.model_sha256),
        ("the training prompts", base.prompts.content_hash, task.train_sha256),
        ("the held-out prompts", held_out.prompts.content_hash, task.held_out_sha256),
        ("the reward's version", base.reward_function.version, task.reward_version),
    ):
        if str(now) != expected:
            raise InvalidInputError(
                f"expected {what} as protocol {protocol.version} has them for {task.name}, "
                f"{expected[:16]}, got {str(now)[:16]}"
            )


def _record(
    protocol: Protocol,
    method: MethodFile,
    job: Job,
    options: Mapping[str, Any],
    training: RecordedTraining,
    about: Mapping[str, Any],
    rows: list[dict[str, float]],
    reason: str | None,
) -> Record:
    """Everything that is kept of a run, as JSON has it."""
    evaluations = training.evaluations
    before = evaluations.get(0)
    after = None if reason or not evaluations else evaluations[max(evaluations)]
    commit = str(about["commit"] or "")
    last = rows[-1] if rows else {}
    content: Record = with_null(
        {
            "schema": SCHEMA,
            "protocol": {"name": protocol.name, "hash": protocol.task(job.task).sha256},
            "task": job.task,
            "method": job.method,
            "seed": job.seed,
            "kind": job.kind,
            "options": dict(options),
            "searched": {"learning_rate": job.learning_rate} if method.trains else {},
            "prompts": before[1].prompts if before else [],
            "before": raw_values(before[1]) if before else None,
            "after": raw_values(after[1]) if after else None,
            "curve": [evaluations[number][0] for number in sorted(evaluations)],
            "training_rewards": [row["rollout/reward_mean"] for row in rows],
            "spent": {
                "reward_queries": int(last.get("count/reward_queries", 0)),
                "denoiser_evaluations": int(last.get("count/denoiser_evaluations", 0)),
                "training_seconds": training_seconds(rows),
            },
            "failed": reason,
            "versions": {name.replace("-", "_"): v for name, v in about["versions"].items()}
            | {"python": about["python"]},
            "commit": commit.removesuffix("-dirty") or None,
            "clean": bool(commit) and not commit.endswith("-dirty"),
            "machine": {"device": about["device"], "threads": torch.get_num_threads()},
            "date": datetime.date.today().isoformat(),
        }
    )
    return content
