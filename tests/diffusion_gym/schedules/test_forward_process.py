"""The noise process at any training timestep, against diffusers' own schedulers."""

import diffusers
import pytest
import torch

from diffusion_gym.schedules.registry import make_schedule

SHAPE = (5, 4, 3, 3)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
#: Ends included; most are none of the sampler's ten.
TIMESTEPS = torch.tensor([0, 1, 333, 700, 999])


def ddpm(prediction="epsilon", **options):
    return diffusers.DDIMScheduler(
        prediction_type=prediction,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
        **options,
    )


def flow(**options):
    return diffusers.FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | options))


def test_noise_is_added_as_diffusers_does():
    schedule, scheduler = make_schedule(ddpm(), 10), ddpm()
    clean, noise = torch.randn(2, *SHAPE)
    found = schedule.add_noise(clean, noise, TIMESTEPS)
    torch.testing.assert_close(found, scheduler.add_noise(clean, noise, TIMESTEPS))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("options", [{}, {"num_train_timesteps": 200, "shift": 1.0}])
@pytest.mark.parametrize("sampler", ["flow_sde", "flow_cps"])
def test_noise_is_added_as_diffusers_does_to_flows(sampler, options):
    scheduler = flow(**options)
    schedule = make_schedule(scheduler, 10, sampler=sampler)
    scheduler.set_timesteps(10)
    clean, noise = torch.randn(2, 10, 4, 3, 3)
    expected = scheduler.scale_noise(clean, scheduler.timesteps, noise)
    torch.testing.assert_close(schedule.add_noise(clean, noise, scheduler.timesteps), expected)


def outputs(prediction, clean, noise, scheduler, timesteps):
    """What a perfect network says of a pair, by diffusers' own conversions."""
    if prediction == "epsilon":
        return noise
    return (
        scheduler.get_velocity(clean, noise, timesteps) if prediction == "v_prediction" else clean
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_true_output_gives_the_clean_latent(prediction):
    scheduler = ddpm(prediction)
    schedule = make_schedule(scheduler, 10)
    clean, noise = torch.randn(2, *SHAPE)
    latents = schedule.add_noise(clean, noise, TIMESTEPS)
    output = outputs(prediction, clean, noise, ddpm(prediction), TIMESTEPS)
    found = schedule.clean_at(output, latents, TIMESTEPS)
    torch.testing.assert_close(found, clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_at_the_samplers_timesteps_it_is_the_transitions(prediction):
    schedule = make_schedule(ddpm(prediction), 10)
    output, latents = torch.randn(2, 10, 4, 3, 3)
    step = schedule.transition(output, latents, torch.arange(10))
    found = schedule.clean_at(output, latents, schedule.timesteps)
    assert torch.equal(found, step.predicted_clean)


@pytest.mark.parametrize("sampler", ["flow_sde", "flow_cps"])
def test_at_a_flows_timesteps_it_is_the_transitions(sampler):
    schedule = make_schedule(flow(), 10, sampler=sampler)
    output, latents = torch.randn(2, 10, 4, 3, 3)
    step = schedule.transition(output, latents, torch.arange(10))
    found = schedule.clean_at(output, latents, schedule.timesteps)
    torch.testing.assert_close(found, step.predicted_clean)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_an_error_of_the_clean_latent_is_the_noise_scale_times_that_of_the_velocity(kind):
    """v by its definition, √ᾱ ε − √(1−ᾱ) x̂0 or ε − x̂0, with ε from x_t and x̂0."""
    scheduler = flow() if kind == "flow" else ddpm(kind)
    schedule = make_schedule(scheduler, 10)
    timesteps = torch.tensor([1.0, 20.0, 400.0, 800.0, 999.0])
    latents, *both = torch.randn(3, *SHAPE)
    scale = schedule.noise_scale(timesteps).view(-1, 1, 1, 1)
    signal = 1 - scale if kind == "flow" else (1 - scale.square()).sqrt()
    cleans = [schedule.clean_at(output, latents, timesteps) for output in both]
    velocities = [
        (latents - signal * clean) / scale * (1 if kind == "flow" else signal)
        - clean * (1 if kind == "flow" else scale)
        for clean in cleans
    ]
    apart = velocities[0] - velocities[1]
    expected = (cleans[0] - cleans[1]) / scale
    torch.testing.assert_close(-apart, expected, rtol=2e-2, atol=2e-2)


def test_timesteps_that_say_nothing_are_left_out():
    schedule = make_schedule(ddpm("v_prediction", rescale_betas_zero_snr=True), 10)
    assert schedule.training_timesteps.tolist() == list(range(1000))  # v at pure noise says x̂0
    steps = make_schedule(ddpm("epsilon"), 10).training_timesteps
    assert steps.tolist() == list(range(1000))
    noisy_end = make_schedule(
        diffusers.DDIMScheduler(
            rescale_betas_zero_snr=True, timestep_spacing="leading", clip_sample=False
        ),
        10,
    )
    assert noisy_end.training_timesteps.tolist() == list(range(999))
    assert make_schedule(flow(), 10).training_timesteps.tolist() == list(range(1, 1001))


def test_it_follows_the_schedule_to_its_device():
    moved = make_schedule(ddpm(), 10).to("meta")
    clean = torch.empty(2, 4, 3, 3, device="meta")
    timesteps = torch.zeros(2, dtype=torch.int64, device="meta")
    assert moved.add_noise(clean, clean, timesteps).device.type == "meta"
