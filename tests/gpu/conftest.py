"""What tests at full size share: they run in small on any machine, and at full size on a GPU."""

import os

# Read when CUDA starts: without it cuBLAS may add up in another order every time.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
