"""PickScore, beside the code of its authors and of Flow-GRPO."""

import pytest
import torch
from authors import PROMPTS, images, reference, save_clip
from safetensors.torch import load_file, save_file

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.clip_score import ClipScore

#: As for `aesthetic`; the cosines are multiplied by about 100.
RESIZED = 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_clip(tmp_path_factory.mktemp("pickscore") / "model", "pickscore", 3))


def make(**options: object) -> ClipScore:
    return make_reward("pickscore", options={"pickscore": options})


@pytest.mark.parametrize(
    ("size", "tolerance"), [("fitting", 1e-4), ("square", RESIZED), ("wide", RESIZED)]
)
def test_equals_the_authors_code(folder: str, size: str, tolerance: float) -> None:
    reward = make(pretrained=folder, processor=folder)
    pictures = images("pickscore", size)
    values = reward(pictures, PROMPTS).values
    expected = torch.tensor(reference("pickscore")["values"][size])
    torch.testing.assert_close(values, expected, atol=tolerance, rtol=0)
    scores = [reward(pictures, [prompt] * 3).values.softmax(0) for prompt in PROMPTS]
    probabilities = torch.tensor(reference("pickscore")["probabilities"][size])
    torch.testing.assert_close(torch.stack(scores), probabilities, atol=tolerance, rtol=0)


def test_name_scale_and_version(folder: str) -> None:
    reward = make(pretrained=folder, processor=folder)
    assert reward.name == "pickscore"
    assert reward.version.startswith("1-")
    scale = load_file(f"{folder}/model.safetensors")["logit_scale"].exp().item()
    assert reward.scale == pytest.approx(scale)


def test_says_what_is_missing(folder: str, tmp_path) -> None:
    with pytest.raises(ModelLoadError, match=r"yuvalkirstain/PickScore_v1.*\"pretrained\""):
        make(processor=folder)
    with pytest.raises(ModelLoadError, match=r"laion/CLIP-ViT-H-14.*\"processor\""):
        make(pretrained=folder)
    with pytest.raises(ModelLoadError, match="there is no such file or folder"):
        make(pretrained="/nowhere/at/all", processor=folder)
    part = save_clip(tmp_path / "part", "pickscore", 3)
    weights = load_file(part / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"missing: visual_projection\.weight"):
        make(pretrained=str(part), processor=folder)
