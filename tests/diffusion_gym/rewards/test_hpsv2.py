"""HPSv2, beside its authors' own function."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from authors import PROMPTS, draw, images, reference

from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.clip_score import ClipScore

ARCHITECTURE = "tests-tiny-hpsv2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hpsv2")
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(reference("hpsv2")["config"]))
    open_clip.add_model_config(folder / f"{ARCHITECTURE}.json")
    weights = draw(reference("hpsv2")["parameters"], 5)
    torch.save({"state_dict": weights, "epoch": 1}, folder / "HPS_v2.1_compressed.pt")
    return folder


def make(folder: Path, **options: object) -> ClipScore:
    options = {"pretrained": str(folder), "architecture": ARCHITECTURE, **options}
    return make_reward("hpsv2", options={"hpsv2": options})


@pytest.mark.parametrize("size", ["fitting", "square", "wide"])
def test_equals_the_authors_function(folder: Path, size: str) -> None:
    values = make(folder)(images("hpsv2", size), PROMPTS).values
    expected = torch.tensor(reference("hpsv2")["values"][size])
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)


def test_lower_precision(folder: Path) -> None:
    half = make(folder, dtype="bfloat16")
    pictures = images("hpsv2", "square")
    expected = make(folder)(pictures, PROMPTS).values
    torch.testing.assert_close(half(pictures, PROMPTS).values, expected, atol=0.05, rtol=0)
    assert half.version == make(folder).version.replace("float32", "bfloat16")
    assert half.name == "hpsv2"


def test_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"HPS_v2\.1_compressed\.pt.*huggingface\.co/xswu"):
        make_reward("hpsv2")
    with pytest.raises(ModelLoadError, match=r"the folder has no HPS_v2_compressed\.pt"):
        make(folder, release="v2.0")
    with pytest.raises(InvalidInputError, match=r"unknown release of HPSv2 'v3'; known: v2\.0"):
        make(folder, release="v3")
    with pytest.raises(InvalidInputError, match="unknown open_clip architecture 'ViT-X'"):
        make(folder, architecture="ViT-X")
    weights = draw(reference("hpsv2")["parameters"], 5)
    del weights["visual.proj"]
    torch.save({"state_dict": weights}, tmp_path / "part.pt")
    with pytest.raises(ModelLoadError, match=r"visual\.proj"):
        make(folder, pretrained=str(tmp_path / "part.pt"))
