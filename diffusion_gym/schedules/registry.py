"""Samplers by name: which family of Gaussian transitions a model is denoised with."""

from collections.abc import Sequence
from typing import Any

from diffusion_gym.errors import unknown_name
from diffusion_gym.schedules.base import Schedule
from diffusion_gym.schedules.ddim import DDIMSchedule
from diffusion_gym.schedules.diffusers_config import check_sampler, fitting_sampler
from diffusion_gym.schedules.flow_cps import FlowCPSSchedule
from diffusion_gym.schedules.flow_sde import FlowSDESchedule

_SCHEDULES: dict[str, type[Schedule]] = {
    schedule.sampler: schedule for schedule in (DDIMSchedule, FlowSDESchedule, FlowCPSSchedule)
}

SAMPLERS: tuple[str, ...] = tuple(_SCHEDULES)
"""The names of all samplers."""


def make_schedule(
    scheduler: Any,
    num_inference_steps: int,
    *,
    sampler: str | None = None,
    eta: float | None = None,
    stochastic_steps: Sequence[int] | None = None,
) -> Schedule:
    """The denoising steps of a model.

    Args:
        scheduler: A diffusers scheduler; only its configuration is used.
        num_inference_steps: T.
        sampler: "ddim" (DDIM with noise, arXiv 2010.02502); "flow_sde" (Flow-GRPO's transition,
            arXiv 2505.05470) or "flow_cps" (coefficient-preserving sampling, arXiv 2509.05952);
            None is the first that fits the scheduler.
        eta: Noise scale; None is the published one: 1 for "ddim", 0.7 for "flow_sde", 0.8 for
            "flow_cps".
        stochastic_steps: The only steps that have noise, by their indices; None: all that the
            sampler gives some.

    Returns:
        The schedule, on the CPU.

    Raises:
        InvalidInputError: For an unknown sampler, one that does not fit the scheduler, a scheduler
            that none fits, or T, η or steps that it cannot do.
    """
    if sampler is None:
        sampler = fitting_sampler(scheduler)
    elif sampler not in SAMPLERS:
        raise unknown_name("sampler", sampler, SAMPLERS)
    else:
        check_sampler(scheduler, sampler)
    options = {} if eta is None else {"eta": eta}
    return _SCHEDULES[sampler].from_scheduler(
        scheduler, num_inference_steps, window=stochastic_steps, **options
    )
