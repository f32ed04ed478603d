"""Which sampler fits which scheduler."""

import diffusers
import pytest
import torch

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.schedules.base import Schedule
from diffusion_gym.schedules.ddim import DDIMSchedule
from diffusion_gym.schedules.diffusers_config import SCHEDULERS_OF, SUPPORTED_SCHEDULERS
from diffusion_gym.schedules.flow_cps import FlowCPSSchedule
from diffusion_gym.schedules.flow_sde import FlowSDESchedule
from diffusion_gym.schedules.registry import SAMPLERS, make_schedule

DDPM = diffusers.PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


@pytest.mark.parametrize(
    ("scheduler", "sampler", "kind", "eta"),
    [
        (DDPM, "ddim", DDIMSchedule, 1.0),
        (FLOW, "flow_sde", FlowSDESchedule, 0.7),
        (FLOW, "flow_cps", FlowCPSSchedule, 0.8),
    ],
)
def test_each_sampler_has_its_published_noise(scheduler, sampler, kind, eta):
    schedule = make_schedule(scheduler, 10, sampler=sampler)
    assert type(schedule) is kind
    assert (schedule.sampler, schedule.eta, schedule.num_steps) == (sampler, eta, 10)
    expected = kind.from_scheduler(scheduler, 10, 0.25)
    quiet = make_schedule(scheduler, 10, sampler=sampler, eta=0.25)
    assert torch.equal(quiet.std, expected.std)
    assert not make_schedule(scheduler, 10, sampler=sampler, eta=0.0).stochastic.any()


def test_each_scheduler_has_a_sampler():
    assert type(make_schedule(DDPM, 10)) is DDIMSchedule
    assert type(make_schedule(FLOW, 10)) is FlowSDESchedule


def test_every_schedule_is_of_one_kind_and_every_sampler_has_schedulers():
    assert isinstance(make_schedule(DDPM, 10), Schedule)
    assert isinstance(make_schedule(FLOW, 10), Schedule)
    assert tuple(SCHEDULERS_OF) == SAMPLERS
    assert set(SUPPORTED_SCHEDULERS) == {name for names in SCHEDULERS_OF.values() for name in names}


@pytest.mark.parametrize(
    ("scheduler", "sampler", "message"),
    [
        (
            FLOW,
            "ddim",
            "expected sampler='flow_sde', which fits a FlowMatchEulerDiscreteScheduler, "
            "got 'ddim', which fits: DDIMScheduler, DDPMScheduler",
        ),
        (
            DDPM,
            "flow_sde",
            "expected sampler='ddim', which fits a PNDMScheduler, "
            "got 'flow_sde', which fits: FlowMatchEulerDiscreteScheduler",
        ),
        (DDPM, "flow_cps", "expected sampler='ddim', which fits a PNDMScheduler, got 'flow_cps'"),
        (DDPM, "euler", "unknown sampler 'euler'; known: ddim, flow_cps, flow_sde"),
        (diffusers.EDMEulerScheduler(), None, "'EDMEulerScheduler'; known: .*FlowMatchEulerDiscr"),
        (diffusers.EDMEulerScheduler(), "ddim", "unknown diffusers scheduler 'EDMEulerScheduler'"),
    ],
)
def test_samplers_that_do_not_fit(scheduler, sampler, message):
    with pytest.raises(InvalidInputError, match=message):
        make_schedule(scheduler, 10, sampler=sampler)


def test_schedules_refuse_the_other_familys_schedulers_themselves():
    with pytest.raises(InvalidInputError, match="expected sampler='flow_sde'"):
        DDIMSchedule.from_scheduler(FLOW, 10)
    with pytest.raises(InvalidInputError, match="expected sampler='ddim'"):
        FlowSDESchedule.from_scheduler(DDPM, 10)
