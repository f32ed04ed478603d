"""LAION's aesthetic score, beside ddpo-pytorch's own class."""

from pathlib import Path

import pytest
import torch
from authors import PROMPTS, draw, images, reference, save_clip

from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.aesthetic import Aesthetic

#: One level of one pixel after resizing, where Pillow rounds differently, moves these that far.
RESIZED = 3e-4


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("aesthetic")
    head = draw(reference("aesthetic")["head_parameters"], 2)
    torch.save(head, folder / "sac+logos+ava1-l14-linearMSE.pth")
    return {
        "clip": str(save_clip(folder / "clip", "aesthetic", 1)),
        "head": str(folder / "sac+logos+ava1-l14-linearMSE.pth"),
    }


def make(options: dict[str, object]) -> Aesthetic:
    return make_reward("aesthetic", options={"aesthetic": options})


@pytest.mark.parametrize(
    ("size", "tolerance"), [("fitting", 1e-5), ("square", RESIZED), ("wide", RESIZED)]
)
def test_equals_the_authors_class(options, size: str, tolerance: float) -> None:
    values = make(options)(images("aesthetic", size), PROMPTS).values
    expected = torch.tensor(reference("aesthetic")["values"][size])
    assert (expected.max() - expected.min()) > 100 * tolerance
    torch.testing.assert_close(values, expected, atol=tolerance, rtol=0)


def test_batches_and_precision(options) -> None:
    pictures = images("aesthetic", "square")
    whole = make(options)
    single = make({**options, "batch_size": 1})
    torch.testing.assert_close(single(pictures, PROMPTS).values, whole(pictures, PROMPTS).values)
    assert single.version == whole.version
    half = make({**options, "dtype": "bfloat16"})
    values = half(pictures, PROMPTS).values
    assert values.dtype == torch.float32
    assert not torch.equal(values, whole(pictures, PROMPTS).values)
    torch.testing.assert_close(values, whole(pictures, PROMPTS).values, atol=0.3, rtol=0)
    assert half.version == whole.version.replace("float32", "bfloat16")


def test_the_version_tells_weights_apart(options, tmp_path: Path) -> None:
    versions = {make(options).version, make(options).version}
    assert len(versions) == 1
    torch.save(draw(reference("aesthetic")["head_parameters"], 20), tmp_path / "head.pth")
    versions.add(make({**options, "head": str(tmp_path / "head.pth")}).version)
    other = save_clip(tmp_path / "clip", "aesthetic", 10)
    versions.add(make({**options, "clip": str(other)}).version)
    assert len(versions) == 3


def test_says_what_is_missing(options, tmp_path: Path) -> None:
    # The hub is out of reach in the tests.
    advice = r'Give a folder that holds it by reward_options=\{"aesthetic": \{"clip": "/the/path"'
    with pytest.raises(ModelLoadError, match=rf"openai/clip-vit-large-patch14.*{advice}"):
        make({"head": options["head"]})
    with pytest.raises(ModelLoadError, match=r"needs aesthetic-model\.pth.*trl-lib/ddpo-aes"):
        make({"clip": options["clip"]})
    with pytest.raises(InvalidInputError, match=r"batch_size. .* at least 1, got 0"):
        make({**options, "batch_size": 0})


def test_a_head_for_another_clip_is_refused(options, tmp_path: Path) -> None:
    head = {"layers.0.weight": torch.zeros(1, 512), "layers.0.bias": torch.zeros(1)}
    torch.save(head, tmp_path / "head.pth")
    with pytest.raises(ModelLoadError, match="width 512, those of this CLIP model have 768"):
        make({**options, "head": str(tmp_path / "head.pth")})
