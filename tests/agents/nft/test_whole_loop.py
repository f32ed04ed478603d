"""Train, export, reload in diffusers: the same images. Kill and go on: the same bits. And learn."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from small_agents import make_env, weights
from small_nft import make_nft
from starts import Start

from agents.common.checkpoint import load_policy, save_checkpoint
from agents.nft import DiffusionNFT
from agents.policy import UNetPolicy, export
from agents.ppo import DiffusionPPO
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import register_reward

PROMPTS = ["a cat", "a red circle"]
STEPS = 4
TOLERANCE = 2e-3
PIPELINES = {
    "embedded": StableDiffusionPipeline,
    "sd1": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
    "sd3": StableDiffusion3Pipeline,
}


# ------------------------------------------------------------- export, reload in diffusers


@pytest.fixture
def folder(request: pytest.FixtureRequest, kind: str) -> Path:
    if kind == "embedded":
        return emoji64_folder() / "pipeline"
    found: Path = request.getfixturevalue(f"{kind}_folder")
    return found


def model_env(folder: Path) -> Any:
    return make_env(
        len(PROMPTS), model=str(folder), prompts=PROMPTS, num_inference_steps=STEPS, eta=0.0
    )


def trained(folder: Path, **policy_kwargs: Any) -> UNetPolicy:
    agent = make_nft(
        model_env(folder),
        learning_rate=1e-2 if policy_kwargs else 2e-3,
        n_epochs=3,
        policy_kwargs=policy_kwargs,
    )
    return agent.learn(2).policy


def load_pipeline(kind: str, folder: Path) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline) is PIPELINES[kind]
    if kind != "sd3":  # the environment reads every scheduler of this family as DDIM
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_images(pipeline: Any, latents: torch.Tensor) -> np.ndarray:
    images: np.ndarray = pipeline(
        PROMPTS,
        latents=latents.clone(),
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        output_type="np",
    ).images
    return images


def agent_images(policy: UNetPolicy, folder: Path) -> tuple[torch.Tensor, np.ndarray]:
    """The first latents, and what the trained weights make of them."""
    env = model_env(folder)
    observation, _ = env.reset(seed=0, options={"prompt_ids": [0, 1]})
    first = actions = observation["latent"]
    for _ in range(STEPS):
        actions = policy.act(observation).actions
        observation = env.step(actions)[0]
    return first, env.unwrapped.model.decode(actions).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize("lora", [{}, {"lora_rank": 4, "lora_alpha": 12.0}], ids=["full", "lora"])
def test_what_was_trained_draws_the_same_images_in_diffusers(
    kind: str, lora: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    policy = trained(folder, **lora)
    exported = export(policy, tmp_path / "exported")
    pipeline = load_pipeline(kind, folder)
    latents, expected = agent_images(policy, folder)
    before = pipeline_images(pipeline, latents)
    if lora:
        pipeline.load_lora_weights(exported, weight_name="pytorch_lora_weights.safetensors")
    elif kind == "sd3":
        pipeline.transformer = SD3Transformer2DModel.from_pretrained(exported)
    else:
        pipeline.unet = UNet2DConditionModel.from_pretrained(exported)
    found = pipeline_images(pipeline, latents)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert np.abs(found - before).max() > 5 * TOLERANCE


# ------------------------------------------------------------------------- going on

RESUMED: list[dict[str, Any]] = [
    {"decay_rate": 0.2},
    {
        "policy_kwargs": {"lora_rank": 2},
        "advantage": "prompt",
        "reference_coef": 1e-2,
        "decay_rate": 0.2,
    },
    {"loss": "awm", "timesteps": "training", "policy_kwargs": {"lora_rank": 2}},
]


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("kind", RESUMED, ids=["full", "lora", "awm"])
def test_a_resumed_run_equals_the_uninterrupted_one(
    kind: dict[str, Any], eta: float, tmp_path: Path
) -> None:
    whole = make_nft(make_env(eta=eta), **kind).learn(12)
    first = make_nft(make_env(eta=eta), **kind).learn(4)
    folder = save_checkpoint(first, tmp_path / "round-000001")
    resumed = DiffusionNFT.resume(folder, make_env(eta=eta))
    assert (resumed.rounds, resumed.num_timesteps, resumed.reward_queries) == (1, 4, 4)
    resumed.learn(8, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(whole))
    for name, value in whole.old.state_dict().items():
        assert torch.equal(resumed.old.state_dict()[name], value), name
    assert resumed.rounds == whole.rounds == 3
    assert resumed.policy.denoiser_evaluations == whole.policy.denoiser_evaluations
    policy = load_policy(folder)
    assert torch.equal(
        torch.cat([p.detach().flatten() for p in policy.trainable_parameters()]), weights(first)
    )


def test_a_checkpoint_of_another_agent_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(make_nft(make_env()).learn(4), tmp_path / "round-000001")
    with pytest.raises(InvalidInputError, match="expected the checkpoint of a DiffusionPPO, got"):
        DiffusionPPO.resume(folder, make_env())


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from small_nft import make_nft
from agents.common.checkpoint import save_checkpoint
agent = make_nft(decay_rate=0.2)
agent.learn(4)
save_checkpoint(agent, Path({folder!r}))
draw = agent._collect_batch
def draw_and_die(*arguments):
    draw(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
agent._collect_batch = draw_and_die
agent.learn(8, reset_num_timesteps=False)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "round-000001"
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]
    code = KILLED.format(paths=paths, folder=str(folder))
    assert Start("-c", code).wait() == -signal.SIGKILL
    resumed = DiffusionNFT.resume(folder, make_env(eta=0.0))
    resumed.learn(8, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(make_nft(decay_rate=0.2).learn(12)))


# ------------------------------------------------------------------------- learning


def brightness(device: str) -> Any:
    return lambda images, prompts: images.mean((1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["nft", "awm"])
def test_it_learns(loss: str) -> None:
    """Brighter pictures of the embedded model, by more than chance could have it."""
    register_reward("brightness")(brightness)
    env = make_env(32, num_inference_steps=4, eta=0.0, reward="brightness", prompts=["a cat"])
    agent = make_nft(
        env,
        loss=loss,
        samples_per_prompt=8,
        updates_per_round=1,
        timesteps_per_image=4,
        batch_size=64,
        seed=0,
    )
    rewards = []
    for _ in range(6):
        agent.learn(32, reset_num_timesteps=False)
        rewards.append(agent.rollout_buffer.images.returns)
    first, last = rewards[0], rewards[-1]
    error = first.std() / len(first) ** 0.5
    assert last.mean() > first.mean() + 4 * error
