"""Measures a text-to-image model of the emoji scenes, and reproduces the model card's figures.

Run: ``python -m benchmarks.emoji64.evaluate [--model emoji-64] [--prompts 256]``

It prints tables and writes figures.json, samples.png and samples.txt to
``runs/emoji64-evaluation``, or with ``--publish`` over the ones in ``benchmarks/emoji64/results``.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, Union

import torch
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import CLIPModel
from transformers.utils.logging import disable_progress_bar

from benchmarks.destination import add_destination
from benchmarks.emoji64.captions import CaptionIds
from benchmarks.emoji64.composer import Composer
from benchmarks.emoji64.export import load_clip, load_verifier
from benchmarks.emoji64.measures import (
    check_images,
    features_of_images,
    measure_autoencoder,
    measure_clip,
    measure_verifier,
    shares_of_facts,
)
from benchmarks.emoji64.networks import text_features
from benchmarks.emoji64.sampler import Sampler
from benchmarks.emoji64.sampling import sample_scenes
from benchmarks.emoji64.scenes import SceneBatch
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.emoji64.scenes import KINDS, caption
from diffusion_gym.emoji64.verifier import SceneVerifier
from diffusion_gym.errors import DiffusionGymError, InvalidInputError
from diffusion_gym.images import image_grid, to_uint8
from diffusion_gym.models import load_model

GUIDANCES = (1.0, 2.0, 4.0)
STEPS = (10, 20)
DIVERSITY_GUIDANCES = (1.0, 3.0)
DIVERSITY_STEPS = 20
DIVERSITY_COPIES = 8
DIVERSITY_PROMPTS = (
    "a cat",
    "a rocket",
    "a 3d dog",
    "an apple on a blue background",
    "a cat and a dog",
    "a fish to the left of a bell",
    "a red heart above a star",
    "three bananas",
)
SPEED_BATCH = 64
SPEED_REPEATS = 7
PICTURES_PER_KIND = 8
PICTURES_PER_ROW = 16

RESULTS = Path(__file__).parent / "results"
"""The figures and samples of the embedded model that are kept beside its recipe."""

FigureTree: TypeAlias = Mapping[str, Union[int, float, str, "FigureTree"]]
"""Figures by name, in groups of any depth."""


@dataclass(frozen=True)
class Judges:
    """The networks that score pictures."""

    clip: CLIPModel
    verifier: SceneVerifier

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "Judges":
        """Loads ``clip/`` and ``verifier/`` of a folder."""
        return cls(load_clip(folder).to(device), load_verifier(folder).to(device))


def balanced_scenes(number: int, device: torch.device, generator: torch.Generator) -> SceneBatch:
    """Fresh scenes of the grid, equally many of each kind, kind by kind.

    Raises:
        InvalidInputError: The number is no positive multiple of the number of kinds.
    """
    if number < len(KINDS) or number % len(KINDS):
        raise InvalidInputError(
            f"expected a positive multiple of {len(KINDS)} prompts, one per kind, got {number}"
        )
    # The rarest kind has a share of .15: eight times as many scenes hold enough of it but for
    # the smallest numbers.
    scenes = sample_scenes(8 * number + 256, device=device, generator=generator)
    share = number // len(KINDS)
    rows = [(scenes.kind == kind).nonzero()[:share, 0] for kind in range(len(KINDS))]
    return scenes[torch.cat(rows)]


def measure_alignment(
    sampler: Sampler,
    judges: Judges,
    composer: Composer,
    scenes: SceneBatch,
    guidances: Sequence[float] = GUIDANCES,
    steps: Sequence[int] = STEPS,
) -> dict[str, dict[str, float]]:
    """CLIP score and share of right facts, of real pictures and of the model's."""
    wanted = scenes.to_scenes()
    captions = [caption(scene) for scene in wanted]
    with torch.no_grad():
        texts = text_features(judges.clip, CaptionIds(composer.device)(scenes))

    def judge(images: Tensor) -> dict[str, float]:
        scores = (features_of_images(judges.clip, images) * texts).sum(-1)
        checked = check_images(judges.verifier, images, wanted)
        return {"CLIP score": scores.mean().item(), **shares_of_facts(checked, wanted)}

    figures = {"real images": judge(composer.render(scenes))}
    for guidance in guidances:
        for number in steps:
            images = sampler.draw(captions, guidance=guidance, steps=number)
            figures[f"guidance {guidance:g}, {number} steps"] = judge(images)
    return figures


def dissimilarity(features: Tensor) -> float:
    """1 minus the mean similarity of different pictures, of unit vectors ``[..., B, D]``."""
    number = features.shape[-2]
    similarities = features @ features.transpose(-1, -2)
    different = similarities.sum((-1, -2)) - number
    return 1 - (different / (number * (number - 1))).mean().item()


def measure_diversity(sampler: Sampler, clip: CLIPModel, real: Tensor) -> dict[str, float]:
    """Dissimilarity of pictures of one caption, and of real pictures of different captions."""
    prompts = [prompt for prompt in DIVERSITY_PROMPTS for _ in range(DIVERSITY_COPIES)]
    figures = {}
    for guidance in DIVERSITY_GUIDANCES:
        images = sampler.draw(prompts, guidance=guidance, steps=DIVERSITY_STEPS)
        features = features_of_images(clip, images)
        groups = features.unflatten(0, (len(DIVERSITY_PROMPTS), DIVERSITY_COPIES))
        figures[f"one caption, guidance {guidance:g}"] = dissimilarity(groups)
    figures["real images of different captions"] = dissimilarity(features_of_images(clip, real))
    return figures


def measure_speed(sampler: Sampler) -> dict[str, float]:
    """Milliseconds per sample at batch 64, the median of several runs."""
    model = sampler.model
    denoiser = model.new_denoiser().requires_grad_(True)
    latents = torch.randn(SPEED_BATCH, *model.latent_shape, device=model.device)
    timesteps = torch.full((SPEED_BATCH,), 500, device=model.device)
    embedding = model.encode(["a cat"] * SPEED_BATCH)

    def forward() -> Tensor:
        output: Tensor = denoiser(latents, timesteps, embedding)
        return output

    with torch.no_grad():
        forward_time = _milliseconds(forward, model.device)
    both_time = _milliseconds(lambda: forward().square().mean().backward(), model.device)
    return {
        "denoiser forward": forward_time,
        "denoiser forward and backward": both_time,
        "decode": _milliseconds(lambda: model.decode(latents), model.device),
    }


def _milliseconds(function: Callable[[], object], device: torch.device) -> float:
    """Median time of a call, per sample."""
    times = []
    for _ in range(SPEED_REPEATS):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times) / SPEED_BATCH


def image_sheet(images: Tensor, per_row: int) -> Image.Image:
    """Pictures ``[B, 3, H, W]`` in [0, 1] side by side."""
    return Image.fromarray(image_grid(to_uint8(images), per_row, gap=0))


def write_samples(sampler: Sampler, scenes: SceneBatch, out: Path) -> None:
    """Writes a picture of samples with guidance 1 above the same captions with guidance 3."""
    share = len(scenes) // len(KINDS)
    number = min(PICTURES_PER_KIND, share)
    captions = [caption(scene) for scene in scenes.to_scenes()]
    captions = [captions[kind * share + row] for kind in range(len(KINDS)) for row in range(number)]
    images = [sampler.draw(captions, guidance=guidance, steps=20, seed=7) for guidance in (1, 3)]
    per_row = min(PICTURES_PER_ROW, len(captions))
    image_sheet(torch.cat(images), per_row).save(out / "samples.png")
    lines = [
        f"samples.png: {per_row} pictures a row, 20 steps, eta 1; "
        "the upper half has guidance 1, the lower half guidance 3. The captions of each half:",
        *(f"{number}. {text}" for number, text in enumerate(captions, start=1)),
    ]
    (out / "samples.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def evaluate(model_name: str, prompts: int, judge: Path, out: Path, device: str) -> FigureTree:
    """Measures everything and writes it to a folder.

    Args:
        model_name: What `diffusion_gym.models.load_model` takes.
        prompts: Number of captions, a multiple of 4.
        judge: Folder of ``clip/`` and ``verifier/``.
        out: Folder for figures.json, samples.png and samples.txt.
        device: What `diffusion_gym.models.load_model` takes.

    Returns:
        The figures.
    """
    # Everything is loaded, and the number of prompts checked, before the folder is made: a mistake
    # leaves nothing behind.
    model = load_model(model_name, device=device)
    sampler = Sampler(model, model.new_denoiser())
    judges = Judges.load(judge, model.device)
    composer = Composer(device=model.device)
    autoencoder = model.decoder.vae
    generator = torch.Generator(model.device).manual_seed(1234)
    scenes = balanced_scenes(prompts, model.device, generator)
    out.mkdir(parents=True, exist_ok=True)
    # One generator goes through these in turn: another order gives other figures.
    figures: FigureTree = {
        "model": model_name,
        "weights": model.weights_hash,
        "denoiser parameters": _parameters(sampler.denoiser),
        "autoencoder parameters": _parameters(autoencoder),
        "prompts": prompts,
        "alignment": measure_alignment(sampler, judges, composer, scenes),
        "diversity": measure_diversity(sampler, judges.clip, composer.render(scenes[:64])),
        "autoencoder": measure_autoencoder(autoencoder, composer, 2 * prompts, generator),
        "clip": measure_clip(judges.clip, composer, 4 * prompts, generator),
        "verifier": measure_verifier(
            judges.verifier, autoencoder, composer, 4 * prompts, generator
        ),
        f"ms per sample, batch {SPEED_BATCH}": measure_speed(sampler),
        "machine": _machine(model.device),
    }
    figures = rounded(figures)
    text = json.dumps(figures, indent=1) + "\n"
    (out / "figures.json").write_text(text, encoding="utf-8")
    write_samples(sampler, scenes, out)
    return figures


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def rounded(figures: FigureTree) -> FigureTree:
    """The same figures with four digits after the point."""

    def rounded_item(item: int | float | str | FigureTree) -> int | float | str | FigureTree:
        if isinstance(item, Mapping):
            return rounded(item)
        return round(item, 4) if isinstance(item, float) else item

    return {name: rounded_item(item) for name, item in figures.items()}


def print_figures(figures: FigureTree, console: Console) -> None:
    """Prints every group of figures as a table."""
    for name, group in figures.items():
        if not isinstance(group, Mapping):
            continue
        # A group holds either figures alone, or one group of them per setting.
        settings = {key: item for key, item in group.items() if isinstance(item, Mapping)}
        console.print(_wide_table(name, settings) if settings else _tall_table(name, group))


def _wide_table(name: str, group: Mapping[str, FigureTree]) -> Table:
    """One column per setting, one row per figure."""
    # Without padding the seven settings of the alignment fit a terminal of 80 columns.
    table = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", no_wrap=True)
    for setting in group:
        table.add_column(setting, justify="right")
    for figure in next(iter(group.values())):
        table.add_row(figure, *(f"{values[figure]:.3f}" for values in group.values()))
    return table


def _tall_table(name: str, group: FigureTree) -> Table:
    """One row per figure."""
    table = Table("", "", title=name, title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    for key, value in group.items():
        table.add_row(key, f"{value:.3f}")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.emoji64.evaluate",
        description="Measure a text-to-image model of the emoji scenes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="emoji-64", help="embedded model or pipeline folder")
    parser.add_argument("--prompts", type=int, default=256, help="number of captions")
    parser.add_argument(
        "--judge",
        type=Path,
        default=emoji64_folder(),
        help="folder whose clip/ and verifier/ score the pictures",
    )
    add_destination(parser, "--out", "runs/emoji64-evaluation", RESULTS)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def main() -> None:
    """Command line."""
    parser = _parser()
    arguments = parser.parse_args()
    disable_progress_bar()
    try:
        figures = evaluate(
            arguments.model, arguments.prompts, arguments.judge, arguments.out, arguments.device
        )
    except (DiffusionGymError, OSError) as error:
        parser.error(str(error))
    console = Console()
    print_figures(figures, console)
    console.print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
