from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from small_agents import STEPS, make_agent, make_env

from agents.export import export
from agents.policy import UNetPolicy
from diffusion_gym.models import emoji64_folder

PROMPTS = ["a cat", "a red circle"]


def trained(**policy_kwargs: Any) -> UNetPolicy:
    agent = make_agent(learning_rate=2e-3, n_epochs=3, policy_kwargs=policy_kwargs)
    return agent.learn(4).policy


def agent_images(policy: UNetPolicy, latents: torch.Tensor, guidance: float) -> np.ndarray:
    """Deterministic DDIM with the policy's denoiser: what the pipeline does with eta = 0."""
    policy.guidance = guidance
    env = make_env(len(PROMPTS), eta=0.0, prompts=PROMPTS)
    base = env.unwrapped
    policy.schedule = base.schedule
    observation, _ = env.reset(seed=0, options={"prompt_ids": [0, 1]})
    state = base.get_state()
    observation, _ = base.set_state(type(state)(**{**vars(state), "latents": latents}))
    for _ in range(STEPS):
        actions = policy.act(observation, deterministic=True).actions
        observation = env.step(actions)[0]
    return base.model.decode(actions).permute(0, 2, 3, 1).numpy()


def pipeline_images(pipeline: Any, latents: torch.Tensor, guidance: float) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        latents=latents.clone(),
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type="np",
    ).images


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        emoji64_folder() / "pipeline", torch_dtype=torch.float32
    )


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_exported_lora_draws_the_agents_images_in_diffusers(
    pipeline: StableDiffusionPipeline, latents: torch.Tensor, guidance: float, tmp_path: Path
) -> None:
    policy = trained(lora_rank=4, lora_alpha=12.0)
    base = pipeline_images(pipeline, latents, guidance)
    folder = export(policy, tmp_path / "exported")
    pipeline.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    exported = pipeline_images(pipeline, latents, guidance)
    ours = agent_images(policy, latents, guidance)
    np.testing.assert_allclose(exported, ours, atol=2e-3)
    assert np.abs(exported - base).max() > 0.05


def test_exported_unet_draws_the_agents_images_in_diffusers(
    pipeline: StableDiffusionPipeline, latents: torch.Tensor, tmp_path: Path
) -> None:
    policy = trained()
    base = pipeline_images(pipeline, latents, 1.0)
    folder = export(policy, tmp_path / "exported")
    pipeline.unet = UNet2DConditionModel.from_pretrained(folder)
    exported = pipeline_images(pipeline, latents, 1.0)
    np.testing.assert_allclose(exported, agent_images(policy, latents, 1.0), atol=2e-3)
    assert np.abs(exported - base).max() > 0.05


def test_export_replaces_what_was_there(tmp_path: Path) -> None:
    policy = make_agent(policy_kwargs={"lora_rank": 2}).policy
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "stale").touch()
    export(policy, folder)
    assert [file.name for file in folder.iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["exported"]
