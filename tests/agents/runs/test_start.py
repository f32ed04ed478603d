"""Runs that begin with another run's weights, and models without a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from agents import evaluate, sample, train
from agents.common.checkpoint import load_policy
from agents.common.checkpoint_folder import read_checkpoint
from agents.runs.run_folder import RunFolder
from agents.runs.start import read_start
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError

QUICK = (
    "--num-envs 4 --samples-per-prompt 2 --num-inference-steps 3 --eval-prompts 2 "
    "--eval-samples 1 --reward jpeg_compressibility --also jpeg_compressibility"
).split()


def trained(output: Path, *options: str, images: int = 4) -> RunFolder:
    arguments = [*QUICK, "--images", str(images), "--output", str(output), *options]
    assert train.main(arguments) == 0
    return RunFolder(output)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    adapters = ("--lora-rank", "2", "--lora-alpha", "8", "--lora-targets", "to_q,to_v")
    return trained(tmp_path_factory.mktemp("start") / "lora", *adapters)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(tmp_path_factory.mktemp("start") / "full")


def first_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    """Those that a run of one round has begun with, since its rate was next to nothing."""
    return read_checkpoint(run.checkpoint, weights_only=True).weights


STILL = ("--learning-rate", "1e-30", "--optimizer-kwargs", '{"weight_decay": 0}')


@pytest.mark.parametrize("place", [".", "checkpoints/round-000001", "exported"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_begins_with_anothers_weights(
    kind: str, place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    other: RunFolder = request.getfixturevalue(kind)
    run = trained(tmp_path / "run", "--from", str(other.path / place), *STILL)
    theirs, ours = first_weights(other), first_weights(run)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    settings, start = run.settings, run.records()[0]["start"]
    assert settings.run.from_run == str((other.path / place).absolute())
    assert settings.policy.lora_rank == other.settings.policy.lora_rank
    assert len(start["sha256"]) == 64
    # Base of the divergence, and of before and after, is the model itself.
    drift = run.summary()["metrics"]["kl_to_base"]
    assert drift["before"] < 1e-9 < drift["after"]
    assert run.summary()["reward_before"] == pytest.approx(other.summary()["reward_before"])
    assert run.summary()["reward_after"] == pytest.approx(other.summary()["reward_after"], abs=1e-4)


def test_nft_draws_with_them_as_well(lora: RunFolder, tmp_path: Path) -> None:
    nft = ("--algorithm", "nft", "--eta", "0", "--guidance", "1")
    run = trained(tmp_path / "run", "--from", str(lora.path), *nft, *STILL)
    state = read_checkpoint(run.checkpoint).state
    theirs = first_weights(lora)
    assert {f"denoiser.{name}" for name in state["old"]} == set(theirs)
    for name, value in state["old"].items():
        assert torch.equal(value, theirs[f"denoiser.{name}"])


@pytest.mark.slow
def test_a_resumed_one_does_not_need_them_any_more(lora: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lora.path, copy)
    whole = trained(tmp_path / "whole", "--from", str(copy), images=8)
    half = trained(tmp_path / "half", "--from", str(copy))
    shutil.rmtree(copy)
    assert train.main(["--resume", str(half.path), "--images", "8"]) == 0
    assert half.records()[1]["start"] == half.records()[0]["start"] == whole.records()[0]["start"]
    ours, theirs = first_weights(half), first_weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_one_stopped_before_its_first_checkpoint_needs_the_same(
    lora: RunFolder, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lora.exported, copy)
    run = trained(tmp_path / "run", "--from", str(copy))
    shutil.rmtree(run.checkpoints)
    run.metrics_file.unlink()
    file = copy / "pytorch_lora_weights.safetensors"
    before = file.read_bytes()
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file({name: value + 1 for name, value in tensors.items()}, file, metadata)
    with pytest.raises(InvalidInputError, match=r"weights that the run began with.*changed since"):
        train.main(["--resume", str(run.path)])
    file.write_bytes(before)
    assert train.main(["--resume", str(run.path)]) == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--lora-rank", "4"), "rank 2 and alpha 8: expected to train such, got .*rank 4"),
        (("--lora-alpha", "2"), "alpha 8: expected to train such, got .*alpha 2"),
        (("--lora-rank", "0"), "expected to train such, got all weights"),
        (("--lora-targets", "to_k,to_v"), r"do not fit the \d+ tensors that train.*to_k"),
    ],
)
def test_other_adapters_are_refused(
    lora: RunFolder, options: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=why):
        trained(tmp_path / "run", "--from", str(lora.path), *options)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model_are_refused(full: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(emoji64_folder() / "pipeline", other)
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, file, {"format": "pt"})
    options = ("--model", str(other), "--lora-rank", "0", "--prompts", "emoji-objects")
    with pytest.raises(InvalidInputError, match="were trained on the model 'emoji-64'"):
        trained(tmp_path / "run", *options, "--from", str(full.path))


@pytest.mark.parametrize("damage", ["none", "empty", "file", "checkpoint", "adapters", "metadata"])
def test_what_holds_no_weights_is_refused(lora: RunFolder, damage: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if damage == "empty":
        place.mkdir()
    elif damage == "file":
        place.write_text("x")
    elif damage == "checkpoint":
        shutil.copytree(lora.checkpoint, place)
        (place / "weights.safetensors").write_bytes(b"x")
    elif damage in ("adapters", "metadata"):
        shutil.copytree(lora.exported, place)
        file = place / "pytorch_lora_weights.safetensors"
        if damage == "adapters":
            file.write_bytes(file.read_bytes()[:100])
        else:
            save_file(load_file(file), file)
    with pytest.raises(InvalidInputError, match=r"expected") as caught:
        read_start(str(place))
    assert "place" in str(caught.value)
    with pytest.raises(InvalidInputError):
        train.main([*QUICK, "--from", str(place)])


@pytest.mark.parametrize("text", ["\0", "x" * 5000, "~nobody-here/x"])
def test_names_that_are_no_paths_are_refused(text: str) -> None:
    with pytest.raises((InvalidInputError, SystemExit)):
        train.main([*QUICK, "--from", text])


def test_a_checkpoint_of_the_start_is_a_policy_as_any(lora: RunFolder) -> None:
    policy = load_policy(lora.checkpoint, device="cpu")
    start = read_start(str(lora.path))
    assert all(torch.equal(v, start.weights[k]) for k, v in policy.state_dict().items())
    assert start.settings["lora_targets"] == ("to_q", "to_v")


# ------------------------------------------------------------------- models without a run


def test_a_model_draws_without_a_run(full: RunFolder, tmp_path: Path) -> None:
    pictures: list[Any] = []
    steps = full.settings.env.num_inference_steps
    for arguments in ([], ["--model", "emoji-64", "--device", "cpu"]):
        output = tmp_path / f"{len(pictures)}.png"
        draw = ["--prompt", "a cat", "--samples", "2", "--output", str(output)]
        assert sample.main([*arguments, *draw]) == 0
        with Image.open(output) as picture:
            pictures.append(np.asarray(picture))
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].std() > 10
    assert steps == 3


def test_a_model_is_measured_without_a_run(
    full: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    few = ["--count", "3", "--samples", "2", "--json", str(file), "--also", "clip_score"]
    assert evaluate.main([*few, "--reward", "jpeg_compressibility"]) == 0
    printed = capsys.readouterr().out
    assert "3 prompts (emoji-objects:held_out) x 2 images" in printed
    assert "kl_to_base" not in printed
    found = json.loads(file.read_text())
    assert found["reward"] == "jpeg_compressibility"
    low, mean, high = found["figures"]["jpeg_compressibility"]
    assert low < mean < high
    assert {"clip_score", "diversity/clip"} <= set(found["figures"])
    weighted = '{"clip_score": 2, "jpeg_compressibility": 1}'
    assert evaluate.main([*few, "--reward", weighted]) == 0
    both = json.loads(file.read_text())["figures"]
    total = both["2 clip_score + 1 jpeg_compressibility"][1]
    terms = [
        both[f"2 clip_score + 1 jpeg_compressibility: {name}"][1]
        for name in (
            "clip_score",
            "jpeg_compressibility",
        )
    ]
    assert total == pytest.approx(2 * terms[0] + terms[1], rel=1e-4)
    assert terms[1] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(
    ("command", "arguments", "why"),
    [
        (sample, ["RUN", "--model", "emoji-64"], "expected --model without RUN alone"),
        (evaluate, ["RUN", "--model", "emoji-64"], "expected --model without RUN alone"),
        (sample, ["--checkpoint", "round-000001"], "expected --checkpoint of a RUN alone"),
        (evaluate, ["--checkpoint", "round-000001"], "expected --checkpoint of a RUN alone"),
        (evaluate, ["--pictures", "x.png"], "expected --pictures of a RUN alone"),
        (sample, ["--model", "no/such"], "no/such"),
    ],
)
def test_a_command_is_about_a_run_or_a_model(
    command: Any, arguments: list[str], why: str, full: RunFolder
) -> None:
    given = [str(full.path) if word == "RUN" else word for word in arguments]
    given += ["--prompt", "a cat"] if command is sample else []
    with pytest.raises((InvalidInputError, RuntimeError), match=why):
        command.main(given)
