"""The network that reads pictures."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.emoji64.scenes import BACKGROUNDS, OBJECTS, STYLES, parse
from diffusion_gym.emoji64.verifier import SceneVerifier
from diffusion_gym.errors import ModelLoadError


def test_finds_objects_styles_positions_and_backgrounds(compose, verifier) -> None:
    picture = compose("blue", ("cat", "flat", 16, 30), ("apple", "3d", 48, 34), size=28)
    (found,) = verifier.detect(picture.unsqueeze(0))
    assert found.background == "blue"
    assert found.background_probability > 0.9
    by_name = {OBJECTS[item.object_index].name: item for item in found.objects}
    assert set(by_name) == {"cat", "apple"}
    for name, style, x, y in (("cat", "flat", 16, 30), ("apple", "3d", 48, 34)):
        item = by_name[name]
        assert item.style == style
        assert (item.x, item.y) == pytest.approx((x, y), abs=4)
        assert item.score > 0.4
        assert item.probability > 0.9


def test_reads_every_background_and_style(compose, verifier) -> None:
    wanted = [(colour, style) for colour in BACKGROUNDS for style in STYLES]
    pictures = [compose(colour, ("octopus", style, 32, 32)) for colour, style in wanted]
    found = verifier.detect(torch.stack(pictures))
    assert [(scene.background, scene.objects[0].style) for scene in found] == wanted


def test_reads_most_objects(compose, verifier) -> None:
    pictures = [compose("gray", (item.name, "cartoon", 32, 32)) for item in OBJECTS]
    found = verifier.detect(torch.stack(pictures))
    right = [
        [item.object_index for item in scene.objects] == [index]
        for index, scene in enumerate(found)
    ]
    assert sum(right) >= 0.97 * len(OBJECTS)


def test_an_empty_picture_shows_nothing(compose, verifier) -> None:
    (found,) = verifier.detect(compose("pink").unsqueeze(0))
    assert found.objects == ()
    assert found.background == "pink"


def test_larger_pictures_are_resized_and_positions_are_theirs(compose, verifier) -> None:
    picture = compose("white", ("dog", "3d", 28, 36)).unsqueeze(0)
    large = F.interpolate(picture, scale_factor=4, mode="bilinear")
    (small_found,), (large_found,) = verifier.detect(picture), verifier.detect(large)
    assert large_found.objects[0].object_index == small_found.objects[0].object_index
    assert large_found.objects[0].x == 4 * small_found.objects[0].x
    assert large_found.objects[0].y == 4 * small_found.objects[0].y


def test_a_picture_is_read_alike_in_any_batch(verifier) -> None:
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for whole, single in zip(verifier(images), verifier(images[3:4]), strict=True):
        torch.testing.assert_close(whole[3:4], single, rtol=1e-4, atol=1e-4)


def test_check_compares_with_a_caption(compose, verifier) -> None:
    picture = compose("white", ("cat", "3d", 16, 32), ("dog", "flat", 48, 32), size=28)
    (found,) = verifier.detect(picture.unsqueeze(0))
    right = parse("a 3d cat to the left of a flat dog on a white background")
    wrong = parse("a flat cat to the right of a dog on a black background")
    assert all(verifier.check(found, right).values())
    assert verifier.check(found, wrong) == {
        "objects": True,
        "count": True,
        "relation": False,
        "background": False,
        "style": False,
    }


def test_is_frozen(verifier) -> None:
    assert not verifier.training
    assert not any(parameter.requires_grad for parameter in verifier.parameters())


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_names_the_missing_file(tmp_path: Path, missing: str) -> None:
    for name in ("config.json", "model.safetensors"):
        if name != missing:
            shutil.copy(emoji64_folder() / "verifier" / name, tmp_path)
    with pytest.raises(ModelLoadError, match=f"{missing}, which does not exist"):
        SceneVerifier.from_pretrained(tmp_path)


def test_damaged_files_are_load_errors(tmp_path: Path) -> None:
    folder = shutil.copytree(emoji64_folder() / "verifier", tmp_path / "verifier")
    weights = load_file(folder / "model.safetensors")
    weights.pop("bg.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"bg\.bias"):
        SceneVerifier.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelLoadError, match="cannot load a scene verifier"):
        SceneVerifier.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"architecture": {"classes": 137}}))
    with pytest.raises(ModelLoadError, match="missing"):
        SceneVerifier.from_pretrained(folder)
