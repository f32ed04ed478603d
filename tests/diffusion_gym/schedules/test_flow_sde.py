"""Flow-GRPO's transition against its formula, diffusers' own flow sampler, and the flow's law."""

import math

import diffusers
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.schedules.flow_sde import FlowSDESchedule, flow_coefficients

SHAPE = (3, 4, 5, 5)
BLOCK = (slice(None), None, None, None)
STEPS = (1, 2, 5, 10, 40)


def flow_match(**overrides):
    """Stable Diffusion 3's scheduler."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | overrides))


def assert_close(actual, expected):
    assert actual.dtype == torch.float32
    error = (actual - expected).abs() / expected.abs().clamp(min=1)
    assert float(error.max()) <= 1e-5


@pytest.mark.parametrize("num_steps", STEPS[1:])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"shift": 1.0},
        {"shift_terminal": 0.02},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"num_train_timesteps": 100},
    ],
)
def test_without_noise_every_step_is_diffusers_euler_step(config, num_steps):
    scheduler = flow_match(**config)
    schedule = FlowSDESchedule.from_scheduler(scheduler, num_steps, eta=0.0)
    scheduler.set_timesteps(num_steps)
    assert torch.equal(schedule.timesteps, scheduler.timesteps)
    assert not schedule.stochastic.any()
    generator = torch.Generator().manual_seed(num_steps)
    for i, timestep in enumerate(scheduler.timesteps):
        latents, velocity = torch.randn(2, *SHAPE, generator=generator)
        expected = scheduler.step(velocity, timestep, latents).prev_sample
        step = schedule.transition(velocity, latents, i)
        assert_close(step.mean, expected)
        assert_close(schedule.sample(step), expected)
        assert_close(step.predicted_clean, latents - scheduler.sigmas[i] * velocity)


def test_a_step_by_hand():
    """σ = 1, ½, ¼, 0 and a = 1: of the SDE dx = (v + s²/2σ (x + (1−σ) v)) dσ + s dw.

    Step 0: s² = 1/(1−½) = 2, Δ = −½:  mean = x − ½ (v + x) = ½ x − ½ v,           std² = 1.
    Step 1: s² = ½/½ = 1,     Δ = −¼:  mean = x − ¼ (v + x + ½ v) = ¾ x − ⅜ v,     std² = ¼.
    Step 2: s² = ¼/¾ = ⅓,     Δ = −¼:  mean = x − ¼ (v + ⅔ x + ½ v) = ⅚ x − ⅜ v,   std² = ¹⁄₁₂.
    """
    rows = flow_coefficients(torch.tensor([1.0, 0.5, 0.25, 0.0]), 1.0)
    expected = [
        [1, 1 / 2, -1 / 2, 1],
        [1 / 2, 3 / 4, -3 / 8, 1 / 2],
        [1 / 4, 5 / 6, -3 / 8, math.sqrt(1 / 12)],
    ]
    torch.testing.assert_close(rows, torch.tensor(expected))


@pytest.mark.parametrize("num_steps", STEPS)
def test_every_step_is_flow_grpos(num_steps):
    """The update rule as the official code writes it, step for step, in double precision."""
    scheduler = flow_match()
    schedule = FlowSDESchedule.from_scheduler(scheduler, num_steps)
    assert schedule.eta == 0.7
    scheduler.set_timesteps(num_steps)
    sigmas = scheduler.sigmas.tolist()
    for i in range(num_steps):
        x, v, noise = torch.randn(3, *SHAPE)
        sigma, dt = sigmas[i], sigmas[i + 1] - sigmas[i]
        diffusion = 0.7 * math.sqrt(sigma / (1 - (sigmas[1] if sigma == 1 else sigma)))
        drift = v + diffusion**2 / (2 * sigma) * (x + (1 - sigma) * v)
        deviation = diffusion * math.sqrt(-dt)
        step = schedule.transition(v, x, i)
        assert_close(schedule.sample(step, noise=noise), x + drift * dt + deviation * noise)
        assert step.std.shape == (1, 1, 1, 1)
        assert step.std.item() == pytest.approx(deviation, rel=1e-5)
        assert step.std.item() == pytest.approx(schedule.std[i].item())


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
def test_the_first_steps_deviation_is_the_noise_level(eta):
    for num_steps in STEPS:
        schedule = FlowSDESchedule.from_scheduler(flow_match(), num_steps, eta)
        assert schedule.std[0].item() == pytest.approx(eta, rel=1e-5)
        assert schedule.stochastic.all()


def moments_at_the_end(schedule, data_mean, data_std):
    """Exact mean and variance of x_T for scalar data N(m, d²) with their own velocity.

    x_σ = (1−σ) x̂0 + σ ε is Gaussian, and so v(x) = E[ε − x̂0 | x] is linear in x, and so is every
    step's mean: two latents tell its slope and intercept, and the moments follow without sampling.
    """
    sigmas = schedule.timesteps.double() / schedule.num_train_timesteps
    mean, variance = 0.0, 1.0
    for i, sigma in enumerate(sigmas.tolist()):
        x = torch.tensor([0.0, 1.0], dtype=torch.float64)
        total = (1 - sigma) ** 2 * data_std**2 + sigma**2
        residual = x - (1 - sigma) * data_mean
        clean = data_mean + (1 - sigma) * data_std**2 / total * residual
        velocity = sigma / total * residual - clean
        step = schedule.transition(velocity[BLOCK].float(), x[BLOCK].float(), i)
        at_0, at_1 = step.mean.double().flatten().tolist()
        mean = at_0 + (at_1 - at_0) * mean
        variance = (at_1 - at_0) ** 2 * variance + step.std.double().item() ** 2
    return mean, variance


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("data_mean", "data_std"), [(0.0, 1.0), (2.0, 0.5), (-1.0, 0.2)])
def test_noise_leaves_the_law_of_the_samples_as_it_is(data_mean, data_std, shift):
    """The SDE ends, as the ODE (η = 0) does, in the law of the data: in 1000 steps within 1.5%.

    A correction that is missing, halved or of the wrong sign, a deviation 10% too large, or σ for
    1 − σ leave some of these variances wrong by more than 10%.
    """
    for eta in (0.0, 0.3, 0.7, 1.0):
        for num_steps, tolerance in ((125, 0.1), (1000, 0.015)):
            scheduler = flow_match(shift=shift, num_train_timesteps=100_000)
            schedule = FlowSDESchedule.from_scheduler(scheduler, num_steps, eta)
            mean, variance = moments_at_the_end(schedule, data_mean, data_std)
            assert mean == pytest.approx(data_mean, abs=1e-3)
            assert variance == pytest.approx(data_std**2, rel=tolerance)


def test_drawn_samples_have_the_law_of_the_data():
    """The same by drawing: chains through `sample`, every latent dimension one of 40 000 runs."""
    schedule = FlowSDESchedule.from_scheduler(flow_match(), 100)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 100, 100, generator=generator)
    mean, std = 1.0, 0.5
    for i, sigma in enumerate((schedule.timesteps / 1000).tolist()):
        total = (1 - sigma) ** 2 * std**2 + sigma**2
        residual = x - (1 - sigma) * mean
        velocity = sigma / total * residual - mean - (1 - sigma) * std**2 / total * residual
        x = schedule.sample(schedule.transition(velocity, x, i), generator=generator)
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.std().item() == pytest.approx(std, rel=0.03)


@settings(max_examples=40, deadline=None)
@given(
    num_steps=st.integers(1, 60),
    shift=st.floats(0.5, 6.0),
    eta=st.floats(0, 1.4),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_true_velocity_recovers_the_clean_latent(num_steps, shift, eta, seed):
    schedule = FlowSDESchedule.from_scheduler(flow_match(shift=shift), num_steps, eta)
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, *SHAPE, generator=generator)
    index = torch.randint(num_steps, (SHAPE[0],), generator=generator)
    sigma = (schedule.timesteps[index] / 1000)[BLOCK]
    latents = (1 - sigma) * clean + sigma * noise
    step = schedule.transition(noise - clean, latents, index)
    torch.testing.assert_close(step.predicted_clean, clean, atol=1e-5, rtol=0)
    assert step.mean.isfinite().all()
    assert torch.equal(schedule.index_of(schedule.timesteps[index]), index)


def test_log_prob_is_the_gaussian_density():
    schedule = FlowSDESchedule.from_scheduler(flow_match(), 10)
    latents, velocity, following = torch.randn(3, *SHAPE)
    step = schedule.transition(velocity, latents, torch.tensor([0, 4, 9]))
    density = torch.distributions.Normal(step.mean, step.std).log_prob(following)
    mean, total = schedule.log_prob(following, step), schedule.log_prob(following, step, "sum")
    torch.testing.assert_close(mean, density.mean((1, 2, 3)))
    torch.testing.assert_close(total, density.sum((1, 2, 3)))


def test_deterministic_steps_have_no_log_prob():
    schedule = FlowSDESchedule.from_scheduler(flow_match(), 2, eta=0.0)
    step = schedule.transition(*torch.randn(2, *SHAPE), 1)
    with pytest.raises(InvalidInputError, match="no step of this schedule has noise: eta is 0"):
        schedule.log_prob(step.mean, step)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_everything_is_float32_whatever_comes_in(dtype):
    schedule = FlowSDESchedule.from_scheduler(flow_match(), 10)
    latents, velocity = torch.randn(2, *SHAPE).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = schedule.transition(velocity, latents, 3)
        drawn = schedule.sample(step)
        log_prob = schedule.log_prob(drawn.to(dtype), step)
    tensors = (step.mean, step.std, step.predicted_clean, drawn, log_prob)
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert torch.equal(step.mean, schedule.transition(velocity.float(), latents.float(), 3).mean)


@pytest.mark.parametrize("num_steps", [1, 7, 28, 1000])
def test_index_of_is_exact_on_float_timesteps(num_steps):
    schedule = FlowSDESchedule.from_scheduler(flow_match(), num_steps)
    assert schedule.timesteps.dtype == torch.float32
    observed = schedule.timesteps[:, None].numpy()
    assert schedule.index_of(torch.from_numpy(observed)).flatten().tolist() == list(
        range(num_steps)
    )
    for index, timestep in enumerate(schedule.timesteps.tolist()):
        assert schedule.index_of(timestep) == index
    assert schedule.index_of(1000) == 0
    after = torch.nextafter(schedule.timesteps[-1], torch.tensor(0.0))
    for unknown in (after, 0.0, 1001, math.nan, torch.tensor([1000.0, 3.0])):
        with pytest.raises(InvalidInputError, match="expected timesteps of this schedule"):
            schedule.index_of(unknown)


def test_rounding_at_the_first_noise_level_does_not_matter():
    exact = flow_coefficients(torch.tensor([1.0, 0.6, 0.0]), 0.7)
    for first in (1 - 6e-8, 1 + 1.2e-7):
        rounded = flow_coefficients(torch.tensor([first, 0.6, 0.0]), 0.7)
        torch.testing.assert_close(rounded, exact)


def test_the_scheduler_given_is_left_untouched_and_its_shift_is_kept():
    scheduler = flow_match()
    scheduler.set_timesteps(7)
    scheduler.set_shift(2.0)
    schedule = FlowSDESchedule.from_scheduler(scheduler, 10)
    assert scheduler.num_inference_steps == 7
    scheduler.set_timesteps(10)
    assert torch.equal(schedule.timesteps, scheduler.timesteps)


def test_to_moves_every_tensor_and_repr_tells_the_schedule():
    schedule = FlowSDESchedule.from_scheduler(flow_match(), 10)
    moved = schedule.to("meta")
    assert moved.device.type == moved.std.device.type == moved.stochastic.device.type == "meta"
    assert (moved.num_steps, moved.max_timestep) == (10, 1000.0)
    assert "FlowSDESchedule(num_steps=10, eta=0.7, timesteps=1000…8.9" in repr(schedule)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dynamic_shifting": True}, "a fixed shift .* got use_dynamic_shifting=True"),
        ({"invert_sigmas": True}, "fall from 1 to 0, got invert_sigmas=True"),
        ({"shift_terminal": 1.5}, "cannot do num_inference_steps=10: expected 10 falling"),
    ],
)
def test_unsupported_options(config, message):
    with pytest.raises(InvalidInputError, match=message):
        FlowSDESchedule.from_scheduler(flow_match(**config), 10)


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 10.0, "10", True, None])
def test_impossible_numbers_of_steps(num_steps):
    with pytest.raises(InvalidInputError, match="an integer from 1 to 1000, got"):
        FlowSDESchedule.from_scheduler(flow_match(), num_steps)


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf])
def test_impossible_noise_levels(eta):
    with pytest.raises(InvalidInputError, match="expected eta"):
        FlowSDESchedule.from_scheduler(flow_match(), 10, eta)
