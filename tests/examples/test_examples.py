"""Every example, run in small as a reader would run it, and what it leaves behind."""

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path

import branching
import denoising_film
import many_gpus
import numpy as np
import own_agent
import own_checkpoint
import own_credit
import pytest
import reinforce
import sb3_agents
import torch
import torchrl_ppo
from diffusers import StableDiffusionPipeline
from PIL import Image
from stable_baselines3 import PPO

from agents.ppo import DiffusionPPO
from agents.runs.run_folder import RunFolder
from diffusion_gym import finished_episodes, load_model
from diffusion_gym.rewards import registry

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"cleanrl_ppo"}
"""Examples with a test file of their own."""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own_reward(monkeypatch):
    """The example's module; what it registers is forgotten afterwards."""
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    monkeypatch.delitem(sys.modules, "own_reward", raising=False)
    return importlib.import_module("own_reward")


def base_weights():
    return load_model("emoji-64", device="cpu").new_denoiser().state_dict()


def is_trained(policy):
    """Whether some weight is not the model's, and all are finite."""
    base, own = base_weights(), policy.denoiser.state_dict()
    assert all(tensor.isfinite().all() for tensor in own.values())
    return any(not torch.equal(tensor, own[name]) for name, tensor in base.items())


def test_every_example_is_here():
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert examples == {name for name in globals() if name in examples} | ELSEWHERE


@pytest.mark.slow
def test_reinforce():
    rewards = reinforce.main(["--updates", "2", "--num-envs", "4"])
    assert len(rewards) == 2
    assert all(0 < reward < 1 for reward in rewards)
    untrained = reinforce.main(["--updates", "2", "--num-envs", "4", "--learning-rate", "0"])
    assert untrained[0] == rewards[0]  # nothing is learned before the first update
    assert untrained[1] != rewards[1]


def test_branching():
    apart = branching.main(["--shared-steps", "5", "--branches", "3"])
    assert len(set(apart.tolist())) == 3
    late = branching.main(["--shared-steps", "9", "--branches", "3"])
    assert late.std() < apart.std()  # the last step alone changes little


@pytest.mark.slow
def test_many_gpus(tmp_path):
    """Two processes learn what one does, but for rounding."""
    length = ("--images", "8", "--num-envs", "8")
    alone = many_gpus.main(length)
    launched = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", "2"]
    output = subprocess.run(
        [*launched, many_gpus.__file__, *length, "--save", tmp_path / "agent.zip"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.count("8 images, 1 rounds, 2 processes") == 1
    several = DiffusionPPO.load(tmp_path / "agent.zip")
    one, two = (agent.policy.denoiser.state_dict() for agent in (alone, several))
    adapters = [name for name in one if "lora_B" in name]  # which begin as zeros
    assert adapters
    moved = sum(one[name].square().sum() for name in adapters).sqrt()
    apart = sum((one[name] - two[name]).square().sum() for name in adapters).sqrt()
    assert 0 < moved
    assert apart < 1e-2 * moved


@pytest.mark.slow
def test_own_reward(own_reward, tmp_path):
    options = "--images 16 --num-envs 8 --eval-prompts 2 --output run".split()
    training = own_reward.main(options)
    assert training.reward == "1 colour + 0.5 contrast"
    assert (tmp_path / "run" / "summary.json").is_file()
    env = training.env
    env.reset(seed=0)
    for _ in range(10):
        *_, infos = env.step(torch.zeros(8, *env.single_action_space.shape))
    episodes = finished_episodes(infos)
    blue = episodes.image[..., 2].float().mean(dim=(1, 2)) / 255
    torch.testing.assert_close(episodes.reward_terms["colour"], blue, atol=1e-2, rtol=0)
    assert {"contrast/dark", "contrast/light"} <= episodes.reward_terms.keys()


def test_a_picture_without_contrast_is_no_failure_of_the_others(own_reward):
    images = torch.rand(2, 3, 8, 8)
    images[0] = 0.5
    result = own_reward.Contrast()(images, ["", ""])
    assert result.valid.tolist() == [False, True]


@pytest.mark.slow
def test_own_credit():
    agent = own_credit.main(["--images", "16", "--num-envs", "16", "--power", "2"])
    weights = agent.rollout_buffer.trajectories.step_weight
    expected = (1 - np.arange(10) / 10) ** 2
    np.testing.assert_allclose(weights, np.tile(expected, (16, 1)), rtol=1e-6)
    assert is_trained(agent.policy)


@pytest.mark.slow
def test_own_agent():
    """A round of it makes the good images more probable than the bad ones."""
    agent = own_agent.main("--images 16 --num-envs 16 --learning-rate 1e-5".split())
    assert agent.rounds == 1
    assert is_trained(agent.policy)
    buffer = agent.rollout_buffer
    change = torch.zeros(16)
    with torch.no_grad():
        for row in range(16):
            pairs = torch.arange(row * 10, (row + 1) * 10)
            change[row] = (agent._log_prob(pairs) - buffer.trajectories.log_probs[row]).mean()
    good = buffer.trajectories.advantages > 0
    assert change[good].mean() > change[~good].mean()


@pytest.mark.slow
def test_stable_baselines3():
    agent, stock = sb3_agents.main("--images 16 --num-envs 8 --output out".split())
    assert agent.num_timesteps == 16
    assert {path.name for path in Path("out").iterdir()} == {
        *("agent.zip", "rl_model_8_steps.zip", "rl_model_16_steps.zip")
    }
    saved = DiffusionPPO.load("out/agent.zip").policy.state_dict()
    assert all(torch.equal(saved[name], own) for name, own in agent.policy.state_dict().items())
    assert isinstance(stock, PPO)
    assert stock.num_timesteps == 10


def test_torchrl():
    rewards = torchrl_ppo.main("--batches 2 --episodes 2 --num-inference-steps 2".split())
    assert len(rewards) == 2
    assert all(map(math.isfinite, rewards))


def trained_run(output):
    """A small run of the default job."""
    from agents.train import main

    options = (
        "--images 8 --num-envs 8 --num-inference-steps 3 --eval-prompts 2 --eval-samples 1 "
        "--learning-rate 1e-3 --shaping sparse"
    )
    assert main([*options.split(), "--output", output]) == 0
    return output


@pytest.mark.slow
def test_denoising_film():
    run = trained_run("run")
    frames = denoising_film.main([run, "--columns", "3", "--output", "film.gif"])
    film = Image.open("film.gif")
    assert film.n_frames == len(frames) == 4
    # Rows of pictures of 64 pixels, enlarged, with a gap of 2 between them.
    left, height, gap = denoising_film.MARGIN, 64 * denoising_film.SCALE, 2 * denoising_film.SCALE
    rows = [
        (frame[:height, left:], frame[height + gap : 2 * height + gap, left:])
        for frame in (np.asarray(frames[at].convert("L"), float) for at in (0, -1))
    ]
    np.testing.assert_array_equal(*rows[0])  # the same noise
    assert np.abs(rows[1][0] - rows[1][1]).mean() > 1  # other pictures
    assert np.abs(rows[0][0] - rows[1][0]).mean() > 10


@pytest.mark.slow
def test_own_checkpoint(sd1_folder, tmp_path):
    """The adapters make the same pictures under diffusers' and under kohya's names."""
    options = (
        "--images 4 --num-envs 4 --samples-per-prompt 4 --batches-per-round 1 "
        "--num-inference-steps 2 --eval-prompts 2 --output run"
    )
    run = own_checkpoint.main([str(sd1_folder), *options.split()])
    assert isinstance(run, RunFolder)
    own, kohya = (
        picture_with(sd1_folder, file)
        for file in (run.exported / own_checkpoint.LORA_FILE, run.path / own_checkpoint.KOHYA_FILE)
    )
    bare = picture_with(sd1_folder, None)
    np.testing.assert_allclose(own, kohya, atol=1e-6)
    assert np.abs(own - bare).max() > 1e-6


@pytest.mark.parametrize("alpha", [4.0, 1.5])
def test_an_alpha_of_its_own_survives_the_conversion(alpha):
    layer = "unet.mid_block.attentions.0.proj_in"
    adapters = {
        f"{layer}.lora_A.weight": torch.rand(4, 8),
        f"{layer}.lora_B.weight": torch.rand(8, 4),
    }
    converted = own_checkpoint.to_kohya(adapters, alpha)
    name = "lora_unet_mid_block_attentions_0_proj_in"
    assert converted.keys() == {
        f"{name}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert converted[f"{name}.alpha"] == alpha
    torch.testing.assert_close(
        converted[f"{name}.lora_up.weight"], adapters[f"{layer}.lora_B.weight"]
    )


def picture_with(folder, lora):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    generator = torch.Generator().manual_seed(0)
    output = pipeline("a cat", num_inference_steps=2, generator=generator, output_type="np")
    return output.images[0]
