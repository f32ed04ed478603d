"""Torch in forked worker processes."""

import os

import torch

_IMPORTED_BY = os.getpid()


def use_one_thread_after_fork() -> None:
    """Keeps torch from hanging in a forked worker, such as AsyncVectorEnv's on Linux.

    OpenMP's threads do not survive a fork, and a parallel region that waits for them never ends.
    In any other process this does nothing.
    """
    if os.getpid() != _IMPORTED_BY:
        torch.set_num_threads(1)
