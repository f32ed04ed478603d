"""Similarity of pictures and prompts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.models import emoji64_folder
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.clip_score import ClipScore, load_clip
from diffusion_gym.rewards.images import to_uint8

FOLDER = emoji64_folder() / "clip"


@pytest.fixture(scope="module")
def scorer() -> ClipScore:
    return make_reward("clip_score")


@pytest.fixture
def pictures(compose) -> torch.Tensor:
    return torch.stack(
        [
            compose("blue", ("cat", "3d", 32, 32)),
            compose("white", ("apple", "flat", 16, 32), ("bus", "flat", 48, 32), size=28),
        ]
    )


def test_prefers_what_fits(scorer, pictures) -> None:
    right = scorer(pictures, ["a 3d cat on a blue background", "an apple to the left of a bus"])
    wrong = scorer(pictures, ["a 3d cat on a red background", "an apple to the right of a bus"])
    other = scorer(pictures, ["two dogs", "a flat moon"])
    assert (right.values > 0.6).all()
    assert (right.values > wrong.values + 0.05).all()
    assert (other.values < 0.4).all()


def test_equals_the_model_behind_its_own_processor(scorer, pictures) -> None:
    prompts = ["a 3d cat on a blue background", "an apple to the left of a bus"]
    large = F.interpolate(pictures, size=(150, 150), mode="bilinear")
    model = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(FOLDER)
    images = [Image.fromarray(array) for array in to_uint8(large)]
    inputs = processor(text=prompts, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        output = model(**inputs)
    cosines = F.cosine_similarity(output.image_embeds, output.text_embeds)
    # The processor rounds the resized picture to 8 bits.
    torch.testing.assert_close(scorer(large, prompts).values, cosines, atol=3e-3, rtol=0)


def test_a_row_does_not_depend_on_its_batch(scorer, pictures) -> None:
    prompts = ["a cat", "an apple to the left of a bus on a white background", "a cat"]
    images = pictures[[0, 1, 1]]
    together = scorer(images, prompts).values
    for row in range(3):
        alone = scorer(images[row : row + 1], [prompts[row]]).values
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
    assert together[0] > together[2]


def test_embeddings_are_those_behind_the_score(scorer, pictures) -> None:
    clip = load_clip(FOLDER.resolve(), "cpu")
    large = F.interpolate(pictures, size=(150, 150), mode="bilinear")
    embeddings = clip.embed_images(large)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    text = clip.model(**clip.tokens(["a cat"], "cpu"), pixel_values=clip.pixels(large)).text_embeds
    scores = scorer(large, ["a cat", "a cat"]).values
    torch.testing.assert_close((embeddings * text).sum(dim=1), scores)


def test_long_prompts_are_cut(scorer, pictures) -> None:
    result = scorer(pictures, ["a cat " * 40, "a b c " * 40])
    assert result.values.isfinite().all()


def test_says_what_is_missing(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        ClipScore(folder)
    with pytest.raises(ModelLoadError, match=r"config\.json, which does not exist"):
        ClipScore(tmp_path / "nowhere")


def test_parts_of_a_model_are_not_filled_with_random_numbers(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"missing: visual_projection\.weight"):
        ClipScore(folder)


def test_pixel_statistics_come_from_the_folder(tmp_path: Path, pictures) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "clip")
    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "processor_config.json").unlink()
    with pytest.raises(ModelLoadError, match="found neither"):
        ClipScore(folder)
    # The file's name and layout in transformers before version 5.
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    same = ClipScore(folder)(pictures, ["a cat", "a bus"]).values
    torch.testing.assert_close(same, ClipScore(FOLDER)(pictures, ["a cat", "a bus"]).values)
    other = shutil.copytree(folder, tmp_path / "other")
    processor["image_mean"] = [0.1, 0.2, 0.3]
    (other / "preprocessor_config.json").write_text(json.dumps(processor))
    assert (ClipScore(other)(pictures, ["a cat", "a bus"]).values != same).all()
    del processor["image_mean"]
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ModelLoadError, match="image_mean"):
        ClipScore(broken)
