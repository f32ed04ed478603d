"""Trains the embedded model: ``python -m benchmarks.emoji64``, into ``runs/emoji64``."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.emoji64.recipe import (
    STAGES,
    Recipe,
    Workshop,
    cpu_recipe,
    gpu_recipe,
    toy_recipe,
)
from benchmarks.emoji64.training import Machine
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import DiffusionGymError
from diffusion_gym.models.loading import resolve_device
from diffusion_gym.schedules.diffusers_config import PREDICTIONS

EXAMPLES = """\
examples:
  everything at full scale on one GPU, within 20 minutes:
    python -m benchmarks.emoji64
  only a denoiser, on the embedded model's autoencoder and CLIP:
    python -m benchmarks.emoji64 --stages denoiser
  the embedded model's own denoiser (80 minutes on two CPU cores):
    python -m benchmarks.emoji64 --stages denoiser --device cpu --true-captions
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.emoji64",
        description="Train the networks of the embedded model from composed emoji scenes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/emoji64"),
        help="folder for the networks (default: runs/emoji64)",
    )
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="what to train (default: all)"
    )
    parser.add_argument(
        "--stage1",
        type=Path,
        default=emoji64_folder(),
        help="folder with the networks of the stages left out (default: the embedded model)",
    )
    parser.add_argument(
        "--icons", type=Path, help="render the sprites anew from these icon sets (see sprites.py)"
    )
    parser.add_argument("--toy", action="store_true", help="two steps per stage, to try it out")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="end after so long (default: 19 on a GPU)")
    for stage in STAGES:
        parser.add_argument(f"--seconds-{stage}", type=float, help=f"training time of the {stage}")
    parser.add_argument(
        "--channels",
        type=lambda text: tuple(int(width) for width in text.split(",")),
        help="the denoiser's widths: 64,128 (4.3M parameters, the default) or 96,192 (9.5M)",
    )
    parser.add_argument(
        "--prediction",
        choices=PREDICTIONS,
        default="v_prediction",
        help="what the denoiser predicts (default: v_prediction)",
    )
    parser.add_argument(
        "--true-captions",
        action="store_true",
        help="train the denoiser on captions that are always true of their pictures",
    )
    parser.add_argument(
        "--warm-start", type=Path, help="folder of a denoiser (unet/) to start from"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the networks (default: on a GPU)",
    )
    return parser


def _configured(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """The recipe with the command line's changes."""
    for stage in STAGES:
        seconds = getattr(arguments, f"seconds_{stage}")
        if seconds is not None:
            settings = replace(getattr(recipe, stage), seconds=seconds)
            recipe = replace(recipe, **{stage: settings})
    if arguments.minutes is not None:
        recipe = replace(recipe, minutes=arguments.minutes)
    denoiser = replace(
        recipe.denoiser,
        channels=arguments.channels or recipe.denoiser.channels,
        prediction=arguments.prediction,
        true_captions=arguments.true_captions,
        warm_start=arguments.warm_start,
    )
    return replace(recipe, denoiser=denoiser)


def _configure_torch(seed: int) -> None:
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def main() -> None:
    """Command line."""
    parser = _parser()
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    # Reading the text tower out of CLIP reports every weight of the vision tower as unexpected.
    transformers_logging.set_verbosity_error()
    try:
        device = resolve_device(arguments.device)
        is_gpu = device.type == "cuda"
        recipe = toy_recipe() if arguments.toy else gpu_recipe() if is_gpu else cpu_recipe()
        compiled = is_gpu if arguments.compile is None else arguments.compile
        _configure_torch(arguments.seed)
        workshop = Workshop(
            arguments.out,
            _configured(recipe, arguments),
            Machine(device, compile=compiled),
            stage1=arguments.stage1,
            icons=arguments.icons,
        )
        workshop.run(arguments.stages)
    except (DiffusionGymError, OSError) as error:
        parser.error(str(error))
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
