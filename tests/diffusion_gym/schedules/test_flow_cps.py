"""Coefficient-preserving sampling against its formula, diffusers' sampler, and the flow's law."""

import math

import diffusers
import pytest
import torch

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.schedules.flow_cps import FlowCPSSchedule, cps_coefficients
from diffusion_gym.schedules.flow_sde import FlowSDESchedule

SHAPE = (3, 4, 5, 5)
BLOCK = (slice(None), None, None, None)


def flow_match(**overrides):
    """Stable Diffusion 3's scheduler."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | overrides))


def assert_close(actual, expected):
    assert actual.dtype == torch.float32
    error = (actual - expected).abs() / expected.abs().clamp(min=1)
    assert float(error.max()) <= 1e-5


@pytest.mark.parametrize("num_steps", [2, 5, 10, 40])
@pytest.mark.parametrize("config", [{}, {"shift": 1.0}, {"shift_terminal": 0.02}])
def test_without_noise_every_step_is_diffusers_euler_step(config, num_steps):
    scheduler = flow_match(**config)
    schedule = FlowCPSSchedule.from_scheduler(scheduler, num_steps, eta=0.0)
    scheduler.set_timesteps(num_steps)
    assert not schedule.stochastic.any()
    generator = torch.Generator().manual_seed(num_steps)
    for i, timestep in enumerate(scheduler.timesteps):
        latents, velocity = torch.randn(2, *SHAPE, generator=generator)
        expected = scheduler.step(velocity, timestep, latents).prev_sample
        step = schedule.transition(velocity, latents, i)
        assert_close(step.mean, expected)
        assert_close(step.predicted_clean, latents - scheduler.sigmas[i] * velocity)


def test_a_step_by_hand():
    """σ = 1, ½, 0 and η = ⅓, so that std = σ' sin 30° = σ'/2 and what is kept is σ' √3/2.

    Step 0: mean = ½ (x − v) + √3/4 x,  std = ¼.
    Step 1: mean = x − ½ v,             std = 0: the last step has no noise.
    """
    rows = cps_coefficients(torch.tensor([1.0, 0.5, 0.0]), 1 / 3)
    kept = math.sqrt(3) / 4
    expected = [[1, 0.5 + kept, -0.5, 0.25], [0.5, 1, -0.5, 0]]
    torch.testing.assert_close(rows, torch.tensor(expected))


@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_every_step_is_flow_cps(num_steps):
    """The update rule with predicted clean latent and predicted noise, in double precision."""
    scheduler = flow_match()
    schedule = FlowCPSSchedule.from_scheduler(scheduler, num_steps)
    scheduler.set_timesteps(num_steps)
    sigmas = scheduler.sigmas.tolist()
    for i in range(num_steps):
        x, v, noise = torch.randn(3, *SHAPE)
        clean, predicted_noise = x - sigmas[i] * v, x + (1 - sigmas[i]) * v
        deviation = sigmas[i + 1] * math.sin(0.8 * math.pi / 2)
        kept = math.sqrt(sigmas[i + 1] ** 2 - deviation**2)
        expected = (1 - sigmas[i + 1]) * clean + kept * predicted_noise + deviation * noise
        step = schedule.transition(v, x, i)
        assert_close(schedule.sample(step, noise=noise), expected)
        assert step.std.item() == pytest.approx(deviation, rel=1e-5)
    assert schedule.stochastic.tolist() == [True] * (num_steps - 1) + [False]


def variances(schedule, data_std):
    """Exact variance of x_i, i = 1 … T, for scalar data N(0, d²) with their own velocity."""
    sigmas = (schedule.timesteps.double() / schedule.num_train_timesteps).tolist()
    variance, found = 1.0, []
    for i, sigma in enumerate(sigmas):
        total = (1 - sigma) ** 2 * data_std**2 + sigma**2
        x = torch.tensor([1.0], dtype=torch.float64)
        velocity = (sigma - (1 - sigma) * data_std**2) / total * x
        step = schedule.transition(velocity[BLOCK].float(), x[BLOCK].float(), i)
        variance = step.mean.double().item() ** 2 * variance + step.std.double().item() ** 2
        found.append(variance)
    return found


@pytest.mark.parametrize("eta", [0.3, 0.8, 1.0])
def test_of_one_picture_every_marginal_is_that_of_the_ode(eta):
    """Data that are one point: x_i has the noise σ_i and no other, in any number of steps.

    Flow-GRPO's stochastic differential equation leaves more in four steps: that is the point.
    """
    scheduler = flow_match()
    scheduler.set_timesteps(4)
    expected = scheduler.sigmas.double()[1:].square().tolist()
    schedule = FlowCPSSchedule.from_scheduler(scheduler, 4, eta)
    assert variances(schedule, 0.0) == pytest.approx(expected, abs=1e-6)
    sde = FlowSDESchedule.from_scheduler(scheduler, 4, 0.7)
    assert variances(sde, 0.0)[1] > 1.1 * expected[1]


@pytest.mark.parametrize("data_std", [0.2, 0.5, 1.0])
def test_in_many_steps_noise_narrows_the_law_of_the_data_little_by_little(data_std):
    """It is no discretised SDE: fresh noise in place of the predicted one pulls to the mean.

    The law of a point stays; of broad data the variance falls as η grows; at η = 0 it is theirs.
    """
    scheduler = flow_match(num_train_timesteps=100_000)
    ends = [
        variances(FlowCPSSchedule.from_scheduler(scheduler, 1000, eta), data_std)[-1]
        for eta in (0.0, 0.02, 0.2)
    ]
    assert ends[0] == pytest.approx(data_std**2, rel=0.02)
    assert ends[0] > ends[1] > ends[2]


def test_drawn_samples_have_the_moments_of_the_table():
    """By drawing, through `sample`: 40,000 chains of data that are one point."""
    schedule = FlowCPSSchedule.from_scheduler(flow_match(), 5)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 100, 100, generator=generator)
    sigmas = [*(schedule.timesteps / 1000).tolist(), 0.0]
    for i, sigma in enumerate(sigmas[:-1]):
        velocity = (x - 0.5) / sigma  # of the point ½: v = ε − ½ with ε = (x − (1−σ) ½) / σ
        x = schedule.sample(schedule.transition(velocity, x, i), generator=generator)
        assert x.mean().item() == pytest.approx((1 - sigmas[i + 1]) / 2, abs=0.02)
        assert x.std().item() == pytest.approx(sigmas[i + 1], rel=0.02, abs=1e-4)


def test_levels_beyond_one_are_refused():
    with pytest.raises(InvalidInputError, match=r"expected eta from 0 to 1 .*, got 1\.5"):
        FlowCPSSchedule.from_scheduler(flow_match(), 5, 1.5)
    with pytest.raises(InvalidInputError, match="got -1"):
        FlowCPSSchedule.from_scheduler(flow_match(), 5, -1.0)
    with pytest.raises(InvalidInputError, match=r"expected sampler='ddim'.*got 'flow_cps'"):
        FlowCPSSchedule.from_scheduler(diffusers.DDIMScheduler(), 5)
