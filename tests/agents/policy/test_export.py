"""Environment, a round of training, export, reload in diffusers: the same images."""

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
from small_agents import STEPS, make_agent, make_env

from agents.policy import UNetPolicy
from agents.policy.export import export
from diffusion_gym.emoji64 import emoji64_folder

PROMPTS = ["a cat", "a red circle"]
GUIDANCE = 2.0
EMBEDDED = "embedded"
PIPELINES = {
    EMBEDDED: StableDiffusionPipeline,
    "sd1": StableDiffusionPipeline,
    "sd2": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
    "sd3": StableDiffusion3Pipeline,
}
TOLERANCE = 2e-3


@pytest.fixture
def folder(request: pytest.FixtureRequest, kind: str) -> Path:
    """The folder of a small model of a kind."""
    if kind == EMBEDDED:
        return emoji64_folder() / "pipeline"
    found: Path = request.getfixturevalue(f"{kind}_folder")
    return found


def model_env(folder: Path, **kwargs: Any) -> Any:
    return make_env(len(PROMPTS), model=str(folder), prompts=PROMPTS, **kwargs)


def trained(folder: Path, **policy_kwargs: Any) -> UNetPolicy:
    agent = make_agent(
        model_env(folder),
        learning_rate=1e-2 if "lora_rank" in policy_kwargs else 2e-3,
        n_epochs=3,
        policy_kwargs={"guidance": GUIDANCE} | policy_kwargs,
    )
    return agent.learn(2).policy


def agent_images(policy: UNetPolicy, folder: Path, latents: torch.Tensor) -> np.ndarray:
    """Without noise (eta = 0), as the pipelines draw."""
    env = model_env(folder, eta=0.0)
    base = env.unwrapped
    policy.schedule = base.schedule
    env.reset(seed=0, options={"prompt_ids": [0, 1]})
    state = base.get_state()
    observation, _ = base.set_state(type(state)(**{**vars(state), "latents": latents}))
    for _ in range(STEPS):
        actions = policy.act(observation, deterministic=True).actions
        observation = env.step(actions)[0]
    return base.model.decode(actions).permute(0, 2, 3, 1).numpy()


def load_pipeline(kind: str, folder: Path) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline) is PIPELINES[kind]
    if kind != "sd3":  # the environment reads every scheduler of this family as DDIM
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_images(pipeline: Any, latents: torch.Tensor) -> np.ndarray:
    images: np.ndarray = pipeline(
        PROMPTS,
        latents=latents.clone(),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="np",
    ).images
    return images


def noise(folder: Path) -> torch.Tensor:
    shape = model_env(folder).unwrapped.model.latent_shape
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def check_images(kind: str, folder: Path, policy: UNetPolicy, pipeline: Any) -> None:
    """The pipeline draws what the trained policy draws, and no longer what the model drew."""
    latents = noise(folder)
    exported = pipeline_images(pipeline, latents)
    base = pipeline_images(load_pipeline(kind, folder), latents)
    np.testing.assert_allclose(exported, agent_images(policy, folder, latents), atol=TOLERANCE)
    assert np.abs(exported - base).max() > 5 * TOLERANCE


@pytest.mark.parametrize("kind", PIPELINES)
def test_exported_lora_draws_the_agents_images_in_diffusers(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    policy = trained(folder, lora_rank=4, lora_alpha=12.0)
    pipeline = load_pipeline(kind, folder)
    exported = export(policy, tmp_path / "exported")
    pipeline.load_lora_weights(exported, weight_name="pytorch_lora_weights.safetensors")
    check_images(kind, folder, policy, pipeline)


@pytest.mark.parametrize("kind", PIPELINES)
def test_exported_weights_draw_the_agents_images_in_diffusers(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    policy = trained(folder)
    pipeline = load_pipeline(kind, folder)
    exported = export(policy, tmp_path / "exported")
    if kind == "sd3":
        pipeline.transformer = SD3Transformer2DModel.from_pretrained(exported)
    else:
        pipeline.unet = UNet2DConditionModel.from_pretrained(exported)
    check_images(kind, folder, policy, pipeline)


def test_export_replaces_what_was_there(tmp_path: Path) -> None:
    policy = make_agent(policy_kwargs={"lora_rank": 2}).policy
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "stale").touch()
    export(policy, folder)
    assert [file.name for file in folder.iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["exported"]
