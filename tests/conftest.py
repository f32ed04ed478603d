"""Settings shared by every test."""

import os
from collections.abc import Iterator

import pytest

# Read when the libraries are imported, hence set here, before any test module imports them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The tests' batches are small: more threads gain little, and wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def registered_rewards() -> Iterator[None]:
    """Forgets the rewards that a test registers."""
    from diffusion_gym.rewards import registry

    before = dict(registry._factories)
    yield
    registry._factories.clear()
    registry._factories.update(before)
