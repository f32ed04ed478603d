"""The schedule against diffusers' own DDIM step, and its properties."""

import inspect
import itertools
import json
import math
from fractions import Fraction

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
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ddim(**overrides):
    """Stable Diffusion's noise schedule."""
    config = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return diffusers.DDIMScheduler(**(NOISE | config | overrides))


def from_file(name, folder, **config):
    """A scheduler of a class as it comes with a checkpoint: from a file with these entries."""
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy")
    scheduler_class = getattr(diffusers, name)
    (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": name} | config))
    return scheduler_class.from_pretrained(folder)


def assert_close(actual, expected):
    assert actual.dtype == torch.float32
    error = (actual - expected).abs() / expected.abs().clamp(min=1)
    assert float(error.max()) <= 1e-5


def assert_matches_diffusers(scheduler, num_steps, eta=1.0):
    """Every step of the schedule is DDIMScheduler.step with the same noise.

    diffusers steps to t − N // T; where the next timestep of its own table is another one, it is
    led there.
    """
    schedule = DDIMSchedule.from_scheduler(scheduler, num_steps, eta)
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps.tolist()
    assert schedule.timesteps.tolist() == timesteps
    generator = torch.Generator().manual_seed(num_steps)
    for i, (timestep, following) in enumerate(itertools.pairwise([*timesteps, -1])):
        latents, output, noise = torch.randn(3, *SHAPE, generator=generator)
        length = scheduler.config.num_train_timesteps
        if i < num_steps - 1 and timestep - length // num_steps != following:
            assert scheduler.config.timestep_spacing == "linspace"
            scheduler.num_inference_steps = Fraction(length, timestep - following)
        expected = scheduler.step(output, timestep, latents, eta=eta, variance_noise=noise)
        step = schedule.transition(output, latents, i)
        assert_close(step.predicted_clean, expected.pred_original_sample)
        assert_close(schedule.sample(step, noise=noise), expected.prev_sample)
        scheduler.num_inference_steps = num_steps


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


@pytest.mark.parametrize("num_steps", [4, 5, 10, 20, 30, 50])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_step_leaves_the_noise_that_the_next_one_expects(spacing, num_steps):
    for prediction, to_one, offset in itertools.product(PREDICTIONS, (True, False), (0, 1)):
        scheduler = ddim(
            prediction_type=prediction,
            timestep_spacing=spacing,
            set_alpha_to_one=to_one,
            steps_offset=offset,
        )
        schedule = DDIMSchedule.from_scheduler(scheduler, num_steps)
        signal, _, signal_left, _, _ = schedule._coefficients.T
        assert torch.equal(signal, scheduler.alphas_cumprod[schedule.timesteps].sqrt())
        assert torch.equal(signal_left[:-1], signal[1:])
        assert signal_left[-1] == scheduler.final_alpha_cumprod.sqrt()


@pytest.mark.parametrize("num_steps", [2, 4, 10, 28])
def test_without_noise_linspace_is_diffusers_euler(num_steps):
    """Both solve the same equation by Euler's method; Euler's latents are x/√ᾱ."""
    euler = diffusers.EulerDiscreteScheduler(**NOISE)
    euler.set_timesteps(num_steps)
    schedule = DDIMSchedule.from_scheduler(euler, num_steps, eta=0.0)
    assert schedule.timesteps.tolist() == euler.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    latents, *outputs = torch.randn(1 + num_steps, *SHAPE, generator=generator).double()
    scaled = latents / (1 / (1 + euler.sigmas[0].double() ** 2)).sqrt()
    for i, output in enumerate(outputs):
        latents = schedule.transition(output, latents, i).mean
        scaled = euler.step(output, euler.timesteps[i], scaled).prev_sample
    torch.testing.assert_close(latents.double(), scaled, rtol=1e-4, atol=1e-4)


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
        with pytest.raises(InvalidInputError, match=r"deterministic steps of this .*: \[9\]"):
            schedule.log_prob(step.mean, step)
    both_noisy = schedule.transition(output, latents, torch.tensor([0, 8]))
    assert schedule.log_prob(latents, both_noisy).isfinite().all()


@pytest.mark.parametrize(
    ("num_steps", "eta", "reason"),
    [
        (10, 0.0, "eta is 0"),
        (1, 0.0, "eta is 0"),
        (1, 1.0, r"with num_inference_steps=1 the only step is the last, which adds no noise"),
        (10, 1.0, None),
    ],
)
def test_why_no_step_has_noise(num_steps, eta, reason):
    turbo = diffusers.EulerAncestralDiscreteScheduler(**NOISE, timestep_spacing="trailing")
    schedule = DDIMSchedule.from_scheduler(turbo, num_steps, eta)
    assert schedule.why_deterministic == reason
    assert bool(schedule.stochastic.any()) == (reason is None)
    if reason is not None:
        latents, output = torch.randn(2, *SHAPE)
        step = schedule.transition(output, latents, 0)
        with pytest.raises(InvalidInputError, match=f"has no log-probability; .*{reason}"):
            schedule.log_prob(latents, step)


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
    scheduler = getattr(diffusers, name).from_config(ddim(timestep_spacing="leading").config)
    converted = DDIMSchedule.from_scheduler(scheduler, 10)
    expected = DDIMSchedule.from_scheduler(ddim(), 10)
    assert torch.equal(converted.timesteps, expected.timesteps)
    assert torch.equal(converted.std, expected.std)
    assert converted.clip_range is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("stated", [{}, NOISE, {"beta_start": 0.001, "beta_end": 0.03}])
@pytest.mark.parametrize("name", DDIM_SCHEDULERS)
def test_what_a_scheduler_does_not_state_is_its_own_default(name, stated, tmp_path):
    """DDIM's defaults are other ones: clipped predictions, leading timesteps, its own betas."""
    scheduler = from_file(name, tmp_path, **stated)
    schedule = DDIMSchedule.from_scheduler(scheduler, 10)
    clips = name in ("DDIMScheduler", "DDPMScheduler")  # the only ones that do by themselves
    assert schedule.clip_range == (1.0 if clips else None)
    own = inspect.signature(type(scheduler).__init__).parameters
    spacing = own["timestep_spacing"].default if "timestep_spacing" in own else "linspace"
    expected = {"leading": list(range(900, -1, -100)), "linspace": list(range(999, -1, -111))}
    assert schedule.timesteps.tolist() == expected[spacing]
    signal, _, signal_left, _, _ = schedule._coefficients.T
    alpha_bars = scheduler.alphas_cumprod
    assert torch.equal(signal, alpha_bars[schedule.timesteps].sqrt())
    noisy_end = name in ("PNDMScheduler", "DEISMultistepScheduler")
    assert signal_left[-1] == (alpha_bars[0].sqrt() if noisy_end else 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", DDIM_SCHEDULERS)
def test_what_a_scheduler_states_is_kept(name, tmp_path):
    """Also where its class does not know the option, as diffusers' own conversions write it."""
    stated = {"timestep_spacing": "trailing", "set_alpha_to_one": False, "clip_sample": True}
    stated |= {"clip_sample_range": 2.5, "prediction_type": "v_prediction", **NOISE}
    schedule = DDIMSchedule.from_scheduler(from_file(name, tmp_path, **stated), 10)
    expected = DDIMSchedule.from_scheduler(diffusers.DDIMScheduler(**stated), 10)
    assert (schedule.clip_range, schedule.prediction) == (2.5, "v_prediction")
    assert torch.equal(schedule.timesteps, expected.timesteps)
    assert torch.equal(schedule._coefficients, expected._coefficients)
    unclipped = from_file(name, tmp_path, **stated | {"clip_sample": False})
    assert DDIMSchedule.from_scheduler(unclipped, 10).clip_range is None
    # The scheduler just made, and one that went through its file, are the same.
    unclipped.save_pretrained(tmp_path)
    again = DDIMSchedule.from_scheduler(type(unclipped).from_pretrained(tmp_path), 10)
    assert torch.equal(again._coefficients, schedule._coefficients)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True}),
        ("DDPMScheduler", {"beta_schedule": "sigmoid", "clip_sample": False}),
        ("HeunDiscreteScheduler", {"beta_schedule": "exp"}),
        ("LMSDiscreteScheduler", {"trained_betas": [0.001 * i for i in range(1, 101)]}),
    ],
)
def test_the_noise_process_is_the_schedulers_own(name, config, tmp_path):
    config = {"prediction_type": "v_prediction", **config}
    config["num_train_timesteps"] = 100
    scheduler = from_file(name, tmp_path, **config)
    schedule = DDIMSchedule.from_scheduler(scheduler, 10)
    signal = schedule._coefficients[:, 0]
    expected = scheduler.alphas_cumprod[schedule.timesteps].sqrt()
    # Euler has 2⁻²⁴ for the ᾱ = 0 that it cannot divide by.
    torch.testing.assert_close(signal, expected, rtol=0, atol=2**-12)
    torch.testing.assert_close(signal[1:], expected[1:], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "noisy_end"),
    [
        ("EulerDiscreteScheduler", True),
        ("EulerDiscreteScheduler", False),
        ("DPMSolverMultistepScheduler", True),
        ("DPMSolverSinglestepScheduler", True),
        ("UniPCMultistepScheduler", True),
    ],
)
def test_the_last_noise_level_is_the_schedulers_own(name, noisy_end, tmp_path):
    kind = "sigma_min" if noisy_end else "zero"
    scheduler = from_file(name, tmp_path, **NOISE, final_sigmas_type=kind)
    left = DDIMSchedule.from_scheduler(scheduler, 10)._coefficients[-1, 2]
    assert left == (scheduler.alphas_cumprod[0].sqrt() if noisy_end else 1)
    scheduler.set_timesteps(10)
    assert float(1 / (1 + scheduler.sigmas[-1] ** 2).sqrt()) == pytest.approx(float(left))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("EulerDiscreteScheduler", "timestep_type", "continuous"),
        ("EulerDiscreteScheduler", "use_karras_sigmas", True),
        ("EulerDiscreteScheduler", "sigma_min", 0.002),
        ("EulerDiscreteScheduler", "sigma_max", 80.0),
        ("HeunDiscreteScheduler", "use_exponential_sigmas", True),
        ("KDPM2DiscreteScheduler", "use_karras_sigmas", True),
        ("LMSDiscreteScheduler", "use_beta_sigmas", True),
        ("DPMSolverMultistepScheduler", "use_lu_lambdas", True),
        ("DPMSolverMultistepScheduler", "use_flow_sigmas", True),
        ("DPMSolverSinglestepScheduler", "lambda_min_clipped", -5.1),
        ("UniPCMultistepScheduler", "sigma_min", 0.1),
        ("DEISMultistepScheduler", "use_dynamic_shifting", True),
    ],
)
def test_options_that_ddim_does_not_have_are_refused(name, option, value, tmp_path):
    scheduler = from_file(name, tmp_path, **NOISE, **{option: value})
    with pytest.raises(InvalidInputError, match=f"a {name} with {option}={value!r}; set it to"):
        DDIMSchedule.from_scheduler(scheduler, 10)
    # A scheduler that does not know the option samples as if it was not there.
    other = from_file("PNDMScheduler", tmp_path, **NOISE, **{option: value})
    assert DDIMSchedule.from_scheduler(other, 10).num_steps == 10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"timestep_spacing": "even"}, "timestep spacing 'even'; known: leading, linspace, trail"),
        ({"timestep_spacing": ["leading"]}, "unknown timestep spacing"),
        ({"steps_offset": "1"}, "steps_offset to be an integer ≥ 0, got '1'"),
        ({"steps_offset": -1}, "steps_offset to be an integer ≥ 0, got -1"),
        ({"clip_sample": "false"}, "clip_sample to be true or false, got 'false'"),
        ({"set_alpha_to_one": None}, "set_alpha_to_one to be true or false, got None"),
        ({"thresholding": "no"}, "thresholding to be true or false, got 'no'"),
        ({"clip_sample_range": 0}, "clip_sample_range to be a number above 0, got 0"),
        ({"clip_sample_range": "1"}, "clip_sample_range to be a number above 0, got '1'"),
        ({"clip_sample_range": math.nan}, "clip_sample_range to be a number above 0, got nan"),
        ({"trained_betas": [0.1] * 10}, "num_train_timesteps=1000 and 10 betas"),
        ({"beta_end": math.nan}, "betas from 0 to 1, so that ᾱ is from 0 to 1, got ᾱ = nan"),
        ({"beta_start": -0.5, "beta_schedule": "linear"}, "betas from 0 to 1"),
        ({"prediction_type": ["epsilon"]}, "unknown prediction type"),
    ],
)
def test_values_that_mean_nothing(config, message, tmp_path):
    scheduler = from_file("DDIMScheduler", tmp_path, **NOISE | config)
    with pytest.raises(InvalidInputError, match=message):
        DDIMSchedule.from_scheduler(scheduler, 10)


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
