"""Options of load_model: precision and memory, variants, resolution."""

import gc
import shutil
import weakref

import diffusers
import pytest
import torch
from checkpoints import Checkpoint
from safetensors.torch import load_file, save_file

from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.models import load_model, model_defaults, resolved_name
from diffusion_gym.models.checkpoint import FolderCheckpoint
from diffusion_gym.models.decoder import failed_images


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"varient": "fp16"}, r"unknown model option 'varient'; known: clip_skip, config, "),
        ({"variant": 16}, r"model option 'variant' to be of type str, got 16"),
        ({"vae_slicing": "yes"}, r"model option 'vae_slicing' to be of type bool, got 'yes'"),
        ({"vae_slicing": None}, r"model option 'vae_slicing' to be of type bool, got None"),
        ({"resolution": 64.0}, r"model option 'resolution' to be of type int, got 64\.0"),
        ({"max_sequence_length": 0}, r"model option 'max_sequence_length' above 0, got 0"),
        ({"clip_skip": -1}, r"model option 'clip_skip' above -1, got -1"),
        ({"clip_skip": 3}, r"model option 'clip_skip' up to 2, one less than CLIP has layers, got"),
        ({"negative_prompt": ["a"]}, r"model option 'negative_prompt' to be of type str, got \['a"),
        ({"vae_dtype": "float8"}, r"unknown dtype 'float8'; known: bfloat16, float16, float32"),
        ({"config": "somewhere"}, r"option 'config' is for single-file checkpoints, got config="),
        ({"revision": "main"}, r"option 'revision' is for models on the hub, got revision='main'"),
    ],
)
def test_bad_options(sd1_folder, options, message):
    with pytest.raises(InvalidInputError, match=message):
        load_model(sd1_folder, **options)


# ------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("dtype", "force_upcast", "vae_dtype", "expected"),
    [
        ("float32", True, None, torch.float32),
        ("bfloat16", True, None, torch.bfloat16),
        ("float16", True, None, torch.float32),
        ("float16", False, None, torch.float16),
        ("float16", True, "float16", torch.float16),
        ("bfloat16", True, "float32", torch.float32),
    ],
)
def test_the_decoders_precision(sdxl_folder, tmp_path, dtype, force_upcast, vae_dtype, expected):
    folder = shutil.copytree(sdxl_folder, tmp_path / "sdxl")
    Checkpoint(folder).edit_json("vae/config.json", force_upcast=force_upcast)
    model = load_model(folder, dtype=dtype, vae_dtype=vae_dtype)
    assert {weight.dtype for weight in model.decoder.vae.parameters()} == {expected}
    for encoder in model.text_encoders.encoders:
        assert {weight.dtype for weight in encoder.network.parameters()} == {model.dtype}
    latents = noise(2, *model.latent_shape)
    images = model.decode(latents)
    exact = load_model(sdxl_folder).decode(latents)
    assert images.dtype == torch.float32
    if expected == torch.float32:
        assert torch.equal(images, exact)
    else:
        assert 0 < (images - exact).abs().mean() < 0.01


def test_values_that_float16_cannot_hold(sdxl_folder, tmp_path):
    """SDXL's autoencoder, in short: a layer's values beyond 65504, scaled down by the next."""
    folder = shutil.copytree(sdxl_folder, tmp_path / "sdxl")

    def inflate(tensors):
        for name in ("weight", "bias"):
            tensors[f"decoder.conv_in.{name}"] *= 1e6

    Checkpoint(folder).edit_weights("vae", inflate)
    latents = noise(1, 4, 8, 8)
    images = load_model(folder, dtype="float16").decode(latents)
    assert torch.equal(images, load_model(folder).decode(latents))
    assert (
        not load_model(folder, dtype="float16", vae_dtype="float16")
        .decode(latents)
        .isfinite()
        .all()
    )


def test_images_that_overflow_are_counted_with_what_to_do(sdxl_folder, tmp_path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "sdxl")

    def inflate(tensors):
        for name in ("weight", "bias"):
            tensors[f"decoder.conv_in.{name}"] *= 1e6

    Checkpoint(folder).edit_weights("vae", inflate)
    model = load_model(folder, dtype="float16", vae_dtype="float16")
    latents = noise(3, 4, 8, 8)
    latents[1] *= 1e-9
    images = model.decode(latents)
    failed = failed_images(images)
    assert failed.tolist() == [bool(image.isnan().any()) for image in images]
    assert failed.any()
    message = model.decoder.failure(images)
    assert message.startswith(f"the image decoder gave NaN for {int(failed.sum())} of 3 images, in")
    assert "float16: try model_options={'vae_dtype': 'float32'}" in message
    exact = load_model(folder, vae_dtype="float32")
    assert exact.decoder.failure(exact.decode(latents)) is None
    broken = exact.decode(latents * torch.nan)
    assert "NaN for 3 of 3 images, in float32: the latents" in exact.decoder.failure(broken)


def test_an_infinite_pixel_is_not_a_white_one(sd1_folder, tmp_path):
    folder = shutil.copytree(sd1_folder, tmp_path / "sd1")

    def infinite(tensors):
        tensors["decoder.conv_out.bias"][:] = torch.inf

    Checkpoint(folder).edit_weights("vae", infinite)
    assert load_model(folder).decode(noise(1, 4, 8, 8)).isnan().all()


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [("float16", "try dtype='float32', or 'bfloat16'"), ("float32", "weights are damaged")],
)
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_text_encoders_that_give_nan_say_so(request, tmp_path, kind, dtype, advice):
    folder = shutil.copytree(request.getfixturevalue(f"{kind}_folder"), tmp_path / kind)
    part = "text_encoder" if kind == "sd1" else "text_encoder_2"
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("layers.0.mlp.fc1.bias"))
    tensors[name] += 1e6 if dtype == "float16" else torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    model = load_model(folder, dtype=dtype)
    with pytest.raises(
        ModelLoadError, match="NaN or infinity for 2 of 2 prompts, such as 'a cat'"
    ) as caught:
        model.encode(["a cat", "a dog"])
    assert f"in {dtype}: " in str(caught.value)
    assert advice in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "sd3"])
def test_a_denoiser_is_read_in_its_precision(request, kind, dtype, monkeypatch):
    """Its weights are those of a float32 one, rounded; of which there is never a copy."""
    model = load_model(request.getfixturevalue(f"{kind}_folder"))
    expected = model.new_denoiser().state_dict()
    read = []
    network = FolderCheckpoint.network

    def watched(self, part, dtype):
        read.append((part, dtype))
        return network(self, part, dtype)

    monkeypatch.setattr(FolderCheckpoint, "network", watched)
    denoiser = model.new_denoiser(dtype)
    part = "transformer" if kind == "sd3" else "unet"
    assert read == [(part, dtype)]
    assert not any(weight.requires_grad for weight in denoiser.parameters())
    for name, weight in denoiser.state_dict().items():
        assert weight.dtype == dtype, name
        assert torch.equal(weight, expected[name].to(dtype)), name


# ------------------------------------------------------------------------- names and defaults


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "sd3"])
def test_a_models_defaults_without_loading_it(request, tmp_path, kind):
    folder = request.getfixturevalue(f"{kind}_folder")
    model = load_model(folder)
    shutil.copy(folder / "model_index.json", tmp_path)
    for name in (folder, str(folder), tmp_path):  # the last holds nothing else
        defaults = model_defaults(name)
        assert defaults == model.defaults
        assert defaults.num_inference_steps == model.default_num_inference_steps
    assert defaults.num_inference_steps == (10 if kind == "sd3" else 50)


def test_defaults_of_other_names(tmp_path, sd1_folder, sdxl_folder):
    assert model_defaults() == model_defaults("emoji-64") == load_model().defaults
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"not looked at")
    expected = load_model(sdxl_folder).defaults
    assert model_defaults(file, {"config": str(sdxl_folder)}) == expected
    assert model_defaults(sd1_folder, {"variant": "fp16"}) == load_model(sd1_folder).defaults
    with pytest.raises(InvalidInputError, match="unknown model option 'varient'"):
        model_defaults(sd1_folder, {"varient": "fp16"})
    with pytest.raises(InvalidInputError, match="unknown model 'emoji-65'"):
        model_defaults("emoji-65")
    with pytest.raises(ModelLoadError, match="could not be had from the model hub"):
        model_defaults("nobody/no-such-model")


def test_a_name_that_means_the_same_everywhere(sd1_folder, tmp_path, monkeypatch):
    link = tmp_path / "models" / "mine"
    link.parent.mkdir()
    link.symlink_to(sd1_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("models/mine", "./models/mine", "~/models/mine", link, str(link)):
        assert resolved_name(name) == str(link)
    for name in ("emoji-64", "nobody/no-such-model", "no-such-folder"):
        assert resolved_name(name) == name
    (tmp_path / "emoji-64").mkdir()
    assert resolved_name("emoji-64") == "emoji-64"


# ---------------------------------------------------------------------------------- memory


def decoder_batches(model, latents):
    """Shapes of all the latents that the decoder's network sees."""
    seen = []
    network = model.decoder.vae.decoder
    hook = network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape))
    images = model.decode(latents)
    hook.remove()
    return images, [tuple(shape) for shape in seen]


def test_slicing_decodes_one_image_at_a_time(sd1_folder):
    latents = noise(3, 4, 8, 8)
    whole, batches = decoder_batches(load_model(sd1_folder), latents)
    assert batches == [(3, 4, 8, 8)]
    sliced, batches = decoder_batches(load_model(sd1_folder, vae_slicing=True), latents)
    assert batches == [(1, 4, 8, 8)] * 3
    torch.testing.assert_close(sliced, whole, rtol=0, atol=1e-5)


def test_tiling_decodes_large_images_in_pieces(sd1_folder):
    latents = noise(1, 4, 16, 16)
    whole, batches = decoder_batches(load_model(sd1_folder), latents)
    assert batches == [(1, 4, 16, 16)]
    tiled, batches = decoder_batches(load_model(sd1_folder, vae_tiling=True), latents)
    assert len(batches) > 1
    assert all(max(shape[2:]) <= 8 for shape in batches)
    assert 0 < (tiled - whole).abs().mean() < 0.1


def test_large_images_are_decoded_a_few_at_a_time(sd1_folder, monkeypatch):
    monkeypatch.setattr("diffusion_gym.models.decoder.DECODE_PIXELS", 2 * 32 * 32)
    _, batches = decoder_batches(load_model(sd1_folder), noise(5, 4, 8, 8))
    assert [shape[0] for shape in batches] == [2, 2, 1]
    _, batches = decoder_batches(load_model(sd1_folder), noise(2, 4, 32, 32))
    assert [shape[0] for shape in batches] == [1, 1]


def test_options_of_the_decoder_leave_the_text_encoders_shared(sdxl_folder):
    plain = load_model(sdxl_folder)
    for options in ({"vae_slicing": True}, {"vae_tiling": True}, {"vae_dtype": "float16"}):
        other = load_model(sdxl_folder, **options)
        assert other.text_encoders is plain.text_encoders
        assert other.decoder is not plain.decoder
    assert load_model(sdxl_folder, free_text_encoders=True).decoder is plain.decoder
    assert not plain.decoder.vae.use_slicing


def test_freed_text_encoders(sdxl_folder, tmp_path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "sdxl")
    model, other = load_model(folder), load_model(folder)
    shapes = (model.prompt_embedding_shape, model.pooled_embedding_shape)
    expected = model.encode(["a cat"])
    watched = [weakref.ref(encoder.network) for encoder in model.text_encoders.encoders]
    model.free_text_encoders()
    gc.collect()
    assert all(network() is not None for network in watched)
    assert torch.equal(other.encode(["a cat"]).tokens, expected.tokens)
    other.free_text_encoders()
    gc.collect()
    assert all(network() is None for network in watched)

    for freed in (model, model.share()):
        with pytest.raises(InvalidInputError, match=r"text encoders of model .* were freed"):
            freed.encode(["a cat"])
    assert (model.prompt_embedding_shape, model.pooled_embedding_shape) == shapes
    assert model.null_embedding.tokens.shape == (1, *shapes[0])
    assert model.decode(noise(1, 4, 8, 8)).shape == (1, 3, 32, 32)
    assert model.new_denoiser() is not None
    assert torch.equal(load_model(folder).encode(["a cat"]).tokens, expected.tokens)


def test_the_null_embedding_outlives_the_text_encoders(sd1_folder):
    model = load_model(sd1_folder)
    expected = model.encode([""])
    model = load_model(sd1_folder)
    model.free_text_encoders()
    assert torch.equal(model.null_embedding.tokens, expected.tokens)


# -------------------------------------------------------------------------------- variants


@pytest.fixture
def with_variant(sdxl_folder, tmp_path):
    """The UNet and one text encoder also in float16, the others only in float32."""
    folder = shutil.copytree(sdxl_folder, tmp_path / "sdxl")
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder).to(torch.float16)
    pipeline.unet.save_pretrained(folder / "unet", variant="fp16")
    pipeline.text_encoder.save_pretrained(folder / "text_encoder", variant="fp16")
    return folder


def test_a_variant_is_loaded_where_there_is_one(sdxl_folder, with_variant):
    plain, half = load_model(sdxl_folder), load_model(with_variant, variant="fp16")
    first, second = half.text_encoders.encoders
    for encoder, exact, rounded in zip(
        (first, second), plain.text_encoders.encoders, (True, False), strict=True
    ):
        expected = exact.network.state_dict()
        for name, weight in encoder.network.state_dict().items():
            wanted = expected[name].half().float() if rounded else expected[name]
            assert torch.equal(weight, wanted), name
    expected = plain.new_denoiser().state_dict()
    for name, weight in half.new_denoiser().state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected[name].half().float()), name
    assert torch.equal(
        load_model(with_variant).encode(["a cat"]).tokens, plain.encode(["a cat"]).tokens
    )
    hashes = [model.weights_hash for model in (plain, load_model(with_variant), half)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert half.text_encoders is not load_model(with_variant).text_encoders


def test_a_variant_that_is_not_there(with_variant):
    with pytest.raises(ModelLoadError, match=r"weights of variant 'bf16' in .*, found: fp16$"):
        load_model(with_variant, variant="bf16")


def test_only_variants(with_variant):
    (with_variant / "unet/diffusion_pytorch_model.safetensors").unlink()
    assert load_model(with_variant, variant="fp16").new_denoiser() is not None
    with pytest.raises(ModelLoadError, match=r"expected variant to be one of fp16, got None"):
        load_model(with_variant).new_denoiser()


# ------------------------------------------------------------------------------ resolution


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3"])
def test_another_resolution(request, kind):
    folder = request.getfixturevalue(f"{kind}_folder")
    model = load_model(folder, resolution=64 if kind != "sd3" else 48)
    size = model.options.resolution
    assert model.image_shape == (3, size, size)
    assert model.latent_shape[1:] == (size // 4, size // 4)
    latents = noise(1, *model.latent_shape)
    assert model.decode(latents).shape == (1, *model.image_shape)
    denoiser = model.new_denoiser()
    with torch.no_grad():
        output = denoiser(latents, torch.tensor([500]), model.encode(["a cat"]))
    assert output.shape == latents.shape
    if kind == "sdxl":
        assert denoiser.time_ids.tolist() == [[64, 64, 0, 0, 64, 64]]


@pytest.mark.parametrize(
    ("kind", "resolution", "message"),
    [
        ("sd1", 33, "multiples of 4 pixels, got 33"),
        ("sd3", 36, "multiples of 8 pixels up to 64, got 36"),
        ("sd3", 72, "multiples of 8 pixels up to 64, got 72"),
    ],
)
def test_a_resolution_that_cannot_be(request, kind, resolution, message):
    with pytest.raises(InvalidInputError, match=message):
        load_model(request.getfixturevalue(f"{kind}_folder"), resolution=resolution)
