"""The step weights of well-known models, from their schedulers alone."""

from pathlib import Path
from typing import Any

import matplotlib
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from benchmarks.step_signal.weightings import weightings
from diffusion_gym.models import load_model
from diffusion_gym.schedules.base import Schedule
from diffusion_gym.schedules.ddim import DDIMSchedule
from diffusion_gym.schedules.flow_sde import FlowSDESchedule

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STABLE_DIFFUSION: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""The scheduler of Stable Diffusion 1.5 (its scheduler_config.json)."""


def schedules() -> dict[str, Schedule]:
    """Models with the numbers of steps that they are fine-tuned with."""
    return {
        "emoji-64 (v), T = 10": DDIMSchedule.from_scheduler(load_model("emoji-64").scheduler, 10),
        "Stable Diffusion 1.5 (ε), T = 50": DDIMSchedule.from_scheduler(
            DDIMScheduler(**STABLE_DIFFUSION), 50
        ),
        "Stable Diffusion 3 (flow), T = 10": FlowSDESchedule.from_scheduler(
            FlowMatchEulerDiscreteScheduler(shift=3.0), 10
        ),
    }


def draw_samplers(path: Path) -> None:
    """Draws g and the weights of every model's steps.

    Args:
        path: Where the PNG goes.
    """
    models = schedules()
    figure, axes = plt.subplots(2, len(models), figsize=(4 * len(models), 6), sharex="col")
    for (name, schedule), (above, below) in zip(models.items(), axes.T, strict=True):
        steps = schedule.stochastic.nonzero()[:, 0].cpu().numpy()
        above.plot(steps, schedule.gradient_scale[steps].cpu().numpy(), ".-", color="tab:red")
        above.set_yscale("log")
        above.set_title(name, fontsize="medium")
        for weighting, weights in weightings(schedule).items():
            if "g" in weighting:
                below.plot(steps, weights, ".-", label=weighting, markersize=3)
        below.legend(fontsize="x-small")
        below.set_xlabel("denoising step")
        for axis in (above, below):
            axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("g, the noise of the step's gradient")
    axes[1][0].set_ylabel("weight of the step")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
