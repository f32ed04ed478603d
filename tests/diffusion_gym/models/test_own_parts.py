"""Images that are not square, another VAE, LoRA weights: the values are those of diffusers."""

import shutil

import diffusers
import gymnasium
import numpy as np
import pytest
import torch
from checkpoints import NOISE, small_vae
from diffusers.utils import convert_state_dict_to_kohya
from original_layout import save_original
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import diffusion_gym
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.envs import EnvConfig
from diffusion_gym.envs.config import load_parts
from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.models import load_model

PROMPTS = ["a cat", "two dogs"]
GUIDANCE = 4.0
STEPS = 3


def load_pipeline(folder, **parts):
    """diffusers' own, with a scheduler whose steps without noise are those of the environment."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    if isinstance(pipeline.scheduler, diffusers.PNDMScheduler):
        pipeline.scheduler = diffusers.DDIMScheduler(
            **NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        )
    return pipeline


def images_of_an_episode(folder, prompts=PROMPTS, **options):
    """Images [B, H, W, 3] without noise, guided, and the latents that they come from."""
    envs = gymnasium.make_vec(
        "DiffusionT2I-v0",
        num_envs=len(prompts),
        model=str(folder),
        model_options=options,
        prompts=prompts,
        num_inference_steps=STEPS,
        eta=0.0,
        array_type="torch",
    )
    policy = diffusion_gym.reference_policy(envs, GUIDANCE)
    observation, _ = envs.reset(seed=0, options={"prompt_ids": range(len(prompts))})
    latents = observation["latent"].clone()
    for _ in range(STEPS):
        observation, _, _, _, infos = envs.step(policy(observation)[0])
    image = diffusion_gym.finished_episodes(infos).image.numpy()
    envs.close()
    return image, latents


def pipelines_images(pipeline, latents, **options):
    images = pipeline(
        PROMPTS,
        latents=latents,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="np",
        **options,
    ).images
    assert images.std() > 0.01
    return images * 255


# ---------------------------------------------------------------------- height and width


@pytest.mark.parametrize("size", [{"height": 48, "width": 32}, {"height": 40}, {"width": 56}])
def test_images_that_are_not_square(folder, size):
    images, latents = images_of_an_episode(folder, **size)
    height, width = size.get("height", 32), size.get("width", 32)
    assert latents.shape[2:] == (height // 4, width // 4)
    assert images.shape == (2, height, width, 3)
    expected = pipelines_images(load_pipeline(folder), latents, height=height, width=width)
    assert np.abs(images - expected).max() < 1.5


def test_the_time_ids_are_height_before_width(sdxl_folder):
    model = load_model(sdxl_folder, height=64, width=40)
    assert model.new_denoiser().time_ids.tolist() == [[64, 40, 0, 0, 64, 40]]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("sd1", {"height": 33}, "height and a width .* multiples of 4 pixels, got 33"),
        ("sd1", {"width": 2}, "multiples of 4 pixels, got 2"),
        ("sd3", {"height": 32, "width": 36}, "multiples of 8 pixels up to 64, got 36"),
        ("sd3", {"height": 72}, "multiples of 8 pixels up to 64, got 72"),
        ("sd1", {"height": 64, "resolution": 64}, "'resolution', or 'height' and 'width'"),
    ],
)
def test_sizes_that_cannot_be(request, kind, options, message):
    with pytest.raises(InvalidInputError, match=message):
        load_model(request.getfixturevalue(f"{kind}_folder"), **options)


def test_the_embedded_model_draws_other_shapes():
    """Its reward reads them, too."""
    env = gymnasium.make(
        "DiffusionT2I-v0", num_inference_steps=2, model_options={"height": 48, "width": 96}
    )
    policy = diffusion_gym.reference_policy(env)
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        observation, reward, _, _, info = env.step(policy(observation)[0])
    assert observation in env.observation_space
    assert info["image"].shape == (48, 96, 3)
    assert info["reward_valid"]
    assert 0 <= reward <= 1


# ----------------------------------------------------------------------------- own VAE


@pytest.fixture
def own_vae(kind, tmp_path):
    """A VAE with other weights, scale and shift than the checkpoint's."""
    channels = {"latent_channels": 16} if kind == "sd3" else {}
    with torch.random.fork_rng():
        torch.manual_seed(9)
        vae = small_vae(scaling_factor=0.7, shift_factor=0.2, **channels)
    vae.save_pretrained(tmp_path / "vae")
    return vae


@pytest.mark.parametrize("place", ["folder", "model"])
def test_another_vae(folder, kind, own_vae, tmp_path, place):
    path = tmp_path / "vae" if place == "folder" else tmp_path
    images, latents = images_of_an_episode(folder, vae=str(path))
    pipeline = load_pipeline(folder, vae=own_vae)
    if kind == "sd3":
        expected = pipelines_images(pipeline, latents)
    else:  # whose pipelines know no shift of latents
        final = pipeline(
            PROMPTS,
            latents=latents,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="latent",
        ).images
        with torch.no_grad():
            decoded = own_vae.decode(final / 0.7 + 0.2).sample
        expected = pipeline.image_processor.postprocess(decoded, output_type="np") * 255
    assert np.abs(images - expected).max() < 1.5
    plain, _ = images_of_an_episode(folder)
    assert np.abs(plain.astype(float) - images).max() > 10


def original_names(vae):
    """The weights under the names that single files have."""
    names = {}
    for name in vae.state_dict():
        changed = name.replace("conv_shortcut", "nin_shortcut")
        changed = changed.replace("mid_block.resnets.", "mid.block_")
        changed = changed.replace("mid_block.attentions.0", "mid.attn_1")
        for old, new in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v")):
            changed = changed.replace(f"attn_1.{old}", f"attn_1.{new}")
        changed = changed.replace("attn_1.to_out.0", "attn_1.proj_out")
        changed = changed.replace("mid.block_1", "mid.block_2").replace(
            "mid.block_0", "mid.block_1"
        )
        levels = len(vae.config.block_out_channels)
        for level in range(levels):
            changed = changed.replace(f"down_blocks.{level}.resnets", f"down.{level}.block")
            changed = changed.replace(
                f"down_blocks.{level}.downsamplers.0", f"down.{level}.downsample"
            )
            other = levels - 1 - level
            changed = changed.replace(f"up_blocks.{level}.resnets", f"up.{other}.block")
            changed = changed.replace(f"up_blocks.{level}.upsamplers.0", f"up.{other}.upsample")
        names[name] = changed.replace("conv_norm_out", "norm_out")
    weights = {names[name]: value.contiguous() for name, value in vae.state_dict().items()}
    for name in weights:  # linear layers were convolutions
        if "attn_1" in name and name.endswith("weight") and weights[name].ndim == 2:
            weights[name] = weights[name][:, :, None, None].contiguous()
    return weights


@pytest.mark.parametrize("naming", ["diffusers", "original"])
def test_a_vae_in_a_single_file_has_the_checkpoints_configuration(sd1_folder, tmp_path, naming):
    with torch.random.fork_rng():
        torch.manual_seed(9)
        vae = small_vae()
    weights = vae.state_dict() if naming == "diffusers" else original_names(vae)
    save_file(weights, tmp_path / "vae.safetensors", metadata={"format": "pt"})
    model = load_model(sd1_folder, vae=tmp_path / "vae.safetensors")
    for name, value in model.decoder.vae.state_dict().items():
        assert torch.equal(value, vae.state_dict()[name]), name
    assert model.decoder.scaling_factor == 0.18215
    images, latents = images_of_an_episode(sd1_folder, vae=str(tmp_path / "vae.safetensors"))
    expected = pipelines_images(load_pipeline(sd1_folder, vae=vae), latents)
    assert np.abs(images - expected).max() < 1.5


def test_another_vae_is_another_model(sd1_folder, tmp_path):
    small_vae().save_pretrained(tmp_path / "one")
    small_vae().save_pretrained(tmp_path / "other")
    models = [load_model(sd1_folder)]
    models += [load_model(sd1_folder, vae=tmp_path / name) for name in ("one", "other")]
    assert len({model.weights_hash for model in models}) == 3
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert load_model(sd1_folder, vae=tmp_path / "copy").weights_hash == models[1].weights_hash
    assert load_model(sd1_folder, vae=tmp_path / "one").decoder is models[1].decoder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x", "a folder, a .safetensors file or a hub id, got 'x'"),
        ("nobody/no-such-vae", "neither here nor to be had from the model hub"),
        ("empty", "a folder of a VAE in diffusers' format"),
        ("vae.pt", "to be a .safetensors file, got "),
        ("unet.safetensors", "the weights in .* do not fit AutoencoderKL|cannot load the vae"),
        ("unet", "the VAE in .* is a UNet2DConditionModel; supported: AutoencoderKL"),
        ("wide", "denoiser from and to the 16 latent channels of the vae"),
        ("broken", "to name the class of a VAE, got"),
    ],
)
def test_what_is_no_vae_for_the_model(sd1_folder, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "vae.pt").write_bytes(b"x")
    shutil.copytree(sd1_folder / "unet", tmp_path / "unet")
    shutil.copy(
        sd1_folder / "unet/diffusion_pytorch_model.safetensors", tmp_path / "unet.safetensors"
    )
    small_vae(latent_channels=16).save_pretrained(tmp_path / "wide")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("[")
    named = name if name in ("x", "nobody/no-such-vae") else tmp_path / name
    with pytest.raises((InvalidInputError, ModelLoadError), match=message):
        load_model(sd1_folder, vae=named)


# ------------------------------------------------------------------------ LoRA weights


TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"]


def write_lora(pipeline, path, *, kohya=False, texts=True):
    """Random LoRA of the denoiser and, if wanted, of the first text encoder."""
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    networks = {part: (getattr(pipeline, part), ["to_q", "to_k", "to_v", "to_out.0"])}
    if texts:
        networks["text_encoder"] = (pipeline.text_encoder, TEXT_LAYERS)
    weights, generator = {}, torch.Generator().manual_seed(5)
    for name, (network, targets) in networks.items():
        # Not by transformers' own method, which asks for the newest peft.
        inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), network, "made")
        tensors = get_peft_model_state_dict(network, adapter_name="made")
        weights[name] = {
            key: 0.4 * torch.randn(value.shape, generator=generator)
            for key, value in tensors.items()
        }
    if kohya:
        flat = {f"{name}.{key}": v for name, own in weights.items() for key, v in own.items()}
        renamed = {
            name.replace("lora_te1_encoder", "lora_te1_text_model_encoder"): value
            for name, value in convert_state_dict_to_kohya(flat).items()
        }
        for name, value in renamed.items():  # alphas that are not the ranks
            if name.endswith(".alpha"):
                renamed[name] = value * (0.5 if "lora_te1" in name else 1.5)
        save_file(renamed, path / "kohya.safetensors")
        return path / "kohya.safetensors"
    layers = {f"{name}_lora_layers": own for name, own in weights.items()}
    type(pipeline).save_lora_weights(path, **layers)
    return path / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("scale", [1.0, 0.6])
@pytest.mark.parametrize("naming", ["diffusers", "kohya"])
def test_lora_weights_are_fused_as_the_pipeline_fuses_them(folder, kind, tmp_path, naming, scale):
    if kind == "sd3" and naming == "kohya":
        pytest.skip("diffusers reads no such names for Stable Diffusion 3")
    file = write_lora(load_pipeline(folder), tmp_path, kohya=naming == "kohya")
    options = {"lora_weights": str(file), "lora_scale": scale}
    images, latents = images_of_an_episode(folder, **options)
    pipeline = load_pipeline(folder)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    pipeline.fuse_lora(lora_scale=scale)
    expected = pipelines_images(pipeline, latents)
    assert np.abs(images - expected).max() < 1.5
    plain, _ = images_of_an_episode(folder)
    assert np.abs(plain.astype(float) - images).max() > 3
    # Nothing of the adapters is left beside the weights.
    model = load_model(folder, **options)
    names = {name for name, _ in model.new_denoiser().network.named_parameters()}
    assert names == {
        name for name, _ in load_model(folder).new_denoiser().network.named_parameters()
    }
    assert load_model(folder).weights_hash != model.weights_hash
    again = load_model(folder, **options)
    assert again.text_encoders is model.text_encoders
    assert again.text_encoders is not load_model(folder).text_encoders


def test_lora_of_the_embedded_model(tmp_path):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(emoji64_folder() / "pipeline")
    write_lora(pipeline, tmp_path)
    plain, fused = (
        model.new_denoiser().state_dict()
        for model in (load_model(), load_model(lora_weights=tmp_path))
    )
    changed = [name for name, value in fused.items() if not torch.equal(value, plain[name])]
    assert changed
    assert all("attn" in name for name in changed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lora_is_fused_in_the_denoisers_precision(sd1_folder, tmp_path, dtype):
    file = write_lora(load_pipeline(sd1_folder), tmp_path, texts=False)
    model = load_model(sd1_folder, lora_weights=file)
    half, exact = model.new_denoiser(dtype), model.new_denoiser()
    for (name, weight), other in zip(half.named_parameters(), exact.parameters(), strict=True):
        assert weight.dtype == dtype, name
        assert not weight.requires_grad
        torch.testing.assert_close(weight.float(), other, rtol=0.02, atol=0.02)


def test_what_is_no_lora_for_the_model(sd1_folder, sdxl_folder, tmp_path):
    xl, own = tmp_path / "xl", tmp_path / "own"
    other = write_lora(load_pipeline(sdxl_folder), xl)
    good = write_lora(load_pipeline(sd1_folder), own)
    tensors = load_file(good)
    part = next(name for name in tensors if name.startswith("unet."))

    def altered(file, **others):
        """The file with other tensors besides; None takes the first one of the UNet away."""
        changed = {n: v for n, v in tensors.items() if n != part or None not in others.values()}
        changed |= {n.replace("__", "."): v + 1 for n, v in others.items() if v is not None}
        save_file(changed, tmp_path / file)
        return tmp_path / file

    one = tensors[part]
    (tmp_path / "two").mkdir()
    for name in ("one", "other"):
        shutil.copy(good, tmp_path / "two" / f"{name}.safetensors")
    (tmp_path / "lora.bin").write_bytes(b"x")
    (tmp_path / "damaged.safetensors").write_bytes(b"x" * 100)
    cases = [
        (other, "do not fit the (unet|text_encoder)"),
        (altered("half.safetensors", first=None), "do not fit the unet"),
        (altered("more.safetensors", unet__lora__lora_A__weight=one), "do not fit the unet"),
        (altered("dora.safetensors", unet__x__dora_scale=one), "are DoRA"),
        (
            altered("foreign.safetensors", prior__lora_A__weight=one),
            "are not of this model: expected LoRA of a StableDiffusionPipeline's unet, text_enc",
        ),
        (sd1_folder / "unet/diffusion_pytorch_model.safetensors", "are not of this model"),
        (tmp_path / "two", r"one \.safetensors file of LoRA weights"),
        (tmp_path / "lora.bin", r"to be a \.safetensors file, got"),
        (tmp_path / "damaged.safetensors", "do not fit the"),
        (sd1_folder, r"one \.safetensors file of LoRA weights in .*, got none"),
        ("nobody/no-such-lora", "neither here nor to be had from the model hub"),
        ("no-such-lora", "a folder with one or a hub id, got 'no-such-lora'"),
    ]
    for path, message in cases:
        with pytest.raises((InvalidInputError, ModelLoadError), match=message):
            load_model(sd1_folder, lora_weights=path).new_denoiser()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_scale": 0.5}, "'lora_scale' is for LoRA weights"),
        ({"lora_scale": 0.0, "lora_weights": "x"}, "'lora_scale' to be finite and not 0"),
        ({"lora_scale": float("inf"), "lora_weights": "x"}, "to be finite and not 0, got inf"),
        ({"lora_scale": "1", "lora_weights": "x"}, "'lora_scale' to be of type float, got '1'"),
    ],
)
def test_scales_that_mean_nothing(sd1_folder, options, message):
    with pytest.raises(InvalidInputError, match=message):
        load_model(sd1_folder, **options)


def test_parts_of_ones_own_are_found_from_every_folder(sd1_folder, tmp_path, monkeypatch):
    small_vae().save_pretrained(tmp_path / "vae")
    write_lora(load_pipeline(sd1_folder), tmp_path / "lora")
    monkeypatch.chdir(tmp_path)
    options = {"vae": "vae", "lora_weights": "lora", "height": 32}
    parts = load_parts(EnvConfig(model=str(sd1_folder), model_options=options, device="cpu"))
    assert parts.config.model_options == {
        "vae": str(tmp_path / "vae"),
        "lora_weights": str(tmp_path / "lora"),
        "height": 32,
    }


def test_a_single_file_checkpoint_takes_them_as_well(sd1_folder, tmp_path):
    file = save_original(sd1_folder, tmp_path / "model.safetensors")
    small_vae().save_pretrained(tmp_path / "vae")
    lora = write_lora(load_pipeline(sd1_folder), tmp_path / "lora")
    options = {"vae": str(tmp_path / "vae"), "lora_weights": str(lora)}
    one = load_model(file, config=str(sd1_folder), **options)
    other = load_model(sd1_folder, **options)
    expected = other.new_denoiser().state_dict()
    for name, value in one.new_denoiser().state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert torch.equal(one.encode(["a cat"]).tokens, other.encode(["a cat"]).tokens)


# ------------------------------------------------------------------- negative prompts


NEGATIVES = ["two green dogs", "a cat"]


@pytest.mark.parametrize("freed", [False, True])
def test_negative_prompts_of_every_prompt_are_the_pipelines(folder, freed):
    prompts = [
        {"prompt": prompt, "negative_prompt": negative}
        for prompt, negative in zip(PROMPTS, NEGATIVES, strict=True)
    ]
    images, latents = images_of_an_episode(folder, prompts, free_text_encoders=freed)
    expected = pipelines_images(load_pipeline(folder), latents, negative_prompt=NEGATIVES)
    assert np.abs(images - expected).max() < 1.5
    plain, _ = images_of_an_episode(folder)
    assert (np.abs(plain.astype(float) - images).max((1, 2, 3)) > 3).all()


def test_a_prompt_without_one_has_that_of_the_model(folder):
    """The model option's, or what guidance leads away from without any."""
    prompts = [PROMPTS[0], {"prompt": PROMPTS[1], "negative_prompt": NEGATIVES[1]}]
    for options in ({}, {"negative_prompt": "a dog"}):
        mixed, _ = images_of_an_episode(folder, prompts, **options)
        plain, _ = images_of_an_episode(folder, **options)
        assert np.abs(mixed[0].astype(float) - plain[0]).max() <= 1
        assert np.abs(mixed[1].astype(float) - plain[1]).max() > 3
