"""Measures signal and noise of every step's policy gradient: ``python -m benchmarks.step_signal``.

A case is a model, a reward and a policy: the base model's, or a run's newest checkpoint. Cases are
added to those in the results' folder.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from agents.policy import UNetPolicy
from agents.runs.builders import Env, base_env, load_policy, make_agent, make_env
from agents.runs.run_folder import RunFolder, write_json
from agents.runs.settings import TrainSettings
from agents.train import read_settings
from benchmarks.destination import add_destination
from benchmarks.step_signal import picture, report
from benchmarks.step_signal.gradients import inner_products
from benchmarks.step_signal.samplers import draw_samplers
from benchmarks.step_signal.weightings import weightings
from diffusion_gym.errors import DiffusionGymError, InvalidInputError

RESULTS = Path(__file__).parents[1] / "results"
NAME = "step_signal"
PASS = 32
"""Images in one backward pass; a matter of memory and speed."""


def measure(settings: TrainSettings, policy: UNetPolicy, env: Env, batches: int) -> report.Case:
    """Measures a case, with a bar of its progress."""
    schedule, base = policy.schedule, base_env(env)
    with Progress(transient=True) as progress:
        task = progress.add_task("batches", total=batches)
        products = inner_products(
            policy,
            env,
            batches=batches,
            samples_per_prompt=settings.agent.samples_per_prompt,
            pairs_per_pass=min(PASS, settings.agent.batch_size),
            seed=settings.run.seed,
            done=lambda count: progress.update(task, completed=count),
        )
    steps = schedule.stochastic.nonzero()[:, 0].cpu()
    scale = schedule.gradient_scale.cpu()[steps].double().numpy()
    rank = settings.policy.lora_rank
    return {
        "model": Path(base.model.name).name,
        "reward": base.reward_function.name,
        "weights": f"LoRA of rank {rank}" if rank else "all weights",
        "images": settings.run.num_envs,
        "steps": steps.tolist(),
    } | report.figures(products, scale, weightings(schedule))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="All other options are those of python -m agents.train: --model, --reward, "
        "--lora-rank, --num-envs (images in a batch), ….",
        allow_abbrev=False,
    )
    parser.add_argument("--run", type=Path, help="the policy, reward and all of this run instead")
    parser.add_argument("--batches", type=int, default=24, help="at least 4 (default: 24)")
    parser.add_argument("--name", help="the case's name (default: made of the options)")
    parser.add_argument("--picture", action="store_true", help="draw this case")
    parser.add_argument(
        "--samplers",
        action="store_true",
        help="only draw the weights of well-known models, which need no measuring",
    )
    add_destination(parser, "--results", "runs/step_signal", RESULTS)
    options, others = parser.parse_known_args(arguments)
    if options.batches < 4:
        parser.error(f"--batches: expected at least 4, got {options.batches}")
    if options.run is not None and others:
        parser.error(f"a run has its own settings: expected --run without {' '.join(others)}")
    options.results.mkdir(parents=True, exist_ok=True)
    if options.samplers:
        draw_samplers(options.results / f"{NAME}_samplers.png")
        return

    # 1. The policy.
    try:
        if options.run is None:
            settings = read_settings(others)
            env = make_env(settings)
            policy = make_agent(settings, env).policy
            trained = "the base policy"
        else:
            folder = RunFolder.open(options.run)
            settings = folder.settings
            env = make_env(settings)
            policy = load_policy(folder)
            trained = _trained(folder)
        if policy.schedule.why_deterministic is not None:
            raise InvalidInputError(
                "expected steps with noise, which alone have a policy gradient, got none: "
                f"{policy.schedule.why_deterministic}"
            )
    except (DiffusionGymError, OSError) as problem:
        parser.error(str(problem))

    # 2. Its gradients.
    case = measure(settings, policy, env, options.batches) | {"policy": trained}
    name = options.name or f"{case['reward']}, {case['weights']}, {trained}"

    # 3. The table, beside earlier cases, and the picture.
    file = options.results / f"{NAME}.json"
    cases = json.loads(file.read_text()) if file.is_file() else {}
    cases[name] = case
    write_json(file, cases)
    (options.results / f"{NAME}.md").write_text(report.document(cases), encoding="utf-8")
    if options.picture:
        picture.draw(name, case, options.results / f"{NAME}.png")
    console = Console()
    for weighting, (value, error) in case["signal_to_noise"].items():
        console.print(f"{weighting:45} {value:8.4f}" + ("" if error is None else f" ± {error:.4f}"))
    console.print(f"written to {options.results}")


def _trained(run: RunFolder) -> str:
    """What a run's newest policy has been trained on; a run may have ended before its time."""
    settings = run.settings
    name = settings.run.algorithm if settings.run.algorithm != "ppo" else settings.shaping.shaping
    return f"after {run.metrics()[-1]['count/reward_queries']:,.0f} images of {name}"


if __name__ == "__main__":
    main()
