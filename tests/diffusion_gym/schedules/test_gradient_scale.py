"""g_i = C_i / σ_i against autograd, through the density that agents differentiate."""

import diffusers
import pytest
import torch

from diffusion_gym.schedules.ddim import DDIMSchedule
from diffusion_gym.schedules.flow_cps import FlowCPSSchedule
from diffusion_gym.schedules.flow_sde import FlowSDESchedule

SHAPE = (2, 4, 5, 5)


def ddim(prediction, num_steps=10, eta=1.0, **config):
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction,
        **({"set_alpha_to_one": False, "steps_offset": 1} | config),
    )
    return DDIMSchedule.from_scheduler(scheduler, num_steps, eta)


def flow(num_steps=10, eta=0.7, sampler=FlowSDESchedule, window=None, **config):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | config))
    return sampler.from_scheduler(scheduler, num_steps, eta, window)


SCHEDULES = {
    "epsilon": lambda: ddim("epsilon"),
    "v": lambda: ddim("v_prediction"),
    "sample": lambda: ddim("sample"),
    "trailing": lambda: ddim("v_prediction", timestep_spacing="trailing"),
    "50 steps": lambda: ddim("epsilon", 50),
    "less noise": lambda: ddim("v_prediction", eta=0.3),
    "a last step without noise": lambda: ddim("v_prediction", set_alpha_to_one=True),
    "flow": flow,
    "flow, other noise": lambda: flow(eta=0.2, shift=1.0),
    "flow, noise in some steps": lambda: flow(window=(2, 3)),
    "coefficients preserved": lambda: flow(eta=0.8, sampler=FlowCPSSchedule),
    "coefficients preserved, all fresh": lambda: flow(eta=1.0, sampler=FlowCPSSchedule),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_size_of_the_densitys_gradient(name):
    schedule = SCHEDULES[name]()
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, *SHAPE, generator=generator)
    scale = schedule.gradient_scale
    assert scale.shape == (schedule.num_steps,)
    for index in range(schedule.num_steps):
        output = torch.randn(SHAPE, generator=generator, requires_grad=True)
        step = schedule.transition(output, latents, index)
        if not step.stochastic:
            assert scale[index] == torch.inf
            continue
        actions = schedule.sample(step, noise=noise).detach()
        schedule.log_prob(actions, step, "sum").sum().backward()
        # ∇_f log π = ± (C/σ) ε; x' - μ loses digits of ε where σ is small.
        drawn = (actions - step.mean.detach()) / step.std
        torch.testing.assert_close(output.grad.abs(), scale[index] * drawn.abs(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_what_the_network_predicts_changes_its_scale_by_that_of_the_velocity(spacing):
    scales = {
        prediction: ddim(prediction, timestep_spacing=spacing)
        for prediction in ("epsilon", "v_prediction", "sample")
    }
    of_velocity = scales["v_prediction"].gradient_scale
    for schedule in scales.values():
        expected = schedule.gradient_scale / schedule.velocity_scale
        torch.testing.assert_close(expected, of_velocity, rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_velocity_is_that_of_diffusers(prediction):
    schedule = ddim(prediction)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def velocity(output, timestep):
        """v of a prediction at fixed latents, by diffusers' definition of v."""
        alpha_bar = scheduler.alphas_cumprod.double()[timestep]
        if prediction == "v_prediction":
            return output
        if prediction == "epsilon":
            clean = (latents - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
            noise = output
        else:
            clean = output
            noise = (latents - alpha_bar.sqrt() * output) / (1 - alpha_bar).sqrt()
        return scheduler.get_velocity(clean, noise, timestep[None])

    for timestep, expected in zip(schedule.timesteps, schedule.velocity_scale, strict=True):
        output = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(velocity(output, timestep).sum(), output)
        torch.testing.assert_close(
            gradient.abs().float(), expected.expand(SHAPE), rtol=1e-4, atol=0
        )


def test_it_moves_with_the_schedule():
    assert ddim("epsilon").to("cpu").gradient_scale.device.type == "cpu"
    assert ddim("epsilon", eta=0.0).gradient_scale.tolist() == [torch.inf] * 10


def test_a_noisier_chain_has_smaller_gradients():
    # σ grows with η and C changes little, so the same error of the output matters less.
    quiet, loud = ddim("v_prediction", eta=0.5), ddim("v_prediction", eta=1.0)
    assert (loud.gradient_scale < quiet.gradient_scale).all()
