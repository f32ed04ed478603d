"""LoRA in bfloat16 from rollout to export, on the networks of Stable Diffusion 1.5.

Every test runs in small on any machine, which proves the code, and at full size where there is a
GPU, which proves that it fits and that the GPU's kernels keep the promises.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from sized_training import Setting, adapters, disturb, log_probs, needs_gpu

from agents.common.checkpoint import save_checkpoint
from agents.nft import DiffusionNFT
from agents.policy.export import export
from agents.ppo import DiffusionPPO
from benchmarks.memory.estimate import Training, measured_update, needs
from benchmarks.sized.networks import SD15, SMALL


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((SMALL, "cpu"), id="small"),
        pytest.param((SD15, "cuda"), id="sd15", marks=needs_gpu),
    ],
)
def setting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setting]:
    """Deterministic algorithms: a resumed run is to be equal bit for bit."""
    size, device = request.param
    torch.use_deterministic_algorithms(True)
    yield Setting(size, device, tmp_path_factory.mktemp("checkpoints") / size.name)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints past pytest's capture."""

    def print_now(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", end="")

    return print_now


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_ratio_is_one_before_the_first_update(setting: Setting, checkpointing: bool) -> None:
    agent = setting.agent(gradient_checkpointing=checkpointing)
    disturb(agent)
    drawn, again = log_probs(agent)
    assert again.requires_grad
    assert torch.equal((again.detach() - drawn).exp(), torch.ones_like(again))


def test_a_round_of_training(setting: Setting, say: Callable[[str], None]) -> None:
    """Rollout, reward and update; what they take is printed."""
    agent = setting.agent()
    before = adapters(agent)
    frozen = [p for p in agent.policy.denoiser.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    checksum = sum(p.double().sum() for p in frozen)
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    agent.learn(8)
    seconds = time.perf_counter() - start
    assert agent.rounds == 2
    assert not torch.equal(adapters(agent), before)
    assert adapters(agent).isfinite().all()
    assert sum(p.double().sum() for p in frozen) == checksum
    if setting.device == "cuda":
        say(f"{setting.size}: {8 / seconds:.2f} images/s with 4 steps, guided")
        say(f"{setting.size}: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB at most")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_compiled_round(tmp_path: Path, say: Callable[[str], None]) -> None:
    """Compiled for sampling and for training, the denoiser is to round alike."""
    setting = Setting(SD15, "cuda", tmp_path / "checkpoint")
    agent = setting.agent(compile=True)
    agent.learn(4)
    start = time.perf_counter()
    agent.learn(8)
    say(f"{setting.size}, compiled: {8 / (time.perf_counter() - start):.2f} images/s")
    assert adapters(agent).isfinite().all()
    say(f"log-probabilities taken anew in {agent.log_probs_recomputed} of {agent.rounds} rounds")


def test_a_resumed_run_equals_the_uninterrupted_one(setting: Setting, tmp_path: Path) -> None:
    whole = setting.agent(gradient_checkpointing=True).learn(8)
    first = setting.agent(gradient_checkpointing=True).learn(4)
    folder = save_checkpoint(first, tmp_path / "round-000001")
    resumed = DiffusionPPO.resume(folder, setting.env())
    resumed.learn(4, reset_num_timesteps=False)
    assert torch.equal(adapters(resumed), adapters(whole))
    assert resumed.rounds == whole.rounds == 2


def test_a_resumed_run_on_the_forward_process_equals_the_uninterrupted_one(
    setting: Setting, tmp_path: Path
) -> None:
    whole = setting.forward_agent().learn(8)
    folder = save_checkpoint(setting.forward_agent().learn(4), tmp_path / "round-000001")
    resumed = DiffusionNFT.resume(folder, setting.env())
    resumed.learn(4, reset_num_timesteps=False)
    assert torch.equal(adapters(resumed), adapters(whole))
    assert adapters(resumed).isfinite().all()


@torch.no_grad()
def test_exported_adapters_do_the_same_in_diffusers(setting: Setting, tmp_path: Path) -> None:
    agent = setting.agent()
    disturb(agent)
    policy = agent.policy
    observation, _ = agent.env.base_env.reset(seed=0)
    latents, index, embedding = policy.conditions(observation)
    timesteps = policy.schedule.timesteps[index]
    with policy.precision.autocast():
        ours = policy.denoiser(latents, timesteps, embedding).float()
    pipeline = StableDiffusionPipeline.from_pretrained(setting.folder).to(setting.device)

    def theirs() -> torch.Tensor:
        output: torch.Tensor = pipeline.unet(latents, timesteps, embedding.tokens).sample
        return output

    base = theirs()
    exported = export(policy, tmp_path / "exported")
    pipeline.load_lora_weights(exported, weight_name="pytorch_lora_weights.safetensors")
    rounding = (ours - theirs()).std()
    assert rounding < 0.03 * ours.std()
    assert (ours - base).std() > 3 * rounding


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_the_memory_is_that_of_the_table(checkpointing: bool, say: Callable[[str], None]) -> None:
    training = Training(4, gradient_checkpointing=checkpointing)
    found = needs(SD15, training)
    computed = found.first_pair + found.next_pair
    measured = measured_update(SD15, training, 2)
    say(f"{training}: computed {computed / 1e9:.2f} GB, measured {measured / 1e9:.2f} GB")
    assert measured == pytest.approx(computed, rel=0.25)
