"""What a device can do, and how its time and memory are taken."""

import platform
import resource
import time
from collections.abc import Callable

import torch

SIDES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
"""Square matrices that are multiplied to find the peak."""

SECONDS = 0.5
"""How long each of them is, at least."""


def synchronize(device: torch.device) -> None:
    """Waits until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that some work takes."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The most FLOP/s of a matrix product; an addition and a multiplication are two."""
    best = 0.0
    for side in SIDES[device.type]:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        torch.mm(a, b)
        spent = 0.0
        while spent < SECONDS:
            seconds = timed(lambda a=a, b=b: torch.mm(a, b), device)  # type: ignore[misc]
            best = max(best, 2 * side**3 / seconds)
            spent += seconds
    return best


def reset_peak_memory(device: torch.device) -> None:
    """Starts to look for the most memory, where that can be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Most bytes at once: of tensors on a GPU; of the whole process, since its start, on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def describe(device: torch.device) -> dict[str, str | int]:
    """What the figures were measured on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
