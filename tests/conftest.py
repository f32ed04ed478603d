"""Settings shared by every test."""

import os

# Read when the libraries are imported, hence set here, before any test module imports them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
