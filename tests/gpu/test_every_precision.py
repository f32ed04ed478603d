"""Ratio 1 and bit-equal resumption in every precision, with adapters or all weights, at every size.

In small on any machine, at full size where there is a GPU.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sized_training import Setting, adapters, disturb, log_probs, needs_gpu

from agents.common.checkpoint import save_checkpoint
from agents.ppo import DiffusionPPO
from benchmarks.sized.networks import SD3, SD15, SDXL, SMALL, SMALL_3, SMALL_XL

SIZES = {"sd15": (SMALL, SD15), "sdxl": (SMALL_XL, SDXL), "sd3": (SMALL_3, SD3)}
"""In small and in full."""

PRECISIONS = ("float32", "float16", "bfloat16")
RANKS = (4, 0)
KINDS = [
    *(("sd15", dtype, rank) for dtype in PRECISIONS for rank in RANKS),
    *((name, "bfloat16", 4) for name in ("sdxl", "sd3")),
]
"""Size, precision, and rank of the adapters; 0: all weights."""

CASES = [
    pytest.param(
        *(kind, device),
        id="-".join((device, kind[0], kind[1], "lora" if kind[2] else "all")),
        marks=needs_gpu if device == "cuda" else (),
    )
    for device in ("cpu", "cuda")
    for kind in KINDS
    if (device, kind[1]) != ("cpu", "float16")  # which CPUs take very long for
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Setting]]:
    """Checkpoints by size and device, each made once; a resumed run is to be equal bit for bit."""
    made: dict[tuple[str, str], Setting] = {}

    def setting(name: str, device: str) -> Setting:
        if (name, device) not in made:
            size = SIZES[name][device == "cuda"]
            folder = tmp_path_factory.mktemp("checkpoints") / name
            made[name, device] = Setting(size, device, folder)
        return made[name, device]

    torch.use_deterministic_algorithms(True)
    yield setting
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("kind", "device"), CASES)
def test_the_ratio_is_one_and_a_resumed_run_is_the_same(
    kind: tuple[str, str, int],
    device: str,
    settings: Callable[[str, str], Setting],
    tmp_path: Path,
) -> None:
    name, dtype, rank = kind
    setting = settings(name, device)
    # Of the large models, activations of whole passes would not fit.
    options: dict[str, Any] = {"lora_rank": rank, "gradient_checkpointing": name != "sd15"}

    first = setting.agent(dtype, **options)
    if rank:  # fresh adapters do nothing
        disturb(first)
    drawn, again = log_probs(first)
    assert again.requires_grad
    assert torch.equal(again.detach(), drawn)

    before = adapters(first)
    folder = save_checkpoint(first.learn(4), tmp_path / "round-000001")
    if dtype != "float16":  # whose first updates may all overflow, and are left out then
        assert not torch.equal(adapters(first), before)
    first.learn(4, reset_num_timesteps=False)
    resumed = DiffusionPPO.resume(folder, setting.env(dtype))
    resumed.learn(4, reset_num_timesteps=False)
    assert torch.equal(adapters(resumed), adapters(first))
    assert adapters(resumed).isfinite().all()
    assert resumed.rounds == first.rounds == 2
