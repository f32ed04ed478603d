"""The whole recipe: four stages, each of which writes its part of the model's folder."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderTiny
from transformers import CLIPModel

from benchmarks.emoji64 import export
from benchmarks.emoji64.composer import Composer
from benchmarks.emoji64.evaluate import (
    FigureTree,
    Judges,
    balanced_scenes,
    measure_alignment,
    rounded,
)
from benchmarks.emoji64.measures import measure_autoencoder, measure_clip, measure_verifier
from benchmarks.emoji64.networks import Network
from benchmarks.emoji64.pictures import Pictures, make_pictures
from benchmarks.emoji64.sampler import Sampler
from benchmarks.emoji64.sprites import load_atlas, render_atlas
from benchmarks.emoji64.train_autoencoder import AutoencoderSettings, train_autoencoder
from benchmarks.emoji64.train_clip import ClipSettings, train_clip
from benchmarks.emoji64.train_denoiser import DenoiserSettings, train_denoiser
from benchmarks.emoji64.train_verifier import VerifierSettings, train_verifier
from benchmarks.emoji64.training import Machine, StageSettings, TrainingReport
from diffusion_gym.errors import InvalidInputError, unknown_name
from diffusion_gym.models import load_model

STAGES = ("autoencoder", "clip", "verifier", "denoiser")

Settings = TypeVar("Settings", bound=StageSettings)


@dataclass(frozen=True)
class Recipe:
    """Sizes, times and rates of everything; the defaults are the full scale on one GPU.

    Attributes:
        grid_pictures: Cached scenes on the grid, for stages 1 to 3.
        free_pictures: Cached freely placed scenes.
        measured: Fresh scenes that each finished stage is measured on, a multiple of 4.
        minutes: The recipe ends after so long, at the cost of the stage then running.
        autoencoder: Settings of stage 1.
        clip: Settings of stage 2.
        verifier: Settings of stage 3.
        denoiser: Settings of stage 4.
    """

    grid_pictures: int = 262_144
    free_pictures: int = 131_072
    measured: int = 1024
    minutes: float = math.inf
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    clip: ClipSettings = field(default_factory=ClipSettings)
    verifier: VerifierSettings = field(default_factory=VerifierSettings)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)


def gpu_recipe() -> Recipe:
    """All four networks on one large GPU within 20 minutes.

    The time is for training, 945 s of it, and for rendering, compiling and measuring. The training
    of the last stage is cut short where these take longer than thought.
    """
    return Recipe(minutes=19)


def cpu_recipe() -> Recipe:
    """What a CPU can do: the denoiser of the embedded model took these settings on two cores."""
    return Recipe(
        grid_pictures=32_768,
        free_pictures=16_384,
        measured=256,
        denoiser=DenoiserSettings(
            seconds=4800.0,
            batch_size=64,
            peak_rate=1e-3,
            scenes=98_304,
            average_decay=0.99,
            average_interval=5,
        ),
    )


def toy_recipe() -> Recipe:
    """Two steps per stage on a handful of scenes: it shows that everything fits together."""
    return Recipe(
        grid_pictures=16,
        free_pictures=8,
        measured=32,
        autoencoder=_two_steps(AutoencoderSettings()),
        clip=_two_steps(ClipSettings()),
        verifier=_two_steps(VerifierSettings()),
        denoiser=_two_steps(DenoiserSettings(scenes=16, channels=(32, 64))),
    )


def _two_steps(settings: Settings) -> Settings:
    """The same settings, but for two steps of four samples."""
    return replace(settings, seconds=60.0, batch_size=4, max_steps=2)


class Workshop:
    """Runs stages, and keeps what later stages need."""

    def __init__(
        self, out: Path, recipe: Recipe, machine: Machine, *, stage1: Path, icons: Path | None
    ) -> None:
        """Prepares a run.

        Args:
            out: Folder that the networks are written to.
            recipe: Sizes and times.
            machine: Where to train; the recipe's minutes count from here.
            stage1: Folder with the networks of the stages that are not run.
            icons: Folder of the icon sets to render sprites from; the shipped atlas if None.
        """
        self.out = out
        self.recipe = recipe
        self.machine = replace(machine, deadline=time.monotonic() + 60 * recipe.minutes)
        self.figures: dict[str, FigureTree] = {}
        self._stage1 = stage1
        atlas = load_atlas() if icons is None else render_atlas(icons)
        self.composer = Composer(atlas, machine.device)
        self._generator = torch.Generator(machine.device).manual_seed(4321)
        self._pictures: Pictures | None = None
        # Each under its stage's name; `_network` gives them out with their types.
        self._trained: dict[str, Any] = {}

    def run(self, stages: Sequence[str]) -> None:
        """Runs the named stages, in the recipe's order whatever the order of the names.

        Raises:
            InvalidInputError: An unknown stage, or none.
        """
        for name in stages:
            if name not in STAGES:
                raise unknown_name("stage", name, STAGES)
        if not stages:
            raise InvalidInputError(f"expected some of the stages {', '.join(STAGES)}, got none")
        self.out.mkdir(parents=True, exist_ok=True)
        steps = {
            "autoencoder": self._run_autoencoder,
            "clip": self._run_clip,
            "verifier": self._run_verifier,
            "denoiser": self._run_denoiser,
        }
        for name in STAGES:
            if name in stages:
                steps[name]()

    @property
    def pictures(self) -> Pictures:
        """The cached pictures, rendered when the first stage asks for them."""
        if self._pictures is None:
            self._pictures = make_pictures(
                self.composer, self.recipe.grid_pictures, self.recipe.free_pictures
            )
        return self._pictures

    @property
    def _autoencoder(self) -> AutoencoderTiny:
        return self._network("autoencoder", export.load_autoencoder)

    @property
    def _clip(self) -> CLIPModel:
        return self._network("clip", export.load_clip)

    def _network(self, name: str, load: Callable[[Path], Network]) -> Network:
        """A network trained in this run, else the one of the given stage-1 folder."""
        if name not in self._trained:
            self._trained[name] = self.machine.place(load(self._stage1))
        network: Network = self._trained[name]
        return network

    def _record(self, stage: str, report: TrainingReport, measured: FigureTree) -> None:
        self.figures[stage] = rounded({"training": report.as_figures(), "measured": measured})
        text = json.dumps(self.figures, indent=1) + "\n"
        (self.out / "training.json").write_text(text, encoding="utf-8")
        print(f"{stage}: {json.dumps(self.figures[stage]['measured'])}", flush=True)

    def _run_autoencoder(self) -> None:
        network, report = train_autoencoder(self.pictures, self.recipe.autoencoder, self.machine)
        self._trained["autoencoder"] = network
        export.save_autoencoder(network, self.out)
        measured = measure_autoencoder(
            network, self.composer, self.recipe.measured, self._generator
        )
        self._record("autoencoder", report, measured)

    def _run_clip(self) -> None:
        network, report = train_clip(self.pictures, self.recipe.clip, self.machine)
        self._trained["clip"] = network
        export.save_clip(network, self.out)
        measured = measure_clip(network, self.composer, self.recipe.measured, self._generator)
        self._record("clip", report, measured)

    def _run_verifier(self) -> None:
        network, report = train_verifier(
            self.pictures, self._autoencoder, self.recipe.verifier, self.machine
        )
        self._trained["verifier"] = network
        export.save_verifier(network, self.out)
        measured = measure_verifier(
            network, self._autoencoder, self.composer, self.recipe.measured, self._generator
        )
        self._record("verifier", report, measured)

    def _run_denoiser(self) -> None:
        self._pictures = None  # gigabytes of device memory that nothing needs any more
        network, report = train_denoiser(
            self.composer, self._autoencoder, self._clip, self.recipe.denoiser, self.machine
        )
        prediction = self.recipe.denoiser.prediction
        export.save_pipeline(network, self._autoencoder, self._clip, self.out, prediction)
        verifier = self._network("verifier", export.load_verifier)
        export.save_verifier(verifier, self.out)
        measured = self._measure_pipeline(Judges(self._clip, verifier))
        self._record("denoiser", report, measured)

    def _measure_pipeline(self, judges: Judges) -> dict[str, dict[str, float]]:
        """Alignment of the exported pipeline at guidance 1 and 10 steps."""
        model = load_model(str(self.out / export.PIPELINE), device=str(self.machine.device))
        scenes = balanced_scenes(self.recipe.measured, self.machine.device, self._generator)
        sampler = Sampler(model, model.new_denoiser())
        return measure_alignment(sampler, judges, self.composer, scenes, (1.0,), (10,))
