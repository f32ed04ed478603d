"""Similarity of pictures and prompts."""

from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor

from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.images import to_uint8
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.clip_score import ClipScore

FOLDER = emoji64_folder() / "clip"

PROMPTS = ["a 3d cat on a blue background", "an apple to the left of a bus"]


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
    right = scorer(pictures, PROMPTS)
    wrong = scorer(pictures, ["a 3d cat on a red background", "an apple to the right of a bus"])
    other = scorer(pictures, ["two dogs", "a flat moon"])
    assert (right.values > 0.6).all()
    assert (right.values > wrong.values + 0.05).all()
    assert (other.values < 0.4).all()


def test_equals_the_model_behind_its_own_processor(scorer, pictures) -> None:
    large = F.interpolate(pictures, size=(150, 150), mode="bilinear")
    model = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(FOLDER)
    images = [Image.fromarray(array) for array in to_uint8(large).numpy()]
    inputs = processor(text=PROMPTS, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        output = model(**inputs)
    cosines = F.cosine_similarity(output.image_embeds, output.text_embeds)
    # The processor rounds the resized picture to 8 bits.
    torch.testing.assert_close(scorer(large, PROMPTS).values, cosines, atol=3e-3, rtol=0)


def test_a_row_does_not_depend_on_its_batch(scorer, pictures) -> None:
    prompts = ["a cat", "an apple to the left of a bus on a white background", "a cat"]
    images = pictures[[0, 1, 1]]
    together = scorer(images, prompts).values
    for row in range(3):
        alone = scorer(images[row : row + 1], [prompts[row]]).values
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
    assert together[0] > together[2]
    in_twos = make_reward("clip_score", options={"clip_score": {"batch_size": 2}})
    torch.testing.assert_close(in_twos(images, prompts).values, together, atol=1e-5, rtol=0)


def test_long_prompts_are_cut(scorer, pictures) -> None:
    result = scorer(pictures, ["a cat " * 40, "a b c " * 40])
    assert result.values.isfinite().all()


def test_the_embedded_network_in_lower_precision(scorer, pictures) -> None:
    half = make_reward("clip_score", options={"clip_score": {"dtype": "bfloat16"}})
    assert (scorer.version, half.version) == ("1", "1-bfloat16")
    values = half(pictures, PROMPTS).values
    assert values.dtype == torch.float32
    assert not torch.equal(values, scorer(pictures, PROMPTS).values)
    torch.testing.assert_close(values, scorer(pictures, PROMPTS).values, atol=0.02, rtol=0)


def test_any_architecture_of_open_clip(open_clip_folder: Path, pictures) -> None:
    options = {"architecture": f"local-dir:{open_clip_folder}"}
    reward = make_reward("clip_score", options={"clip_score": options})
    large = F.interpolate(pictures, size=(90, 120), mode="bilinear")
    model, _, prepare = open_clip.create_model_and_transforms(options["architecture"])
    pixels = [prepare(Image.fromarray(array)) for array in to_uint8(large).numpy()]
    tokens = open_clip.get_tokenizer(options["architecture"])(PROMPTS)
    with torch.no_grad():
        image, text, _ = model.eval()(torch.stack(pixels), tokens)
    # A pixel or two in a thousand are one level off Pillow's, and random layers amplify it.
    torch.testing.assert_close(
        reward(large, PROMPTS).values, (image * text).sum(1), atol=2e-3, rtol=0
    )
    assert reward.name == "clip_score"
    assert reward.version.startswith("1-")


def test_weights_need_an_architecture(open_clip_folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="needs `architecture`, the name of a model"):
        make_reward("clip_score", options={"clip_score": {"pretrained": "laion2b_s32b_b79k"}})
