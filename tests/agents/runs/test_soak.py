"""Long runs: what two hundred rounds leave behind."""

import gc
import resource
from pathlib import Path

import pytest
import torch
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback

from agents.runs import training
from agents.runs.settings import TrainSettings
from agents.runs.training import Training

ROUNDS = 200
EVERY = 10
PAGE = resource.getpagesize()


class Census(BaseCallback):
    """Counts memory, tensors and open files between rounds, every tenth time."""

    def __init__(self) -> None:
        super().__init__()
        self.resident: list[int] = []
        self.tensors: list[int] = []
        self.files: list[int] = []

    def _on_rollout_start(self) -> None:
        if self.model.rounds % EVERY:
            return
        gc.collect()
        self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE)
        self.tensors.append(sum(isinstance(each, torch.Tensor) for each in gc.get_objects()))
        self.files.append(len(list(Path("/proc/self/fd").iterdir())))

    def _on_step(self) -> bool:
        return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_stays_flat(
    sd1_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the command line does between rounds: logs, checkpoints and evaluations."""
    settings = TrainSettings.of(
        model=str(sd1_folder),  # the smallest that there is: what is kept is what it would be
        images=2 * ROUNDS,
        num_envs=2,
        samples_per_prompt=2,
        num_inference_steps=2,
        batches_per_round=1,
        updates_per_round=1,
        guidance=1.0,
        lora_rank=2,
        checkpoint_every=20,
        eval_every=50,
        picture_every=10,
        eval_prompts=1,
        eval_samples=2,
        reward="jpeg_compressibility",
        prompts=["a cat"],  # embeddings of prompts that were met are kept
        output=str(tmp_path / "run"),
    )
    census = Census()
    real = training.CallbackList
    monkeypatch.setattr(training, "CallbackList", lambda known: real([*known, census]))
    Training(settings, Console(quiet=True)).run()
    assert len(census.resident) == ROUNDS // EVERY
    settled, end = slice(6, 10), slice(-4, None)
    assert max(census.tensors[end]) <= max(census.tensors[settled])
    assert max(census.files[end]) <= max(census.files[settled])
    grown = min(census.resident[end]) - max(census.resident[settled])
    assert grown < 30e6  # what allocators do
