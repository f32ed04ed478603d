"""What tests at full size share: they run in small on any machine, and at full size on a GPU."""

import os

import pytest

# Read when CUDA starts: without it cuBLAS may add up in another order every time.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
