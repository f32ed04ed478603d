"""Compares a trained policy with its base model: ``python -m agents.evaluate RUN``.

Without RUN, it measures a model as it is: the one that --model names, or the embedded one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from matplotlib.backend_bases import FigureCanvasBase

from agents.evaluation import Evaluation, evaluate
from agents.evaluation.evaluation import KL_TO_BASE
from agents.evaluation.pictures import before_after
from agents.files import file_to_write
from agents.policy import UNetPolicy
from agents.runs import cli
from agents.runs.builders import (
    EVALUATION_SEED,
    Prompts,
    base_env,
    base_policy,
    check_subject,
    evaluation_prompts,
    load_policy,
    make_env,
    make_evaluation_env,
    make_image_metrics,
    untrained_policy,
    untrained_settings,
)
from agents.runs.own_parts import check_trusted, origins, unknown, use, with_absolute_paths
from agents.runs.record import changed_code
from agents.runs.report import figures, measured, print_comparison, print_measured
from agents.runs.run_folder import RunFolder, write_json
from agents.runs.screen import Screen, say
from agents.runs.settings import TrainSettings
from diffusion_gym.checks import Checked, Count
from diffusion_gym.errors import InvalidInputError, one_line


@dataclass(frozen=True)
class EvaluateOptions(Checked):
    """What to evaluate on."""

    run: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = None
    """Run folder of agents.train; by default none, and a model is measured as it is."""

    model: str | None = None
    """Without RUN: embedded model's name, diffusers folder, .safetensors file, or id on the model
    hub; by default the embedded model."""

    reward: str | Mapping[str, float] | None = None
    """Another reward than the run's own: registered, weights by name, or of yours, as module:name
    or path/file.py:name."""

    reward_options: Mapping[str, Any] | None = None
    """Options of rewards by their names; by default the run's."""

    also: Sequence[str] | None = None
    """Rewards to watch besides, with commas between; by default as fits the model. The reward that
    was trained on is always among them."""

    diversity_clip: str | None = None
    """Folder or hub id of the CLIP by whose embeddings diversity/clip compares images; by default
    the run's."""

    trust: bool = False
    """Import the code of the reward that the run folder names."""

    prompts: str | None = None
    """Another prompt set or file than the run's held-out one."""

    count: Count = 64
    """Most prompts."""

    samples: Count = 4
    """Images per prompt."""

    device: str | None = None
    """Torch device; by default the run's, or the fastest that there is."""

    checkpoint: str | None = None
    """Name of a checkpoint of the run, such as round-000005; by default the newest."""

    pictures: str | None = None
    """Picture to write, of images before and after; needs RUN."""

    json: str | None = None
    """File for the figures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what held-out prompts' images score, with intervals; of a run, before and after."""
    options = cli.parse(
        EvaluateOptions, arguments, command="python -m agents.evaluate", description=__doc__
    )
    console = Screen()

    # 1. What can be refused is refused before anything is loaded.
    pictures = _checked_pictures(options.pictures) if options.pictures else None
    file = file_to_write(options.json) if options.json else None
    run_only = {"checkpoint": options.checkpoint, "pictures": options.pictures}
    check_subject(options.run, model=options.model, **run_only)
    run = RunFolder.open(options.run) if options.run else None
    settings = run.settings if run else untrained_settings(options.model, options.device)
    given = {name: getattr(options, name) for name in ("reward", "reward_options", "also")}
    chosen = with_absolute_paths(
        {name: value for name, value in given.items() if value is not None}
    )
    use(chosen)
    trained_on = _trained_on(run, settings, chosen, options.trust, console) if run else None

    # 2. The environment to evaluate on.
    device = options.device or settings.env.device
    changes = {"device": device} | {k: v for k, v in chosen.items() if k != "also"}
    env = make_env(settings, **changes)
    prompts = options.prompts or evaluation_prompts(env)
    env = make_evaluation_env(
        settings, prompts, count=options.count, samples=options.samples, **changes
    )
    metrics = make_image_metrics(
        env,
        chosen.get("also"),
        trained_on=trained_on,
        options=settings.env.reward_options,
        diversity_clip=options.diversity_clip or settings.evaluation.diversity_clip,
    )
    reward = base_env(env).reward_function.name

    # 3. Images of the policies, from the same noise.
    def measure(policy: UNetPolicy) -> Evaluation:
        return evaluate(
            policy,
            env,
            samples=options.samples,
            prompts=options.count,
            seed=EVALUATION_SEED,
            image_metrics=metrics,
        )

    # 4. Their figures, on the screen and in files.
    if run is None:
        evaluation = measure(untrained_policy(settings, env))
        evaluation.metrics.pop(KL_TO_BASE, None)  # of itself
        print_measured(console, evaluation, reward, _title(evaluation, prompts))
        found = measured(evaluation, reward)
    else:
        policy = load_policy(run, device=device, checkpoint=options.checkpoint)
        before, after = measure(base_policy(policy)), measure(policy)
        print_comparison(console, before, after, reward, _title(before, prompts))
        found = figures(before, after, reward)
        if pictures:
            before_after(before.images, after.images, before.prompts, pictures)
            say(console, f"pictures: {pictures}")
    if file:
        write_json(file, found)
        console.print_json(json.dumps(found))
    return 0


def _title(evaluation: Evaluation, prompts: Prompts) -> str:
    return f"{len(evaluation.prompts)} prompts ({prompts}) x {evaluation.rewards.shape[1]} images"


def _trained_on(
    run: RunFolder, settings: TrainSettings, chosen: Mapping[str, Any], trust: bool, console: Screen
) -> Any:
    """The reward that a run was trained on, its code imported; None where that is not trusted.

    Raises:
        InvalidInputError: It is not trusted, and the one to evaluate with.
    """
    reward = settings.env.reward
    own = {"reward": reward, "reward_options": settings.env.reward_options}
    if unknown(own) and not trust and "reward" in chosen:
        say(console, "the reward that it was trained on is left out: its code needs --trust")
        return None
    check_trusted(own, run.path, trust)
    use(own)
    for change in [
        text for first in run.records()[:1] for text in changed_code(first, origins(own))
    ]:
        say(console, f"other figures than the run's own may come of {change}")
    return reward


def _checked_pictures(text: str) -> Path:
    path = file_to_write(text)
    if path.suffix.lower().removeprefix(".") not in FigureCanvasBase.get_supported_filetypes():
        raise InvalidInputError(
            "expected a picture's name, such as pictures.png or pictures.pdf, got "
            f"{one_line(str(path))}"
        )
    return path


if __name__ == "__main__":
    cli.run(main)
