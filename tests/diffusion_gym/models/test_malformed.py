"""Model folders with nonsense in them: each refused in words, none with a raw traceback."""

import json

import numpy as np
import pytest
import torch

from diffusion_gym.errors import DiffusionGymError, InvalidInputError, ModelLoadError
from diffusion_gym.models import guided_prediction, load_model, model_defaults, resolved_name
from diffusion_gym.schedules import make_schedule


def use(folder):
    """All that an episode needs of a model."""
    model = load_model(folder)
    schedule = make_schedule(model.scheduler, 4)
    latents = torch.randn(1, *model.latent_shape)
    with torch.no_grad():
        output = guided_prediction(
            model.new_denoiser(),
            latents,
            schedule.timesteps[:1],
            model.encode(["a cat"]),
            null_embedding=model.null_embedding,
            guidance=2.0,
        )
    return model.decode(schedule.transition(output, latents, 0).mean)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"sample_size": None}, "sample_size, a whole number .*got None"),
        ("unet/config.json", {"sample_size": "8"}, "sample_size, a whole number .*got '8'"),
        ("unet/config.json", {"sample_size": 0}, "sample_size, a whole number above 0.*got 0"),
        ("unet/config.json", {"sample_size": -8}, "sample_size, a whole number above 0.*got -8"),
        ("unet/config.json", {"sample_size": True}, "sample_size, a whole number .*got True"),
        ("unet/config.json", {"sample_size": [8, 8, 8]}, r"or two, got \[8, 8, 8\]"),
        ("unet/config.json", {"in_channels": "16"}, "in_channels .*default, 4, got '16'"),
        ("unet/config.json", {"norm_eps": "small"}, "norm_eps .*default, 1e-05, got 'small'"),
        ("unet/config.json", {"norm_eps": None}, "norm_eps .*default, 1e-05, got None"),
        ("unet/config.json", {"layers_per_block": -1}, "layers_per_block .*got -1"),
        ("unet/config.json", {"flip_sin_to_cos": "no"}, "flip_sin_to_cos .*True, got 'no'"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is a number above 0, got 0"),
        ("vae/config.json", {"scaling_factor": -0.2}, "scaling_factor in the conf.*got -0.2"),
        ("vae/config.json", {"scaling_factor": float("nan")}, "scaling_factor in .*got nan"),
        ("vae/config.json", {"force_upcast": "false"}, "force_upcast in .*got 'false'"),
        ("vae/config.json", {"upsampling_scaling_factor": 3}, "at every level, got a factor 3"),
        ("vae/config.json", {"upsample_fn": "lanczos"}, "upsample_fn is of nearest, .*'lanczos'"),
        ("text_encoder/config.json", {"eos_token_id": None}, "text_encoder whose eos_token_id"),
        ("text_encoder/config.json", {"layer_norm_eps": None}, "text_encoder whose layer_norm_eps"),
        ("tokenizer/tokenizer_config.json", {"pad_token": None}, "a token to pad with"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "24"}, "model_max_length='24'"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 0}, "model_max_length=0"),
        ("model_index.json", {"force_zeros_for_empty_prompt": "no"}, "true or false of .*'no'"),
        ("model_index.json", {"vae": 3}, "naming library and class of a vae, got 3"),
    ],
)
def test_values_that_mean_nothing(checkpoint, file, changes, message):
    checkpoint.edit_json(file, **changes)
    with pytest.raises(ModelLoadError, match=message) as caught:
        use(checkpoint.folder)
    assert str(checkpoint.folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [None, 5, [], "x", {"a": 1}])
def test_a_malformed_entry_of_an_optional_part(sd3_folder, tmp_path, entry):
    index = json.loads((sd3_folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"text_encoder_3": entry}))
    for part in sd3_folder.iterdir():
        if part.is_dir():
            (tmp_path / part.name).symlink_to(part)
    if entry is None:  # as if it was not there
        assert len(load_model(tmp_path).text_encoders.encoders) == 2
        return
    with pytest.raises(ModelLoadError, match="library and class of a text_encoder_3, got"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "file", ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"]
)
def test_json_nested_too_deeply(checkpoint, file):
    (checkpoint.folder / file).write_text("[" * 200_000)
    with pytest.raises(ModelLoadError, match=r"nested too deep|recursion"):
        use(checkpoint.folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_weights_that_are_no_real_numbers(checkpoint, part, dtype):
    def quantise(tensors):
        name = next(name for name in tensors if name.endswith(".weight"))
        tensors[name] = tensors[name].to(dtype)

    checkpoint.edit_weights(part, quantise)
    kind = "I8" if dtype == torch.int8 else "C64"
    with pytest.raises(ModelLoadError, match=f"floating-point weights in .*weight of type {kind}"):
        use(checkpoint.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        *("model_index.json", "scheduler/scheduler_config.json", "unet/config.json"),
        *("vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"),
    ],
)
def test_whatever_stands_in_a_configuration_is_used_or_refused_in_words(checkpoint, file):
    path = checkpoint.folder / file
    content = json.loads(path.read_text())
    outcomes = set()
    for name in content:
        for value in (None, "x", -1, 0, True, [], {}, float("nan"), 7.5):
            path.write_text(json.dumps(content | {name: value}))
            try:
                use(checkpoint.folder)
                message = None
            except DiffusionGymError as error:
                message = str(error)
            assert message is None or ("\n" not in message and len(message) < 700), (name, value)
            outcomes.add(message is None)
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    "name", [None, 3, b"emoji-64", "emoji\0-64", ["emoji-64"], "x" * 5000, "~nobody-here/model"]
)
def test_names_that_are_no_names(name):
    for function in (load_model, model_defaults, resolved_name):
        with pytest.raises(InvalidInputError, match="model"):
            function(name)


@pytest.mark.parametrize("device", ["meta", torch.device("meta"), None, 3.5, ["cpu"]])
def test_devices_that_are_none(device):
    with pytest.raises(InvalidInputError, match=r"device .* cannot be used here"):
        load_model(device=device)


@pytest.mark.parametrize("prompts", [[], (), "a cat"])
def test_no_list_of_prompts(prompts):
    with pytest.raises(InvalidInputError, match="a list of at least one prompt to encode, got"):
        load_model().encode(prompts)


def test_a_device_itself_will_do():
    assert load_model(device=torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.parametrize("dtype", [None, 32, ["float32"], {"float32"}])
def test_dtypes_that_are_none(dtype):
    with pytest.raises(InvalidInputError, match="unknown dtype"):
        load_model(dtype=dtype)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": ""}, "'variant' to be a text, got ''"),
        ({"resolution": True}, "'resolution' to be of type int, got True"),
        ({"resolution": [64, 64]}, "'resolution' to be of type int"),
        ({"vae_dtype": torch.float16}, "'vae_dtype' to be of type str"),
        ({"max_sequence_length": 513}, "'max_sequence_length' up to 512, got 513"),
    ],
)
def test_options_of_a_wrong_type(sd3_folder, options, message):
    with pytest.raises(InvalidInputError, match=message):
        load_model(sd3_folder, **options)


def test_an_integer_is_an_integer():
    model = load_model(resolution=np.int64(64))
    assert model.image_shape == (3, 64, 64)
    assert type(model.options.resolution) is int


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt"])
def test_a_pickled_single_file_says_how_to_convert_it(tmp_path, suffix):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"from_single_file\(.*\)\.save_pretrained"):
        load_model(file)


def test_an_empty_weight_file(tmp_path, sd1_folder):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelLoadError):
        load_model(file, config=sd1_folder)


def test_a_folder_name_says_how_to_convert_its_pickles(checkpoint):
    file = checkpoint.weights("unet")
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ModelLoadError, match="use_safetensors=False"):
        use(checkpoint.folder)


def test_the_unchanged_copy_can_be_used(checkpoint):
    assert use(checkpoint.folder).isfinite().all()
