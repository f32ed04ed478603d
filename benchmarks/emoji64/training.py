"""The training loop that every stage uses.

AdamW, one cycle of warm-up and cosine, gradients clipped to norm 1. On a GPU the whole step (data,
forward, backward, update) is compiled and captured into one CUDA graph: these networks are so small
that launching kernels one by one takes three times as long as running them.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.emoji64.networks import Network

LossFunction = Callable[[], Mapping[str, Tensor]]
"""Draws a batch and returns its scalars; the one named "loss" is minimised."""

WARM_UP = 0.025
FIRST_RATE = 0.02
CLIP_NORM = 1.0
GRAPH_WARM_UP_STEPS = 4
REPORT_SECONDS = 15.0


@dataclass(frozen=True)
class Machine:
    """Where and how to train.

    Attributes:
        device: The device of networks and data.
        compile: Whether to compile the networks; it pays on a GPU only.
        deadline: Value of `time.monotonic` at which training ends whatever the settings say.
    """

    device: torch.device
    compile: bool = False
    deadline: float = math.inf

    @property
    def is_gpu(self) -> bool:
        """Whether CUDA graphs and fused kernels are there."""
        return self.device.type == "cuda"

    def half_precision(self, enabled: bool = True) -> torch.autocast:
        """A context in which matrix products run in bfloat16."""
        # Cached casts would be freed under a captured graph.
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False
        )

    def training_precision(self) -> torch.autocast:
        """bfloat16 on a GPU; float32 on a CPU, where it is as fast for these networks."""
        return self.half_precision(self.is_gpu)

    def compiled(self, function: Any) -> Any:
        """The function or network, compiled where that is wanted."""
        return torch.compile(function) if self.compile else function

    def place(self, network: Network) -> Network:
        """Moves a network here, with convolutions in the faster channels-last layout."""
        return network.to(self.device).to(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How long and how hard to train one network.

    Attributes:
        seconds: Training time, without data preparation and compilation.
        batch_size: Samples per step.
        peak_rate: Highest learning rate.
        weight_decay: AdamW's.
        second_beta: AdamW's decay of the squared gradients' average.
        max_steps: End after so many steps if that is earlier.
    """

    seconds: float
    batch_size: int
    peak_rate: float
    weight_decay: float = 0.0
    second_beta: float = 0.99
    max_steps: int | None = None


@dataclass
class TrainingReport:
    """What a stage took and how it ended.

    Attributes:
        steps: Number of optimiser steps.
        seconds: Time they took.
        last: The scalars of the last step.
    """

    steps: int = 0
    seconds: float = 0.0
    last: dict[str, float] = field(default_factory=dict)

    @property
    def milliseconds_per_step(self) -> float:
        """Mean time of a step."""
        return 1000 * self.seconds / max(1, self.steps)

    def as_figures(self) -> dict[str, float]:
        """The report as numbers for a figures file."""
        return {
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "ms per step": round(self.milliseconds_per_step, 2),
            **{name: round(value, 4) for name, value in self.last.items()},
        }


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up over the first 2.5%, then a cosine to 0, for ``progress`` in [0, 1]."""
    warm_up = min(1.0, FIRST_RATE + progress / WARM_UP)
    return peak * warm_up * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(
    name: str,
    network: nn.Module,
    loss_function: LossFunction,
    settings: StageSettings,
    machine: Machine,
    after_step: Callable[[int], None] | None = None,
) -> TrainingReport:
    """Trains a network until its time or its steps are over.

    Args:
        name: For the lines that report progress.
        network: What is optimised, in place.
        loss_function: Draws a batch and computes its loss.
        settings: Time, batch and rate.
        machine: Where to train.
        after_step: Called with the number of steps done so far.
    """
    optimizer = _new_optimizer(network, settings, machine)
    # On a GPU, compiling and capturing are over before the clock starts.
    step = _capture(loss_function, optimizer, network, machine)
    # Reading the clock waits for the GPU, so it is read only now and then there.
    steps_per_check = 10 if machine.is_gpu else 1
    report = TrainingReport()
    start = time.monotonic()
    seconds = min(settings.seconds, machine.deadline - start)
    last_line, progress = start, 0.0
    while progress < 1:
        # The rate follows the clock where time ends the training, so that it vanishes at the end
        # on any machine.
        _set_rate(optimizer, learning_rate(progress, settings.peak_rate))
        for _ in range(steps_per_check):
            scalars = step()
            report.steps += 1
            if after_step is not None:
                after_step(report.steps)
        if machine.is_gpu:
            torch.cuda.synchronize()
        now = time.monotonic()
        report.seconds = now - start
        progress = _progress(report, seconds, settings.max_steps)
        if now - last_line > REPORT_SECONDS or progress >= 1:
            last_line = now
            report.last = {key: value.item() for key, value in scalars.items()}
            _print_line(name, report, progress)
    return report


def _progress(report: TrainingReport, seconds: float, max_steps: int | None) -> float:
    by_time = report.seconds / seconds if seconds > 0 else 1.0
    by_steps = report.steps / max_steps if max_steps is not None else 0.0
    return max(by_time, by_steps)


def _print_line(name: str, report: TrainingReport, progress: float) -> None:
    scalars = ", ".join(f"{key} {value:.4f}" for key, value in report.last.items())
    print(
        f"{name}: {min(1.0, progress):4.0%}, {report.steps} steps, "
        f"{report.milliseconds_per_step:.1f} ms each, {scalars}",
        flush=True,
    )


def _new_optimizer(
    network: nn.Module, settings: StageSettings, machine: Machine
) -> torch.optim.Optimizer:
    rate = settings.peak_rate * FIRST_RATE
    return torch.optim.AdamW(
        network.parameters(),
        # A captured graph reads the rate from the device.
        lr=torch.tensor(rate, device=machine.device) if machine.is_gpu else rate,
        betas=(0.9, settings.second_beta),
        weight_decay=settings.weight_decay,
        fused=True,
        capturable=machine.is_gpu,
    )


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _capture(
    loss_function: LossFunction,
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    machine: Machine,
) -> LossFunction:
    """One whole training step as a function; on a GPU the replay of a captured graph."""
    parameters = list(network.parameters())

    def update() -> dict[str, Tensor]:
        scalars = loss_function()
        scalars["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        return {key: value.detach() for key, value in scalars.items()}

    def eager_step() -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        return update()

    if not machine.is_gpu:
        return eager_step

    # Compilation, autotuning and the optimiser's state must be over before the capture.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(GRAPH_WARM_UP_STEPS):
            eager_step()
    torch.cuda.current_stream().wait_stream(stream)
    # Gradients that are None now are allocated by the graph and overwritten at each replay.
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = update()

    def replay() -> dict[str, Tensor]:
        graph.replay()
        return outputs

    return replay
