"""A Stable Diffusion of one's own: LoRA trained on it, and brought to where pictures are made.

``python examples/own_checkpoint.py path/to/stable-diffusion --dtype bfloat16`` leaves a run folder
whose ``exported`` diffusers reads, and in it the same adapters under the names of kohya's scripts,
which AUTOMATIC1111's interface and ComfyUI read.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.policy.export import LORA_FILE
from agents.runs.run_folder import RunFolder
from agents.runs.screen import Screen
from agents.runs.settings import TrainSettings
from agents.runs.training import Training

KOHYA_FILE = "kohya.safetensors"


def to_kohya(adapters: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Adapters of a UNet under the names of kohya's scripts.

    Args:
        adapters: As ``agents.train`` exports them.
        alpha: The run's ``lora_alpha``. diffusers' function takes the rank for it.
    """
    renamed = convert_state_dict_to_kohya(adapters)
    return {
        name: torch.tensor(float(alpha)) if name.endswith(".alpha") else tensor.contiguous()
        for name, tensor in renamed.items()
    }


def convert(run: RunFolder) -> Path:
    """Writes the adapters of a run under kohya's names, beside the export."""
    policy = run.settings.policy
    alpha = float(policy.lora_rank if policy.lora_alpha is None else policy.lora_alpha)
    adapters = load_file(run.exported / LORA_FILE)
    file = run.path / KOHYA_FILE
    save_file(to_kohya(adapters, alpha), file)
    return file


def main(arguments: Sequence[str] | None = None) -> RunFolder:
    """Trains LoRA on a checkpoint and converts it; returns the run folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="Stable Diffusion 1.x, 2.x or XL, as --model of agents.train")
    parser.add_argument("--reward", default="jpeg_compressibility")
    parser.add_argument("--prompts", default="animals")
    parser.add_argument("--images", type=int, default=25_600)
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--samples-per-prompt", type=int, default=8)
    parser.add_argument("--batches-per-round", type=int, default=8)
    parser.add_argument("--num-inference-steps", type=int, default=50)
    parser.add_argument("--eval-prompts", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", default="runs/own-checkpoint")
    options = parser.parse_args(arguments)
    settings = TrainSettings.of(**vars(options), gradient_checkpointing=True)
    training = Training(settings, Screen())
    status = training.run()
    if status:  # Ctrl-C, and a checkpoint to go on from
        raise SystemExit(status)
    print(f"for AUTOMATIC1111 and ComfyUI: {convert(training.run_folder)}")
    return training.run_folder


if __name__ == "__main__":
    main()
