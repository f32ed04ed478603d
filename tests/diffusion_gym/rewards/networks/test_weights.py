"""Finding, reading and naming weights."""

import pickle
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.rewards.networks.linear_head import linear_head
from diffusion_gym.rewards.networks.weights import (
    check_batch_size,
    find_file,
    fingerprint,
    is_hub_id,
    load_weights,
)

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2.0)}


def test_a_file_itself_or_its_folder(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "other name.pt"
    file.touch()
    (tmp_path / "weights.pt").touch()
    assert find_file("r", "o", str(file), "weights.pt") == file
    assert find_file("r", "o", str(tmp_path), "weights.pt") == tmp_path / "weights.pt"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_file("r", "o", "~/weights.pt", "weights.pt") == tmp_path / "weights.pt"


def test_says_what_was_looked_for_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"the folder has no weights\.pt") as raised:
        find_file("imagereward", "pretrained", str(tmp_path), "weights.pt")
    assert str(tmp_path) in str(raised.value)
    assert str(raised.value).endswith('reward_options={"imagereward": {"pretrained": "/the/path"}}')
    with pytest.raises(ModelLoadError, match="there is no such file or folder"):
        find_file("r", "o", "./none/at/all", "weights.pt")
    with pytest.raises(ModelLoadError, match=r"https://huggingface\.co/some/repository could not"):
        find_file("r", "o", "some/repository", "weights.pt")
    (tmp_path / "other.pt").touch()
    with pytest.raises(ModelLoadError, match=r"other\.pt': it is not a folder\. Give a folder"):
        find_file("r", "o", str(tmp_path / "other.pt"), "weights.pt", whole_folder=True)


@pytest.mark.parametrize(
    ("source", "could_be"),
    [
        ("openai/clip-vit-large-patch14", True),
        ("/weights.pt", False),
        ("./weights.pt", False),
        ("~/weights.pt", False),
        ("weights.pt", False),
        ("a/b/c.pt", False),
        ("folder/", False),
    ],
)
def test_what_can_be_a_repository(source: str, could_be: bool) -> None:
    assert is_hub_id(source) is could_be


def test_reads_safetensors_and_torch_files(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    torch.save(WEIGHTS, tmp_path / "b.pth")
    torch.save({"state_dict": WEIGHTS, "epoch": 3}, tmp_path / "c.pt")
    for file in tmp_path.iterdir():
        loaded = load_weights("r", file)
        assert loaded.keys() == WEIGHTS.keys()
        assert all(torch.equal(loaded[name], WEIGHTS[name]) for name in WEIGHTS)


def test_damaged_files_and_files_with_code_are_refused(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.pt"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ModelLoadError, match=f"r cannot read weights from .*{name}"):
            load_weights("r", tmp_path / name)

    with (tmp_path / "c.pt").open("wb") as stream:
        pickle.dump(Path("x"), stream, protocol=2)
    with pytest.raises(ModelLoadError, match=r"cannot read weights from .*c\.pt"):
        load_weights("r", tmp_path / "c.pt")


def test_the_hash_sees_names_numbers_shapes_and_configuration() -> None:
    variants = [
        WEIGHTS,
        {"a": WEIGHTS["a"].reshape(3, 2), "b": WEIGHTS["b"]},
        {"a": WEIGHTS["a"], "c": WEIGHTS["b"]},
        {"a": WEIGHTS["a"] + 1e-6, "b": WEIGHTS["b"]},
        {"a": WEIGHTS["a"], "b": WEIGHTS["b"].half()},
    ]
    hashes = {fingerprint(weights) for weights in variants} | {fingerprint(WEIGHTS, {"x": 1})}
    assert len(hashes) == 6
    assert fingerprint(dict(reversed(WEIGHTS.items()))) == fingerprint(WEIGHTS)
    assert all(len(value) == 12 for value in hashes)
    large = torch.zeros(3, 50_000)
    assert fingerprint({"a": large}) != fingerprint({"a": large + 1e-3})


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True, None])
def test_batch_sizes(size: object) -> None:
    with pytest.raises(InvalidInputError, match="batch_size to be a whole number of at"):
        check_batch_size(size)
    assert check_batch_size(8) == check_batch_size(np.int64(8)) == 8


def layers(places: Sequence[int], sizes: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
    """Linear layers at places of a ``Sequential`` called ``h``, with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"x.other.weight": torch.zeros(2), "h.norm.weight": torch.zeros(2)}
    weights["h.norm.bias"] = torch.zeros(2)
    for place, (inputs, outputs) in zip(places, pairwise(sizes), strict=True):
        weights[f"h.{place}.weight"] = torch.randn(outputs, inputs, generator=generator)
        weights[f"h.{place}.bias"] = torch.randn(outputs, generator=generator)
    return weights


def dropout_or_relu(relu: bool) -> nn.Sequential:
    """The predictor of LAION as its authors wrote it, small, without or with its ReLUs."""
    parts = [nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 4), nn.ReLU()]
    parts += [nn.Dropout(0.2), nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.1), nn.Linear(3, 2)]
    parts += [nn.ReLU(), nn.Linear(2, 1)]
    return nn.Sequential(*(part for part in parts if relu or not isinstance(part, nn.ReLU)))


@pytest.mark.parametrize("relu", [False, True])
def test_a_head_with_relus_is_told_from_one_without(relu: bool) -> None:
    network = dropout_or_relu(relu).eval()
    weights = {f"h.{name}": tensor for name, tensor in network.state_dict().items()}
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    head = linear_head("r", Path("file"), weights, "h.")
    torch.testing.assert_close(head(inputs), network(inputs))
    assert not any(parameter.requires_grad for parameter in head.parameters())


@pytest.mark.parametrize("first", [0, 9])  # 9, 10, 11: numbers are not sorted as texts are
def test_layers_without_gaps_are_a_chain_of_affine_maps(first: int) -> None:
    places = range(first, first + 3)
    weights = layers(places, (5, 6, 4, 1))
    inputs = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    expected = inputs
    for number in places:
        expected = expected @ weights[f"h.{number}.weight"].T + weights[f"h.{number}.bias"]
    torch.testing.assert_close(linear_head("r", Path("file"), weights, "h.")(inputs), expected)


@pytest.mark.parametrize("places", [(0, 2), (0, 2, 4), (0, 3, 6), (0, 2, 4, 6, 8), (2, 10, 11)])
def test_gaps_that_could_be_anything_are_refused(places: tuple[int, ...]) -> None:
    weights = layers(places, (5, 4, 3, 2, 2, 1)[-len(places) - 1 :])
    with pytest.raises(ModelLoadError, match="what stands between its linear layers, at places"):
        linear_head("r", Path("file"), weights, "h.")


@pytest.mark.parametrize("missing", ["h.0.bias", "h.1.weight", "h.2.weight"])
def test_broken_chains_are_refused(missing: str) -> None:
    weights = layers((0, 1, 2), (5, 6, 4, 1))
    del weights[missing]
    if missing == "h.0.bias":  # the rest is a chain, but of other inputs
        assert linear_head("r", Path("file"), weights, "h.")[0].in_features == 6
        return
    with pytest.raises(
        ModelLoadError, match=r"needs linear layers named h\.0\.weight.*got from fi"
    ):
        linear_head("r", Path("file"), weights, "h.")


def test_layers_that_are_no_matrices_are_refused() -> None:
    weights = {"h.0.weight": torch.zeros(1, 2, 3, 3), "h.0.bias": torch.zeros(1)}
    with pytest.raises(ModelLoadError, match=r"of shapes \[\[1, 2, 3, 3\]\]"):
        linear_head("r", Path("file"), weights, "h.")
