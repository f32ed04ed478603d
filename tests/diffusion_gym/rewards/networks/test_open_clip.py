"""Loading models of open_clip."""

import json
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.rewards.networks.open_clip import OpenClip, load_open_clip

#: A picture whose proportions the resizing modes treat differently.
WIDE = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


def configured(folder: Path, source: Path, **preprocessing: object) -> str:
    """Copies a model to a folder with another configuration of its input."""
    folder.mkdir()
    config = json.loads((source / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= preprocessing
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "open_clip_model.safetensors").symlink_to(source / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def pixels(network: OpenClip) -> torch.Tensor:
    return network._preprocessing(WIDE)


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"resize_mode": "shortest"},
        {"resize_mode": "squash"},
        {"resize_mode": "squash", "interpolation": "bilinear"},
        {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.5]},
    ],
)
def test_pixels_are_those_of_its_own_transforms(
    open_clip_folder: Path, tmp_path: Path, preprocessing: dict
) -> None:
    name = configured(tmp_path / "model", open_clip_folder, **preprocessing)
    _, _, prepare = open_clip.create_model_and_transforms(name)
    array = (WIDE[0] * 255).byte().permute(1, 2, 0).numpy()
    expected = prepare(Image.fromarray(array)).unsqueeze(0)
    # One level is 1/255 of up to 5 deviations.
    torch.testing.assert_close(
        pixels(load_open_clip(name, None, "cpu")), expected, atol=0.02, rtol=0
    )


def test_is_frozen_and_shared_while_used(open_clip_folder: Path) -> None:
    name = f"local-dir:{open_clip_folder}"
    network = load_open_clip(name, None, "cpu")
    assert load_open_clip(name, None, "cpu") is network
    assert not network.model.training
    assert not any(parameter.requires_grad for parameter in network.model.parameters())
    half = load_open_clip(name, None, "cpu", "bfloat16")
    assert half.fingerprint == network.fingerprint
    cosines = (half.embed_images(WIDE) * network.embed_images(WIDE)).sum(1)
    assert cosines.item() == pytest.approx(1.0, abs=0.01)
    assert cosines.item() != 1.0


def test_the_hash_tells_weights_and_configurations_apart(
    open_clip_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    other = load_open_clip(
        configured(folder, open_clip_folder, resize_mode="squash"), None, "cpu"
    ).fingerprint
    weights = load_file(open_clip_folder / "open_clip_model.safetensors")
    weights["visual.proj"] += 1e-3
    (folder / "open_clip_model.safetensors").unlink()
    save_file(weights, folder / "open_clip_model.safetensors")
    changed = load_open_clip(f"local-dir:{folder}", None, "cpu").fingerprint
    first = load_open_clip(f"local-dir:{open_clip_folder}", None, "cpu").fingerprint
    assert len({first, other, changed}) == 3


def test_says_what_to_do_about_wrong_names(open_clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"architecture 'ViT-Z'; known: .*ViT-H-14.*local-d"
    ):
        load_open_clip("ViT-Z", None, "cpu")
    with pytest.raises(InvalidInputError, match=r"needs `pretrained`: .*laion2b_s32b_b79k"):
        load_open_clip("ViT-H-14", None, "cpu")
    with pytest.raises(ModelLoadError, match=r"'/none.pt': there is no such file.*laion2b_s32b"):
        load_open_clip("ViT-H-14", "/none.pt", "cpu")
    with pytest.raises(InvalidInputError, match="unknown dtype 'int8'"):
        load_open_clip("ViT-H-14", "laion2b_s32b_b79k", "cpu", "int8")
    with pytest.raises(ModelLoadError, match=r"local-dir:.*nowhere"):
        load_open_clip(f"local-dir:{tmp_path}/nowhere", None, "cpu")
    name = configured(tmp_path / "model", open_clip_folder, resize_mode="longest")
    with pytest.raises(ModelLoadError, match="mode 'longest'; supported are squares with shortest"):
        load_open_clip(name, None, "cpu")


@pytest.mark.parametrize(
    ("architecture", "tag"),
    [("ViT-B-32", "openai"), ("ViT-B-32", "metaclip_400m"), ("ViT-L-14", "OpenAI")],
)
def test_weights_trained_with_another_activation_are_refused(architecture: str, tag: str) -> None:
    """They fit in shape, and give other scores."""
    with pytest.raises(InvalidInputError, match=f"would be wrong: .*'{architecture}-quickgelu'$"):
        load_open_clip(architecture, tag, "cpu")


def test_weights_of_another_architecture_and_tags_offline(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ModelLoadError, match=r"cannot load open_clip's ViT-S-32-alt from .*other"):
        load_open_clip("ViT-S-32-alt", str(tmp_path / "other.pt"), "cpu")
    # The hub is out of reach in the tests.
    with pytest.raises(ModelLoadError, match=r"ViT-B-32 from 'laion2b_s34b_b79k' .* path\): Fail"):
        load_open_clip("ViT-B-32", "laion2b_s34b_b79k", "cpu")


def test_without_open_clip(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModelLoadError, match=r'pip install "diffusion-gym\[rewards\]"'):
        load_open_clip("ViT-H-14", "laion2b_s32b_b79k", "cpu")
