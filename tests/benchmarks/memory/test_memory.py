import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from agents.policy.precision import Precision
from benchmarks.memory import __main__ as command
from benchmarks.memory.__main__ import RESULTS, markdown, table_of
from benchmarks.memory.estimate import (
    TRAININGS,
    Needs,
    Training,
    guided_output,
    make_gradients,
    needs,
    resident,
    traced_update,
    training_denoiser,
    update_pass,
)
from benchmarks.memory.tracing import PeakMemory, SavedTensors, parameter_bytes
from benchmarks.sized.networks import SD15, SDXL, SIZES, SMALL, SMALL_XL, ModelSize
from diffusion_gym.models.denoiser import Denoiser

WAYS = [
    Training(0, "float32"),
    Training(0, "float32", gradient_checkpointing=True),
    Training(4, "float32"),
    Training(4, "bfloat16"),
    Training(4, "bfloat16", gradient_checkpointing=True),
]


def denoiser(size: ModelSize, training: Training) -> tuple[Denoiser, Precision]:
    precision = training.precision("cpu")
    made = training_denoiser(size, training, precision)
    make_gradients(made)
    return made, precision


@contextmanager
def on_fake_tensors(size: ModelSize, training: Training) -> Iterator[tuple[Denoiser, Precision]]:
    precision = training.precision("cpu")
    with torch.device("meta"):
        made = training_denoiser(size, training, precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        made.to_empty(device="cpu")
        make_gradients(made)
        yield made, precision


def saved_bytes(size: ModelSize, made: Denoiser, precision: Precision) -> int:
    saved = SavedTensors(resident(made))
    with saved.counting():
        guided_output(size, made, precision, 2)
    return saved.total


def peak_bytes(size: ModelSize, made: Denoiser, precision: Precision) -> int:
    with PeakMemory(resident(made)) as memory:
        update_pass(size, made, precision, 2)
    assert memory.live == 0
    return memory.peak


TALL = dataclasses.replace(SMALL_XL, name="tall", pixels=(192, 64))
"""Pictures that are not square."""


@pytest.mark.parametrize(
    ("size", "training"),
    [*((SMALL, way) for way in WAYS), (SMALL_XL, WAYS[-1]), (TALL, WAYS[2])],
    ids=str,
)
def test_fake_tensors_count_what_real_ones_take(size: ModelSize, training: Training) -> None:
    for count in (saved_bytes, peak_bytes):
        real = count(size, *denoiser(size, training))
        with on_fake_tensors(size, training) as made:
            fake = count(size, *made)
        assert fake == pytest.approx(real, rel=0 if training.autocast == "float32" else 0.01)


@pytest.mark.parametrize("training", [WAYS[0], WAYS[-1]], ids=str)
def test_the_count_is_what_the_allocator_hands_out(training: Training) -> None:
    """Measured by the profiler, which sees every allocation, those of the kernels included."""
    made, precision = denoiser(SMALL, training)
    counted = peak_bytes(SMALL, made, precision)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        update_pass(SMALL, made, precision, 2)
    live = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    assert counted == pytest.approx(most, rel=0.1)


def test_checkpointing_saves_activations_in_eval_mode() -> None:
    plain, checkpointed = (
        saved_bytes(SMALL, *denoiser(SMALL, Training(4, gradient_checkpointing=on)))
        for on in (False, True)
    )
    assert checkpointed < 0.3 * plain


def test_memory_grows_in_a_straight_line_with_the_pairs() -> None:
    found = needs(SMALL, Training(4))
    with on_fake_tensors(SMALL, Training(4)) as (made, precision):
        peak = traced_update(SMALL, made, precision, 8)
    assert peak == pytest.approx(found.first_pair + 7 * found.next_pair, rel=0.02)


def test_the_networks_have_the_published_sizes() -> None:
    def millions(networks: Any) -> list[float]:
        counts = [sum(p.numel() for p in network.parameters()) for network in networks]
        return [round(count / 1e6, 1) for count in counts]

    with torch.device("meta"):
        sizes = SIZES.values()
        assert millions(size.denoiser() for size in sizes) == [859.5, 2567.5]
        assert millions(size.autoencoder() for size in sizes) == [83.7, 83.7]
        assert millions(SDXL.encoders()) == [123.1, 694.7]
    assert [size.image_size for size in sizes] == [(512, 512), (1024, 1024)]


def test_pairs_are_those_that_still_fit() -> None:
    zeros = dict.fromkeys(Needs.__dataclass_fields__, 0)
    found = Needs(**(zeros | {"denoiser": 10, "first_pair": 20, "next_pair": 5, "rollout": 30}))
    assert found.most_pairs(50) == 1 + (45 - 10 - 20) // 5
    assert found.most_pairs(43) == 0  # 38.7 - 10 is too little to draw


def test_parameters_are_counted_by_what_trains() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, dtype=torch.bfloat16))
    layers[1].requires_grad_(False)
    assert parameter_bytes(layers) == 16 * 4 + 10 * 2
    assert parameter_bytes(layers, trained=True) == 16 * 4
    assert parameter_bytes(layers, trained=False) == 10 * 2


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ([], "runs/memory/memory.md"),
        (["--publish"], "committed/memory.md"),
        (["--output", "own/page.md"], "own/page.md"),
    ],
)
def test_only_publishing_replaces_the_kept_page(
    arguments: list[str], written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "RESULTS", Path("committed/memory.md"))
    monkeypatch.setattr(command, "SIZES", {"small": SMALL})
    monkeypatch.setattr(command, "TRAININGS", TRAININGS[:1])
    command.main(arguments)
    files = [file for file in Path().rglob("*") if file.is_file()]
    assert [file.as_posix() for file in files] == [written]
    assert "## small" in files[0].read_text()


def test_a_page_is_published_or_written_elsewhere_but_not_both(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        command.main(["--publish", "--output", str(tmp_path / "page.md")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_page_is_what_the_command_writes() -> None:
    training = TRAININGS[2]
    table = table_of({training: needs(SD15, training)})
    assert markdown({}) in RESULTS.read_text()
    column = 1 + TRAININGS.index(training)
    page = RESULTS.read_text().split("## SD 1.5")[1].splitlines()
    lines = [line.split(" | ") for line in page if line.startswith("| ")]
    lines.pop(1)
    for (label, value), line in zip(table, lines, strict=False):
        assert line[0].removeprefix("| ") == label
        assert line[column].removesuffix(" |") == value


def test_pictures_of_another_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights stay as they are; trajectories grow with the area."""
    assert TALL.denoiser().time_ids.tolist() == [[192, 64, 0, 0, 192, 64]]
    monkeypatch.setattr(command, "SIZES", {"small": SMALL})
    monkeypatch.setattr(command, "TRAININGS", TRAININGS[:1])
    found: list[Needs] = []
    monkeypatch.setattr(command, "needs", lambda *a: found.append(needs(*a)) or found[-1])
    height, width = SMALL.image_size
    for options in ([], ["--height", str(3 * height), "--width", str(2 * width)]):
        command.main([*options, "--output", str(tmp_path / "memory.md")])
    usual, large = found
    assert large.denoiser == usual.denoiser
    assert large.trajectories == 6 * usual.trajectories
    assert large.next_pair > 4 * usual.next_pair
    with pytest.raises(SystemExit):
        command.main(["--height", "100"])
