from pathlib import Path

import pytest
import torch

from benchmarks.emoji64 import evaluate as command
from benchmarks.emoji64.composer import Composer
from benchmarks.emoji64.evaluate import (
    Judges,
    balanced_scenes,
    dissimilarity,
    image_sheet,
    measure_alignment,
    rounded,
)
from benchmarks.emoji64.measures import (
    measure_autoencoder,
    measure_clip,
    psnr,
    shares_of_facts,
)
from benchmarks.emoji64.sampler import Sampler
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.emoji64.scenes import parse
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import load_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return load_model("emoji-64")


@pytest.fixture(scope="module")
def judges():
    return Judges.load(emoji64_folder(), CPU)


def test_embedded_model_draws_what_captions_state(model, judges):
    scenes = balanced_scenes(32, CPU, torch.Generator().manual_seed(0))
    sampler = Sampler(model, model.new_denoiser())
    figures = measure_alignment(sampler, judges, Composer(), scenes, (2.0,), (10,))
    real, drawn = figures["real images"], figures["guidance 2, 10 steps"]
    assert real["all"] == 1.0
    assert real["CLIP score"] > 0.75
    # The model card's figure is .87 of 256; the chance of less than .65 of 32 is below 1%.
    assert drawn["all"] >= 0.65
    assert drawn["CLIP score"] > 0.7


def test_embedded_autoencoder_and_clip_have_their_figures(model, judges):
    generator = torch.Generator().manual_seed(0)
    autoencoder = measure_autoencoder(model.decoder.vae, Composer(), 64, generator)
    assert autoencoder["PSNR, grid scenes, dB"] > 33
    clip = measure_clip(judges.clip, Composer(), 128, generator)
    assert clip["retrieval of a caption that fits"] > 0.95
    assert clip["prefers its own to the opposite relation"] > 0.9
    assert clip["score with a caption that does not fit"] < 0.1


def test_sampler_depends_on_the_seed_only(model):
    sampler = Sampler(model, model.new_denoiser())
    first = sampler.draw(["a cat", "a dog"], guidance=1.0, steps=2, seed=1)
    assert torch.equal(first, sampler.draw(["a cat", "a dog"], guidance=1.0, steps=2, seed=1))
    assert not torch.equal(first, sampler.draw(["a cat", "a dog"], guidance=1.0, steps=2, seed=2))


def test_balanced_scenes_have_every_kind_equally_often():
    scenes = balanced_scenes(8, CPU, torch.Generator().manual_seed(0))
    assert scenes.kind.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(InvalidInputError, match="positive multiple of 4 prompts"):
        balanced_scenes(6, CPU, torch.Generator())


def test_shares_count_facts_and_pictures():
    scenes = [parse("a cat"), parse("a cat on a blue background"), parse("two dogs")]
    checked = [
        {"objects": True, "count": True},
        {"objects": True, "count": True, "background": False},
        {"objects": False, "count": True},
    ]
    shares = shares_of_facts(checked, scenes)
    assert shares == {
        "all": pytest.approx(1 / 3),
        "all, single": 0.5,
        "all, count": 0.0,
        "objects": pytest.approx(2 / 3),
        "count": 1.0,
        "background": 0.0,
    }


def test_dissimilarity_and_psnr():
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert dissimilarity(same) == pytest.approx(0)
    assert dissimilarity(torch.eye(4)) == pytest.approx(1)
    assert dissimilarity(torch.stack([same, torch.eye(2)])) == pytest.approx(0.5)
    assert psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1)) == pytest.approx(20)


def test_image_sheet_is_filled_row_by_row():
    images = torch.zeros(4, 3, 2, 2)
    images[1, 0] = 1.0
    images[2, 1] = 1.0
    grid = image_sheet(images, per_row=2)
    assert grid.size == (4, 4)
    assert grid.getpixel((2, 0)) == (255, 0, 0)
    assert grid.getpixel((0, 2)) == (0, 255, 0)
    assert grid.getpixel((0, 0)) == grid.getpixel((3, 3)) == (0, 0, 0)


def test_figures_are_rounded_wherever_they_lie():
    assert rounded({"a": {"b": 0.123456}, "c": "text", "d": 3}) == {
        "a": {"b": 0.1235},
        "c": "text",
        "d": 3,
    }


def test_only_publishing_replaces_the_kept_figures(capsys):
    parser = command._parser()
    assert parser.parse_args([]).out == Path("runs/emoji64-evaluation")
    assert parser.parse_args(["--out", "own"]).out == Path("own")
    published = parser.parse_args(["--publish"]).out
    assert published.parts[-3:] == ("benchmarks", "emoji64", "results")
    assert (published / "figures.json").is_file()
    with pytest.raises(SystemExit):
        parser.parse_args(["--publish", "--out", "own"])
    assert "not allowed with" in capsys.readouterr().err


def test_command_line_mistakes_give_no_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["x", "--prompts", "5", "--device", "cpu"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        command.main()
    assert "got 5" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
