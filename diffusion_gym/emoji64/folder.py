"""Where the embedded model's data are."""

from pathlib import Path


def emoji64_folder() -> Path:
    """The data of the embedded model: pipeline/, clip/, verifier/ and the scene tables."""
    return Path(__file__).parent / "data"
