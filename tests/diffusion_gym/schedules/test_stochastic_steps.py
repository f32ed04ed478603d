"""Noise in some steps only: there the sampler's own step, elsewhere diffusers' without noise."""

import diffusers
import pytest
import torch

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.schedules.registry import make_schedule

DDPM = diffusers.DDIMScheduler(
    beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="trailing"
)
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
SAMPLERS = {"ddim": DDPM, "flow_sde": FLOW, "flow_cps": FLOW}
STEPS, WINDOW = 5, [1, 3]  # where T does not divide N, diffusers steps elsewhere
SHAPE = (2, 4, 5, 5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps_inside_are_noisy_and_steps_outside_are_diffusers_own(sampler):
    scheduler = SAMPLERS[sampler]
    plain = make_schedule(scheduler, STEPS, sampler=sampler)
    schedule = make_schedule(scheduler, STEPS, sampler=sampler, stochastic_steps=[3, 1, 1])
    assert schedule.window == (1, 3)
    assert schedule.stochastic.nonzero()[:, 0].tolist() == WINDOW
    assert "window=[1, 3]" in repr(schedule)
    assert "window" not in repr(plain)
    assert schedule.gradient_scale.isfinite().tolist() == schedule.stochastic.tolist()
    scheduler.set_timesteps(STEPS)
    for i, timestep in enumerate(scheduler.timesteps):
        output, latents = torch.randn(2, *SHAPE)
        expected = scheduler.step(output, timestep, latents).prev_sample
        step, noisy = (s.transition(output, latents, i) for s in (schedule, plain))
        assert step.stochastic == (i in WINDOW)
        if i in WINDOW:
            assert torch.equal(step.mean, noisy.mean)
            assert torch.equal(step.std, noisy.std)
        else:
            torch.testing.assert_close(schedule.sample(step), expected, rtol=1e-5, atol=1e-5)
            with pytest.raises(InvalidInputError, match=r"deterministic steps .*: \[0, 2, 4\]"):
                schedule.log_prob(step.mean, step)
        assert torch.equal(step.predicted_clean, noisy.predicted_clean)


def test_rows_at_different_steps():
    schedule = make_schedule(DDPM, STEPS, stochastic_steps=WINDOW)
    output, latents = torch.randn(2, *SHAPE)
    assert schedule.transition(output, latents, torch.tensor(WINDOW)).stochastic
    assert not schedule.transition(output, latents, torch.tensor([1, 2])).stochastic


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [[], [5], [-1], [1.5], ["one"], [True]])
def test_what_is_no_step_is_refused(sampler, steps):
    with pytest.raises(InvalidInputError, match="stochastic_steps"):
        make_schedule(SAMPLERS[sampler], STEPS, sampler=sampler, stochastic_steps=steps)


def test_a_step_that_cannot_be_noisy_is_refused():
    with pytest.raises(InvalidInputError, match=r"got \[4\], where this sampler adds none"):
        make_schedule(FLOW, STEPS, sampler="flow_cps", stochastic_steps=[3, 4])
    quiet = make_schedule(FLOW, STEPS, eta=0.0, stochastic_steps=[3, 4])
    assert quiet.why_deterministic == "eta is 0"
