"""Files that model options add to a checkpoint: where they are."""

from collections.abc import Callable
from pathlib import Path

from diffusion_gym.errors import InvalidInputError, shown
from diffusion_gym.parsing import as_path


def find_added(option: str, name: str, wanted: str, download: Callable[[str], Path]) -> Path:
    """The file or folder that a model option names.

    Args:
        option: The option's name.
        name: A ``.safetensors`` file, a folder, or a hub id.
        wanted: What may be named, for the message.
        download: From a hub id to a folder.

    Raises:
        InvalidInputError: It names none of these, or a file that could run code.
        ModelLoadError: It cannot be had from the hub.
    """
    path = as_path(f"model option {option!r}", name)
    if path.is_file():
        if path.suffix != ".safetensors":  # a pickled file could run code
            raise InvalidInputError(
                f"expected the model option {option!r} to be a .safetensors file, got {path}; "
                "pickled weights (.ckpt, .bin, .pt) can run code when they are opened"
            )
        return path
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise InvalidInputError(
            f"expected the model option {option!r} to be {wanted}, got {shown(name)}"
        )
    return download(name)
