"""Sizes of JPEG files."""

import io

import pytest
import torch
from PIL import Image, JpegImagePlugin

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.images import to_uint8
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.jpeg import JpegSize


def written_bytes(image: torch.Tensor, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image.unsqueeze(0))[0].numpy()).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_the_value_is_the_file_size_in_kilobytes_of_1000_bytes(compose) -> None:
    images = torch.stack(
        [
            compose("white"),
            compose("white", ("owl", "3d", 32, 32)),
            torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)),
        ]
    )
    sizes = [len(written_bytes(image, quality=95, subsampling=2)) / 1000 for image in images]
    assert sizes[0] < 1.0 < sizes[1] < 3.0 < 4.5 < sizes[2] < 6.5
    small, large = make_reward("jpeg_compressibility"), make_reward("jpeg_incompressibility")
    prompts = ["x", "y", "z"]
    assert small(images, prompts).values.tolist() == pytest.approx([-size for size in sizes])
    assert large(images, prompts).values.tolist() == pytest.approx(sizes)
    for reward in (small, large):
        assert reward(images, prompts).terms["size_kb"].tolist() == pytest.approx(sizes)


def test_chroma_is_subsampled_and_this_is_pillows_default(compose) -> None:
    image = compose("red", ("parrot", "flat", 32, 32))
    fixed = written_bytes(image, quality=95, subsampling=2)
    assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(fixed))) == 2
    assert len(written_bytes(image, quality=95)) == len(fixed)
    value = make_reward("jpeg_incompressibility")(image.unsqueeze(0), ["x"]).values.item()
    assert value < len(written_bytes(image, quality=95, subsampling=0)) / 1000


def test_the_two_rewards_have_their_own_names() -> None:
    assert make_reward("jpeg_compressibility").name == "jpeg_compressibility"
    assert make_reward("jpeg_incompressibility").name == "jpeg_incompressibility"
    with pytest.raises(InvalidInputError, match="sign must be -1 or 1, got 0"):
        JpegSize(0)
