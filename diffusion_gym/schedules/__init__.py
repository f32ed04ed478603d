"""The maths of one denoising step: a table of Gaussian transitions, read off a scheduler."""

from diffusion_gym.schedules.base import DenoisingStep, Reduction, Schedule
from diffusion_gym.schedules.ddim import DDIMSchedule
from diffusion_gym.schedules.flow_cps import FlowCPSSchedule
from diffusion_gym.schedules.flow_sde import FlowSDESchedule
from diffusion_gym.schedules.registry import SAMPLERS, make_schedule

__all__ = [
    "SAMPLERS",
    "DDIMSchedule",
    "DenoisingStep",
    "FlowCPSSchedule",
    "FlowSDESchedule",
    "Reduction",
    "Schedule",
    "make_schedule",
]
