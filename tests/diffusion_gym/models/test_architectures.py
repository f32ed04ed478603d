"""Stable Diffusion 1, 2, XL and 3, small and from disk: the values are those of diffusers."""

import json
import shutil

import diffusers
import gymnasium
import numpy as np
import pytest
import torch
from checkpoints import CONTEXT, NOISE, Checkpoint, clip_tokenizer

import diffusion_gym
from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.models import PromptEmbedding, guided_prediction, load_model

PROMPTS = ["a cat", "two dogs, one of them green", "a dog " * 30]


@pytest.fixture
def model(folder):
    return load_model(folder)


@pytest.fixture
def pipeline(folder):
    return load_pipeline(folder)


def load_pipeline(folder, **parts):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def encode_with(pipeline, prompts, **options):
    """Embedding and null embedding by the pipeline itself."""
    texts = {"prompt": prompts}
    if isinstance(pipeline, diffusers.StableDiffusion3Pipeline):
        texts |= {"prompt_2": prompts, "prompt_3": prompts}
    if isinstance(pipeline, diffusers.StableDiffusionPipeline):
        options |= {"device": "cpu", "num_images_per_prompt": 1}
    result = pipeline.encode_prompt(**texts, do_classifier_free_guidance=True, **options)
    positive, negative, *pooled = result
    return (
        PromptEmbedding(positive, pooled[0] if pooled else None),
        PromptEmbedding(negative, pooled[1] if pooled else None),
    )


def assert_same_embedding(ours, theirs):
    torch.testing.assert_close(ours.tokens, theirs.tokens, rtol=1e-5, atol=1e-5)
    assert (ours.pooled is None) == (theirs.pooled is None)
    if ours.pooled is not None:
        torch.testing.assert_close(ours.pooled, theirs.pooled, rtol=1e-5, atol=1e-5)


def test_shapes_and_defaults(model, kind):
    tokens, pooled, latent, steps = {
        "sd1": ((CONTEXT, 32), None, (4, 8, 8), 50),
        "sd2": ((CONTEXT, 40), None, (4, 8, 8), 50),
        "sdxl": ((CONTEXT, 72), (24,), (4, 8, 8), 50),
        "sd3": ((CONTEXT + 256, 48), (32,), (16, 8, 8), 10),
    }[kind]
    assert model.prompt_embedding_shape == tokens
    assert model.pooled_embedding_shape == pooled
    assert model.latent_shape == latent
    assert model.image_shape == (3, 32, 32)
    assert model.default_num_inference_steps == steps
    assert model.default_prompts == "animals"
    assert model.default_reward == "jpeg_compressibility"


@torch.no_grad()
def test_encode_is_the_pipelines(model, pipeline, kind):
    embedding = model.encode(PROMPTS)
    assert embedding.tokens.shape == (3, *model.prompt_embedding_shape)
    assert embedding.tokens.dtype == torch.float32
    assert (embedding.tokens[0] - embedding.tokens[1]).abs().max() > 0.1
    if kind in ("sdxl", "sd3"):
        assert embedding.pooled.shape == (3, *model.pooled_embedding_shape)
        assert (embedding.pooled[0] - embedding.pooled[1]).abs().max() > 0.1
    expected, null = encode_with(pipeline, PROMPTS)
    assert_same_embedding(embedding, expected)
    assert_same_embedding(model.null_embedding.expand(3), null)
    assert bool((null.tokens == 0).all()) == (kind == "sdxl")


@torch.no_grad()
def test_the_null_embedding_of_an_sdxl_that_is_told_so_is_the_empty_prompts(sdxl_folder, tmp_path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "sdxl")
    Checkpoint(folder).edit_json("model_index.json", force_zeros_for_empty_prompt=False)
    model = load_model(folder)
    _, null = encode_with(load_pipeline(folder), ["a cat"])
    assert_same_embedding(model.null_embedding, null)
    assert_same_embedding(model.null_embedding, model.encode([""]))
    assert null.tokens.abs().max() > 1


@torch.no_grad()
@pytest.mark.parametrize("left_out", ["by the checkpoint", "by the caller"])
def test_sd3_without_t5(sd3_folder, tmp_path, left_out):
    pipeline = load_pipeline(sd3_folder, text_encoder_3=None, tokenizer_3=None)
    expected, null = encode_with(pipeline, PROMPTS)
    if left_out == "by the caller":
        model = load_model(sd3_folder, t5=False)
    else:
        pipeline.save_pretrained(tmp_path / "sd3")
        assert not (tmp_path / "sd3/text_encoder_3").exists()
        model = load_model(tmp_path / "sd3")
    assert len(model.text_encoders.encoders) == 2
    assert_same_embedding(model.encode(PROMPTS), expected)
    assert_same_embedding(model.null_embedding.expand(3), null)
    assert model.weights_hash != load_model(sd3_folder).weights_hash


@torch.no_grad()
def test_the_length_of_t5s_context(sd3_folder):
    model = load_model(sd3_folder, max_sequence_length=20)
    expected, _ = encode_with(load_pipeline(sd3_folder), PROMPTS, max_sequence_length=20)
    assert model.prompt_embedding_shape == (CONTEXT + 20, 48)
    assert_same_embedding(model.encode(PROMPTS), expected)


@torch.no_grad()
def test_decode_is_the_pipelines(model, pipeline):
    latents = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    config = pipeline.vae.config
    scaled = latents / config.scaling_factor + (config.shift_factor or 0)
    expected = pipeline.image_processor.postprocess(
        pipeline.vae.decode(scaled).sample, output_type="pt"
    )
    images = model.decode(latents)
    assert images.std() > 0.01
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_the_denoiser_reads_every_condition(model, guidance):
    denoiser = model.new_denoiser()
    assert not any(weight.requires_grad for weight in denoiser.parameters())
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([800, 300])
    embedding = model.encode(["a cat", "two dogs"])

    def predict(latents, timesteps, embedding):
        return guided_prediction(
            denoiser,
            latents,
            timesteps,
            embedding,
            null_embedding=model.null_embedding,
            guidance=guidance,
        )

    output = predict(latents, timesteps, embedding)
    assert output.shape == latents.shape
    others = [
        (latents, timesteps.flip(0), embedding),
        (latents, timesteps, embedding._replace(tokens=embedding.tokens.flip(0))),
    ]
    if embedding.pooled is not None:
        others.append((latents, timesteps, embedding._replace(pooled=embedding.pooled.flip(0))))
    for other in others:
        assert (predict(*other) - output).abs().amax((1, 2, 3)).min() > 1e-3
    alone = predict(latents[1:], timesteps[1:], embedding.select(torch.tensor([1])))
    torch.testing.assert_close(output[1:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_an_episode_without_noise_is_the_pipelines_image(folder, kind, pipeline, guidance):
    """All from the same latents, and by the checkpoint's own scheduler.

    Without noise, DDIM's steps are Euler's. Only PNDM's are others; there diffusers' DDIM is told
    the noise process and, as PNDM has no such thing, not to clip.
    """
    steps = 4
    prompts = PROMPTS[:2]
    envs = gymnasium.make_vec(
        "DiffusionT2I-v0",
        num_envs=2,
        model=str(folder),
        prompts=prompts,
        num_inference_steps=steps,
        eta=0.0,
        array_type="torch",
    )
    policy = diffusion_gym.reference_policy(envs, guidance)
    observation, _ = envs.reset(seed=0, options={"prompts": prompts})
    if kind in ("sdxl", "sd3"):
        expected, _ = encode_with(pipeline, prompts)
        torch.testing.assert_close(observation["pooled_prompt_embedding"], expected.pooled)
    else:
        assert "pooled_prompt_embedding" not in observation
    if kind == "sd1":
        pipeline.scheduler = diffusers.DDIMScheduler(
            **NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        )
    expected = pipeline(
        prompts,
        latents=observation["latent"].clone(),
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="np",
    ).images
    for _ in range(steps):
        observation, rewards, terminated, _, infos = envs.step(policy(observation)[0])
    assert terminated.all()
    assert (rewards < 0).all()
    image = diffusion_gym.finished_episodes(infos).image
    assert expected.std() > 0.01
    assert np.abs(image.numpy() - expected * 255).max() < 1.5
    envs.close()


@pytest.mark.parametrize("options", [{"negative_prompt": "a dog"}, {"clip_skip": 1}], ids=str)
def test_options_of_the_prompt_are_the_pipelines(folder, kind, pipeline, options):
    """What both are told goes into embeddings and into pictures alike."""
    model = load_model(folder, **options)
    plain = load_model(folder)
    # diffusers looks for the last norm where older transformers have it.
    if kind in ("sd1", "sd2") and not hasattr(pipeline.text_encoder, "text_model"):
        object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    with torch.no_grad():
        told = {key: [value] if isinstance(value, str) else value for key, value in options.items()}
        expected, null = encode_with(pipeline, ["a cat"], **told)
    assert_same_embedding(model.encode(["a cat"]), expected)
    assert_same_embedding(model.null_embedding, null)
    changed = (model.encode(["a cat"]), plain.encode(["a cat"]))
    if "negative_prompt" in options:
        changed = (model.null_embedding, plain.null_embedding)
    assert (changed[0].tokens - changed[1].tokens).abs().max() > 0.1

    # An episode without noise, guided.
    envs = gymnasium.make_vec(
        "DiffusionT2I-v0",
        num_envs=1,
        model=str(folder),
        model_options=options,
        prompts=["a cat"],
        num_inference_steps=2,
        eta=0.0,
        array_type="torch",
    )
    policy = diffusion_gym.reference_policy(envs, 5.0)
    observation, _ = envs.reset(seed=0)
    if kind == "sd1":
        pipeline.scheduler = diffusers.DDIMScheduler(
            **NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        )
    expected = pipeline(
        "a cat",
        latents=observation["latent"].clone(),
        num_inference_steps=2,
        guidance_scale=5.0,
        output_type="np",
        **options,
    ).images
    for _ in range(2):
        observation, _, _, _, infos = envs.step(policy(observation)[0])
    image = diffusion_gym.finished_episodes(infos).image
    assert np.abs(image.numpy() - expected * 255).max() < 1.5
    envs.close()


def test_an_empty_negative_prompt_is_a_prompt(sdxl_folder):
    """Stable Diffusion XL is guided away from zeros, unless it is told what from."""
    model = load_model(sdxl_folder, negative_prompt="")
    assert_same_embedding(model.null_embedding, model.encode([""]))
    assert load_model(sdxl_folder).null_embedding.tokens.abs().max() == 0


def test_a_negative_prompt_without_guidance_is_refused(sd1_folder):
    env = gymnasium.make_vec(
        "DiffusionT2I-v0",
        num_envs=2,
        model=str(sd1_folder),
        model_options={"negative_prompt": "a dog"},
        prompts=["a cat"],
        array_type="torch",
    )
    with pytest.raises(InvalidInputError, match=r"guidance other than 1 .*'a dog'.*, got 1"):
        diffusion_gym.reference_policy(env, 1.0)


def test_every_kind_is_pooled_where_the_prompt_ends(sdxl_folder, tmp_path):
    """CLIP with an end token that no prompt has would pool at the start token, always."""
    folder = shutil.copytree(sdxl_folder, tmp_path / "sdxl")
    checkpoint = Checkpoint(folder)
    checkpoint.edit_json("text_encoder_2/config.json", eos_token_id=clip_tokenizer().eos_token_id)
    expected = load_model(sdxl_folder).encode(PROMPTS)
    assert_same_embedding(load_model(folder).encode(PROMPTS), expected)
    checkpoint.edit_json("text_encoder_2/config.json", eos_token_id=49407)
    with pytest.raises(ModelLoadError, match=r"pool at its tokenizer's end token 90, got .*49407"):
        load_model(folder)


@pytest.mark.parametrize(
    ("kind", "file", "changes", "message"),
    [
        ("sdxl", "unet/config.json", {"cross_attention_dim": 32}, "widths together, 72, got"),
        ("sdxl", "unet/config.json", {"addition_embed_type": "text"}, "'text_time', got 'text'"),
        (
            "sdxl",
            "unet/config.json",
            {"projection_class_embeddings_input_dim": 50},
            "pooled embedding of size 24, got projection_class_embeddings_input_dim=50",
        ),
        ("sdxl", "tokenizer_2/tokenizer_config.json", {"model_max_length": 9}, "same length"),
        ("sdxl", "unet/config.json", {"time_cond_proj_dim": 8}, "got time_cond_proj_dim=8"),
        ("sdxl", "vae/config.json", {"latents_mean": [0, 0, 0, 0]}, "scaled by one number"),
        ("sd3", "transformer/config.json", {"joint_attention_dim": 32}, "CLIPs' together, 40"),
        ("sd3", "transformer/config.json", {"pooled_projection_dim": 7}, "32 numbers, got"),
        ("sd3", "transformer/config.json", {"joint_attention_dim": 64}, "d_model=48"),
        ("sd3", "text_encoder/config.json", {"eos_token_id": 3}, "CLIP number 1 to pool at"),
    ],
)
def test_parts_that_do_not_fit_together(request, tmp_path, kind, file, changes, message):
    folder = shutil.copytree(request.getfixturevalue(f"{kind}_folder"), tmp_path / kind)
    Checkpoint(folder).edit_json(file, **changes)
    with pytest.raises(ModelLoadError, match="do not fit together: expected") as caught:
        load_model(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["FluxPipeline", "StableDiffusionInpaintPipeline", ["a", "B"]])
def test_unsupported_pipelines_list_the_supported(sd1_folder, tmp_path, name):
    index = json.loads((sd1_folder / "model_index.json").read_text()) | {"_class_name": name}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    supported = "StableDiffusionPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline"
    with pytest.raises(ModelLoadError) as caught:
        load_model(tmp_path)
    assert f"is a {name}; supported: {supported}" in str(caught.value)


def test_a_part_of_another_class_lists_the_supported(sdxl_folder, tmp_path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "sdxl")
    Checkpoint(folder).edit_json("model_index.json", text_encoder=[None, None])  # a refiner
    with pytest.raises(ModelLoadError, match=r"text_encoder .* is a None; supported: CLIP"):
        load_model(folder)


def test_one_changed_byte_of_any_text_encoder_changes_the_hash(sd3_folder, tmp_path):
    folder = shutil.copytree(sd3_folder, tmp_path / "sd3")
    hashes = {load_model(folder).weights_hash}
    for part in ("text_encoder", "text_encoder_2", "text_encoder_3", "transformer"):
        (file,) = (folder / part).glob("*.safetensors")
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        hashes.add(load_model(folder).weights_hash)
    assert len(hashes) == 5


def test_t5_options_are_refused_where_there_is_no_t5(sd1_folder):
    for options in ({"t5": False}, {"max_sequence_length": 77}):
        with pytest.raises(InvalidInputError, match="for models with a T5 text encoder"):
            load_model(sd1_folder, **options)


def test_adapters_and_export_reach_the_network(model, tmp_path):
    network = model.new_denoiser().network
    network.save_pretrained(tmp_path / "exported")
    again = type(network).from_pretrained(tmp_path / "exported")
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, network.state_dict()[name]), name


def test_the_small_tokenizer_behaves_as_the_real_one():
    tokenizer = clip_tokenizer()
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer("a cat").input_ids[1:-1] == tokenizer.convert_tokens_to_ids(
        ["a</w>", "cat</w>"]
    )
