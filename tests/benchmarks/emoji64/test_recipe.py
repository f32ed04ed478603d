import json
import math
import time
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import nn

from benchmarks.emoji64 import __main__ as command_line
from benchmarks.emoji64.networks import new_denoiser, new_scheduler
from benchmarks.emoji64.recipe import STAGES, Workshop, cpu_recipe, gpu_recipe, toy_recipe
from benchmarks.emoji64.train_denoiser import (
    WeightAverage,
    min_snr_weights,
    prediction_loss,
    start_from,
)
from benchmarks.emoji64.training import Machine, StageSettings, learning_rate, train
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.models import load_model

CPU = Machine(torch.device("cpu"))


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("emoji64")
    torch.manual_seed(0)
    workshop = Workshop(out, toy_recipe(), CPU, stage1=emoji64_folder(), icons=None)
    workshop.run(STAGES)
    return out


def test_toy_recipe_makes_a_pipeline_that_diffusers_runs(toy_folder):
    pipeline = StableDiffusionPipeline.from_pretrained(toy_folder / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        ["a cat", "two 3d apples on a blue background"],
        height=64,
        width=64,
        num_inference_steps=2,
        output_type="pt",
    )
    assert result.images.shape == (2, 3, 64, 64)
    assert torch.isfinite(result.images).all()


def test_toy_recipe_makes_a_model_for_the_gym(toy_folder):
    model = load_model(str(toy_folder / "pipeline"))
    embedding = model.encode(["a cat"])
    assert embedding.tokens.shape == (1, 24, 128)
    denoiser = model.new_denoiser()
    latents = torch.randn(1, *model.latent_shape)
    output = denoiser(latents, torch.tensor([500]), embedding)
    assert output.shape == latents.shape
    assert model.decode(latents).shape == (1, 3, 64, 64)


def test_toy_recipe_has_the_layout_of_the_embedded_model(toy_folder):
    def weights(folder):
        return {file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")}

    assert weights(toy_folder) == weights(emoji64_folder())
    for part in ("vae", "text_encoder", "scheduler"):
        own = sorted((toy_folder / "pipeline" / part).glob("*config.json"))
        for file in own:
            shipped = emoji64_folder() / "pipeline" / part / file.name
            assert _known(file) == _known(shipped)
    assert (
        json.loads((toy_folder / "verifier" / "config.json").read_text())["architecture"]
        == json.loads((emoji64_folder() / "verifier" / "config.json").read_text())["architecture"]
    )


def _known(file):
    config = json.loads(file.read_text())
    return {name: value for name, value in config.items() if "version" not in name}


def test_toy_recipe_trains_and_measures_every_stage(toy_folder):
    figures = json.loads((toy_folder / "training.json").read_text())
    assert list(figures) == list(STAGES)
    for stage in STAGES:
        assert figures[stage]["training"]["steps"] == 2
        assert math.isfinite(figures[stage]["training"]["loss"])
    assert figures["denoiser"]["measured"].keys() == {"real images", "guidance 1, 10 steps"}


def test_denoiser_alone_builds_on_given_networks(tmp_path):
    recipe = toy_recipe()
    recipe = replace(
        recipe,
        measured=4,
        denoiser=replace(
            recipe.denoiser,
            channels=(64, 128),
            true_captions=True,
            warm_start=emoji64_folder() / "pipeline" / "unet",
            peak_rate=0.0,
        ),
    )
    workshop = Workshop(tmp_path, recipe, CPU, stage1=emoji64_folder(), icons=None)
    workshop.run(["denoiser"])
    for part in ("vae", "unet"):
        name = f"pipeline/{part}/diffusion_pytorch_model.safetensors"
        own, given = load_file(tmp_path / name), load_file(emoji64_folder() / name)
        assert own.keys() == given.keys()
        for key, value in own.items():
            # The average of equal weights rounds.
            torch.testing.assert_close(value, given[key], rtol=1e-3, atol=1e-6)
    assert workshop.figures["denoiser"]["measured"]["real images"]["all"] == 1.0


def test_unknown_stages_are_refused(tmp_path):
    workshop = Workshop(tmp_path, toy_recipe(), CPU, stage1=emoji64_folder(), icons=None)
    with pytest.raises(InvalidInputError, match="unknown stage 'unet'; known: autoencoder"):
        workshop.run(["unet"])
    with pytest.raises(InvalidInputError, match="got none"):
        workshop.run([])


def test_command_line_changes_the_recipe():
    arguments = command_line._parser().parse_args(
        "--out x --seconds-clip 7 --channels 96,192 --true-captions --minutes 3".split()
    )
    recipe = command_line._configured(gpu_recipe(), arguments)
    assert recipe.clip == replace(gpu_recipe().clip, seconds=7)
    assert recipe.autoencoder == gpu_recipe().autoencoder
    assert recipe.denoiser.channels == (96, 192)
    assert recipe.denoiser.true_captions
    assert recipe.minutes == 3
    plain = command_line._parser().parse_args([])
    assert plain.out.as_posix() == "runs/emoji64"
    assert command_line._configured(cpu_recipe(), plain) == cpu_recipe()
    assert not cpu_recipe().denoiser.true_captions


def test_full_scale_fits_twenty_minutes():
    recipe = gpu_recipe()
    training = sum(getattr(recipe, stage).seconds for stage in STAGES)
    assert training <= 950
    assert recipe.minutes <= 20


def test_command_line_mistakes_give_no_traceback(tmp_path, capsys, monkeypatch):
    arguments = ["x", "--out", str(tmp_path / "out"), "--toy", "--icons", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit):
        command_line.main()
    assert "expected the icon set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_warm_start_needs_weights(tmp_path):
    with pytest.raises(ModelLoadError, match="a warm start needs"):
        start_from(new_denoiser((32, 64)), tmp_path)


def test_learning_rate_warms_up_and_vanishes():
    assert learning_rate(0.0, 1.0) == pytest.approx(0.02)
    assert learning_rate(0.025, 1.0) == pytest.approx(1.0, abs=0.01)
    assert learning_rate(0.5, 2.0) == pytest.approx(1.0)
    assert learning_rate(1.0, 1.0) == pytest.approx(0.0)


def test_prediction_loss_is_that_of_the_scheduler():
    scheduler = new_scheduler()
    clean, noise = torch.randn(2, 3, 16, 8, 8)
    timesteps = torch.tensor([0, 500, 999])
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    alpha_bar = scheduler.alphas_cumprod[timesteps][:, None, None, None]
    exact = prediction_loss(velocity, clean, noise, alpha_bar)
    torch.testing.assert_close(exact, torch.zeros(3), atol=1e-10, rtol=0)
    off = prediction_loss(velocity + 0.5, clean, noise, alpha_bar)
    torch.testing.assert_close(off, torch.full((3,), 0.25))


def test_min_snr_weights_bound_the_easy_steps():
    alpha_bar = new_scheduler().alphas_cumprod
    weights = min_snr_weights(alpha_bar)
    # Of the loss on the clean latent, v's weighs SNR + 1: together min(SNR, 5).
    snr = alpha_bar / (1 - alpha_bar)
    torch.testing.assert_close(weights * (snr + 1) * 0.6, snr.clamp(max=5))
    assert weights.max().item() == pytest.approx(5 / 6 / 0.6, rel=0.01)


def test_weight_average_follows_the_network():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = WeightAverage(network, decay=0.5, interval=2)
    nn.init.ones_(network.weight)
    average.update(1)
    assert average.network.weight.item() == 0
    average.update(2)
    assert average.network.weight.item() == pytest.approx(10 / 11)
    for step in range(40, 80):
        average.update(step)
    assert average.network.weight.item() == pytest.approx(1.0)
    assert not average.network.weight.requires_grad


def test_training_minimises_and_ends_in_time():
    network = nn.Linear(1, 1)
    inputs = torch.linspace(-1, 1, 16)[:, None]

    def loss_function():
        return {"loss": (network(inputs) - 3 * inputs - 1).square().mean()}

    settings = StageSettings(seconds=60, batch_size=16, peak_rate=0.1, max_steps=300)
    seen = []
    report = train("line", network, loss_function, settings, CPU, seen.append)
    assert report.steps == 300
    assert seen == list(range(1, 301))
    assert report.last["loss"] < 1e-3

    late = replace(CPU, deadline=time.monotonic() - 1)
    assert train("line", network, loss_function, settings, late).steps == 1
