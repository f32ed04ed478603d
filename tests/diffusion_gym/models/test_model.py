"""The loaded model: values against diffusers, sharing, closing, and the hash of the weights."""

import gc
import weakref

import diffusers
import pytest
import torch

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import load_model
from diffusion_gym.models.decoder import DECODE_BATCH

# v0 freezes numbers: other weights are another model, and make a v1.
EMOJI64_HASH = "776b27007e9d3be720b8b26d4aeaf783de31bdfb6368d8756ea5ed7612da2824"

PROMPTS = ["a cat", "", "two apples and a very long tail of words " * 10]


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def pipeline(model):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(model.folder)
    return pipeline.to(memory_format=torch.channels_last)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_shapes_of_the_embedded_model(model):
    assert model.name == "emoji-64"
    assert model.latent_shape == (16, 8, 8)
    assert model.image_shape == (3, 64, 64)
    assert model.prompt_embedding_shape == (24, 128)
    assert model.pooled_embedding_shape is None
    assert model.default_prompts == "emoji-objects"
    assert model.default_reward == "house_style"
    assert model.default_num_inference_steps == 10
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert repr(model) == "DiffusionModel('emoji-64', latent_shape=(16, 8, 8))"


def test_encode_is_that_of_diffusers(model, pipeline):
    embedding = model.encode(PROMPTS)
    expected, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    assert embedding.tokens.shape == (3, *model.prompt_embedding_shape)
    assert embedding.pooled is None
    torch.testing.assert_close(embedding.tokens, expected, rtol=1e-5, atol=1e-5)
    assert (embedding.tokens[0] - embedding.tokens[1]).abs().max() > 0.1
    assert not embedding.tokens.requires_grad


def test_the_null_embedding_is_that_of_the_empty_prompt(model, pipeline):
    _, expected = pipeline.encode_prompt("a cat", "cpu", 1, do_classifier_free_guidance=True)
    torch.testing.assert_close(model.null_embedding.tokens, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.null_embedding.tokens, model.encode(["", "a"]).tokens[:1])
    assert model.null_embedding is model.null_embedding


def test_rows_of_an_embedding_can_be_selected(model):
    embedding = model.encode(PROMPTS)
    assert torch.equal(
        embedding.select(torch.tensor([2, 0, 2])).tokens, embedding.tokens[[2, 0, 2]]
    )


def test_decode_is_that_of_diffusers(model, pipeline):
    latents = noise(3, *model.latent_shape)
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    expected = pipeline.image_processor.postprocess(decoded, output_type="pt")
    images = model.decode(latents)
    assert images.shape == (3, *model.image_shape)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.1
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch(model):
    latents = noise(DECODE_BATCH + 5, *model.latent_shape)
    together = model.decode(latents)
    for row in (0, DECODE_BATCH - 1, DECODE_BATCH, DECODE_BATCH + 4):
        alone = model.decode(latents[row : row + 1])[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)
    assert not model.decode(latents[:1].requires_grad_()).requires_grad


def test_schedulers_are_fresh(model):
    first, second = model.scheduler, model.scheduler
    assert isinstance(first, diffusers.DDIMScheduler)
    assert first is not second
    first.set_timesteps(7)
    assert len(second.timesteps) == 1000
    assert first.config.prediction_type == "v_prediction"


def test_new_denoiser_is_the_checkpoints_unet(model, pipeline):
    denoiser = model.new_denoiser()
    assert not denoiser.training
    assert not any(weight.requires_grad for weight in denoiser.parameters())
    weights = pipeline.unet.state_dict()
    assert denoiser.network.state_dict().keys() == weights.keys()
    for name, weight in denoiser.network.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weights[name].float()), name


def test_denoisers_are_independent_copies(model):
    trained, other = model.new_denoiser(), model.new_denoiser()
    before = {name: weight.clone() for name, weight in other.state_dict().items()}
    for weight in trained.parameters():
        weight.data.add_(1)
    for fresh in (other, model.new_denoiser()):
        assert all(torch.equal(weight, before[name]) for name, weight in fresh.named_parameters())


def networks(model):
    """The frozen networks of a model with one text encoder."""
    return model.decoder.vae, model.text_encoders.encoders[0].network


def test_frozen_networks_are_shared_and_freed_with_their_last_user(checkpoint):
    first, second = load_model(str(checkpoint.folder)), load_model(checkpoint.folder)
    detour = load_model(str(checkpoint.folder / "vae" / ".."))
    half = load_model(str(checkpoint.folder), dtype="bfloat16")
    shared = first.share()
    for part in ("decoder", "text_encoders"):
        shared_by_all = getattr(first, part)
        assert all(getattr(model, part) is shared_by_all for model in (second, detour, shared))
        assert getattr(half, part) is not shared_by_all
        assert getattr(load_model(), part) is not shared_by_all

    watched = [weakref.ref(network) for network in networks(first)]
    del shared_by_all
    _ = first.null_embedding
    first.close()
    first.close()
    detour.close()
    second.close()
    gc.collect()
    assert all(network() is not None for network in watched)
    assert shared.decode(noise(1, 16, 8, 8)).shape == (1, 3, 64, 64)
    shared.close()
    gc.collect()
    assert all(network() is None for network in watched)
    assert load_model(checkpoint.folder).encode(["a cat"]).tokens.shape == (1, 24, 128)


def test_a_forgotten_model_is_freed_without_being_closed(checkpoint):
    model = load_model(checkpoint.folder)
    watched = weakref.ref(model.decoder.vae)
    del model
    gc.collect()
    assert watched() is None


def test_use_after_close_says_so(checkpoint):
    model = load_model(checkpoint.folder)
    _ = model.null_embedding
    model.close()
    uses = (
        lambda: model.encode(["a cat"]),
        lambda: model.decode(noise(1, 16, 8, 8)),
        lambda: model.null_embedding,
        model.new_denoiser,
        model.share,
        lambda: model.device,
        lambda: model.image_shape,
    )
    for use in uses:
        with pytest.raises(InvalidInputError, match=r"checkpoint' was closed; load it again"):
            use()


def test_the_hash_is_pinned(model):
    assert model.weights_hash == EMOJI64_HASH


def test_the_hash_is_of_the_weights_that_are_used(checkpoint):
    def current():
        return load_model(checkpoint.folder).weights_hash

    assert current() == EMOJI64_HASH
    extra = checkpoint.folder / "safety_checker"
    extra.mkdir()
    (extra / "model.safetensors").write_bytes(b"whatever")
    (checkpoint.folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"whatever")
    assert current() == EMOJI64_HASH


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_one_changed_byte_changes_the_hash(checkpoint, part):
    content = bytearray(checkpoint.weights(part).read_bytes())
    content[-1] ^= 1
    checkpoint.weights(part).write_bytes(content)
    assert load_model(checkpoint.folder).weights_hash != EMOJI64_HASH


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_precisions_keep_latents_and_images_in_float32(model, dtype):
    half = load_model(dtype=dtype)
    assert half.dtype == getattr(torch, dtype)
    for network in networks(half):
        assert {weight.dtype for weight in network.parameters()} == {half.dtype}
    embedding = half.encode(PROMPTS).tokens
    latents = noise(2, *half.latent_shape)
    images = half.decode(latents)
    assert embedding.dtype == images.dtype == half.null_embedding.tokens.dtype == torch.float32
    assert {weight.dtype for weight in half.new_denoiser().parameters()} == {torch.float32}
    torch.testing.assert_close(embedding, model.encode(PROMPTS).tokens, rtol=0.05, atol=0.1)
    assert (images - model.decode(latents)).abs().mean() < 0.01
