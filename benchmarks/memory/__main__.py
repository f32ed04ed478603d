"""What training takes in memory at Stable Diffusion's sizes, and what fits on which card.

Weights, optimiser states and trajectories are counted; what a forward and backward pass needs on
top is found by running it on fake tensors, which have a size but no memory, and adding up all
tensors that are alive at once (`benchmarks.memory.tracing`). So it runs anywhere; on a GPU,
``--measure`` also makes the passes and shows what they took.

Run: ``python -m benchmarks.memory``. It writes ``runs/memory/memory.md``, or with ``--publish`` the
page in ``benchmarks/results``.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from agents.runs.run_folder import write_json
from benchmarks.destination import add_destination
from benchmarks.memory.estimate import (
    IMAGES,
    ROWS,
    STEPS,
    TRAININGS,
    USABLE,
    Needs,
    Training,
    measured_update,
    needs,
)
from benchmarks.sized.networks import SIZES, ModelSize
from benchmarks.tables import markdown_table

RESULTS = Path(__file__).parents[1] / "results" / "memory.md"
"""The page that is kept; a test compares it with what the command writes."""

GB = 1e9
CARDS = (16, 24, 80, 141)
"""Memory of usual cards, in GB."""

ROWS_OF_TABLE = {
    "denoiser": "denoiser",
    "gradients": "gradients",
    "optimizer": "optimiser states",
    "base_copy": "second denoiser",
    "other_networks": "autoencoder, text encoders",
    "trajectories": "trajectories",
    "old_weights": "nft: old weights",
    "final_latents": "nft: final latents",
    "first_pair": "pass of the first pair",
    "next_pair": "every further pair",
    "rollout": f"drawing {ROWS} images",
    "decoding": "decoding images",
}


def table_of(found: dict[Training, Needs]) -> list[list[str]]:
    """A table of one model, line by line; a column for every way to train."""
    table = [["GB", *map(str, found)]]
    trained = (needed.trained / 1e6 for needed in found.values())
    table.append(["weights trained", *(f"{millions:.1f} M" for millions in trained)])
    for name, label in ROWS_OF_TABLE.items():
        table.append([label, *(f"{getattr(needed, name) / GB:.2f}" for needed in found.values())])
    for card in CARDS:
        most = (needed.most_pairs(card * GB) for needed in found.values())
        table.append([f"pairs in {card} GB", *(str(pairs or "—") for pairs in most)])
    return table


def markdown(tables: dict[str, list[list[str]]]) -> str:
    """The tables as a page."""
    parts = [PAGE]
    for name, (header, *lines) in tables.items():
        parts += [f"\n## {name}\n", markdown_table(header, lines)]
    return "\n".join(parts) + "\n"


PAGE = f"""# What training takes in memory

Computed, not measured: `python -m benchmarks.memory` (`--publish` writes this page, `--measure`
compares with a GPU). In GB of 10^9 bytes.

- Always there: the denoiser's weights; gradients; states of the optimiser; where all weights train,
  the frozen second denoiser that divergences to the base model are measured with; autoencoder and
  text encoders; the trajectories of {IMAGES} images of {STEPS} steps.
- DiffusionNFT (`--algorithm nft`) has old weights in the place of the second denoiser (which an
  evaluation alone loads, in the place of gradients), and keeps the images' final latents alone in
  the place of trajectories; its passes are not guided.
- On top, one at a time: a forward and backward pass of the first (image, step) pair, guided, and
  of every further one; drawing {ROWS} guided images; decoding images (512 x 512: 4 at once).
- The last columns say how many pairs (`batch_size`) fit into a card of which {USABLE:.0%} are used.

Frozen networks are in the precision of the arithmetic, trained weights in float32. The optimiser
is `adamw_fused` unless another is named; `adamw` takes one more float32 copy of the trained weights
for the moment of its step. Reward models come on top."""


def main(arguments: list[str] | None = None) -> None:
    """Prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_destination(parser, "--output", "runs/memory/memory.md", RESULTS)
    parser.add_argument("--height", type=_pixels, help="of the pictures, in pixels")
    parser.add_argument("--width", type=_pixels, help="likewise")
    parser.add_argument("--measure", action="store_true", help="compare with this machine's GPU")
    parser.add_argument("--measured", type=Path, help="JSON file for what --measure finds")
    options = parser.parse_args(arguments)
    console = Console()
    sizes = {name: resized(size, options.height, options.width) for name, size in SIZES.items()}
    found = {name: {t: needs(size, t) for t in TRAININGS} for name, size in sizes.items()}
    tables = {name: table_of(by_training) for name, by_training in found.items()}
    for name, (header, *lines) in tables.items():
        table = Table(*header, title=name)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(markdown(tables))
    console.print(f"written to {options.output}")
    if options.measure:
        header, *lines = measured = measure(found, sizes)
        table = Table(*header, title="GB on top")
        for line in lines:
            table.add_row(*line)
        console.print(table)
        if options.measured:
            write_json(options.measured, measured)


def _pixels(text: str) -> int:
    """A side of a picture, which VAEs of eight pixels a cell can draw."""
    if not text.isdecimal() or int(text) % 8 or not int(text):
        raise argparse.ArgumentTypeError(f"expected a multiple of 8 pixels, got {text!r}")
    return int(text)


def resized(size: ModelSize, height: int | None, width: int | None) -> ModelSize:
    """The same model with pictures of another height, width or both, in pixels."""
    usual = size.image_size
    return dataclasses.replace(size, pixels=(height or usual[0], width or usual[1]))


def measure(
    found: dict[str, dict[Training, Needs]], sizes: Mapping[str, ModelSize]
) -> list[list[str]]:
    """What passes of one and of four pairs take on the GPU, beside what was computed, in GB."""
    rows = [["model", "training", "pairs", "computed", "measured"]]
    for name, by_training in found.items():
        for training, needed in by_training.items():
            for pairs in (1, 4):
                computed = needed.first_pair + (pairs - 1) * needed.next_pair
                taken = measured_update(sizes[name], training, pairs)
                figures = (f"{computed / GB:.2f}", f"{taken / GB:.2f}")
                rows.append([name, str(training), str(pairs), *figures])
                torch.cuda.empty_cache()
    return rows


if __name__ == "__main__":
    main()
