"""Names, devices and damaged checkpoints: what load_model refuses, and how it says so."""

import logging
import pickle
import shutil
import socket

import huggingface_hub.constants
import pytest
import torch
from checkpoints import EMBEDDED, WEIGHTS

from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.models import load_model, model_names


def load_all(folder):
    """Loads every part, the denoiser and the scheduler included."""
    model = load_model(folder)
    return model.new_denoiser(), model.scheduler


@pytest.fixture
def noise(capfd):
    """All that is printed or logged. The libraries' handlers write past pytest's capture."""

    class Records(logging.Handler):
        def emit(self, record):
            print(record.getMessage())

    handler = Records()
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lambda: "".join(capfd.readouterr())
    for logger in loggers:
        logger.removeHandler(handler)


def refused(checkpoint, noise, *parts_of_the_message):
    """The message of the one error that loading ends with; nothing else is printed."""
    noise()
    with pytest.raises(ModelLoadError) as caught:
        load_all(checkpoint.folder)
    message = str(caught.value)
    assert str(checkpoint.folder) in message
    for part in parts_of_the_message:
        assert part in message
    assert noise() == ""


def test_loading_prints_nothing(checkpoint, noise):
    # Checkpoints of Stable Diffusion 1.5 have weights that nothing uses.
    for part in WEIGHTS:
        checkpoint.edit_weights(part, lambda tensors: tensors.update(unused=torch.zeros(2)))
    load_all(EMBEDDED)
    load_all(checkpoint.folder)
    assert noise() == ""


def test_the_embedded_model_is_found_by_name_and_by_folder():
    assert model_names() == ["emoji-64"]
    assert load_model("emoji-64").folder == emoji64_folder() / "pipeline"
    assert load_model(EMBEDDED).decoder is load_model().decoder
    assert load_model(str(EMBEDDED)).name == str(EMBEDDED)


def test_a_relative_folder_wins_over_the_hub(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.folder.parent.parent)
    name = f"{checkpoint.folder.parent.name}/checkpoint"
    assert load_model(name).encode(["a cat"]).tokens.shape == (1, 24, 128)


@pytest.mark.parametrize("name", ["emoji-65", "/no/such", "./no-such", "~/no-such", "a/b/c", " "])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(InvalidInputError, match=r"unknown model '.*known: .*hub id.*emoji-64"):
        load_model(name)


def test_a_hub_id_while_offline(monkeypatch, noise):
    def no_network(*arguments, **options):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    with pytest.raises(ModelLoadError) as caught:
        load_model("nobody/no-such-model")
    message = str(caught.value)
    assert message.startswith(
        "model 'nobody/no-such-model' is neither an embedded model (emoji-64) nor a folder or file "
        "here, and it could not be had from the model hub: "
    )
    assert "\n" not in message
    assert noise() == ""


def test_a_hub_id_that_was_downloaded_before(tmp_path, monkeypatch):
    cache = tmp_path / "models--someone--emoji"
    commit = "0123456789" * 4
    shutil.copytree(EMBEDDED, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = load_model("someone/emoji")
    assert model.folder.resolve() == cache / "snapshots" / commit
    assert model.weights_hash == load_model().weights_hash


@pytest.mark.parametrize("dtype", ["float8", "", torch.float32])
def test_unknown_dtypes(dtype):
    with pytest.raises(InvalidInputError, match=r"unknown dtype .*known: bfloat16, float16, flo"):
        load_model(dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:63", "mps:7", "gpu", ""])
def test_devices_that_are_not_there(device):
    with pytest.raises(InvalidInputError) as caught:
        load_model(device=device)
    message = str(caught.value)
    assert message.startswith(f"device {device!r} cannot be used here (")
    assert "expected 'auto', 'cpu', or a device that this machine has" in message
    assert len(message) < 500


def test_auto_is_the_device_that_is_there():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load_model(device="auto").device.type == expected


def test_a_folder_without_model_index(tmp_path):
    with pytest.raises(ModelLoadError, match=r"no diffusers folder .*expected model_index\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"vae": "AutoencoderKL"}'])
def test_a_damaged_model_index(checkpoint, noise, text):
    (checkpoint.folder / "model_index.json").write_text(text)
    refused(
        checkpoint, noise, "expected model_index.json naming a pipeline as its _class_name, got "
    )


@pytest.mark.parametrize(
    ("part", "name", "supported"),
    [
        ("text_encoder", "T5EncoderModel", "CLIPTextModel"),
        ("vae", "AutoencoderOobleck", "AutoencoderKL, AutoencoderTiny"),
        ("vae", None, "AutoencoderKL, AutoencoderTiny"),
        ("unet", "FluxTransformer2DModel", "UNet2DConditionModel"),
        ("tokenizer", "T5Tokenizer", "CLIPTokenizer"),
        ("scheduler", "FlowMatchEulerDiscreteScheduler", "DDIMScheduler, DDPMScheduler"),
        ("scheduler", "NoSuchScheduler", "DDIMScheduler, DDPMScheduler"),
    ],
)
def test_unsupported_classes_list_the_supported(checkpoint, noise, part, name, supported):
    checkpoint.edit_json("model_index.json", **{part: ["somewhere", name]})
    refused(checkpoint, noise, f"the {part} of the model", f"is a {name}; supported: {supported}")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part(checkpoint, noise, part):
    shutil.rmtree(checkpoint.folder / part)
    refused(checkpoint, noise, f"expected the {part} of the model in ", "found no such folder")


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(checkpoint, noise, part, kept):
    content = checkpoint.weights(part).read_bytes()
    checkpoint.weights(part).write_bytes(content[: int(kept * len(content))])
    refused(checkpoint, noise, f"cannot load the {part} of the model in ", "expected a complete")


@pytest.mark.parametrize("part", WEIGHTS)
def test_missing_weights_are_not_filled_with_random_numbers(checkpoint, noise, part):
    dropped = []
    checkpoint.edit_weights(part, lambda tensors: dropped.append(tensors.popitem()[0]))
    name = dropped[0].removeprefix("text_model.")  # a prefix that newer transformers left off
    refused(checkpoint, noise, "expected all of its weights, got 1 missing and 0 of", name)


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_of_another_shape_are_refused(checkpoint, noise, part):
    changed = []

    def change(tensors):
        changed.append(next(iter(tensors)))
        tensors[changed[0]] = torch.zeros(7, 5)

    checkpoint.edit_weights(part, change)
    refused(checkpoint, noise, changed[0].removeprefix("text_model."), "got ", "[7, 5]")


@pytest.mark.parametrize("part", WEIGHTS)
def test_pickled_weights_are_not_even_opened(checkpoint, noise, part):
    class Trap:
        def __reduce__(self):
            return (print, ("code was run",))

    file = checkpoint.weights(part)
    file.unlink()
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    file.with_name(name).write_bytes(pickle.dumps(Trap()))
    refused(checkpoint, noise, f"expected weights in .safetensors in {file.parent}, got {name}")


@pytest.mark.parametrize(
    "file", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
)
@pytest.mark.parametrize("text", [None, "{"])
def test_damaged_configurations(checkpoint, noise, file, text):
    if text is None:
        (checkpoint.folder / file).unlink()
    else:
        (checkpoint.folder / file).write_text(text)
    part, name = file.split("/")
    refused(checkpoint, noise, f"cannot load the {part}", name)


@pytest.mark.parametrize("text", [None, "{"])
def test_a_damaged_text_encoder_configuration(checkpoint, noise, text):
    # transformers takes a missing one for "all as in the first CLIP", and the weights don't fit.
    file = checkpoint.folder / "text_encoder" / "config.json"
    file.unlink()
    if text is None:
        refused(checkpoint, noise, "do not fit CLIPTextModel")
    else:
        file.write_text(text)
        refused(checkpoint, noise, "cannot load the text_encoder")


def test_damaged_tokenizers(checkpoint, noise):
    tokenizer = checkpoint.folder / "tokenizer"
    (tokenizer / "tokenizer.json").write_text("{")
    refused(checkpoint, noise, "cannot load the tokenizer", "expected a complete CLIPTokenizer")
    for file in tokenizer.iterdir():
        file.unlink()
    refused(checkpoint, noise, "tokenizer")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"in_channels": 33}, "the 16 latent channels of the vae, got in_ch"),
        (
            "unet/config.json",
            {"cross_attention_dim": 2048},
            "width 128, got cross_attention_dim=2048",
        ),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type='text_t"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 77}, "at most the 24 tokens"),
    ],
)
def test_parts_that_do_not_fit_together(checkpoint, noise, file, changes, message):
    checkpoint.edit_json(file, **changes)
    refused(checkpoint, noise, "do not fit together: expected a ", message)


def test_a_tokenizer_of_a_larger_vocabulary(checkpoint, noise):
    def forget(tensors):
        name = next(name for name in tensors if name.endswith("token_embedding.weight"))
        tensors[name] = tensors[name][:1000].clone()

    checkpoint.edit_weights("text_encoder", forget)
    checkpoint.edit_json("text_encoder/config.json", vocab_size=1000)
    refused(checkpoint, noise, "a tokenizer of at most the 1000 tokens", "got 1083")


def test_a_refused_checkpoint_can_be_repaired(checkpoint, noise):
    content = checkpoint.weights("vae").read_bytes()
    checkpoint.weights("vae").write_bytes(content[:1000])
    refused(checkpoint, noise)
    checkpoint.weights("vae").write_bytes(content)
    load_all(checkpoint.folder)
