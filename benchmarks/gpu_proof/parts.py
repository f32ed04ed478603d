"""The parts of the proof: commands, most wanted first, each with the time that it may take."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LAST_WORDS = 2000
"""Characters of a command's output that are kept."""

MOST = 0.5
"""Of the time of all parts, what one may take: what hangs is not to take it from the others."""

GRACE = 20.0
"""Seconds that a part has to end in good order when its time is over."""


@dataclass(frozen=True)
class Part:
    """One command.

    Attributes:
        name: Of the folder that it writes to.
        title: What it proves.
        arguments: After ``python``; ``{folder}`` stands for that folder.
        seconds: What it takes, roughly, on an H100; it is not begun with less time left.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
        part: The part.
        status: Exit status; None where it was left out or took too long.
        seconds: What it took.
        output: The end of what it printed.
    """

    part: Part
    status: int | None
    seconds: float
    output: str


def throughput(name: str, title: str, jobs: Sequence[str], repeats: int, seconds: float) -> Part:
    """A part of the throughput's jobs."""
    command = ("-m", "benchmarks.throughput", "--results", "{folder}", "--repeats", str(repeats))
    return Part(name, title, (*command, "--jobs", *jobs), seconds)


def _tests(file: str, *options: str) -> tuple[str, ...]:
    command = ("-m", "pytest", "-vv", f"tests/gpu/{file}", "--junitxml", "{folder}/tests.xml")
    return (*command, *options)


def _job(model: str, **options: Any) -> str:
    return f"{model}:{json.dumps(options)}"


LORA = {"lora_rank": 4, "dtype": "bfloat16", "guidance": 5.0, "batches_per_round": 1}
SD15 = LORA | {"num_inference_steps": 50, "num_envs": 16, "batch_size": 16}
SHORT = LORA | {"num_inference_steps": 10, "num_envs": 8, "samples_per_prompt": 4}

FULL = (
    Part("tests", "ratio 1, bit-equal resumption, export", _tests("test_training_at_size.py"), 120),
    throughput("sd15", "SD 1.5's size, LoRA", [_job("sd15", **SD15)], 2, 120),
    Part(
        "default_job",
        "the default job on the card",
        ("-m", "agents.train", "--device", "cuda", "--output", "{folder}/run"),
        40,
    ),
    Part(
        "memory",
        "measured memory beside the computed",
        (
            *("-m", "benchmarks.memory", "--output", "{folder}/memory.md"),
            *("--measure", "--measured", "{folder}/measured.json"),
        ),
        60,
    ),
    Part(
        "precisions",
        "ratio 1 and bit-equal resumption in every precision, LoRA and all weights",
        _tests("test_every_precision.py", "-k", "cuda and sd15"),
        90,
    ),
    throughput("compiled", "the same, compiled", [_job("sd15", **SD15, compile=True)], 2, 150),
    throughput("all_weights", "all weights", [_job("sd15", **(SD15 | {"lora_rank": 0}))], 1, 70),
    Part(
        "sizes",
        "the same at the sizes of SDXL and SD3",
        _tests("test_every_precision.py", "-k", "cuda and (sdxl or sd3)"),
        90,
    ),
    throughput("sdxl", "SDXL's size, LoRA", [_job("sdxl", **SHORT, batch_size=4)], 1, 90),
    throughput("sd3", "SD3's size, LoRA", [_job("sd3", **SHORT, batch_size=4)], 1, 90),
    throughput("embedded", "the embedded model", ['emoji-64:{"num_envs": 64}'], 3, 30),
)
"""What a lease of a card is for."""

_SMALL = {"num_inference_steps": 2, "num_envs": 4, "samples_per_prompt": 2, "batches_per_round": 1}
_SHORT_RUN = ("--images", "4", "--num-envs", "4", "--num-inference-steps", "2")

TOY = (
    Part(
        "tests",
        "tests/gpu in small",
        _tests(
            "test_training_at_size.py",
            *("-m", "not gpu", "-k", "ratio_is_one and not checkpointing"),
        ),
        60,
    ),
    throughput(
        "sizes",
        "small models of every kind",
        [_job(model, **_SMALL, lora_rank=4) for model in ("small", "small-xl", "small-3")],
        1,
        60,
    ),
    Part(
        "default_job",
        "a very short job",
        (
            *("-m", "agents.train", "--output", "{folder}/run", *_SHORT_RUN),
            *("--samples-per-prompt", "2", "--eval-prompts", "2", "--eval-samples", "1"),
        ),
        60,
    ),
)
"""The rehearsal, on any machine."""


def run(parts: Sequence[Part], folder: Path, minutes: float) -> Iterator[Outcome]:
    """Runs the parts one after the other, as long as there is time for the next.

    Args:
        parts: In the order of their worth.
        folder: Every part writes to a folder of its own in it.
        minutes: All of them together.
    """
    end = time.monotonic() + 60 * minutes
    for part in parts:
        left = end - time.monotonic()
        if left < part.seconds:
            yield Outcome(part, None, 0.0, f"left out: {left:.0f} s were left")
            continue
        own = folder / part.name
        own.mkdir(parents=True, exist_ok=True)
        command = [argument.replace("{folder}", str(own)) for argument in part.arguments]
        start = time.monotonic()
        most = min(left, 60 * minutes * MOST)
        status, output = _complete([sys.executable, *command], most)
        yield Outcome(part, status, time.monotonic() - start, output)


def _complete(command: list[str], seconds: float) -> tuple[int | None, str]:
    """Exit status and last words of a command.

    One whose time is over is told so as by Ctrl-C, so that it writes what it has; what it has
    started itself does not outlive it.
    """
    with tempfile.TemporaryFile() as output:
        # Background jobs of a shell ignore Ctrl-C, and so would what they start.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        signal.signal(signal.SIGINT, before)
        status = None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        words = output.read().decode(errors="replace")[-LAST_WORDS:]
    return status, words if status is not None else f"{words}\nstopped: its time was over"
