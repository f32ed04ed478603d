"""Classifier-free guidance, and what it costs."""

import pytest
import torch

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import guided_prediction, load_model


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def denoiser(model):
    return model.new_denoiser()


@pytest.fixture(scope="module")
def inputs(model):
    latents = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    return latents, torch.tensor([900, 500, 100]), model.encode(["a cat", "two dogs", ""])


def batches_seen(denoiser, run):
    """Batch sizes of all the passes that ``run`` makes."""
    seen = []
    hook = denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    run()
    hook.remove()
    return seen


def test_guidance_1_is_one_undoubled_pass(model, denoiser, inputs):
    latents, timesteps, embedding = inputs
    for null in (None, model.null_embedding):
        seen = batches_seen(
            denoiser, lambda null=null: guided_prediction(denoiser, *inputs, null_embedding=null)
        )
        assert seen == [3]
    expected = denoiser.network(latents, timesteps, embedding.tokens).sample
    assert torch.equal(guided_prediction(denoiser, *inputs), expected)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0, 7.5, -1.0])
def test_guidance_is_the_formula_on_two_separate_passes(model, denoiser, inputs, guidance):
    latents, timesteps, embedding = inputs
    null = model.null_embedding
    with torch.no_grad():
        guided = guided_prediction(
            denoiser, *inputs, null_embedding=model.null_embedding, guidance=guidance
        )
        conditional = denoiser.network(latents, timesteps, embedding.tokens).sample
        empty = null.tokens.expand(3, -1, -1)
        unconditional = denoiser.network(latents, timesteps, empty).sample
    expected = unconditional + guidance * (conditional - unconditional)
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-4)
    assert (conditional[0] - unconditional[0]).abs().max() > 0.05
    # The third prompt is the empty one: guidance towards it changes nothing.
    torch.testing.assert_close(guided[2], conditional[2], rtol=1e-4, atol=1e-4)


def test_guidance_is_one_doubled_pass(model, denoiser, inputs):
    seen = batches_seen(
        denoiser,
        lambda: guided_prediction(
            denoiser, *inputs, null_embedding=model.null_embedding, guidance=2.0
        ),
    )
    assert seen == [6]


def test_gradients_reach_the_denoiser(model, inputs):
    denoiser = model.new_denoiser().requires_grad_(True)
    output = guided_prediction(denoiser, *inputs, null_embedding=model.null_embedding, guidance=2.0)
    output.square().mean().backward()
    assert all(weight.grad is not None for weight in denoiser.parameters())


def test_guidance_without_a_null_embedding(denoiser, inputs):
    with pytest.raises(InvalidInputError, match=r"guidance 2\.0 needs the null embedding; got"):
        guided_prediction(denoiser, *inputs, guidance=2.0)
