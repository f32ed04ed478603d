"""Single-file checkpoints in the original layout give the model of the diffusers folder."""

import shutil

import pytest
import torch
from original_layout import save_original
from safetensors.torch import load_file, save_file

from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.models import load_model


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def folder(request):
    return request.getfixturevalue(f"{request.param}_folder")


@pytest.fixture
def small_files(folder, tmp_path):
    """Configurations and tokenizers without any weights."""
    ignored = shutil.ignore_patterns("*.safetensors")
    return shutil.copytree(folder, tmp_path / "small_files", ignore=ignored)


@pytest.fixture
def file(folder, tmp_path):
    return save_original(folder, tmp_path / "model.safetensors")


def networks(model):
    encoders = [encoder.network for encoder in model.text_encoders.encoders]
    return [*encoders, model.decoder.vae, model.new_denoiser()]


@torch.no_grad()
def test_it_is_the_folders_model(folder, small_files, file, capfd):
    model, expected = load_model(file, config=small_files), load_model(folder)
    for one, other in zip(networks(model), networks(expected), strict=True):
        weights = other.state_dict()
        assert one.state_dict().keys() == weights.keys()
        assert not one.training
        assert not any(weight.requires_grad for weight in one.parameters())
        for name, weight in one.state_dict().items():
            assert weight.dtype == torch.float32
            assert torch.equal(weight, weights[name]), name
    assert capfd.readouterr() == ("", "")
    assert model.name == str(file)
    assert model.folder == small_files
    for ours, theirs in (
        (model.encode(["a cat"]), expected.encode(["a cat"])),
        (model.null_embedding, expected.null_embedding),
    ):
        assert torch.equal(ours.tokens, theirs.tokens)
    assert type(model.scheduler) is type(expected.scheduler)
    assert model.latent_shape == expected.latent_shape


def test_its_networks_are_shared(sd1_folder, tmp_path):
    file = save_original(sd1_folder, tmp_path / "model.safetensors")
    first, second = load_model(file, config=sd1_folder), load_model(file, config=sd1_folder)
    assert first.decoder is second.decoder
    assert first.text_encoders is second.text_encoders
    half = load_model(file, config=sd1_folder, dtype="bfloat16")
    assert {weight.dtype for weight in half.decoder.vae.parameters()} == {torch.bfloat16}


def test_its_hash_is_of_the_content(sd1_folder, tmp_path):
    def current(path):
        return load_model(path, config=sd1_folder).weights_hash

    file = save_original(sd1_folder, tmp_path / "model.safetensors")
    renamed = shutil.copy(file, tmp_path / "renamed.safetensors")
    assert current(file) == current(renamed)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert current(file) != current(renamed)


@pytest.mark.parametrize(
    "prefix",
    ["model.diffusion_model.out.2.", "first_stage_model.decoder.conv_in.", "embeddings."],
)
def test_missing_weights(sd1_folder, tmp_path, prefix):
    file = save_original(sd1_folder, tmp_path / "model.safetensors")
    tensors = load_file(file)
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if prefix not in name or name.endswith("position_embedding.weight")
    }
    assert len(kept) < len(tensors)
    save_file(kept, file)
    with pytest.raises(ModelLoadError) as caught:
        load_model(file, config=sd1_folder).new_denoiser()
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "part"),
    [
        ("cond_stage_model.", "text_encoder"),
        ("model.diffusion_model.", "unet"),
        ("first_stage_model.", "vae"),
    ],
)
def test_a_file_without_a_network(sd1_folder, tmp_path, prefix, part):
    file = save_original(sd1_folder, tmp_path / "model.safetensors")
    save_file(
        {n: tensor for n, tensor in load_file(file).items() if not n.startswith(prefix)}, file
    )
    with pytest.raises(ModelLoadError) as caught:
        load_model(file, config=sd1_folder).new_denoiser()
    assert str(file) in str(caught.value)
    assert part in str(caught.value)


def test_a_damaged_file(sd1_folder, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"not a checkpoint")
    for options in ({"config": sd1_folder}, {}):
        with pytest.raises(ModelLoadError, match=str(file)):
            load_model(file, **options)


def test_a_configuration_of_another_model(sd1_folder, sdxl_folder, tmp_path):
    file = save_original(sd1_folder, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError) as caught:
        load_model(file, config=sdxl_folder).new_denoiser()
    assert str(file) in str(caught.value)
    assert str(sdxl_folder) in str(caught.value)


@pytest.mark.parametrize("config", [None, "somebody/some-model"])
def test_without_a_configuration_and_without_a_connection(sd1_folder, tmp_path, config):
    file = save_original(sd1_folder, tmp_path / "model.safetensors")
    options = {} if config is None else {"config": config}
    with pytest.raises(ModelLoadError) as caught:
        load_model(file, **options)
    message = str(caught.value)
    repository = config or "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert f"that of {file} was looked for in {repository!r} on the model hub" in message
    assert "there is no connection to the hub" in message
    assert "the model option config='path/to/folder'" in message
    assert "\n" not in message


def test_pickled_checkpoints_are_not_even_opened(tmp_path):
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"whatever")
    with pytest.raises(InvalidInputError, match=r"single-file checkpoint in \.safetensors, got "):
        load_model(file)


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model.safetensors", "folder/model.safetensors", tmp_path / "model.safetensors"):
        with pytest.raises(InvalidInputError, match=r"unknown model .* a \.safetensors file"):
            load_model(name)


def test_options_that_have_no_effect(sd1_folder, tmp_path):
    file = save_original(sd1_folder, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInputError, match="'variant' is for diffusers folders"):
        load_model(file, config=sd1_folder, variant="fp16")
