"""Precisions of the frozen networks, by name."""

import torch

from diffusion_gym.errors import unknown_name

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_dtype(name: str) -> torch.dtype:
    """The precision of a name.

    Raises:
        InvalidInputError: For an unknown name.
    """
    if not isinstance(name, str) or name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return DTYPES[name]
