"""ImageReward, beside its authors' own class."""

from pathlib import Path

import pytest
import torch
from authors import PROMPTS, draw, images, reference, write_bert_tokenizer
from safetensors.torch import save_file

from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.image_reward import ImageReward

#: As for `aesthetic`; random layers amplify a pixel's level much more than trained ones.
RESIZED = 0.02

#: The last one is cut.
LONG = [*PROMPTS[:2], " ".join([PROMPTS[2]] * 8)]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return draw(reference("imagereward")["parameters"], 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weights) -> str:
    folder = tmp_path_factory.mktemp("imagereward")
    # The official file holds these as well, which no reward depends on.
    unused = {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}
    torch.save({**weights, **unused}, folder / "ImageReward.pt")
    write_bert_tokenizer(folder)
    return str(folder)


def make(folder: str, **options: object) -> ImageReward:
    paths = {"pretrained": folder, "tokenizer": folder}
    return make_reward("imagereward", options={"imagereward": {**paths, **options}})


@pytest.mark.parametrize(
    ("size", "tolerance"), [("fitting", 1e-5), ("square", RESIZED), ("wide", RESIZED)]
)
def test_equals_the_authors_class(folder: str, size: str, tolerance: float) -> None:
    values = make(folder)(images("imagereward", size), LONG).values
    expected = torch.tensor(reference("imagereward")["values"][size])
    torch.testing.assert_close(values, expected, atol=tolerance, rtol=0)


def test_the_prompt_matters_and_batches_do_not(folder: str) -> None:
    pictures = images("imagereward", "fitting")
    values = make(folder)(pictures, LONG).values
    torch.testing.assert_close(make(folder, batch_size=2)(pictures, LONG).values, values)
    assert ((make(folder)(pictures, [*LONG[1:], LONG[0]]).values - values).abs() > 1e-4).all()


def test_lower_precision(folder: str) -> None:
    pictures = images("imagereward", "fitting")
    half = make(folder, dtype="bfloat16")
    assert half._network.vision.dtype == half._network.text.dtype == torch.bfloat16
    assert next(half._network.head.parameters()).dtype == torch.float32
    values = half(pictures, LONG).values
    torch.testing.assert_close(values, make(folder)(pictures, LONG).values, atol=0.5, rtol=0)
    assert half.version.endswith("-bfloat16")
    with pytest.raises(InvalidInputError, match="unknown dtype 'half'; known: bfloat16, float16"):
        make(folder, dtype="half")


def test_networks_are_shared_while_they_are_used(folder: str) -> None:
    first, second = make(folder), make(folder, batch_size=3)
    assert first._network is second._network
    assert first.version == second.version
    assert first.name == "imagereward"


def test_safetensors_will_do(folder: str, weights, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "image_reward.safetensors")
    reward = make(folder, pretrained=str(tmp_path / "image_reward.safetensors"))
    pictures = images("imagereward", "fitting")
    assert torch.equal(reward(pictures, LONG).values, make(folder)(pictures, LONG).values)


def test_says_what_is_missing(folder: str, weights, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"ImageReward\.pt, looked for at 'THUDM/ImageReward'"):
        make_reward("imagereward")
    with pytest.raises(ModelLoadError, match=r"vocab\.txt.*bert-base-uncased.*\"tokenizer\""):
        make(folder, tokenizer="google-bert/bert-base-uncased")
    with pytest.raises(ModelLoadError, match=r"the folder has no ImageReward\.pt"):
        make(folder, pretrained=str(tmp_path))
    torch.save({"other": torch.zeros(3)}, tmp_path / "ImageReward.pt")
    with pytest.raises(ModelLoadError, match=r"needs linear layers named mlp\.layers\.0\.weight"):
        make(folder, pretrained=str(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "blip.visual_encoder.blocks.1.attn.qkv.weight",
        "blip.visual_encoder.pos_embed",
        "blip.text_encoder.encoder.layer.0.crossattention.self.key.bias",
    ],
)
def test_parts_of_a_network_are_not_filled_with_random_numbers(
    folder: str, weights, tmp_path: Path, name: str
) -> None:
    torch.save({key: value for key, value in weights.items() if key != name}, tmp_path / "part.pt")
    with pytest.raises(ModelLoadError, match=r"part\.pt holds no ImageReward network"):
        make(folder, pretrained=str(tmp_path / "part.pt"))
