"""CLIP models as transformers saves them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import CLIPImageProcessor

from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import ModelLoadError
from diffusion_gym.rewards.networks.clip import load_clip

FOLDER = emoji64_folder() / "clip"

PICTURES = torch.rand(2, 3, 150, 150, generator=torch.Generator().manual_seed(0))

PROMPTS = ["a 3d cat on a blue background", "an apple to the left of a bus"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(FOLDER, tmp_path / "clip")


def test_embeddings_are_the_models_own() -> None:
    clip = load_clip(FOLDER, "cpu")
    pixels = clip._preprocessing(PICTURES)
    tokens = clip._tokenizer(PROMPTS, padding=True, return_tensors="pt")
    output = clip.model(**tokens, pixel_values=pixels)
    torch.testing.assert_close(clip.embed_images(PICTURES), output.image_embeds)
    torch.testing.assert_close(clip.embed_prompts(PROMPTS), output.text_embeds)
    torch.testing.assert_close(clip.embed_images(PICTURES).norm(dim=1), torch.ones(2))


def test_is_frozen_and_shared_while_used() -> None:
    clip = load_clip(FOLDER, "cpu")
    assert load_clip(FOLDER, "cpu") is clip
    assert load_clip(str(FOLDER), "cpu", "float32") is clip
    assert load_clip(FOLDER, "cpu", "bfloat16") is not clip
    assert not clip.model.training
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())


def test_says_what_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        load_clip(folder, "cpu")
    with pytest.raises(ModelLoadError, match=r"needs config\.json, .*there is no such file or fol"):
        load_clip(folder / "nowhere", "cpu")


def test_parts_of_a_model_are_not_filled_with_random_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"missing: visual_projection\.weight"):
        load_clip(folder, "cpu")


def test_pixel_statistics_come_from_the_folder(folder: Path, tmp_path: Path) -> None:
    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "processor_config.json").unlink()
    with pytest.raises(ModelLoadError, match="found neither"):
        load_clip(folder, "cpu")
    # The file's name and layout in transformers before version 5.
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    same = load_clip(folder, "cpu").embed_images(PICTURES)
    torch.testing.assert_close(same, load_clip(FOLDER, "cpu").embed_images(PICTURES))
    other = shutil.copytree(folder, tmp_path / "other")
    processor["image_mean"] = [0.1, 0.2, 0.3]
    (other / "preprocessor_config.json").write_text(json.dumps(processor))
    embeddings = load_clip(other, "cpu").embed_images(PICTURES)
    assert (F.cosine_similarity(embeddings, same) < 0.999).all()
    del processor["image_mean"]
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ModelLoadError, match="image_mean"):
        load_clip(broken, "cpu")


@pytest.mark.parametrize(("height", "width"), [(96, 128), (130, 70)])
def test_images_that_are_not_square_are_cut_as_the_models_own_processor_cuts(
    height: int, width: int
) -> None:
    clip = load_clip(FOLDER, "cpu")
    images = PICTURES[:, :, :height, :width].mul(255).round().div(255)
    config = json.loads((FOLDER / "processor_config.json").read_text())["image_processor"]
    processor = CLIPImageProcessor(**config)
    pixels = processor(list(images), do_rescale=False, return_tensors="pt").pixel_values
    ours = clip._preprocessing(images)
    assert ours.shape == pixels.shape
    assert (ours - pixels).abs().mean() < 0.02
    with torch.no_grad():
        expected = clip.model.visual_projection(clip.model.vision_model(pixels).pooler_output)
    cosine = torch.cosine_similarity(clip.embed_images(images), expected, dim=1)
    assert cosine.min() > 0.995
