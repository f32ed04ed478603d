"""The schedule against diffusers' own DDIM step, and its properties."""

import itertools
import math

import diffusers
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.schedules.ddim import DDIMSchedule, step_coefficients
from diffusion_gym.schedules.diffusers_config import DDIM_SCHEDULERS

SHAPE = (3, 4, 5, 5)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")


def ddim(**overrides):
    """Stable Diffusion's noise schedule."""
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return diffusers.DDIMScheduler(**(config | overrides))


def assert_close(actual, expected):
    assert actual.dtype == torch.float32
    error = (actual - expected).abs() / expected.abs().clamp(min=1)
    assert float(error.max()) <= 1e-5


def assert_matches_diffusers(scheduler, num_steps, eta=1.0):
    """Every step of the schedule is DDIMScheduler.step with the same noise."""
    schedule = DDIMSchedule.from_scheduler(scheduler, num_steps, eta)
    scheduler.set_timesteps(num_steps)
    assert schedule.timesteps.tolist() == scheduler.timesteps.tolist()
    generator = torch.Generator().manual_seed(num_steps)
    for i, timestep in enumerate(scheduler.timesteps.tolist()):
        latents, output, noise = torch.randn(3, *SHAPE, generator=generator)
        expected = scheduler.step(output, timestep, latents, eta=eta, variance_noise=noise)
        step = schedule.transition(output, latents, i)
        assert_close(step.predicted_clean, expected.pred_original_sample)
        assert_close(schedule.sample(step, noise=noise), expected.prev_sample)


@pytest.mark.parametrize("num_steps", [5, 10, 20, 50])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_step_is_diffusers_ddim_step(prediction, num_steps):
    for spacing, to_one, offset, clip in itertools.product(
        SPACINGS, (True, False), (0, 1), (True, False)
    ):
        scheduler = ddim(
            prediction_type=prediction,
            timestep_spacing=spacing,
            set_alpha_to_one=to_one,
            steps_offset=offset,
            clip_sample=clip,
            clip_sample_range=1.5,
        )
        assert_matches_diffusers(scheduler, num_steps)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_other_noise_scales_and_betas(beta_schedule, eta):
    for prediction in PREDICTIONS:
        scheduler = ddim(beta_schedule=beta_schedule, prediction_type=prediction)
        assert_matches_diffusers(scheduler, 20, eta)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_zero_terminal_snr(prediction):
    scheduler = ddim(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type=prediction
    )
    assert_matches_diffusers(scheduler, 10, eta=0.7)


def test_the_scheduler_given_is_left_untouched():
    scheduler = ddim()
    scheduler.set_timesteps(7)
    DDIMSchedule.from_scheduler(scheduler, 10)
    assert scheduler.num_inference_steps == 7


def test_rows_may_be_at_different_steps():
    schedule = DDIMSchedule.from_scheduler(ddim(), 10)
    latents, output = torch.randn(2, 10, 4, 5, 5)
    index = torch.randperm(10)
    together = schedule.transition(output, latents, index)
    for row, i in enumerate(index.tolist()):
        alone = schedule.transition(output[row, None], latents[row, None], i)
        assert torch.equal(together.mean[row], alone.mean[0])
        assert torch.equal(together.predicted_clean[row], alone.predicted_clean[0])
        assert torch.equal(together.std[row], alone.std[0])
    assert together.std.shape == (10, 1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_everything_is_float32_whatever_comes_in(dtype):
    schedule = DDIMSchedule.from_scheduler(ddim(), 10)
    latents, output = torch.randn(2, *SHAPE).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = schedule.transition(output, latents, 3)
        drawn = schedule.sample(step)
        log_prob = schedule.log_prob(drawn.to(dtype), step)
    assert {step.mean.dtype, step.std.dtype, drawn.dtype, log_prob.dtype} == {torch.float32}
    assert torch.equal(step.mean, schedule.transition(output.float(), latents.float(), 3).mean)


@pytest.mark.parametrize(
    ("config", "deterministic"),
    [
        ({"set_alpha_to_one": False, "steps_offset": 1}, []),
        ({"set_alpha_to_one": True, "steps_offset": 1}, [9]),
        ({"set_alpha_to_one": False, "steps_offset": 0}, [9]),
        ({"timestep_spacing": "linspace"}, [9]),
        ({"timestep_spacing": "trailing"}, []),
    ],
)
def test_deterministic_steps_are_marked(config, deterministic):
    schedule = DDIMSchedule.from_scheduler(ddim(**config), 10)
    assert [i for i, noisy in enumerate(schedule.stochastic.tolist()) if not noisy] == deterministic
    assert torch.equal(schedule.stochastic, schedule.std > 0)


def test_deterministic_steps_are_executed_but_have_no_log_prob():
    schedule = DDIMSchedule.from_scheduler(ddim(set_alpha_to_one=True), 10)
    latents, output = torch.randn(2, 2, 4, 5, 5)
    for index in (9, torch.tensor([0, 9])):
        step = schedule.transition(output, latents, index)
        assert torch.equal(schedule.sample(step)[-1], step.mean[-1])
        with pytest.raises(InvalidInputError, match=r"deterministic steps.*\[9\]"):
            schedule.log_prob(step.mean, step)
    both_noisy = schedule.transition(output, latents, torch.tensor([0, 8]))
    assert schedule.log_prob(latents, both_noisy).isfinite().all()


def test_log_prob_is_the_gaussian_density():
    schedule = DDIMSchedule.from_scheduler(ddim(), 10)
    latents, output, following = torch.randn(3, *SHAPE)
    step = schedule.transition(output, latents, torch.tensor([0, 4, 9]))
    density = torch.distributions.Normal(step.mean, step.std).log_prob(following)
    mean, total = schedule.log_prob(following, step), schedule.log_prob(following, step, "sum")
    torch.testing.assert_close(mean, density.mean((1, 2, 3)))
    torch.testing.assert_close(total, density.sum((1, 2, 3)))
    with pytest.raises(InvalidInputError, match="unknown reduction 'max'; known: mean, sum"):
        schedule.log_prob(following, step, "max")


def test_log_prob_treats_the_sample_as_a_constant():
    schedule = DDIMSchedule.from_scheduler(ddim(), 10)
    latents = torch.randn(SHAPE)
    output = torch.randn(SHAPE, requires_grad=True)
    step = schedule.transition(output, latents, 4)
    schedule.log_prob(schedule.sample(step), step).sum().backward()
    assert output.grad.abs().max() > 0


def test_sample_noise_sources():
    schedule = DDIMSchedule.from_scheduler(ddim(), 10)
    step = schedule.transition(*torch.randn(2, *SHAPE), 0)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    drawn = schedule.sample(step, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, schedule.sample(step, noise=noise))
    with pytest.raises(InvalidInputError, match="got both"):
        schedule.sample(step, noise=noise, generator=torch.Generator())


def test_index_of_timesteps():
    schedule = DDIMSchedule.from_scheduler(ddim(), 10)
    assert schedule.index_of(901) == 0
    assert schedule.index_of(1.0) == 9
    column = schedule.timesteps.flip(0).float()[:, None]
    assert schedule.index_of(column).tolist() == [[i] for i in reversed(range(10))]
    for unknown in (900, -1, 1000, 1e9, 901.5, float("nan"), torch.tensor([901, 3])):
        with pytest.raises(InvalidInputError, match="expected timesteps of this schedule"):
            schedule.index_of(unknown)


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "DDPMScheduler"])
def test_schedulers_with_the_same_betas_are_converted(name):
    scheduler = getattr(diffusers, name).from_config(ddim().config)
    converted = DDIMSchedule.from_scheduler(scheduler, 10)
    expected = DDIMSchedule.from_scheduler(ddim(), 10)
    assert torch.equal(converted.timesteps, expected.timesteps)
    assert torch.equal(converted.std, expected.std)
    assert converted.clip_range is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", DDIM_SCHEDULERS)
def test_every_supported_scheduler_exists_and_converts(name):
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy")
    scheduler = getattr(diffusers, name)()
    assert DDIMSchedule.from_scheduler(scheduler, 10).num_steps == 10


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), "expected sampler='flow_sde', which fits"),
        (diffusers.EDMEulerScheduler(), "known: DDIMScheduler, DDPMScheduler"),
        (object(), "unknown diffusers scheduler 'object'"),
        (ddim(thresholding=True), "without dynamic thresholding"),
        (
            diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction"),
            "unknown prediction type 'flow_prediction'; known: epsilon, sample, v_prediction",
        ),
        (
            ddim(rescale_betas_zero_snr=True, timestep_spacing="trailing"),
            r"epsilon prediction cannot start from pure noise: ᾱ = 0 at timestep \[999\]",
        ),
        (ddim(trained_betas=[0.0] * 500 + [0.01] * 500), "expected noise at every step"),
    ],
)
def test_unsupported_schedulers(scheduler, message):
    with pytest.raises(InvalidInputError, match=message):
        DDIMSchedule.from_scheduler(scheduler, 10)


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 10.0, "10", True, None])
def test_impossible_numbers_of_steps(num_steps):
    with pytest.raises(InvalidInputError, match="an integer from 1 to 1000, got"):
        DDIMSchedule.from_scheduler(ddim(), num_steps)


def test_steps_that_fall_off_the_training_schedule():
    with pytest.raises(InvalidInputError, match="from 1000 to 1, expected 1000 falling ones"):
        DDIMSchedule.from_scheduler(ddim(), 1000)
    # Rounding in diffusers' trailing spacing makes one timestep too many for a few T.
    with pytest.raises(InvalidInputError, match="it makes 104 timesteps from 999 to -1"):
        DDIMSchedule.from_scheduler(ddim(timestep_spacing="trailing"), 103)


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf, 20.0])
def test_impossible_noise_scales(eta):
    with pytest.raises(InvalidInputError, match="expected eta"):
        DDIMSchedule.from_scheduler(ddim(), 10, eta)


def test_bad_arguments_of_transition():
    schedule = DDIMSchedule.from_scheduler(ddim(), 10)
    latents = torch.randn(SHAPE)
    with pytest.raises(InvalidInputError, match=r"\(3, 4, 5, 5\), got \(3, 4, 5\)"):
        schedule.transition(latents[..., 0], latents, 0)
    for index in (10, -1, torch.tensor([0, 1, 10]), torch.tensor([0, -1, 1])):
        with pytest.raises(InvalidInputError, match="step indices from 0 to 9"):
            schedule.transition(latents, latents, index)
    with pytest.raises(InvalidInputError, match=r"shape \(3,\), got \(2,\)"):
        schedule.transition(latents, latents, torch.tensor([0, 1]))
    step = schedule.transition(latents, latents, 0)
    with pytest.raises(InvalidInputError, match="of the mean's shape"):
        schedule.log_prob(latents[:1], step)


def test_to_moves_every_tensor_and_repr_tells_the_schedule():
    schedule = DDIMSchedule.from_scheduler(ddim(), 10)
    moved = schedule.to("meta")
    assert moved.device.type == moved.std.device.type == moved.stochastic.device.type == "meta"
    assert moved.num_steps == 10
    assert "num_steps=10, eta=1.0, timesteps=901…1" in repr(schedule)


fractions = st.floats(0.01, 0.99, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(alpha=fractions, share=fractions, eta=st.floats(0, 1))
def test_a_step_keeps_the_noise_level(alpha, share, eta):
    """Given true x̂0 and ε, x_{i+1} has signal √ᾱ' and total noise 1−ᾱ'."""
    previous = alpha + share * (0.999 - alpha)
    tensors = (torch.tensor([value], dtype=torch.float64) for value in (alpha, previous))
    (row,) = step_coefficients(*tensors, eta)
    _, _, sqrt_previous, direction, std = row.tolist()
    assert sqrt_previous**2 == pytest.approx(previous)
    assert direction**2 + std**2 == pytest.approx(1 - previous)
    assert std**2 <= 1 - previous


@settings(max_examples=25, deadline=None)
@given(
    num_steps=st.integers(1, 60),
    prediction=st.sampled_from(PREDICTIONS),
    spacing=st.sampled_from(SPACINGS),
    eta=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_predictions_of_the_truth_recover_it(num_steps, prediction, spacing, eta, seed):
    """Whatever the denoiser predicts, telling it the truth gives x̂0 back, the same mean."""
    scheduler = ddim(prediction_type=prediction, timestep_spacing=spacing)
    schedule = DDIMSchedule.from_scheduler(scheduler, num_steps, eta)
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 2, 4, 3, 3, generator=generator, dtype=torch.float64)
    index = torch.randint(num_steps, (2,), generator=generator)
    alpha = scheduler.alphas_cumprod.double()[schedule.timesteps[index]].view(2, 1, 1, 1)
    latents = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    truth = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
    }
    step = schedule.transition(truth[prediction], latents, index)
    torch.testing.assert_close(step.predicted_clean.double(), clean, atol=2e-4, rtol=0)
    assert torch.equal(schedule.index_of(schedule.timesteps[index]), index)
