"""Environment, a round of training, export, reload in diffusers: the same images."""

import json
import os
import stat
import sys
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
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from small_agents import make_agent, make_env

from agents.policy import UNetPolicy
from agents.policy.export import LORA_FILE, ExportError, _load_adapters, export
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import PromptEmbedding

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
STEPS = 4  # where T does not divide N, diffusers' DDIM steps beside the timesteps of its own table


@pytest.fixture
def folder(request: pytest.FixtureRequest, kind: str) -> Path:
    """The folder of a small model of a kind."""
    if kind == EMBEDDED:
        return emoji64_folder() / "pipeline"
    found: Path = request.getfixturevalue(f"{kind}_folder")
    return found


def model_env(folder: Path, **kwargs: Any) -> Any:
    kwargs = {"num_inference_steps": STEPS} | kwargs
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
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
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


ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
UNET_TARGETS = {
    "projections": [*ATTENTION, "proj_in", "proj_out"],
    "first": [*ATTENTION, "conv_in"],
    "last": [*ATTENTION, "conv_out"],
    "time": [*ATTENTION, "linear_1", "linear_2", "time_emb_proj"],
    "feed forward": [*ATTENTION, *FEED_FORWARD],
    "residual": [*ATTENTION, "conv1", "conv2", "conv_shortcut"],
    "no attention": ["proj_in", "conv1", "ff.net.2"],
    "one layer": ["mid_block.attentions.0.proj_in"],
    "all": [
        *(*ATTENTION, *FEED_FORWARD, "proj_in", "proj_out", "conv_in", "conv_out", "linear_1"),
        *("linear_2", "time_emb_proj", "conv1", "conv2", "conv_shortcut", "conv"),
    ],
}
TRANSFORMER_TARGETS = {
    "prompt": [*ATTENTION, "add_q_proj", "to_add_out", "context_embedder"],
    "first": [*ATTENTION, "pos_embed.proj"],
    "last": [*ATTENTION, "proj_out"],
    "time": [*ATTENTION, "linear_1", "linear_2", "norm1.linear"],
    "feed forward": [*ATTENTION, *FEED_FORWARD],
    "no attention": ["ff_context.net.2", "norm_out.linear"],
    "all": [
        *(*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "context_embedder"),
        *("proj", "net.2", "linear", "linear_1", "linear_2", "proj_out"),
    ],
}
COMBINATIONS = [(EMBEDDED, "all")] + [
    (kind, name)
    for kind, names in {
        "sd1": UNET_TARGETS,
        "sd2": ("projections", "all"),  # its projections are linear layers
        "sdxl": ("projections", "first", "time", "all"),
        "sd3": TRANSFORMER_TARGETS,
    }.items()
    for name in names
]


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Any]:
    """The pipelines that were loaded before."""
    return {}


def disturbed(folder: Path, **policy_kwargs: Any) -> UNetPolicy:
    """A policy whose trained parameters are far from where training starts."""
    policy = make_agent(model_env(folder), policy_kwargs=policy_kwargs).policy
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


def outputs(policy: UNetPolicy, folder: Path, network: Any) -> torch.Tensor:
    """What a network predicts in the policy's place, without guidance."""
    observation, _ = model_env(folder).reset(seed=0)
    denoiser = policy.model.new_denoiser()
    denoiser.network = network
    timesteps = observation["timestep"].flatten()
    with torch.no_grad():
        predicted: torch.Tensor = denoiser(
            observation["latent"], timesteps, PromptEmbedding.observed(observation)
        )
    return predicted


@pytest.mark.parametrize(("kind", "name"), COMBINATIONS)
def test_diffusers_loads_adapters_of_every_layer(
    kind: str, name: str, folder: Path, tmp_path: Path, pipelines: dict[str, Any]
) -> None:
    targets = (TRANSFORMER_TARGETS if kind == "sd3" else UNET_TARGETS)[name]
    policy = disturbed(folder, lora_rank=3, lora_alpha=5.0, lora_targets=targets)
    if kind not in pipelines:
        pipelines[kind] = load_pipeline(kind, folder)
    pipeline = pipelines[kind]
    network = pipeline.transformer if kind == "sd3" else pipeline.unet
    before = outputs(policy, folder, network)
    pipeline.load_lora_weights(export(policy, tmp_path / "lora"), weight_name=LORA_FILE)
    try:
        loaded = get_peft_model_state_dict(network, adapter_name="default_0")
        assert len(loaded) == len(policy.trainable_parameters())
        layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
        assert {layer.scaling["default_0"] for layer in layers} == {5 / 3}
        after = outputs(policy, folder, network)
    finally:
        pipeline.unload_lora_weights()
    expected = outputs(policy, folder, policy.denoiser.network)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("to_q", "expected lora_targets to be a list or None, got 'to_q'"),
        (["0"], r"such as .*to_out\.0.*got '0', which ends the names of "),
        (["norm1"], "got 'norm1', which ends the names of GroupNorm, LayerNorm"),
        (["to_z"], "got 'to_z'$"),
    ],
)
def test_targets_that_are_no_layers_are_refused(targets: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_agent(policy_kwargs={"lora_rank": 2, "lora_targets": targets})


@pytest.mark.parametrize("lora_rank", [2, 0])
def test_an_export_that_reads_back_as_something_else_is_refused(
    lora_rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file does not replace the export that was there."""
    policy = disturbed(emoji64_folder() / "pipeline", lora_rank=lora_rank)
    folder = export(policy, tmp_path / "exported")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def damage(file: Path) -> None:
        tensors = load_file(file)
        dropped = next(name for name in tensors if "to_q" in name)
        kept = {name: tensor for name, tensor in tensors.items() if name != dropped}
        save_file(kept, file, metadata={"format": "pt"})

    if lora_rank == 0:
        save = policy.denoiser.network.save_pretrained

        def save_damaged(partial: Path) -> None:
            save(partial)
            damage(next(Path(partial).glob("*.safetensors")))

        monkeypatch.setattr(policy.denoiser.network, "save_pretrained", save_damaged)
    else:
        save_all = save_file

        def save_some(tensors: Any, file: Path, metadata: Any) -> None:
            save_all(tensors, file, metadata)
            damage(file)

        monkeypatch.setattr(sys.modules["agents.policy.export"], "save_file", save_some)
    with pytest.raises(ExportError, match=r"it loads \d+, without .*to_q"):
        export(policy, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["exported"]


@pytest.mark.parametrize("lora_rank", [2, 0])
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_exports_are_readable_by_whom_the_umask_says(
    lora_rank: int, umask: int, tmp_path: Path
) -> None:
    policy = make_agent(policy_kwargs={"lora_rank": lora_rank}).policy
    before = os.umask(umask)
    try:
        folder = export(policy, tmp_path / "exported")
    finally:
        os.umask(before)
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask, file.name


@pytest.mark.parametrize("lora_rank", [2, 0])
def test_the_same_weights_are_the_same_bytes(lora_rank: int, tmp_path: Path) -> None:
    policy = make_agent(policy_kwargs={"lora_rank": lora_rank}).policy
    written = set()
    for run in range(4):
        folder = export(policy, tmp_path / str(run))
        written.add(tuple(file.read_bytes() for file in sorted(folder.iterdir())))
    assert len(written) == 1


class Bomb:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", [LORA_FILE, "pytorch_lora_weights.bin"])
def test_reading_an_export_again_runs_no_pickle(name: str, tmp_path: Path) -> None:
    policy = make_agent(policy_kwargs={"lora_rank": 2}).policy
    trace, folder = tmp_path / "trace", tmp_path / "exported"
    folder.mkdir()
    torch.save(Bomb(trace), folder / name)
    with pytest.raises((OSError, SafetensorError)):
        _load_adapters(policy.denoiser, folder)
    assert not trace.exists()


def test_what_the_bytes_hold_has_an_order(tmp_path: Path) -> None:
    """A set's order differs from process to process, and safetensors' that of several entries."""
    targets = ["to_v", "to_k", "to_q", "proj_in"]
    policy = make_agent(policy_kwargs={"lora_rank": 2, "lora_targets": targets}).policy
    with safe_open(export(policy, tmp_path / "lora") / LORA_FILE, framework="pt") as file:
        (entry,) = file.metadata().values()
    settings = json.loads(entry)
    assert list(settings) == sorted(settings)
    assert settings["unet.target_modules"] == sorted(targets)


def test_export_replaces_what_was_there(tmp_path: Path) -> None:
    policy = make_agent(policy_kwargs={"lora_rank": 2}).policy
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "stale").touch()
    export(policy, folder)
    assert [file.name for file in folder.iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["exported"]


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3"])
def test_an_export_on_top_of_lora_that_training_started_from(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    """The first is fused: base and KL are with it, and the second belongs on top of both."""
    first = trained(folder, lora_rank=2, lora_alpha=6)
    export(first, tmp_path / "first")
    options = {"lora_weights": str(tmp_path / "first"), "lora_scale": 0.8}
    env = model_env(folder, model_options=options)
    agent = make_agent(
        env,
        learning_rate=1e-2,
        n_epochs=3,
        policy_kwargs={"guidance": GUIDANCE, "lora_rank": 3},
    )
    observation, _ = env.reset(seed=0)
    conditions = agent.policy.conditions(observation)
    before = agent.policy.transition(*conditions).mean
    torch.testing.assert_close(before, agent.policy.base_transition(*conditions).mean)
    agent.learn(2)
    export(agent.policy, tmp_path / "second")
    latents = noise(folder)
    images = agent_images(agent.policy, folder, latents)

    pipeline = load_pipeline(kind, folder)
    plain = pipeline_images(pipeline, latents)
    pipeline.load_lora_weights(tmp_path / "first", weight_name=LORA_FILE)
    pipeline.fuse_lora(lora_scale=0.8)
    pipeline.unload_lora_weights()
    fused = pipeline_images(pipeline, latents)
    pipeline.load_lora_weights(tmp_path / "second", weight_name=LORA_FILE)
    expected = pipeline_images(pipeline, latents)
    assert np.abs(images - expected).max() < TOLERANCE
    assert np.abs(fused - plain).max() > 5 * TOLERANCE
    assert np.abs(expected - fused).max() > 5 * TOLERANCE

    # A run that goes on must start from the same LoRA.
    other = model_env(folder, model_options={**options, "lora_scale": 0.7})
    assert other.unwrapped.model.weights_hash != env.unwrapped.model.weights_hash
